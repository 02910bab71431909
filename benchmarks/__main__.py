"""Run benchmarks: `python -m benchmarks all`, or sections by name; `long` runs those that take more than a few minutes.

`--write` writes the tables to benchmarks/RESULTS.md and replaces earlier ones of the same sections.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # the scripts of this folder also run by themselves
RESULTS = HERE / "RESULTS.md"
PREFACE = "# Measured\n\nCompare ratios within one table only; the load shows whether other work ran too.\n"

Lines = Callable[[Path], Iterable[str]]


@dataclass(frozen=True, slots=True)
class Section:
    """A title, and a function that returns the lines of the result; its folder is temporary."""

    title: str
    lines: Lines
    long: bool = False


def module(name: str) -> Lines:
    """`report` of a module of this folder."""
    return lambda folder: import_module(name).report(folder)


def script(name: str, *arguments: str) -> Lines:
    """The output of a script of this folder, run in its own process; `{folder}` is replaced by the temporary folder."""

    def lines(folder: Path) -> list[str]:
        command = [sys.executable, str(HERE / f"{name}.py"), *(each.format(folder=folder) for each in arguments)]
        done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["no reason given"])[-1])
        return done.stdout.rstrip().splitlines()

    return lines


def client(folder: Path) -> list[str]:
    client_cost = import_module("client_cost")
    found: list[str] = client_cost.report(client_cost.compare(folder, 2000, 256, 0.1))
    return found


def false_negatives(folder: Path) -> list[str]:
    data = os.environ.get("SYNTH_RETRIEVAL_DATA")
    if not data:
        return ["Skipped: set SYNTH_RETRIEVAL_DATA to a folder with cranfield, covid_faq and cmrc2018_zh."]
    return list(script("false_negatives", data)(folder))


def prompt_tokens(folder: Path) -> list[str]:
    wanted = ("SYNTH_QWEN3_TOKENIZER", "SYNTH_RETRIEVAL_DATA")
    if missing := [name for name in wanted if not os.environ.get(name)]:
        return [f"Skipped: {missing[0]} is not set."]
    return list(script("prompt_tokens")(folder))


SECTIONS = {
    "client": Section("Client cost: 2,000 passages, one query each, 100 ms, 256 slots", client),
    "transport": Section("Transport and parsing alone", module("transport")),
    "workers": Section("Two workers compared with two bare loops", module("two_workers")),
    "full": Section("Keeping a server with an unknown limit full", module("full_server")),
    "several": Section("Several servers, one slow, one that dies", module("several_servers")),
    "prefix": Section("Prefix cache: prompt tokens per pair computed by a real vLLM", module("prefix_cache")),
    "prompt_tokens": Section("Prompt tokens a pair behind a perfect prefix cache", prompt_tokens),
    "plan": Section("Forecasts of a pilot and whole runs", module("plan")),
    "local": Section("Local embedder compared with SentenceTransformer.encode", module("local_path")),
    "keep": Section("A new view over scored rows", script("keep")),
    "ready_vectors": Section("Cosine of precomputed vectors", script("ready_vectors", "--folder", "{folder}")),
    "mine": Section("Hard negatives compared with mine_hard_negatives", module("mine")),
    "false_negatives": Section("False negatives among mined negatives", false_negatives, long=True),
    "personas": Section("Nearest of 200,000 personas for 100,000 passages", script("personas"), long=True),
    "models": Section("Small models: what their queries are worth", module("models"), long=True),
    "growth": Section("Growth to a million passages", module("growth"), long=True),
}


def machine() -> str:
    packages = ("aiohttp", "openai", "pyarrow", "numpy", "pydantic")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    loads = " ".join(f"{each:.1f}" for each in os.getloadavg())
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {versions}; load {loads}"


def measured(name: str) -> str:
    """The text of a section, or the reason why it cannot run here."""
    section = SECTIONS[name]
    before, begun = f"{time.strftime('%Y-%m-%d')}; {machine()}", time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="synth-bench-") as folder:
        try:
            lines = list(section.lines(Path(folder)))
        except (ImportError, OSError, RuntimeError, ValueError) as exc:
            lines = [f"Could not run: {type(exc).__name__}: {exc}"]
    return "\n".join([f"{before}; {time.perf_counter() - begun:.0f} s", "", *lines, ""])


def kept() -> dict[str, str]:
    """The sections of RESULTS.md by title."""
    _, *parts = RESULTS.read_text(encoding="utf-8").split("\n## ") if RESULTS.exists() else ("",)
    return {title: body.strip("\n") + "\n" for title, _, body in (part.partition("\n") for part in parts)}


def write(found: dict[str, str]) -> None:
    """Replace the sections that were measured, keep the others."""
    all_of_them = kept() | {SECTIONS[name].title: text for name, text in found.items()}
    order = [section.title for section in SECTIONS.values()]
    titles = [title for title in order if title in all_of_them]
    RESULTS.write_text(
        PREFACE + "".join(f"\n## {title}\n\n{all_of_them[title].lstrip()}" for title in titles), encoding="utf-8"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("sections", nargs="+", choices=["all", "long", *SECTIONS], metavar="SECTION")
    parser.add_argument("--write", action="store_true", help="write the tables to benchmarks/RESULTS.md")
    options = parser.parse_args()
    wanted = {"all": False, "long": True}
    chosen = [
        name
        for name, section in SECTIONS.items()
        if name in options.sections or any(wanted.get(each) == section.long for each in options.sections)
    ]
    for name in chosen:
        text = measured(name)
        print(f"## {SECTIONS[name].title}\n\n{text}", flush=True)
        if options.write:
            write({name: text})


if __name__ == "__main__":
    main()
