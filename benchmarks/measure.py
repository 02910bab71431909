"""Runs processes and measures their cost: CPU time and memory from the kernel, children included."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU and wall seconds, peak memory in MB, and the output of the process."""

    cpu: float
    wall: float
    memory: float
    output: str


def spend(command: Sequence[str], folder: Path, **environment: str) -> Spent:
    """Run a command to its end. Raises RuntimeError when it fails."""
    started = time.perf_counter()
    output, errors = folder / "stdout", folder / "stderr"
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with output.open("w") as to, output.open() as back, errors.open("w") as complaints:
        process = subprocess.Popen(
            command, stdout=to, stderr=complaints, env={**inherited, **environment}, cwd=HERE.parent
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - started
        if process.returncode:
            raise RuntimeError(f"{command}: exit {process.returncode}\n{errors.read_text()[-3000:]}")
        return Spent(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024, back.read())


@contextmanager
def server(**options: object) -> Iterator[str]:
    """A loopback server with these options of `server.py`; yields its base URL."""
    flags = [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]
    process = subprocess.Popen([sys.executable, HERE / "server.py", *flags], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def ask(url: str, path: str) -> Any:
    """The JSON that the loopback server returns for `path`."""
    with urllib.request.urlopen(url.removesuffix("/v1") + path) as answer:  # noqa: S310 - our own server
        return json.load(answer)


def rate(trace: Sequence[Sequence[float]]) -> float:
    """Chat calls per second, from the first arrival to the last end."""
    return len(trace) / (max(call[2] for call in trace) - min(call[0] for call in trace))
