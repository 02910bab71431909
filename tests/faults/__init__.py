"""A machine that dies, refuses or is watched at a chosen system call, and a small run to do that to.

`Machine` stands in for the name `os` inside the modules of `synth.shards`, so the product needs no hooks. A process
that died makes no more calls, so after a death every call raises `Died`, also in the product's own clean-up.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from synth.shards import Origin, OutputFolder, StepFolder

MODULES = ("disk", "folder", "journal")
CALLS = {"access", "close", "fdopen", "fsync", "fstat", "ftruncate", "link", "lstat", "mkdir", "open", "pread"}
CALLS |= {"rename", "replace", "scandir", "statvfs", "unlink", "write"}
SHARDS = range(2)
ITEMS = range(4)
REFUSED = 2  # the item of each shard that ends in rejected/

Trigger = Callable[[int, str], bool]


class Died(BaseException):
    """The process is gone; nothing in it may run any more."""


class Machine:
    """`os` with one fault: at the first call for which `when(number, label)` holds, `action` happens.

    A label is the call and the folder below the output folder that it touches: `link generated`, `write wip`.
    Actions: `die`, `die after`, `tear` (half of a write arrives, then death), `kill` (a real SIGKILL), `short` (half
    of a write arrives, and the call says so), `refuse:EIO` (any error by name). `fsync` is recorded, not done.
    """

    def __init__(self, root: Path, when: Trigger = lambda _number, _label: False, action: str = "") -> None:
        self.root = root
        self.labels: list[str] = []
        self.trace: list[tuple[Any, ...]] = []
        self._when, self._action = when, action
        self._dead = self._fired = False
        self._paths: dict[int, Path] = {}
        self._files: dict[int, Path] = {}

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return (lambda *args, **kwargs: self._call(name, real, *args, **kwargs)) if name in CALLS else real

    def bury(self) -> None:
        """What the kernel does for a dead process: close its files, which frees its locks."""
        for descriptor in self._paths:
            os.close(descriptor)
        self._paths.clear()

    def _call(self, name: str, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if name == "close":
            path = self._paths.pop(args[0], self.root)
            real(*args)
            self._fault(name, path)
            return None
        if self._dead:
            raise Died
        path = self._path(args[0]) if isinstance(args[0], int) else Path(args[1] if name == "link" else args[0])
        short = self._fault(name, path, args)
        if short is not None:
            return short
        result = real(*args, **kwargs) if name != "fsync" else None
        self._record(name, path, args, result)
        if self._dead:
            if hasattr(result, "close"):
                result.close()
            raise Died
        return result

    def _path(self, descriptor: int) -> Path:
        return self._paths[descriptor] if descriptor in self._paths else self._files[descriptor]

    def _fault(self, name: str, path: Path, args: tuple[Any, ...] = ()) -> int | None:
        label = f"{name} {self._folder(path)}"
        self.labels.append(label)
        if self._fired or not self._when(len(self.labels), label):
            return None
        self._fired = True
        half = None
        if self._action in ("tear", "short"):
            half = os.write(args[0], args[1][: len(args[1]) // 2])
            self.trace.append(("write", path, bytes(args[1][:half])))
        if self._action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        self._dead = self._action in ("die", "tear", "die after")
        if self._action in ("die", "tear"):
            raise Died
        if self._action.startswith("refuse:"):
            code = getattr(errno, self._action.removeprefix("refuse:"))
            raise OSError(code, os.strerror(code))
        return half

    def _record(self, name: str, path: Path, args: tuple[Any, ...], result: Any) -> None:
        if name == "open":
            self._paths[result] = path
            if args[1] & os.O_CREAT:
                self.trace.append(("create", path))
        elif name == "fdopen":
            self._files[args[0]] = self._paths.pop(args[0])  # the file object closes it
        elif name == "write":
            self.trace.append(("write", path, bytes(args[1][:result])))
        elif name == "ftruncate":
            self.trace.append(("ftruncate", path, args[1]))
        elif name == "fsync":
            self.trace.append(("sync folder" if path.is_dir() else "sync file", path))
        elif name in ("link", "replace", "rename"):
            self.trace.append(("link" if name == "link" else "move", Path(args[0]), Path(args[1])))
        elif name in ("unlink", "mkdir"):
            self.trace.append((name, path))

    def _folder(self, path: Path) -> str:
        parts = path.relative_to(self.root).parts if path.is_relative_to(self.root) else ()
        return parts[0] if parts else "."


@contextmanager
def running_on(machine: Machine) -> Iterator[Machine]:
    """Let `synth.shards` make its system calls through `machine`."""
    modules = [importlib.import_module(f"synth.shards.{name}") for name in MODULES]
    try:
        for module in modules:
            module.os = machine  # type: ignore[attr-defined] # stands in for the module
        yield machine
    finally:
        for module in modules:
            module.os = os  # type: ignore[attr-defined] # as above
        machine.bury()


def run(
    path: Path,
    asked: list[str] | None = None,
    shards: range = SHARDS,
    committed: Callable[[int], None] = lambda _index: None,
) -> None:
    """A small job of shards with four items each; every item that is really asked for goes into `asked`."""
    folder = OutputFolder.open(path, write=True, notify=_no_notice)
    folder.put_if_absent("job.json", b'{"seed": 7}\n')
    step = folder.step("generated")
    step.settle()
    started = step.started()
    for index in sorted(set(shards) - step.done(), key=lambda index: (index not in started, index)):
        _make_shard(step, index, asked if asked is not None else [])
        committed(index)
    step.settle()
    folder.replace_atomically("README.md", b"# A data set\n")


def _make_shard(step: StepFolder, index: int, asked: list[str]) -> None:
    journal = step.claim(index)
    assert journal is not None, "nobody else is at work"
    for item in ITEMS:
        key = f"{index * len(ITEMS) + item}-0"
        if journal.get(key) is None:
            asked.append(key)
            journal.append(key, {"query": f"what is asked in {key}?"})
    rows = [(key, (journal.get(key) or {})["query"]) for key in (f"{index * len(ITEMS) + item}-0" for item in ITEMS)]
    refused = [rows.pop(REFUSED)]
    origin = Origin(identity="1d" * 32, input="", first=index * 4, rows_in=4, rows_out=3, schema="1", models=("m",))
    step.commit(index, _table(rows), origin, rejects=_table(refused))
    journal.drop()


def _table(rows: list[tuple[str, str]]) -> pa.Table:
    schema = pa.schema([("id", pa.string()), ("query", pa.string())])
    return pa.table([[row[0] for row in rows], [row[1] for row in rows]], schema=schema)


def _no_notice(line: str) -> None:
    raise AssertionError(f"nothing should be odd here: {line}")


def audit(path: Path, shards: range = SHARDS) -> None:
    """Every item exactly once, as a pair or rejected; the links to the rejected rows there; no journal left."""
    step = OutputFolder.open(path).step("generated")
    assert step.done() == set(shards)
    for index in shards:
        expected = [f"{index * len(ITEMS) + item}-0" for item in ITEMS]
        rejected = step.rejects(index)
        assert rejected is not None
        assert rejected["id"].to_pylist() == [expected.pop(REFUSED)]
        assert step.read(index).table["id"].to_pylist() == expected
        linked = path / "rejected" / "generated" / f"{index:08d}.parquet"
        assert linked.read_bytes() == (path / ".rejects" / "generated" / step.meta(index).rejects_file).read_bytes()
    assert step.started() == []
    assert (path / "job.json").read_bytes() == b'{"seed": 7}\n'


def output(path: Path) -> dict[str, bytes]:
    """Every file that a run leaves for its readers, by relative name."""
    private = {"tmp", "wip"}
    files = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
    return {str(name): (path / name).read_bytes() for name in files if name.parts[0] not in private}
