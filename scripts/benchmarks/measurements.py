"""What is measured, of whom, and with which sizes. A rate needs fewer tasks where each takes longer."""

import dataclasses

# Who is measured, and how tables call them. The order is that of the columns, and of the turns.
SIDES = {
    "pool-core": "pool-core",
    "pool-core-fork-server": "pool-core, fork server",
    "pool-core-static": "pool-core, static",
    "pool-core-static-fork-server": "pool-core, static, fork server",
    "shared": "pool-core, `SharedBytes`",
    "fork": "CPython Pool",
    "spawn": "CPython Pool, spawn",
    "forkserver": "CPython Pool, forkserver",
    "executor": "ProcessPoolExecutor",
    "loky": "loky",
    "mpire": "mpire",
    "procspawn": "procspawn",
    "rayon": "rayon (threads)",
    "crossbeam": "crossbeam (threads)",
    "bare": "no pool",
    "pool-cli": "pool-cli run",
    "xargs": "xargs -P",
    "parallel": "GNU parallel",
}

# The same programs without libraries that are loaded when they start, and with as little code as there can be.
STATIC = ("pool-core-static", "pool-core-static-fork-server")
OURS = ("pool-core", "pool-core-fork-server", *STATIC)
RUST_PEERS = ("procspawn", "rayon", "crossbeam")
PYTHON_PEERS = ("loky", "mpire")
COMMANDS = ("pool-cli", "xargs", "parallel")


@dataclasses.dataclass
class Measurement:
    """`sizes` by side; what the size counts, `size_of` says. Rounds are this share of the usual number."""

    sizes: dict
    size_of: str
    smoke: int
    share: float = 1


PYTHON = ("fork", "executor", "loky", "mpire")
THREADS = ("rayon", "crossbeam")
LARGEST = 64 << 20


def all_of(sides, size):
    return dict.fromkeys(sides, size)


