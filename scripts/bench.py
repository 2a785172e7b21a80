#!/usr/bin/env python3
"""Runs pool-core/benches/pool.rs and scripts/bench_peer.py in turns (ours, theirs, ours, theirs, ..), each measurement in a
process of its own, and prints medians, ranges and ratios. Start it with scripts/bench."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / "scripts" / "bench_peer.py"

# Measurement: (size for pool-core, size for CPython, share of the rounds). A rate needs fewer tasks where each takes longer.
FULL = {
    "apply_async": (1_000_000, 50_000, 1),
    "map": (1_000_000, 1_000_000, 1),
    "round_trip_apart": (10_000, 10_000, 1),
    "round_trip_together": (10_000, 10_000, 1),
    "start": (10, 10, 1),
    "terminate": (10, 10, 1),
    "idle_memory": (10, 10, 1),
    "program_500": (500, 500, 0.4),
    "lock": (10_000_000, 1_000_000, 1),
    "lock_contended": (1_000_000, 100_000, 1),
    "queue": (1_000_000, 100_000, 1),
    "array_fill": (1_000_000, 100_000, 1),
    "pass_gigabyte": (100, 100, 0.4),
}
SMOKE = {
    "apply_async": (10_000, 1_000, 1),
    "map": (10_000, 10_000, 1),
    "round_trip_apart": (500, 500, 1),
    "round_trip_together": (500, 500, 1),
    "start": (10, 10, 1),
    "terminate": (10, 10, 1),
    "idle_memory": (4, 4, 1),
    "program_500": (110, 110, 1),
    "lock": (10_000, 10_000, 1),
    "lock_contended": (10_000, 1_000, 1),
    "queue": (10_000, 1_000, 1),
    "array_fill": (10_000, 1_000, 1),
    "pass_gigabyte": (3, 3, 1),
}

# (measurement, key, label, unit, digits, which is better)
ROWS = [
    ("apply_async", "per_s", "apply_async one by one, 2 workers", "tasks/s", 0, "more"),
    ("map", "per_s", "map of u64, default settings, 2 workers", "items/s", 0, "more"),
    ("round_trip_apart", "p50_us", "apply back to back, caller and workers on two cores, p50", "µs", 1, "less"),
    ("round_trip_apart", "p99_us", "the same, p99", "µs", 1, "less"),
    ("round_trip_together", "p50_us", "apply back to back, all on one core, p50", "µs", 1, "less"),
    ("round_trip_together", "p99_us", "the same, p99", "µs", 1, "less"),
    ("start", "ms", "10 workers up, first results", "ms", 1, "less"),
    ("terminate", "ms", "terminate and join, 10 busy workers", "ms", 1, "less"),
    ("idle_memory", "kib", "idle worker, proportional set size", "KiB", 0, "less"),
    ("program_500", "s", "500 tasks of 0.5 s, 10 workers, stop at number 100 (ideal 5.5)", "s", 3, "less"),
    ("program_500", "stop_ms", "the same: terminate and join", "ms", 1, "less"),
    ("lock", "ns", "Lock, taken and let go, nobody else wants it", "ns", 1, "less"),
    ("lock_contended", "per_s", "Lock, two processes want it all the time", "times/s", 0, "more"),
    ("queue", "per_s", "Queue of small items, one process puts, another one gets", "items/s", 0, "more"),
    ("array_fill", "per_s", "Array, two processes set elements, each under its lock", "elements/s", 0, "more"),
    ("pass_gigabyte", "us", "a task that gets a block of 1 GiB (CPython: that has it from its start)", "µs", 1, "less"),
]


def build():
    """Builds the Rust side and gives the path of its executable."""
    command = ["cargo", "bench", "--quiet", "-p", "pool-core", "--bench", "pool", "--no-run", "--message-format=json"]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    for line in output.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["target"]["name"] == "pool" and message["executable"]:
            return message["executable"]
    sys.exit("cargo has built no executable for the bench `pool`")


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=300)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed with {done.returncode}")
    return json.loads(done.stdout)


def rounds_of(share, rounds):
    return max(1, round(share * rounds))


def measure(executable, sizes, rounds):
    """Results by (measurement, key), for each side."""
    ours, theirs = {}, {}
    for name, (our_size, their_size, share) in sizes.items():
        for _ in range(rounds_of(share, rounds)):
            for results, command in (
                (ours, [executable, name, str(our_size)]),
                (theirs, [sys.executable, str(PEER), name, str(their_size)]),
            ):
                for key, value in run(command).items():
                    results.setdefault((name, key), []).append(value)
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return ours, theirs


def number(value, digits):
    return f"{value:,.{digits}f}"


def figure(values, digits):
    """The median, and the range if there were several."""
    median = number(statistics.median(values), digits)
    if len(values) == 1:
        return median
    return f"{median} ({number(min(values), digits)} to {number(max(values), digits)})"


def ratio(ours, theirs, better):
    ours, theirs = statistics.median(ours), statistics.median(theirs)
    factor = ours / theirs if better == "more" else theirs / ours
    return f"{factor:.2f}" if factor < 10 else f"{factor:.0f}"


def table(ours, theirs):
    yield "| | unit | pool-core | CPython Pool | times better |"
    yield "|---|---|---|---|---|"
    for name, key, label, unit, digits, better in ROWS:
        a, b = ours.get((name, key)), theirs.get((name, key))
        if a and b:
            yield f"| {label} | {unit} | {figure(a, digits)} | {figure(b, digits)} | {ratio(a, b, better)} |"
    for name, where in (("round_trip_apart", "two cores"), ("round_trip_together", "one core")):
        for p in ("p50", "p99"):
            a, ping = ours.get((name, f"{p}_us")), ours.get((name, f"ping_{p}_us"))
            if a and ping:
                against = statistics.median(a) / statistics.median(ping)
                yield (
                    f"| bare socket ping-pong of 64 bytes, {where}, {p} | µs | {figure(ping, 1)} | "
                    f"| apply takes {against:.2f} times as long |"
                )


def cpu_model():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def machine():
    rustc = subprocess.run(["rustc", "--version"], stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout.strip()
    virtual = "hypervisor" in Path("/proc/cpuinfo").read_text()
    return (
        f"{cpu_model()}, {len(os.sched_getaffinity(0))} cores{', virtual' if virtual else ''}; "
        f"Linux {platform.release()}; {rustc}; {platform.python_implementation()} {platform.python_version()}, "
        f"start method fork; {time.strftime('%Y-%m-%d')}; load average at the start {os.getloadavg()[0]:.2f}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round: only to see that it works")
    parser.add_argument("--rounds", type=int, default=5, help="how often each side is measured (default: %(default)s)")
    parser.add_argument("--only", action="append", choices=FULL, help="only this measurement; may be given several times")
    parser.add_argument("--json", metavar="FILE", help="also write all single results")
    options = parser.parse_args()

    executable = build()
    described = machine()
    sizes = SMOKE if options.smoke else FULL
    if len(os.sched_getaffinity(0)) == 1:
        sizes = {name: size for name, size in sizes.items() if name != "round_trip_apart"}
    if options.only:
        sizes = {name: sizes[name] for name in options.only}
    rounds = 1 if options.smoke else options.rounds
    begun = time.monotonic()
    ours, theirs = measure(executable, sizes, rounds)

    print(f"{described}\n")
    print("\n".join(table(ours, theirs)))
    if options.json:
        flat = {side: {f"{n}.{k}": v for (n, k), v in results.items()} for side, results in (("pool_core", ours), ("cpython", theirs))}
        Path(options.json).write_text(json.dumps({"machine": described, **flat}, indent=1) + "\n")
    if options.smoke:
        print(f"\nsmoke run: every measurement works on both sides ({time.monotonic() - begun:.1f} s); the figures mean nothing")
    else:
        runs = sorted({rounds_of(share, rounds) for _, _, share in sizes.values()}, reverse=True)
        print(f"\nmedians (and ranges) of {' or '.join(map(str, runs))} runs of each side, in turns; {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
