#!/usr/bin/env python3
"""Commands per second: `commands.py SIDE MEASUREMENT SIZE`, with SIDE one of pool-cli, xargs, parallel, and MEASUREMENT true_N or sh_N for N commands at a time.

All of them write what the commands print to a file; pool-cli writes one JSON object per command there. POOL_CLI is the path of pool-cli. Prints one line of JSON."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WHAT = {
    "true": (["/bin/true", "{}"], 'command = ["/bin/true", "{}"]'),
    "sh": (["sh", "-c", "echo {}"], 'command = ["sh", "-c", "echo {}"]'),
}


def command_of(side, what, jobs, count, folder):
    """The command that runs all of them, and what it reads."""
    argv, task = WHAT[what]
    numbers = folder / "numbers"
    numbers.write_text("".join(f"{n}\n" for n in range(count)))
    if side == "pool-cli":
        job = folder / "job.toml"
        job.write_text(f"[task]\n{task}\n\n[inputs]\nlines = {json.dumps(str(numbers))}\n")
        return [os.environ["POOL_CLI"], "run", "--procs", str(jobs), "--report", "quiet", str(job)], os.devnull
    if side == "xargs":
        # one number is one command; -I is its way to put it into the middle of an argument
        many = ["-n", "1", argv[0]] if what == "true" else ["-I", "{}", *argv]
        return ["xargs", "-P", str(jobs), *many], numbers
    return ["parallel", "--will-cite", "-j", str(jobs), " ".join(argv)], numbers


def main():
    side, measurement, count = sys.argv[1:]
    what, jobs = measurement.split("_")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        command, reads = command_of(side, what, int(jobs), int(count), folder)
        with open(reads) as given, open(folder / "results", "w") as results:
            begun = time.perf_counter()
            subprocess.run(command, stdin=given, stdout=results, check=True)
            elapsed = time.perf_counter() - begun
        lines = (folder / "results").read_text().count("\n")
        if side == "pool-cli" or what == "sh":
            assert lines == int(count), f"{lines} results of {count}"
    print(json.dumps({"per_s": int(count) / elapsed}))


if __name__ == "__main__":
    main()
