"""Tables of the results, and docs/performance.md."""

import math
import statistics

import plot
from measurements import COMMANDS, MEASUREMENTS, ROWS, SIDES, STATIC, WORKER_COUNTS
from sides import ROOT

PAGE = ROOT / "docs" / "performance.md"
ASSETS = ROOT / "docs" / "assets"
BEGIN, END = "<!-- figures: begin; written by scripts/bench --write -->", "<!-- figures: end -->"

GRAINS_NS = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 10_000_000)
PAYLOADS = (1 << 10, 16 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20)
SHARED_STATE = ("lock", "lock_contended", "queue", "array_fill", "pass_gigabyte")


class Figures:
    """Medians of a run."""

    def __init__(self, run):
        self.results = run["results"]

    def values(self, side, measurement, key):
        return self.results.get(side, {}).get(measurement, {}).get(key)

    def median(self, side, measurement, key):
        values = self.values(side, measurement, key)
        return statistics.median(values) if values else None

    def curve(self, side, measurement, prefix, points):
        """(x, median) where there is one."""
        pairs = ((x, self.median(side, measurement, f"{prefix}{x}")) for x in points)
        return [(x, y) for x, y in pairs if y is not None]

    def sides(self, measurement):
        return [side for side in SIDES if measurement in self.results.get(side, {})]

    def metg_us(self, side):
        """The length of task from which on half of the time is spent on tasks: between the two lengths that were measured, on logarithmic scales."""
        curve = self.curve(side, "efficiency_apply", "eff_", GRAINS_NS)
        for (x0, y0), (x1, y1) in zip(curve, curve[1:]):
            if y0 < 0.5 <= y1:
                share = (math.log(0.5) - math.log(y0)) / (math.log(y1) - math.log(y0))
                return math.exp(math.log(x0) + share * (math.log(x1) - math.log(x0))) / 1e3
        if curve and curve[0][1] >= 0.5:
            return curve[0][0] / 1e3
        return None


def number(value, digits):
    if value is None:
        return ""
    if digits == 0 and value >= 1e6:
        return f"{value / 1e6:,.2f} M" if value < 1e7 else f"{value / 1e6:,.0f} M"
    return f"{value:,.{digits}f}"


def ratio(value, against, better):
    if not value or not against:
        return ""
    factor = value / against if better == "more" else against / value
    return f"{factor:.2f}" if factor < 10 else f"{factor:,.0f}"


def grid(header, rows):
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def median_and_range(values, digits):
    text = number(statistics.median(values), digits)
    return text if len(values) == 1 else f"{text} ({number(min(values), digits)} to {number(max(values), digits)})"


def beside_python(figures):
    """Ours and CPython's Pool, with ranges."""
    for name, key, label, unit, digits, better in ROWS:
        ours, theirs = figures.values("pool-core", name, key), figures.values("fork", name, key)
        if ours and theirs:
            factor = ratio(statistics.median(ours), statistics.median(theirs), better)
            yield [label, unit, median_and_range(ours, digits), median_and_range(theirs, digits), factor]


def beside_all(figures, names):
    """Medians of all sides that have any of these."""
    rows = [row for row in ROWS if row[0] in names and figures.sides(row[0])]
    sides = [side for side in SIDES if any(figures.median(side, row[0], row[1]) is not None for row in rows)]
    if not sides:
        return
    yield from grid(
        ["", "unit", *(SIDES[side] for side in sides)],
        ([label, unit, *(number(figures.median(side, name, key), digits) for side in sides)] for name, key, label, unit, digits, _ in rows),
    )


def bare_round_trips(figures):
    for name, where in (("round_trip_apart", "two cores"), ("round_trip_together", "one core"), ("round_trip_idle", "after idling, two cores")):
        for wire in ("socket", "pipe"):
            for p in ("p50", "p99"):
                ours, bare = figures.median("pool-core", name, f"{p}_us"), figures.median("pool-core", name, f"{wire}_{p}_us")
                if ours and bare:
                    yield [f"bare {wire}, 64 bytes and back, {where}, {p}", f"{bare:.1f} µs", f"{ours:.1f} µs", f"{ours / bare:.2f}"]


def grain(ns):
    return f"{ns / 1e3:g} µs" if ns < 1_000_000 else f"{ns / 1e6:g} ms"


def efficiency(figures, measurement):
    sides = figures.sides(measurement)
    header = ["tasks of", *map(grain, GRAINS_NS), *(["METG(50 %)"] if measurement == "efficiency_apply" else [])]

    def row(side):
        curve = dict(figures.curve(side, measurement, "eff_", GRAINS_NS))
        yield SIDES[side]
        yield from (f"{curve[x]:.2f}" if x in curve else "" for x in GRAINS_NS)
        if measurement == "efficiency_apply":
            metg = figures.metg_us(side)
            yield f"{metg:.2f} µs" if metg else ""
    if sides:
        yield from grid(header, map(list, map(row, sides)))


