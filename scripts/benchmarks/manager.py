"""Operations per second on objects of CPython's multiprocessing.Manager: the other half of pool-core/benches/manager.rs."""

import multiprocessing
import sys
import time


def client(what, count, objects, times):
    items, entries, start = objects
    entries[0] = 0
    start.wait()
    begun = time.perf_counter()
    for i in range(count):
        if what == "list append":
            items.append(i)
        elif what == "dict set":
            entries[i % 100] = i
        else:
            entries.get(i % 100)
    times.append(time.perf_counter() - begun)


def measure(what, clients, count):
    with multiprocessing.Manager() as manager:
        objects = manager.list(), manager.dict(), manager.Barrier(clients)
        times = manager.list()
        args = what, count, objects, times
        running = [multiprocessing.Process(target=client, args=args) for _ in range(clients)]
        for process in running:
            process.start()
        for process in running:
            process.join()
        return clients * count / max(times)


if __name__ == "__main__":
    count = int(sys.argv[1])
    for what in "list append", "dict set", "dict get":
        for clients in 1, 2:
            runs = sorted(measure(what, clients, count) for _ in range(3))
            print(f"CPython    {what:<12} {clients} clients {runs[1]:10.0f} operations/s", flush=True)
