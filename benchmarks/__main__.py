"""`python -m benchmarks all`, or some of its sections by name; `--write` keeps the tables in benchmarks/RESULTS.md."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # the scripts of this folder also run by themselves

import client_cost
import full_server
import prefix_cache

Section = Callable[[Path], list[str]]


def client(folder: Path) -> list[str]:
    """Client cost: 2,000 passages, one query each, 100 ms, 256 slots."""
    return client_cost.report(client_cost.compare(folder, 2000, 256, 0.1))


def prefix(folder: Path) -> list[str]:
    """Prefix cache: prompt tokens computed for a pair by a real vLLM."""
    return prefix_cache.report(folder)


def full(folder: Path) -> list[str]:
    """Keeping a server full whose limit has to be found."""
    return full_server.report(folder)


SECTIONS: dict[str, Section] = {"client": client, "full": full, "prefix": prefix}


def machine() -> str:
    packages = ("aiohttp", "openai", "pyarrow", "numpy", "pydantic")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    loads = " ".join(f"{each:.1f}" for each in os.getloadavg())
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {versions}; load {loads}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("sections", nargs="+", choices=["all", *SECTIONS])
    parser.add_argument("--write", action="store_true", help="add the tables to benchmarks/RESULTS.md")
    options = parser.parse_args()
    chosen = list(SECTIONS) if "all" in options.sections else options.sections
    out: list[str] = []
    for name in chosen:
        section = SECTIONS[name]
        lines = [f"## {section.__doc__}", f"{time.strftime('%Y-%m-%d')}; {machine()}", ""]
        with tempfile.TemporaryDirectory(prefix="synth-bench-") as folder:
            lines += section(Path(folder))
        print("\n".join(lines), flush=True)
        out += [*lines, ""]
    if options.write:
        (Path(__file__).parent / "RESULTS.md").write_text("# Measured\n\n" + "\n".join(out), encoding="utf-8")


if __name__ == "__main__":
    main()