def workers(figures):
    keys = (
        ("start_ms", "up, first results, ms", 1), ("per_s", "tasks/s", 0), ("call_p50_us", "round trip p50, µs", 1),
        ("terminate_ms", "terminate, ms", 1), ("worker_kib", "PSS each, KiB", 0),
    )
    sides = [side for side in SIDES if any(f"workers_{count}" in figures.results.get(side, {}) for count in WORKER_COUNTS)]
    rows = (
        [SIDES[side], label, *(number(figures.median(side, f"workers_{count}", key), digits) for count in WORKER_COUNTS)]
        for key, label, digits in keys
        for side in sides
    )
    yield from grid(["", "workers:", *map(str, WORKER_COUNTS)], rows)


def long_imap(figures):
    kinds = (("chunks", "chunks of 16,384"), ("default", "default settings"))
    keys = (("gained_kib", "memory gained at most, KiB"), ("per_s", "items/s"))
    sides = figures.sides("long_imap")
    sizes = sorted({int(name.rsplit("_", 1)[1]) for side in sides for name in figures.results[side]["long_imap"]})
    rows = (
        [SIDES[side], kind, label, *(number(figures.median(side, "long_imap", f"{prefix}_{key}_{items}"), 0) for items in sizes)]
        for prefix, kind in kinds
        for key, label in keys
        for side in sides
    )
    yield from grid(["", "", "items:", *(f"{items:,}" for items in sizes)], rows)


def targets(figures):
    """What was aimed at, what was reached, and whether it is that. As ratios in this run where the target is one."""

    def get(side, name, key="per_s"):
        return figures.median(side, name, key)

    def of(value, against):
        return value / against if value is not None and against else None

    python, cli = "fork", "pool-cli"
    fork_server = "pool-core-fork-server"
    static, static_fork_server = STATIC
    # pools that hand out one task at a time; "bare" is a computed ideal and no pool
    unbatched = [value for value in (get(side, "mixed_8", "p99_us") for side in ("procspawn", "crossbeam", python)) if value]
    eff = {x: get("pool-core", "efficiency_apply", f"eff_{x}") for x in GRAINS_NS}
    best_thread = max((get(side, "apply_async") or 0 for side in ("rayon", "crossbeam")), default=0)
    xargs = {name: of(get(cli, name), get("xargs", name)) for name in ("true_2", "true_10", "sh_2", "sh_10")}
    wanted = [
        ("apply_async one by one, times CPython's Pool", "100", of(get("pool-core", "apply_async"), get(python, "apply_async")), 100, "more", 0),
        ("the same, times the better of rayon and crossbeam", "more than 1", of(get("pool-core", "apply_async"), best_thread), 1, "more", 2),
        ("round trip back to back, two cores, p50", "1 µs", get("pool-core", "round_trip_apart", "p50_us"), 1, "less", 2),
        ("round trip after idling, p50, times a bare pipe", "1.1", of(get("pool-core", "round_trip_idle", "p50_us"), get("pool-core", "round_trip_idle", "pipe_p50_us")), 1.1, "less", 2),
        ("map of 10^6 u64, default settings, M items/s", "200", of(get("pool-core", "map"), 1e6), 200, "more", 0),
        ("the same, times CPython's Pool", "20", of(get("pool-core", "map"), get(python, "map")), 20, "more", 0),
        ("efficiency of tasks of 1 µs, one by one", "0.6", eff[1_000], 0.6, "more", 2),
        ("of 10 µs", "0.90", eff[10_000], 0.9, "more", 2),
        ("of 100 µs", "0.95", eff[100_000], 0.95, "more", 2),
        ("of 1 ms", "0.95", eff[1_000_000], 0.95, "more", 2),
        ("METG(50 %), µs", "1", figures.metg_us("pool-core"), 1, "less", 2),
        ("64 MiB in, its length out, GB/s", "5", get("pool-core", "payload", "in_67108864"), 5, "more", 1),
        ("10 workers up and first results, fork server, ms", "5", get(fork_server, "start", "ms"), 5, "less", 1),
        ("one worker per task, fork server, tasks/s", "3,000", get(fork_server, "one_task_each"), 3000, "more", 0),
        ("the same, of a program that is linked statically", "3,000", get(static_fork_server, "one_task_each"), 3000, "more", 0),
        ("terminate 10 busy workers, ms", "3", get("pool-core", "terminate", "ms"), 3, "less", 1),
        ("the same, fork server", "3", get(fork_server, "terminate", "ms"), 3, "less", 1),
        ("idle worker, PSS, KiB", "300", get("pool-core", "idle_memory", "kib"), 300, "less", 0),
        ("the same, fork server", "100", get(fork_server, "idle_memory", "kib"), 100, "less", 0),
        ("idle worker of a program that is linked statically, PSS, KiB", "300", get(static, "idle_memory", "kib"), 300, "less", 0),
        ("the same, fork server", "100", get(static_fork_server, "idle_memory", "kib"), 100, "less", 0),
        ("10^6 tasks outstanding, bytes each in the parent", "150", get("pool-core", "outstanding", "bytes"), 150, "less", 0),
        ("`/bin/true`, 2 and 10 at a time, the worse of both, times xargs", "1", min((x for n, x in xargs.items() if n.startswith("true") and x), default=None), 1, "more", 2),
        ("`sh -c`, 2 and 10 at a time, the worse of both, times xargs", "1", min((x for n, x in xargs.items() if n.startswith("sh") and x), default=None), 1, "more", 2),
        ("p99 of short tasks among long ones, 8 workers, times the best unbatched pool", "2", of(get("pool-core", "mixed_8", "p99_us"), min(unbatched, default=None)), 2, "less", 2),
    ]
    for label, target, value, bound, better, digits in wanted:
        if value is not None:
            reached = value >= bound if better == "more" else value <= bound
            yield [label, target, number(value, digits), "yes" if reached else "no"]


