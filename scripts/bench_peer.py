#!/usr/bin/env python3
"""The same measurements as pool-core/benches/pool.rs, of CPython's multiprocessing.Pool: `bench_peer.py MEASUREMENT SIZE`.

Prints one line of JSON. Run by scripts/bench.py; keep the two alike."""

import json
import multiprocessing
import os
import sys
import time

WORKERS = 2


def plus_one(x):
    return x + 1


def half_a_second(p):
    time.sleep(0.5)
    return p, p == 100


def apply_async(tasks):
    with multiprocessing.Pool(WORKERS) as pool:
        def run(tasks):
            begun = time.perf_counter()
            handles = [pool.apply_async(plus_one, (x,)) for x in range(tasks)]
            for x, handle in enumerate(handles):
                assert handle.get() == x + 1
            return time.perf_counter() - begun
        run(tasks // 10)
        return {"per_s": tasks / run(tasks)}


def map(items):
    with multiprocessing.Pool(WORKERS) as pool:
        numbers = list(range(items))
        pool.map(plus_one, numbers)
        begun = time.perf_counter()
        results = pool.map(plus_one, numbers)
        elapsed = time.perf_counter() - begun
        assert results == list(range(1, items + 1))
        return {"per_s": items / elapsed}


def round_trip(calls, apart):
    cores = sorted(os.sched_getaffinity(0))
    if not apart:
        os.sched_setaffinity(0, cores[:1])
    with multiprocessing.Pool(WORKERS) as pool:
        if apart:
            # this thread here, the workers there; the pool's threads, between the two, where the kernel likes
            os.sched_setaffinity(0, cores[:1])
            for child in multiprocessing.active_children():
                os.sched_setaffinity(child.pid, cores[-1:])

        def run(calls):
            durations = []
            for _ in range(calls):
                begun = time.perf_counter()
                assert pool.apply(plus_one, (1,)) == 2
                durations.append(time.perf_counter() - begun)
            return sorted(durations)
        run(500)
        durations = run(calls)
        return {f"p{p}_us": durations[(len(durations) - 1) * p // 100] * 1e6 for p in (50, 99)}


def round_trip_apart(calls):
    return round_trip(calls, apart=True)


def round_trip_together(calls):
    return round_trip(calls, apart=False)


def start(workers):
    begun = time.perf_counter()
    with multiprocessing.Pool(workers) as pool:
        for handle in [pool.apply_async(plus_one, (x,)) for x in range(workers)]:
            handle.get()
        return {"ms": (time.perf_counter() - begun) * 1e3}


def terminate(workers):
    pool = multiprocessing.Pool(workers)
    for _ in range(workers):
        pool.apply_async(time.sleep, (100,))
    time.sleep(0.5)  # there is no way to ask which of them have begun
    begun = time.perf_counter()
    pool.terminate()
    pool.join()
    return {"ms": (time.perf_counter() - begun) * 1e3}


def pss_kib(pid):
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))


def idle_memory(workers):
    with multiprocessing.Pool(workers) as pool:
        pool.map(plus_one, range(100), chunksize=1)
        time.sleep(0.1)
        sizes = sorted(pss_kib(child.pid) for child in multiprocessing.active_children())
        return {"kib": sizes[len(sizes) // 2]}


def program_500(tasks):
    begun = time.perf_counter()
    pool = multiprocessing.Pool(10)
    handles = [pool.apply_async(half_a_second, (p,)) for p in range(tasks)]
    for handle in handles:
        if handle.get()[1]:
            stopping = time.perf_counter()
            pool.terminate()
            break
    pool.join()
    now = time.perf_counter()
    return {"s": now - begun, "stop_ms": (now - stopping) * 1e3}


def lock(times):
    lock = multiprocessing.Lock()

    def run(times):
        begun = time.perf_counter()
        for _ in range(times):
            with lock:
                pass
        return time.perf_counter() - begun
    run(times // 10)
    return {"ns": run(times) * 1e9 / times}


def take_turns(lock, go, times):
    go.wait()
    for _ in range(times):
        with lock:
            pass


def lock_contended(times):
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


def queue(items):
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


def array_fill(elements):
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


def pass_gigabyte(times):
    global BLOCK
    BLOCK = multiprocessing.RawArray("B", 1 << 30)
    BLOCK[0] = 1
    with multiprocessing.Pool(1) as pool:
        assert pool.apply(first, (None,)) == 1
        begun = time.perf_counter()
        for _ in range(times):
            assert pool.apply(first, (None,)) == 1
        return {"us": (time.perf_counter() - begun) * 1e6 / times}


MEASUREMENTS = (
    apply_async,
    map,
    round_trip_apart,
    round_trip_together,
    start,
    terminate,
    idle_memory,
    program_500,
    lock,
    lock_contended,
    queue,
    array_fill,
    pass_gigabyte,
)

if __name__ == "__main__":
    by_name = {function.__name__: function for function in MEASUREMENTS}
    print(json.dumps(by_name[sys.argv[1]](int(sys.argv[2]))))