MEASUREMENTS = {
    "apply_async": Measurement(
        {"pool-core": 1_000_000, **all_of(THREADS, 500_000), "fork": 30_000, **all_of(("executor", "loky", "mpire", "procspawn"), 10_000)},
        "tasks", 2_000,
    ),
    "map": Measurement(
        {**all_of(("pool-core", "bare", "fork", "procspawn", *THREADS), 1_000_000), "mpire": 200_000, **all_of(("executor", "loky"), 10_000)},
        "items", 10_000,
    ),
    "round_trip_apart": Measurement(all_of(("pool-core", *PYTHON, "procspawn", *THREADS), 4_000), "calls", 500),
    "round_trip_together": Measurement(all_of(("pool-core", "fork", "procspawn", *THREADS), 4_000), "calls", 500),
    "round_trip_idle": Measurement(all_of(("pool-core", "fork", "procspawn", *THREADS), 200), "calls", 20),
    "efficiency_apply": Measurement(
        {"pool-core": 400_000, **all_of(THREADS, 200_000), "bare": 1, "fork": 10_000, **all_of(("executor", "loky", "mpire", "procspawn"), 3_000)},
        "tasks of one length at most", 300, 0.7,
    ),
    "efficiency_map": Measurement(
        {**all_of(("pool-core", "procspawn", *THREADS), 1_000_000), "fork": 200_000, "mpire": 10_000, **all_of(("executor", "loky"), 2_000)},
        "tasks of one length at most", 300, 0.4,
    ),
    "payload": Measurement(all_of(("pool-core", "shared", *PYTHON, "procspawn"), LARGEST), "bytes, the largest", 64 << 10, 0.4),
    "start": Measurement(
        all_of((*OURS, "fork", "spawn", "forkserver", "executor", "loky", "mpire", "procspawn", *THREADS), 10), "workers", 4,
    ),
    "terminate": Measurement(
        all_of(("pool-core", "pool-core-fork-server", "fork", "spawn", "forkserver", "loky", "mpire", "procspawn"), 10), "workers", 4,
    ),
    "one_task_each": Measurement(
        {**all_of(OURS, 1_500), "fork": 100, **all_of(("executor", "mpire"), 50)}, "tasks", 10, 0.7,
    ),
    "idle_memory": Measurement(
        all_of((*OURS, "fork", "spawn", "forkserver", "executor", "loky", "mpire", "procspawn"), 10), "workers", 4, 0.4,
    ),
    "outstanding": Measurement({"pool-core": 1_000_000, "fork": 200_000, "executor": 100_000}, "tasks", 10_000, 0.4),
    "mixed_2": Measurement(all_of(("pool-core", "bare", "fork", "procspawn", *THREADS), 3_000), "tasks", 300, 0.7),
    # each unfinished handle of procspawn has descriptors
    "mixed_8": Measurement({**all_of(("pool-core", "bare", "fork", *THREADS), 12_000), "procspawn": 8_000}, "tasks", 300, 0.7),
    "program_500": Measurement(all_of(("pool-core", "fork", "executor", "procspawn"), 500), "tasks", 110, 0.2),
    "imap": Measurement({"pool-core": 100_000_000, "fork": 5_000_000}, "items", 100_000, 0.2),
    "long_imap": Measurement({"pool-core": 100_000_000, "fork": 100_000_000}, "items", 100_000, 0.2),
    "lock": Measurement({"pool-core": 10_000_000, "fork": 1_000_000}, "times", 10_000),
    "lock_contended": Measurement({"pool-core": 1_000_000, "fork": 100_000}, "times", 1_000),
    "queue": Measurement({"pool-core": 1_000_000, "fork": 100_000}, "items", 1_000),
    "array_fill": Measurement({"pool-core": 1_000_000, "fork": 100_000}, "elements", 1_000),
    "pass_gigabyte": Measurement({"pool-core": 100, "fork": 100}, "calls", 3, 0.4),
    "true_2": Measurement({**all_of(("pool-cli", "xargs"), 10_000), "parallel": 1_000}, "commands", 50, 0.4),
    "true_10": Measurement({**all_of(("pool-cli", "xargs"), 10_000), "parallel": 1_000}, "commands", 50, 0.4),
    "sh_2": Measurement({**all_of(("pool-cli", "xargs"), 2_000), "parallel": 500}, "commands", 50, 0.7),
    "sh_10": Measurement({**all_of(("pool-cli", "xargs"), 2_000), "parallel": 500}, "commands", 50, 0.7),
}

# The cost of 1, 2, 10, 100 and 200 workers. The size is the number of workers; CPython is asked for fewer of what takes it long.
WORKER_COUNTS = (1, 2, 10, 100, 200)
for count in WORKER_COUNTS:
    MEASUREMENTS[f"workers_{count}"] = Measurement(all_of(("pool-core", "pool-core-fork-server", "fork"), count), "workers", min(count, 2), 0.2)

SCALE = ("outstanding", "imap", *(f"workers_{count}" for count in WORKER_COUNTS))
# Only if asked for, by `--long` or by name: these take a minute for each side.
LONG = ("long_imap",)
CLI = ("true_2", "true_10", "sh_2", "sh_10")

# Without these a smoke run is quick and needs nothing but Rust and Python.
SMOKE_SIDES = ("pool-core", "pool-core-fork-server", "shared", "fork", "bare", "pool-cli", "xargs")

