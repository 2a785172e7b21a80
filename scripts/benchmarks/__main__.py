"""Measures the pool beside its peers, each measurement in a process of its own, the sides in turns (ours, theirs, ours, theirs, ..), and prints medians, ranges and
ratios. Start it with scripts/bench."""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import report
from measurements import CLI, LONG, MEASUREMENTS, SCALE, SIDES, SMOKE_SIDES
from sides import Sides, machine


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round, ours and CPython's Pool only: only to see that it works")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is measured (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=9, help="begin no further round of anything after so long (default: %(default)s)")
    parser.add_argument("--only", action="append", metavar="NAME", help="only measurements whose names begin so; may be given several times")
    parser.add_argument("--scale", action="store_true", help="only what grows with workers, tasks and items")
    parser.add_argument("--long", action="store_true", help=f"also what takes a minute for each side: {', '.join(LONG)}")
    parser.add_argument("--cli", action="store_true", help="only commands")
    parser.add_argument("--sides", metavar="SIDE,..", help=f"only these sides, of {', '.join(SIDES)}")
    parser.add_argument("--list", action="store_true", help="list the measurements")
    parser.add_argument("--json", metavar="FILE", help="also write all single results")
    parser.add_argument("--from-json", metavar="FILE", help="measure nothing, take the results of an earlier run")
    parser.add_argument("--write", action="store_true", help="write tables and plots into docs/performance.md and docs/assets")
    return parser.parse_args()


def chosen(options):
    """The measurements by name, each with the sizes of the sides that are wanted."""
    prefixes = tuple(options.only or ()) + (SCALE if options.scale else ()) + (CLI if options.cli else ())
    sides = set(options.sides.split(",")) if options.sides else set(SIDES)
    if unknown := sides - set(SIDES):
        sys.exit(f"no side is called {', '.join(sorted(unknown))}; there are {', '.join(SIDES)}")
    if options.smoke:
        sides &= set(SMOKE_SIDES)
    found = {}
    for name, measurement in MEASUREMENTS.items():
        if prefixes and not name.startswith(prefixes):
            continue
        if name in LONG and not (prefixes or options.long or options.smoke):
            continue
        if "apart" in name and len(os.sched_getaffinity(0)) == 1:
            continue
        sizes = {side: measurement.smoke if options.smoke else size for side, size in measurement.sizes.items() if side in sides}
        if sizes:
            found[name] = sizes
    if not found:
        sys.exit(f"nothing to measure; there are {', '.join(MEASUREMENTS)}")
    return found


def rounds_of(name, options):
    return 1 if options.smoke else max(1, round(MEASUREMENTS[name].share * options.rounds))


def measure(options):
    """All results: a list of values by side, measurement and key."""
    wanted = chosen(options)
    sides = Sides({side for sizes in wanted.values() for side in sizes})
    for side, reason in sides.missing.items():
        print(f"{side} is left out: {reason}", file=sys.stderr)
    described, begun = machine(), time.monotonic()
    results, seconds = {}, dict.fromkeys(wanted, 0.0)
    # round by round, so that what drifts over minutes is the same for all; the first round is always complete
    for turn in range(1 if options.smoke else options.rounds):
        for name, sizes in wanted.items():
            started = time.monotonic()
            if turn >= rounds_of(name, options) or turn > 0 and started - begun > options.minutes * 60:
                continue
            for side in (side for side in SIDES if side in sizes and side not in sides.missing):
                for key, value in (sides.measure(side, name, sizes[side]) or {}).items():
                    results.setdefault(side, {}).setdefault(name, {}).setdefault(key, []).append(value)
            seconds[name] += time.monotonic() - started
            print(f"round {turn + 1}, {started - begun:.0f} s: {name} took {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
    return {
        "machine": described,
        "rounds": options.rounds,
        "seconds": round(time.monotonic() - begun),
        "seconds_of": {name: round(taken, 1) for name, taken in seconds.items()},
        "missing": sides.missing,
        "results": results,
    }


def main():
    options = arguments()
    if options.list:
        for name, measurement in MEASUREMENTS.items():
            print(f"{name}: {', '.join(measurement.sizes)} ({measurement.size_of})")
        return
    run = json.loads(Path(options.from_json).read_text()) if options.from_json else measure(options)
    if options.json:
        Path(options.json).write_text(json.dumps(run, indent=1) + "\n")
    print(report.text(run))
    if options.write:
        report.write(run)
    if options.smoke:
        print(f"smoke run: every measurement works ({run['seconds']} s); the figures mean nothing")


if __name__ == "__main__":
    main()
