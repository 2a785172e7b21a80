"""Kills workers of other process pools, and counts what becomes of their tasks. See docs/reliability.md.

    python3 scripts/chaos_peers.py [--kills 200] [--seed 7] [--json] [pool ...]

Each pool runs in a process of its own, under a watchdog. A pool that breaks for good is replaced by a new one, which is counted, because a program
would have to do that too. A task without an outcome 10 s after the last kill is counted as hanging, and so is a pool that does not end in 10 s.
"""

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time

WORKERS = 4
PATIENCE = 10.0
BATCH = 200


def sleep_on(_):
    time.sleep(1000)


def task(number):
    time.sleep(0.002)
    return number * 3


class MultiprocessingPool:
    name = f"multiprocessing.Pool {platform.python_version()}"

    def __init__(self):
        import multiprocessing

        self.pool = multiprocessing.get_context("spawn").Pool(WORKERS)

    def pids(self):
        return [process.pid for process in list(self.pool._pool)]

    def submit(self, number):
        return self.pool.apply_async(task, (number,))

    def submit_sleep(self):
        return self.pool.apply_async(sleep_on, (0,))

    def get(self, handle, timeout):
        import multiprocessing

        try:
            return "ok", handle.get(max(timeout, 0))
        except multiprocessing.TimeoutError:
            return "hangs", None

    def end(self):
        self.pool.terminate()
        self.pool.join()


class Executor:
    def __init__(self):
        self.pool = self.make()

    def pids(self):
        return list(self.pool._processes or {})

    def submit(self, number):
        return self.pool.submit(task, number)

    def submit_sleep(self):
        return self.pool.submit(sleep_on, 0)

    def get(self, handle, timeout):
        from concurrent.futures import TimeoutError as Late
        from concurrent.futures.process import BrokenProcessPool

        try:
            return "ok", handle.result(max(timeout, 0))
        except (Late, TimeoutError):
            return "hangs", None
        except BrokenProcessPool:
            return "failed because the pool broke", None

    def end(self):
        self.pool.shutdown(wait=True, cancel_futures=True)


class ProcessPoolExecutor(Executor):
    name = f"ProcessPoolExecutor {platform.python_version()}"

    def make(self):
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        return ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn"))


class Loky(Executor):
    name = "loky"

    def make(self):
        import loky

        Loky.name = f"loky {loky.__version__}"
        return loky.ProcessPoolExecutor(WORKERS)

    def end(self):
        self.pool.shutdown(wait=True, kill_workers=True)


KINDS = {"pool": MultiprocessingPool, "executor": ProcessPoolExecutor, "loky": Loky}

