"""The rejected rows of a shard: the body that it names, and the link by which readers find it."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pyarrow as pa

from synth.verify.findings import Book
from synth.verify.layout import BODY, StepFiles
from synth.verify.shard_file import ShardFile, Stamp, Unreadable, sha256_of


class Bodies:
    """Checks bodies, and remembers which ones shards name, so that the others are known for orphans."""

    def __init__(self, root: Path, book: Book, *, deep: bool) -> None:
        self.named: set[str] = set()
        """Names of bodies, which hold a hash of the content; the same in whichever folder."""
        self.linked: dict[str, set[int]] = defaultdict(set)
        """For each step the shards whose rejected rows readers find under `rejected/`."""
        self._root = root
        self._book = book
        self._deep = deep

    def note(self, stamp: Stamp) -> None:
        """Remember the body of a shard that is not checked."""
        self.named.add(stamp.rejects_file)

    def read(self, step: StepFiles, stamp: Stamp, columns: list[str]) -> pa.Table | None:
        """Some columns of the rejected rows (all in deep mode), None where they cannot be had or there are none."""
        shard = step.file(stamp.shard)
        if not stamp.rejected or not stamp.rejects_file:
            if stamp.rejected or stamp.rejects_file or stamp.rejects_sha256:
                self._book.damage(shard, "its metadata tell of rejected rows without naming their file, or the reverse")
            return None
        self.named.add(stamp.rejects_file)
        self.linked[step.name].add(stamp.shard)
        match = BODY.fullmatch(stamp.rejects_file)
        if not match or int(match[1]) != stamp.shard or match[2] != stamp.rejects_sha256[:16]:
            self._book.damage(shard, f"names {stamp.rejects_file!r} as its rejected rows, which cannot be")
            return None
        body = self._root / ".rejects" / step.name / stamp.rejects_file
        try:
            table = self._table(body, stamp, columns)
        except Unreadable as exc:
            self._book.damage(body, f"the rejected rows of {step.name}/{shard.name}: {exc}")
            return None
        self._check_link(step, stamp, body)
        return table

    def _table(self, body: Path, stamp: Stamp, columns: list[str]) -> pa.Table:
        with ShardFile(body) as file:
            if file.sha256() != stamp.rejects_sha256:
                raise Unreadable("its sha256 is not the one that its shard names")
            if file.rows != stamp.rejected:
                raise Unreadable(f"its shard says {stamp.rejected} rows, it holds {file.rows}")
            return file.read(None if self._deep else columns)

    def _check_link(self, step: StepFiles, stamp: Stamp, body: Path) -> None:
        link = self._root / "rejected" / step.name / f"{stamp.shard:08d}.parquet"
        if not link.exists():
            self._book.note(link, "the link to the rejected rows is missing; the next run makes it")
            return
        try:
            same = link.samefile(body) or sha256_of(link) == stamp.rejects_sha256
        except (OSError, Unreadable) as exc:
            self._book.damage(link, f"cannot be read ({exc})")
            return
        if not same:
            self._book.damage(link, "is not the file of rejected rows that the shard names")
