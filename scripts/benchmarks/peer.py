#!/usr/bin/env python3
"""The same measurements as pool-core/benches/pool, of Python's pools: `peer.py SIDE MEASUREMENT SIZE`, with SIDE one of
fork, spawn, forkserver (multiprocessing.Pool with that start method), executor (ProcessPoolExecutor), loky, mpire.

Prints one line of JSON. Run by scripts/bench; keep the two alike."""

import concurrent.futures
import json
import math
import multiprocessing
import os
import statistics
import sys
import time

WORKERS = 2
GRAINS_NS = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 10_000_000)
PAYLOADS = (1 << 10, 16 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20)
LONG_S, SHORT_S = 0.05, 0.0001


# tasks


def plus_one(x):
    return x + 1


def half_a_second(p):
    time.sleep(0.5)
    return p, p == 100


def work(rounds):
    """Computes for a time that depends on nothing but the number."""
    for _ in range(rounds):
        pass
    return rounds


def mixed_task(rounds):
    if rounds == 0:
        time.sleep(LONG_S)
    else:
        work(rounds)
    return time.monotonic()


def make(count):
    return b"\7" * count


# sides


class Multiprocessing:
    """multiprocessing.Pool."""

    def __init__(self, method, workers, tasks_each=None):
        self.pool = multiprocessing.get_context(method).Pool(workers, maxtasksperchild=tasks_each)

    def submit(self, function, argument):
        return self.pool.apply_async(function, (argument,))

    def get(self, handle):
        return handle.get()

    def map(self, function, items):
        return self.pool.map(function, items)

    def each_alone(self, function, items):
        return self.pool.map(function, items, chunksize=1)

    def imap(self, function, items, chunk):
        return self.pool.imap(function, items, chunk)

    def kill(self):
        self.pool.terminate()
        self.pool.join()


class Executor:
    """concurrent.futures.ProcessPoolExecutor, with the start method of the platform; loky's has the same interface."""

    def __init__(self, workers, kind=concurrent.futures.ProcessPoolExecutor, **options):
        self.executor = kind(workers, **options)

    def submit(self, function, argument):
        return self.executor.submit(function, argument)

    def get(self, handle):
        return handle.result()

    def map(self, function, items):
        return list(self.executor.map(function, items))

    each_alone = map

    def kill(self):
        self.executor.shutdown(wait=True, cancel_futures=True)


class Loky(Executor):
    def __init__(self, workers):
        import loky

        super().__init__(workers, loky.ProcessPoolExecutor, timeout=None)

    def kill(self):
        self.executor.shutdown(wait=True, kill_workers=True)


class Mpire:
    def __init__(self, workers, tasks_each=None):
        import mpire

        self.pool = mpire.WorkerPool(workers)
        self.options = {"worker_lifespan": tasks_each} if tasks_each else {}

    def submit(self, function, argument):
        return self.pool.apply_async(function, (argument,), **self.options)

    def get(self, handle):
        return handle.get()

    def map(self, function, items):
        return self.pool.map(function, items, **self.options)

    def each_alone(self, function, items):
        return self.pool.map(function, items, chunk_size=1, **self.options)

    def kill(self):
        self.pool.terminate()


def start_side(side, workers, tasks_each=None):
    if side in ("fork", "spawn", "forkserver"):
        return Multiprocessing(side, workers, tasks_each)
    if side == "executor":
        if tasks_each:
            # it refuses to do so with fork
            context = multiprocessing.get_context("forkserver")
            return Executor(workers, mp_context=context, max_tasks_per_child=tasks_each)
        return Executor(workers)
    if side == "loky":
        return Loky(workers)
    if side == "mpire":
        return Mpire(workers, tasks_each)
    sys.exit(f"no side is called {side}")


def children():
    """The processes that this one has started, and those that they have started."""
    found, parents = [], [os.getpid()]
    while parents:
        parent = parents.pop()
        for task in os.listdir(f"/proc/{parent}/task"):
            try:
                with open(f"/proc/{parent}/task/{task}/children") as file:
                    new = [int(pid) for pid in file.read().split()]
            except FileNotFoundError:
                continue  # a thread that has ended meanwhile
            found += new
            parents += new
    return found


