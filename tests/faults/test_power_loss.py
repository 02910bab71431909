"""Power loss: every state that a disk may be in which keeps only what was synced, and anything of the rest.

The calls of a run are recorded, then cut after each one. From there the names in a folder are, one by one, as they were
at its last sync or at any later moment, and so is what a file holds: all, half or none of what was not synced, or zeros
where blocks were allotted and never written. From each such state a run must complete, and no shard that was reported
done may be missing. Names in `tmp/` are left out: nothing ever reads them.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from synth.errors import SynthError
from synth.shards import OutputFolder

from . import ITEMS, Died, Machine, audit, output, run, running_on

pytestmark = pytest.mark.faults


class Disk:
    """What is on the disk for certain, and what may be, after the operations that `apply` was given."""

    def __init__(self, root):
        self.names: dict[Path, list[int | None]] = {root.parent: [0]}  # values since the last sync, the oldest first
        self.contents: dict[int, bytes | None] = {0: None}  # None: a folder
        self.synced: dict[int, bytes] = {}

    def apply(self, operation):
        kind, path, *rest = operation
        getattr(self, "_" + kind.replace(" ", "_"))(path, *rest)

    def node(self, path):
        values = self.names.get(path, [None])
        return values[-1]

    def _set(self, path, node):
        self.names.setdefault(path, [None]).append(node)

    def _new(self, path, content):
        self.contents[len(self.contents)] = content
        self._set(path, len(self.contents) - 1)

    def _create(self, path):
        if self.node(path) is None:
            self._new(path, b"")
            self.synced[self.node(path)] = b""

    def _mkdir(self, path):
        self._new(path, None)

    def _write(self, path, data):
        self.contents[self.node(path)] += data

    def _ftruncate(self, path, size):
        self.contents[self.node(path)] = self.contents[self.node(path)][:size]

    def _link(self, source, target):
        self._set(target, self.node(source))

    def _move(self, source, target):
        self._set(target, self.node(source))
        self._set(source, None)

    def _unlink(self, path):
        self._set(path, None)

    def _sync_file(self, path):
        self.synced[self.node(path)] = self.contents[self.node(path)]

    def _sync_folder(self, path):
        for name, values in self.names.items():
            if name.parent == path:
                del values[:-1]

    def states(self):
        """Each possible disk as a sorted tuple of (path, content), content None for a folder."""
        paths = [path for path in self.names if path.parent.name != "tmp"]
        for nodes in itertools.product(*(dict.fromkeys(self.names[path]) for path in paths)):
            tree = {path: node for path, node in zip(paths, nodes, strict=True) if node is not None}
            whole = {path: node for path, node in tree.items() if all(p in tree for p in self._above(path))}
            for contents in itertools.product(*(self._variants(node) for node in whole.values())):
                yield tuple(sorted(zip(whole, contents, strict=True)))

    def _above(self, path):
        return [parent for parent in path.parents if parent in self.names]

    def _variants(self, node):
        now, before = self.contents[node], self.synced.get(node)
        if now is None or now == before:
            return [now]
        return {now, before, now[: (len(before) + len(now)) // 2], before + bytes(max(0, len(now) - len(before)))}


def without_file_sync(trace):
    return [operation for operation in trace if operation[0] != "sync file"]


def without_folder_sync(trace):
    return [operation for operation in trace if operation[0] != "sync folder"]


def record(path, trace, death=None):
    """Run on a machine that adds its operations to `trace`, with a mark wherever a shard is reported done."""
    machine = Machine(path, lambda _number, label: label == death, "die after")
    machine.trace = trace
    with running_on(machine):
        run(path, shards=range(1), committed=lambda index: trace.append(("done", index)))


def violations(path, trace):
    """The promises broken in any state of any cut (it stops at ten), and how many states there were."""
    with running_on(Machine(path)):
        clean = path.with_name("clean")
        run(clean, shards=range(1))
    expected, broken, seen = output(clean), [], set()
    disk, done = Disk(path), set()
    for operation in trace:
        if operation[0] == "done":
            done.add(operation[1])
        else:
            disk.apply(operation)
        for state in disk.states():
            if len(broken) >= 10:
                return broken, len(seen)
            if (key := (state, frozenset(done))) in seen:
                continue
            seen.add(key)
            box = path.with_name(f"box-{len(seen)}")
            broken += recover(state, path, box, done, expected)
    return broken, len(seen)


def recover(state, path, box, done, expected):
    box.mkdir()
    for name, content in state:
        place = box / name.relative_to(path.parent)
        if content is None:
            place.mkdir(exist_ok=True)
        else:
            place.write_bytes(content)
    out = box / path.name
    try:
        if done:
            assert OutputFolder.open(out).step("generated").done() >= done, "a shard that was reported done is gone"
        asked: list[str] = []
        with running_on(Machine(out)):
            run(out, asked, shards=range(1))
        assert not (done and asked), "a shard that was reported done was made again"
        assert len(asked) <= len(ITEMS)
        audit(out, range(1))
        assert output(out) == expected
    except (SynthError, AssertionError) as error:
        return [str(error)]
    return []


def test_power_loss_at_any_moment_of_a_run_leaves_whole_shards_and_keeps_what_was_done(tmp_path):
    trace: list[tuple[object, ...]] = []
    record(tmp_path / "out", trace)
    broken, states = violations(tmp_path / "out", trace)
    print(f"\nT2 {states} states of the disk, {len(broken)} violations")  # noqa: T201 - the figures are what it is for
    assert broken == []
    assert states > 50


@pytest.mark.parametrize("death", ["link generated", "fsync generated", "link rejected", "mkdir generated"])
def test_power_loss_after_a_crash_cannot_take_what_the_next_run_reports(tmp_path, death):
    trace: list[tuple[object, ...]] = []
    with pytest.raises(Died):
        record(tmp_path / "out", trace, death)
    record(tmp_path / "out", trace)
    trace.append(("done", 0))
    broken, _ = violations(tmp_path / "out", trace)
    assert broken == []


@pytest.mark.parametrize("mutant", [without_file_sync, without_folder_sync])
def test_the_enumeration_catches_a_commit_that_does_not_sync(tmp_path, mutant):
    trace: list[tuple[object, ...]] = []
    record(tmp_path / "out", trace)
    broken, states = violations(tmp_path / "out", mutant(trace))
    print(f"\nT2 {mutant.__name__}: {len(broken)} violations in the first {states} states")  # noqa: T201 - as above
    assert broken
