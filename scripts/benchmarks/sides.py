"""Builds and finds what is measured: our programs, the crate of peers, an environment with the Python peers."""

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from measurements import COMMANDS, LONG, PYTHON_PEERS, RUST_PEERS, STATIC

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent

# What is installed from PyPI, exactly.
REQUIREMENTS = HERE / "requirements.txt"

# Measurements that need no pool, under their names in the program.
BARE = {"map": "plain_map", "efficiency_apply": "efficiency_bare", "mixed_2": "mixed_2_ideal", "mixed_8": "mixed_8_ideal"}

# What our programs are built with, and what else if they are to be linked statically.
BENCHES = ("bench", "--quiet", "-p", "pool-core", "--bench", "pool", "--bench", "idle", "--no-run")
STATIC_SETTINGS = {
    "RUSTFLAGS": "-C target-feature=+crt-static -C relocation-model=static",
    "CARGO_PROFILE_BENCH_LTO": "fat",
    "CARGO_PROFILE_BENCH_CODEGEN_UNITS": "1",
}


def cargo(*arguments, folder=ROOT, settings=None):
    """Runs cargo and gives the executables that it has built, by name."""
    command = ["cargo", *arguments, "--message-format=json-render-diagnostics"]
    environment = dict(os.environ, **(settings or {}))
    output = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    found = {}
    for line in output.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["executable"]:
            found[message["target"]["name"]] = message["executable"]
    return found


def target_directory():
    command = ["cargo", "metadata", "--format-version", "1", "--no-deps"]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return Path(json.loads(output)["target_directory"])


class Sides:
    """Gives the command that measures something of a side; `missing` says why a side is left out."""

    def __init__(self, wanted):
        self.missing = {}
        target = target_directory()
        self.ours = {"pool-core": cargo(*BENCHES)}
        self.python = sys.executable
        self.environment = dict(os.environ, RUST_BACKTRACE="0", PYTHONDONTWRITEBYTECODE="1")
        if "pool-cli" in wanted:
            self.environment["POOL_CLI"] = cargo("build", "--quiet", "--release", "-p", "pool-cli")["pool-cli"]
        if wanted & set(STATIC):
            self.add_static()
        if wanted & set(RUST_PEERS):
            self.add_rust_peers(target / "peers")
        if wanted & set(PYTHON_PEERS):
            self.add_python_peers(target / "peers" / "python")
        for tool in COMMANDS:
            if tool in wanted and tool != "pool-cli" and shutil.which(tool) is None:
                self.missing[tool] = "it is not installed"
        # some peers take several descriptors for each task
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    def add_static(self):
        # for a named target, settings do not concern programs that run while others are built
        version = subprocess.run(["rustc", "--version", "--verbose"], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
        host = next(line.split()[1] for line in version.splitlines() if line.startswith("host:"))
        try:
            self.ours["pool-core-static"] = cargo(*BENCHES, "--target", host, settings=STATIC_SETTINGS)
        except subprocess.CalledProcessError:
            self.missing |= dict.fromkeys(STATIC, "it can't be linked statically here")

    def add_rust_peers(self, target):
        build = ["build", "--quiet", "--release", "--locked", "--target-dir", str(target)]
        try:
            self.rust_peers = cargo(*build, folder=ROOT / "benches" / "peers")["bench-peers"]
        except subprocess.CalledProcessError:
            self.missing |= dict.fromkeys(RUST_PEERS, "benches/peers can't be built")

    def add_python_peers(self, environment):
        self.environment_python = environment / "bin" / "python"
        stamp = environment / "installed.txt"
        wanted = REQUIREMENTS.read_text()
        if stamp.exists() and stamp.read_text() == wanted:
            return
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
            install = [self.environment_python, "-m", "pip", "install", "--quiet", "--requirement", REQUIREMENTS]
            subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
            stamp.write_text(wanted)
        except subprocess.CalledProcessError:
            self.missing |= dict.fromkeys(PYTHON_PEERS, "it can't be installed from PyPI")

    def command(self, side, measurement, size):
        name = "workers" if measurement.startswith("workers_") else measurement
        program, forked = side.removesuffix("-fork-server"), side.endswith("-fork-server")
        if program in self.ours:
            if name == "idle_memory":
                return [self.ours[program]["idle"], "fork-server" if forked else "spawn", size]
            return [self.ours[program]["pool"], f"{name}_fork_server" if forked else name, size]
        if side == "shared":
            return [self.ours["pool-core"]["pool"], "payload_shared", size]
        if side == "bare":
            return [self.ours["pool-core"]["pool"], BARE[name], size]
        if side in RUST_PEERS:
            return [self.rust_peers, side, name, size]
        if side in COMMANDS:
            return [self.python, HERE / "commands.py", side, name, size]
        python = self.environment_python if side in PYTHON_PEERS else self.python
        return [python, HERE / "peer.py", side, name, size]

    def measure(self, side, measurement, size):
        """The figures by name; `None` if it fails, which a peer may."""
        command = list(map(str, self.command(side, measurement, size)))
        limit = 600 if measurement in LONG else 120
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=limit, env=self.environment)
        except subprocess.TimeoutExpired:
            problem = f"takes longer than {limit} s"
        else:
            if done.returncode == 0:
                return json.loads(done.stdout)
            problem = f"failed with {done.returncode}: {done.stderr[-2000:]}"
        problem = f"{side} {measurement}: {' '.join(command)} {problem}"
        if side.startswith("pool-c"):
            sys.exit(problem)
        print(f"\n{problem}", file=sys.stderr)
        return None


def cpu_model():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def versions_of_peers():
    """As they are pinned."""
    pinned = [line.split(" #")[0].strip().replace("==", " ") for line in REQUIREMENTS.read_text().splitlines()]
    crates = (ROOT / "benches" / "peers" / "Cargo.toml").read_text().splitlines()
    crates = [line.replace('"', "").replace(" = =", " ") for line in crates if '"=' in line]
    return ", ".join([*(line for line in pinned if line and not line.startswith("#")), *crates])


def machine():
    rustc = subprocess.run(["rustc", "--version"], stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout.strip()
    virtual = "hypervisor" in Path("/proc/cpuinfo").read_text()
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout.strip()
    return (
        f"{cpu_model()}, {len(os.sched_getaffinity(0))} cores{', virtual' if virtual else ''}; "
        f"Linux {platform.release()}; {rustc}; {platform.python_implementation()} {platform.python_version()}; "
        f"{versions_of_peers()}; {time.strftime('%Y-%m-%d')}; commit {commit}; load average at the start {os.getloadavg()[0]:.2f}"
    )