# (measurement, key, label, unit, digits, which is better)
ROWS = [
    ("apply_async", "per_s", "apply_async one by one, 2 workers", "tasks/s", 0, "more"),
    ("map", "per_s", "map of 10^6 u64, default settings, 2 workers, calls in a row", "items/s", 0, "more"),
    ("map", "first_per_s", "the first call of a new pool", "items/s", 0, "more"),
    ("round_trip_apart", "p50_us", "apply back to back, caller and workers on two cores, p50", "µs", 1, "less"),
    ("round_trip_apart", "p99_us", "the same, p99", "µs", 1, "less"),
    ("round_trip_together", "p50_us", "apply back to back, all on one core, p50", "µs", 1, "less"),
    ("round_trip_together", "p99_us", "the same, p99", "µs", 1, "less"),
    ("round_trip_idle", "p50_us", "apply after 2 ms of idling, two cores, p50", "µs", 1, "less"),
    ("round_trip_idle", "p99_us", "the same, p99", "µs", 1, "less"),
    ("payload", "in_65536", "64 KiB to a worker, its length back", "GB/s", 2, "more"),
    ("payload", "in_1048576", "1 MiB to a worker", "GB/s", 2, "more"),
    ("payload", "in_67108864", "64 MiB to a worker", "GB/s", 2, "more"),
    ("payload", "out_65536", "64 KiB made by a worker and sent back", "GB/s", 2, "more"),
    ("payload", "out_1048576", "1 MiB from a worker", "GB/s", 2, "more"),
    ("payload", "out_67108864", "64 MiB from a worker", "GB/s", 2, "more"),
    ("payload", "beside_1048576", "1 MiB of `Vec<u8>` beside another argument", "GB/s", 2, "more"),
    ("payload", "byte_buf_1048576", "the same as `serde_bytes::ByteBuf`", "GB/s", 2, "more"),
    ("start", "ms", "10 workers up, first results", "ms", 1, "less"),
    ("terminate", "ms", "terminate and join, 10 busy workers", "ms", 1, "less"),
    ("one_task_each", "per_s", "a new worker for each task, 2 at a time", "tasks/s", 0, "more"),
    ("idle_memory", "kib", "idle worker of a small program, proportional set size", "KiB", 0, "less"),
    ("outstanding", "bytes", "an unfinished task, in the parent", "bytes", 0, "less"),
    ("mixed_2", "p50_us", "1 % tasks of 50 ms among those of 100 µs, 2 workers at load 0.4: the short ones, p50", "µs", 0, "less"),
    ("mixed_2", "p99_us", "the same, p99", "µs", 0, "less"),
    ("mixed_2", "p999_us", "the same, p99.9", "µs", 0, "less"),
    ("mixed_8", "p50_us", "the same with 8 workers, p50", "µs", 0, "less"),
    ("mixed_8", "p99_us", "p99", "µs", 0, "less"),
    ("mixed_8", "p999_us", "p99.9", "µs", 0, "less"),
    ("program_500", "s", "500 tasks of 0.5 s, 10 workers, stop at number 100 (ideal 5.5)", "s", 3, "less"),
    ("program_500", "stop_ms", "the same: terminate and join", "ms", 1, "less"),
    ("imap", "per_s", "imap in chunks of 16,384", "items/s", 0, "more"),
    ("imap", "grown_kib", "memory that the parent has gained by then", "KiB", 0, "less"),
    ("imap", "default_per_s", "imap, default settings", "items/s", 0, "more"),
    ("lock", "ns", "Lock, taken and let go, nobody else wants it", "ns", 1, "less"),
    ("lock_contended", "per_s", "Lock, two processes want it all the time", "times/s", 0, "more"),
    ("queue", "per_s", "Queue of small items, one process puts, another one gets", "items/s", 0, "more"),
    ("array_fill", "per_s", "Array, two processes set elements, each under its lock", "elements/s", 0, "more"),
    ("pass_gigabyte", "us", "a task that gets a block of 1 GiB (CPython: that has it from its start)", "µs", 1, "less"),
    ("true_2", "per_s", "`/bin/true`, 2 at a time, results recorded", "commands/s", 0, "more"),
    ("true_10", "per_s", "`/bin/true`, 10 at a time", "commands/s", 0, "more"),
    ("sh_2", "per_s", "`sh -c 'echo N'`, 2 at a time", "commands/s", 0, "more"),
    ("sh_10", "per_s", "`sh -c 'echo N'`, 10 at a time", "commands/s", 0, "more"),
]