def workers_of():
    """Not the helpers: resource trackers and fork servers sleep, and have no tasks."""
    def is_helper(pid):
        with open(f"/proc/{pid}/cmdline") as file:
            command = file.read()
        return "resource_tracker" in command or "forkserver" in command and parent_of(pid) == os.getpid()
    return [pid for pid in children() if not is_helper(pid)]


def parent_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rsplit(")", 1)[1].split()[1])


# measurements


def submit_all(pool, function, arguments):
    for handle in [pool.submit(function, argument) for argument in arguments]:
        pool.get(handle)


def timed(call):
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def apply_async(side, tasks):
    pool = start_side(side, WORKERS)
    submit_all(pool, plus_one, range(tasks // 10))
    return {"per_s": tasks / timed(lambda: submit_all(pool, plus_one, range(tasks)))}


def map_(side, items):
    pool = start_side(side, WORKERS)
    numbers = list(range(items))
    expected = list(range(1, items + 1))

    def call():
        begun = time.perf_counter()
        results = pool.map(plus_one, numbers)
        elapsed = time.perf_counter() - begun
        assert list(results) == expected
        return elapsed

    # as the other programs do: calls in a row, the first of which is told on its own
    first, begun = call(), time.perf_counter()
    others = [call()]
    while len(others) < 20 and time.perf_counter() - begun < 1:
        others.append(call())
    return {"per_s": items / sorted(others)[len(others) // 2], "first_per_s": items / first}


def rounds_per_us():
    rounds = 100_000
    return rounds / (min(timed(lambda: work(rounds)) for _ in range(20)) * 1e6)


def efficiency(side, most, run):
    """As in common.rs; lengths for which one round is too long are left out."""
    figures = {}
    per_us = rounds_per_us()
    pool = start_side(side, WORKERS)
    run(pool, [1] * 100)
    for grain_ns in GRAINS_NS:
        rounds = round(grain_ns / 1e3 * per_us)
        if rounds < 5:
            continue
        tasks = min(max(WORKERS * 200_000_000 // grain_ns, 20), most)
        run(pool, [rounds] * (tasks // 20 + 1))
        elapsed = timed(lambda: run(pool, [rounds] * tasks))
        figures[f"eff_{grain_ns}"] = tasks * grain_ns / 1e9 / WORKERS / elapsed
        figures[f"rate_{grain_ns}"] = tasks / elapsed
    return figures


def efficiency_apply(side, most):
    return efficiency(side, most, lambda pool, rounds: submit_all(pool, work, rounds))


def efficiency_map(side, most):
    return efficiency(side, most, lambda pool, rounds: pool.map(work, rounds))


def percentiles(durations):
    durations.sort()
    last = len(durations) - 1
    figures = {f"{name}_us": durations[int(last * share)] * 1e6 for name, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999))}
    for step in range(101):
        figures[f"q{step:03}"] = durations[int(last * (1 - 10 ** (-4 * step / 100)))] * 1e6
    return figures


def bind_workers(there):
    """This thread here, the workers there; the pool's threads, between the two, where the kernel likes."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    for pid in children():
        os.sched_setaffinity(pid, [there])


def round_trip(side, calls, apart, pause=0.0):
    cores = sorted(os.sched_getaffinity(0))
    if not apart:
        os.sched_setaffinity(0, cores[:1])
    pool = start_side(side, WORKERS)
    for _ in range(500 if not pause else 20):
        pool.get(pool.submit(plus_one, 1))
    if apart:
        bind_workers(cores[-1])
    durations = []
    for _ in range(calls):
        if pause:
            time.sleep(pause)
        begun = time.perf_counter()
        assert pool.get(pool.submit(plus_one, 1)) == 2
        durations.append(time.perf_counter() - begun)
    return percentiles(durations)


def round_trip_apart(side, calls):
    return round_trip(side, calls, apart=True)


def round_trip_together(side, calls):
    return round_trip(side, calls, apart=False)


def round_trip_idle(side, calls):
    return round_trip(side, calls, apart=True, pause=0.002)


def arrivals(tasks, workers):
    """As in common.rs: the same ones."""
    mask, state = (1 << 64) - 1, 7

    def random():
        nonlocal state
        state ^= state << 13 & mask
        state ^= state >> 7
        state ^= state << 17 & mask
        return (state >> 11) / (1 << 53)
    gap = (0.01 * LONG_S + 0.99 * SHORT_S) / (0.4 * workers)
    at = 0.0
    for _ in range(tasks):
        at += -gap * math.log(1.0 - random())
        yield at, random() < 0.01


def mixed(side, tasks, workers):
    rounds = round(SHORT_S * 1e6 * rounds_per_us())
    pool = start_side(side, workers)
    submit_all(pool, mixed_task, [rounds] * 100)
    handles = []
    begun = time.monotonic()
    for at, is_long in arrivals(tasks, workers):
        wait = begun + at - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        handles.append((at, is_long, pool.submit(mixed_task, 0 if is_long else rounds)))
    ended = [(at, is_long, pool.get(handle)) for at, is_long, handle in handles]
    return percentiles([end - begun - at for at, is_long, end in ended if not is_long])


def mixed_2(side, tasks):
    return mixed(side, tasks, 2)


def mixed_8(side, tasks):
    return mixed(side, tasks, 8)


def payload(side, largest):
    pool = start_side(side, 1)
    figures = {}
    for prefix, function, argument in (("in_", len, make), ("out_", make, int)):
        for count in (count for count in PAYLOADS if count <= largest):
            value = argument(count)
            call = lambda: pool.get(pool.submit(function, value))
            call()
            times = []
            while len(times) < 5 or sum(times) < 0.1:
                times.append(timed(call))
            figures[f"{prefix}{count}"] = count / statistics.median(times) / 1e9
    return figures


def start(side, workers):
    begun = time.perf_counter()
    pool = start_side(side, workers)
    submit_all(pool, plus_one, range(workers))
    return {"ms": (time.perf_counter() - begun) * 1e3}


def terminate(side, workers):
    pool = start_side(side, workers)
    submit_all(pool, plus_one, range(workers))
    handles = [pool.submit(time.sleep, 100) for _ in range(workers)]
    time.sleep(0.5)  # there is no way to ask which of them have begun
    elapsed = timed(pool.kill)
    del handles
    return {"ms": elapsed * 1e3}


def one_task_each(side, tasks):
    pool = start_side(side, WORKERS, tasks_each=1)
    pool.each_alone(plus_one, range(4))
    return {"per_s": tasks / timed(lambda: pool.each_alone(plus_one, range(tasks)))}


def pss_kib(pid):
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))


def status_kib(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))


def rss_kib():
    return status_kib("VmRSS:")


def forget_peak():
    """From now on, the highest resident memory of this process counts from what it has at this moment; gives that."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return status_kib("VmHWM:")


def idle_memory(side, workers):
    pool = start_side(side, workers)
    submit_all(pool, plus_one, range(100))
    time.sleep(0.1)
    sizes = sorted(map(pss_kib, workers_of()))
    return {"kib": sizes[len(sizes) // 2]}


def program_500(side, tasks):
    begun = time.perf_counter()
    pool = start_side(side, 10)
    handles = [pool.submit(half_a_second, p) for p in range(tasks)]
    for handle in handles:
        if pool.get(handle)[1]:
            stopping = time.perf_counter()
            pool.kill()
            break
    now = time.perf_counter()
    return {"s": now - begun, "stop_ms": (now - stopping) * 1e3}


def outstanding(side, tasks):
    pool = start_side(side, WORKERS)
    sleepers = [pool.submit(time.sleep, 100) for _ in range(WORKERS)]
    time.sleep(0.2)
    before = rss_kib()
    begun = time.perf_counter()
    handles = [pool.submit(plus_one, x) for x in range(tasks)]
    elapsed = time.perf_counter() - begun
    grown = rss_kib() - before
    del sleepers, handles
    return {"bytes": grown * 1024 / tasks, "submitted_per_s": tasks / elapsed}


def workers(side, workers):
    tasks = 10_000
    begun = time.perf_counter()
    pool = start_side(side, workers)
    submit_all(pool, plus_one, range(workers))
    figures = {"start_ms": (time.perf_counter() - begun) * 1e3}
    submit_all(pool, plus_one, range(tasks // 10))
    figures["per_s"] = tasks / timed(lambda: submit_all(pool, plus_one, range(tasks)))
    calls = sorted(timed(lambda: pool.get(pool.submit(plus_one, 1))) for _ in range(500))
    figures["call_p50_us"] = calls[250] * 1e6
    sizes = sorted(map(pss_kib, workers_of()))
    figures["worker_kib"] = sizes[len(sizes) // 2]
    figures["terminate_ms"] = timed(pool.kill) * 1e3
    return figures


def imap(side, items):
    chunk = 16_384
    pool = start_side(side, WORKERS)
    sum(pool.imap(plus_one, range(items // 100), chunk))
    before = rss_kib()
    begun = time.perf_counter()
    assert sum(pool.imap(plus_one, range(items), chunk)) == items * (items + 1) // 2
    elapsed = time.perf_counter() - begun
    figures = {"per_s": items / elapsed, "grown_kib": rss_kib() - before}
    few = items // 500
    figures["default_per_s"] = few / timed(lambda: sum(pool.imap(plus_one, range(few), 1)))
    return figures


def long_imap(side, items):
    pool = start_side(side, WORKERS)
    figures = {}
    # with default settings the largest two would take an hour
    for name, chunk, sizes in (("chunks", 16_384, (items // 100, items // 10, items)), ("default", 1, (items // 100,))):
        sum(pool.imap(plus_one, range(10_000), chunk))
        for size in sizes:
            before = forget_peak()
            elapsed = timed(lambda: check_sum(pool.imap(plus_one, range(size), chunk), size))
            figures[f"{name}_gained_kib_{size}"] = status_kib("VmHWM:") - before
            figures[f"{name}_per_s_{size}"] = size / elapsed
    return figures


def check_sum(results, items):
    assert sum(results) == items * (items + 1) // 2


# shared state, the same for all of them


def lock(_, times):
    lock = multiprocessing.Lock()

    def run(times):
        for _ in range(times):
            with lock:
                pass
    run(times // 10)
    return {"ns": timed(lambda: run(times)) * 1e9 / times}


def take_turns(lock, go, times):
    go.wait()
    for _ in range(times):
        with lock:
            pass


def lock_contended(_, times):
    lock, go = multiprocessing.Lock(), multiprocessing.Event()
    children = [multiprocessing.Process(target=take_turns, args=(lock, go, times // 2)) for _ in range(2)]
    for child in children:
        child.start()
    begun = time.perf_counter()
    go.set()
    for child in children:
        child.join()
    return {"per_s": times / (time.perf_counter() - begun)}


def fill_queue(queue, go, times):
    go.wait()
    for x in range(times):
        queue.put(x)


def queue(_, items):
    queue, go = multiprocessing.Queue(10_000), multiprocessing.Event()
    producer = multiprocessing.Process(target=fill_queue, args=(queue, go, items))
    producer.start()
    begun = time.perf_counter()
    go.set()
    for x in range(items):
        assert queue.get() == x
    elapsed = time.perf_counter() - begun
    producer.join()
    return {"per_s": items / elapsed}


def double(array, start, end):
    for i in range(start, end):
        array[i] = 2.0 * i


def array_fill(_, elements):
    array = multiprocessing.Array("d", elements)
    half = elements // 2
    children = [
        multiprocessing.Process(target=double, args=(array, start, end)) for start, end in ((0, half), (half, elements))
    ]
    begun = time.perf_counter()
    for child in children:
        child.start()
    for child in children:
        child.join()
    elapsed = time.perf_counter() - begun
    assert list(array) == [2.0 * i for i in range(elements)]
    return {"per_s": elements / elapsed}


BLOCK = None


def first(_):
    return BLOCK[0]


def pass_gigabyte(side, times):
    global BLOCK
    BLOCK = multiprocessing.RawArray("B", 1 << 30)
    BLOCK[0] = 1
    pool = start_side(side, 1)
    assert pool.get(pool.submit(first, None)) == 1

    def run():
        for _ in range(times):
            pool.get(pool.submit(first, None))
    return {"us": timed(run) * 1e6 / times}


MEASUREMENTS = {
    "map": map_,
    **{
        function.__name__: function
        for function in (
            apply_async, efficiency_apply, efficiency_map, round_trip_apart, round_trip_together, round_trip_idle, mixed_2,
            mixed_8, payload, start, terminate, one_task_each, idle_memory, program_500, outstanding, workers, imap, long_imap,
            lock, lock_contended, queue, array_fill, pass_gigabyte,
        )
    },
}

if __name__ == "__main__":
    side, measurement, size = sys.argv[1:]
    print(json.dumps(MEASUREMENTS[measurement](side, int(size))), flush=True)
    # what still runs is killed, not waited for
    for pid in children():
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            pass
    os._exit(0)