# Programs of their own, which do the same and print the same. cargo becomes the program that it runs.
PROGRAMS = {"procspawn": ["cargo", "run", "--quiet", "--release", "--manifest-path",
                          os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers", "procspawn", "Cargo.toml"), "--"]}


def soak(kind, kills, seed):
    """Batches of tasks, during each of which one busy worker is killed."""
    chance = random.Random(seed)
    counts = {"submitted": 0, "ok": 0, "killed": 0, "pools": 1, "failed because the pool broke": 0,
              "hangs": 0, "wrong": 0, "pools that did not end": 0}
    pool = kind()
    pool.get(pool.submit(0), PATIENCE)
    slowest = 0.0
    while counts["killed"] < kills:
        handles = []
        try:
            for number in range(BATCH):
                handles.append((number, pool.submit(number)))
        except Exception:
            pass  # broken while it was submitted to: what was submitted is looked at below
        counts["submitted"] += len(handles)
        time.sleep(chance.random() * 0.05)
        pids = pool.pids()
        if pids:
            try:
                os.kill(chance.choice(pids), signal.SIGKILL)
                counts["killed"] += 1
            except ProcessLookupError:
                pass
        killed = time.monotonic()
        outcomes = [(number, *pool.get(handle, killed + PATIENCE - time.monotonic())) for number, handle in handles]
        slowest = max(slowest, time.monotonic() - killed)
        is_broken = len(handles) < BATCH
        for number, outcome, value in outcomes:
            counts[outcome] += 1
            counts["wrong"] += outcome == "ok" and value != number * 3
            is_broken |= outcome != "ok"
        if is_broken and counts["killed"] < kills:
            ending = threading.Thread(target=pool.end, daemon=True)
            ending.start()
            ending.join(PATIENCE)
            counts["pools that did not end"] += ending.is_alive()
            pool = kind()
            counts["pools"] += 1
            pool.get(pool.submit(0), PATIENCE)
        if counts["hangs"] > 20 * BATCH or counts["pools that did not end"] > 5:
            break  # it is clear by now
    counts["slowest batch s"] = round(slowest, 1)
    return {"pool": kind.name, **counts}


def be_orphaned(kind):
    """A parent with busy workers, which is going to be killed."""
    pool = kind()
    pool.get(pool.submit(0), PATIENCE)
    handles = [pool.submit_sleep() for _ in range(WORKERS)]
    time.sleep(1)
    print(json.dumps({"pool": kind.name, "pids": pool.pids()}), flush=True)
    time.sleep(1000)
    del handles


def orphans(name):
    """How many workers are there 10 s after their parent got SIGKILL."""
    with tempfile.TemporaryFile("w+") as out:
        command = PROGRAMS[name] + ["--orphaned"] if name in PROGRAMS else [sys.executable, __file__, "--orphaned", name]
        parent = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out,
                                  stderr=subprocess.DEVNULL, start_new_session=True)
        line, waited = "", time.monotonic()
        while not line.endswith("\n") and parent.poll() is None and time.monotonic() - waited < 30:
            time.sleep(0.1)
            out.seek(0)
            line = out.read()
        parent.kill()
        parent.wait()
    if not line:
        return None
    pids = json.loads(line)["pids"]
    time.sleep(PATIENCE)
    left = [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return f"{len(left)} of {len(pids)} workers"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--watchdog", type=float, default=600)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--orphaned", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("pools", nargs="*", default=[], choices=[*KINDS, *PROGRAMS, []])
    options = parser.parse_args()
    if options.here:
        print(json.dumps(soak(KINDS[options.pools[0]], options.kills, options.seed)), flush=True)
        os._exit(0)  # whatever still hangs
    if options.orphaned:
        be_orphaned(KINDS[options.pools[0]])
    reports = []
    for name in options.pools or [*KINDS, *PROGRAMS]:
        if name in PROGRAMS:
            # building it is no part of what is watched
            built = subprocess.run(["cargo", "build", *PROGRAMS[name][2:-1]])
            command = PROGRAMS[name] + [str(options.kills), str(options.seed)]
            if built.returncode != 0:
                print(f"{name} can't be built\n")
                continue
        else:
            command = [sys.executable, __file__, "--here", "--kills", str(options.kills), "--seed", str(options.seed), name]
        # files, because what a pool leaves behind would keep pipes open
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            ran = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)
            try:
                ran.wait(options.watchdog)
            except subprocess.TimeoutExpired:
                ran.kill()
                ran.wait()
            out.seek(0), err.seek(0)
            output, errors = out.read(), err.read()
        try:
            os.killpg(ran.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        lines = output.splitlines()
        if lines:
            reports.append({**json.loads(lines[-1]), "left 10 s after SIGKILL of the parent": orphans(name)})
        elif "ModuleNotFoundError" in errors:
            reports.append({"pool": name, "missing": "pip install it"})
        else:
            reports.append({"pool": name, "hangs as a whole": True, "watchdog s": options.watchdog, "says": errors[-300:]})
        print(json.dumps(reports[-1]) if options.json else "\n".join(f"{key:40}{value}" for key, value in reports[-1].items()) + "\n", flush=True)


if __name__ == "__main__":
    main()
