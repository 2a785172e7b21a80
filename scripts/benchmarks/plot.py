"""Pictures of the results: line charts as SVG, without any library."""

import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 860, 460
LEFT, RIGHT, TOP, BOTTOM = 78, 190, 48, 56

COLOURS = {
    "pool-core": "#c0261c",
    "pool-core-fork-server": "#e8853a",
    "shared": "#e8853a",
    "fork": "#2b5fa8",
    "spawn": "#7a9fd0",
    "forkserver": "#9db8dc",
    "executor": "#5a3f9c",
    "loky": "#a0569f",
    "mpire": "#4aa3a8",
    "procspawn": "#7d5a3c",
    "rayon": "#2f8f46",
    "crossbeam": "#86b83c",
    "bare": "#888888",
}


class Axis:
    """Maps values to pixels, on a linear or a logarithmic scale."""

    def __init__(self, low, high, start, end, log, ticks, label):
        self.low, self.high, self.start, self.end, self.log, self.ticks, self.label = low, high, start, end, log, ticks, label

    def __call__(self, value):
        value, low, high = (math.log10(x) if self.log else x for x in (max(value, self.low) if self.log else value, self.low, self.high))
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def short(value):
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:g}{letter}"
    return f"{value:g}"


def decades(low, high):
    """A logarithmic axis from power of ten to power of ten, with its ticks."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    return 10.0**first, 10.0 ** max(last, first + 1), [(10.0**power, short(10.0**power)) for power in range(first, max(last, first + 1) + 1)]


def chart(title, x_label, y_label, lines, x_ticks=None, x_log=True, y_log=True, y_range=None):
    """`lines`: (name, colour, dashed, [(x, y)]). A line's name is written once, at the right."""
    lines = [line for line in lines if line[3]]
    xs = [x for line in lines for x, _ in line[3]]
    ys = [y for line in lines for _, y in line[3] if y > 0]
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    if x_log:
        low, high, ticks = min(xs), max(xs), x_ticks or decades(min(xs), max(xs))[2]
        ticks = [tick for tick in ticks if low <= tick[0] <= high]
    else:
        low, high, ticks = x_ticks[0][0], x_ticks[-1][0], x_ticks
    x = Axis(low, high, LEFT, right, x_log, ticks, x_label)
    if y_range:
        ticks = [(y_range[1] * step / 5, short(round(y_range[1] * step / 5, 6))) for step in range(6)]
        y = Axis(*y_range, bottom, TOP, False, ticks, y_label)
    else:
        low, high, ticks = decades(min(ys), max(ys))
        y = Axis(low, high, bottom, TOP, y_log, ticks, y_label)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="26" font-size="16" font-weight="bold" fill="#222222">{escape(title)}</text>',
    ]
    for value, text in y.ticks:
        at = y(value)
        out.append(f'<line x1="{LEFT}" y1="{at:.1f}" x2="{right}" y2="{at:.1f}" stroke="#e4e4e4"/>')
        out.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end" fill="#444444">{escape(text)}</text>')
    for value, text in x.ticks:
        at = x(value)
        out.append(f'<line x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{bottom}" stroke="#f0f0f0"/>')
        out.append(f'<text x="{at:.1f}" y="{bottom + 20}" text-anchor="middle" fill="#444444">{escape(text)}</text>')
    middle = (TOP + bottom) / 2
    out.append(f'<text x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 12}" text-anchor="middle" fill="#222222">{escape(x_label)}</text>')
    out.append(f'<text transform="translate(20 {middle:.0f}) rotate(-90)" text-anchor="middle" fill="#222222">{escape(y_label)}</text>')
    out.append(f'<rect x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}" fill="none" stroke="#999999"/>')
    for name, colour, dashed, points in reversed(lines):
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
        dash = ' stroke-dasharray="6 4"' if dashed else ""
        width = 2.6 if name.startswith("pool-core") else 1.7
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dash} stroke-linejoin="round"/>')
        if len(points) <= 12:
            out += [f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="2.6" fill="{colour}"/>' for a, b in points]
    for at, (name, colour, dashed, _) in enumerate(lines):
        level = TOP + 10 + 21 * at
        dash = ' stroke-dasharray="6 4"' if dashed else ""
        out.append(f'<line x1="{right + 12}" y1="{level}" x2="{right + 34}" y2="{level}" stroke="{colour}" stroke-width="2.6"{dash}/>')
        out.append(f'<text x="{right + 40}" y="{level + 4}" fill="#222222" font-size="12">{escape(name)}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def all_of(figures, sides, grains, payloads, worker_counts):
    """(title, SVG) by name, of those for which there are results."""

    def line(side, curve, dashed=False, suffix=""):
        return sides[side].replace("`", "") + suffix, COLOURS[side], dashed, curve

    def lines(measurement, prefix, points):
        return [line(side, figures.curve(side, measurement, prefix, points)) for side in figures.sides(measurement) if side in COLOURS]

    def quantiles(measurement):
        def curve(side):
            found = ((step * 0.04, figures.median(side, measurement, f"q{step:03}")) for step in range(101))
            return [(nines, value) for nines, value in found if value]
        # no further than there are calls to tell
        return [line(side, [(n, v) for n, v in curve(side) if n <= 3.3]) for side in figures.sides(measurement)]

    task_ticks = [(1e2, "100 ns"), (1e3, "1 µs"), (1e4, "10 µs"), (1e5, "100 µs"), (1e6, "1 ms"), (1e7, "10 ms")]
    size_ticks = [(1 << 10, "1 KiB"), (16 << 10, "16 KiB"), (64 << 10, "64 KiB"), (1 << 20, "1 MiB"), (16 << 20, "16 MiB"), (64 << 20, "64 MiB")]
    nine_ticks = [(0, "0"), (1, "90 %"), (2, "99 %"), (3, "99.9 %"), (3.3, "")]
    count_ticks = [(count, str(count)) for count in worker_counts]
    wanted = {
        "throughput": ("Throughput by length of task, submitted one by one, 2 workers", "length of a task", "tasks per second", lines("efficiency_apply", "rate_", grains), {"x_ticks": task_ticks}),
        "efficiency": ("Efficiency by length of task, submitted one by one, 2 workers", "length of a task", "efficiency", lines("efficiency_apply", "eff_", grains), {"x_ticks": task_ticks, "y_range": (0, 1)}),
        "efficiency-map": ("Efficiency by length of task, map, 2 workers", "length of a task", "efficiency", lines("efficiency_map", "eff_", grains), {"x_ticks": task_ticks, "y_range": (0, 1)}),
        "latency": ("Round trips back to back, caller and workers on two cores", "share of the calls that take less", "µs", quantiles("round_trip_apart"), {"x_ticks": nine_ticks, "x_log": False}),
        "mixed": ("Short tasks among long ones, 8 workers at load 0.4", "share of the short tasks that take less", "µs from the due time to the end", quantiles("mixed_8"), {"x_ticks": nine_ticks, "x_log": False}),
        "payload-in": ("Bytes to a worker, one call at a time", "bytes of the argument", "GB/s", lines("payload", "in_", payloads), {"x_ticks": size_ticks}),
        "payload-out": ("Bytes from a worker, one call at a time", "bytes of the result", "GB/s", lines("payload", "out_", payloads), {"x_ticks": size_ticks}),
    }
    scale = []
    for side in ("pool-core", "pool-core-fork-server", "fork"):
        for key, dashed, suffix in (("start_ms", False, ": start"), ("terminate_ms", True, ": end")):
            curve = [(count, figures.median(side, f"workers_{count}", key)) for count in worker_counts]
            scale.append(line(side, [(x, y) for x, y in curve if y is not None], dashed, suffix))
    wanted["workers"] = ("Cost of workers: all up and first results, terminate and join", "number of workers", "ms", scale, {"x_ticks": count_ticks})
    return {
        name: (title, chart(title, x_label, y_label, found, **options))
        for name, (title, x_label, y_label, found, options) in wanted.items()
        if any(curve for *_, curve in found)
    }