def is_there(lines):
    """A table with at least one row."""
    return len(lines) > 2


def sections(run):
    """(title, text before, table)"""
    figures = Figures(run)
    commands = [row[0] for row in ROWS if set(MEASUREMENTS[row[0]].sizes) & set(COMMANDS)]
    others = [row[0] for row in ROWS if row[0] not in commands and row[0] not in SHARED_STATE]
    yield "Targets", "", list(grid(["", "target", "reached", ""], targets(figures)))
    yield "Beside CPython's Pool", "Medians, and the range of the rounds.", list(
        grid(["", "unit", "pool-core", "CPython Pool", "times better"], beside_python(figures))
    )
    yield "Beside all", "Medians. The long tasks of the mixed load sleep; `no pool` is there what an ideal queue would do, and for the map one thread's plain loop.", list(
        beside_all(figures, others)
    )
    yield "Beside bare wires", "The same 64 bytes between two processes without anything else, in the same process and turn.", list(
        grid(["", "bare", "apply", "apply takes times as long"], bare_round_trips(figures))
    )
    yield "Efficiency, submitted one by one", (
        "The time that the work of 2 workers takes if nothing is lost, by the time that it took. METG(50 %): the length of task from which on half of the time is spent on "
        "tasks (Task Bench, Slaughter et al., SC 2020)."
    ), list(efficiency(figures, "efficiency_apply"))
    yield "Efficiency, by map", "Default chunks; procspawn and crossbeam have chunks made by hand.", list(efficiency(figures, "efficiency_map"))
    yield "Number of workers", "", list(workers(figures))
    yield "An iterator without end", "`imap`, and by how much the highest resident memory of the parent (VmHWM) has grown meanwhile.", list(long_imap(figures))
    yield "Commands", "A second; pool-cli writes one JSON object per command, the others what the command printed.", list(beside_all(figures, commands))


def text(run):
    parts = [run["machine"]]
    for title, before, table in sections(run):
        if is_there(table):
            parts.append("\n".join([f"## {title}", *([before] if before else []), "", *table]))
    parts.append(f"medians of {run['rounds']} rounds at most, the sides in turns; {run['seconds']} s")
    return "\n\n".join(parts) + "\n"


def write(run):
    """Everything between the two marks of the page, and the pictures."""
    figures = Figures(run)
    ASSETS.mkdir(parents=True, exist_ok=True)
    pictures = plot.all_of(figures, SIDES, GRAINS_NS, PAYLOADS, WORKER_COUNTS)
    for name, (_, svg) in pictures.items():
        (ASSETS / f"{name}.svg").write_text(svg)
    parts = [BEGIN, f"As `scripts/bench` printed them, medians of {run['rounds']} rounds at most, the sides in turns: {run['machine']}."]
    left_out = ", ".join(f"{side} ({reason})" for side, reason in run["missing"].items())
    if left_out:
        parts.append(f"Left out: {left_out}.")
    for title, before, table in sections(run):
        if is_there(table):
            parts.append("\n\n".join([f"## {title}", *([before] if before else []), "\n".join(table)]))
    parts.append("## Pictures")
    parts += [f"![{title}](assets/{name}.svg)" for name, (title, _) in pictures.items()]
    parts.append(END)
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    PAGE.write_text(before + "\n\n".join(parts) + rest.split(END)[1])
