"""Visits the shards of a run, all steps of one shard together, so that each file is opened and hashed once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import pyarrow as pa

from synth.verify import ledgers
from synth.verify.files import Layout, Opened, ShardFile, StepFiles, Unreadable, open_shard
from synth.verify.findings import Book, StepTotals
from synth.verify.ledgers import Bodies, ItemLedger, RowLedger, ScoreShard
from synth.verify.records import Record, Records


class Links:
    """Checks what shards were made from; blames a damaged source if there is one, otherwise what was made from it."""

    def __init__(self, book: Book) -> None:
        self._book = book

    def stale(self, source: Opened, stale: Sequence[Opened], *, of: int = 1) -> None:
        """Report that `stale`, of the `of` shards made from `source`, name a different checksum."""
        if not stale or self._torn([source]):
            return
        if len(stale) == of > 1 and len({shard.stamp.input for shard in stale}) == 1:
            self._book.damage(source.file.path, f"its bytes differ from those that {of} shards were made from")
            return
        for shard in stale:
            self._book.damage(shard.file.path, f"was made from different bytes of {source.name}")

    def view(
        self, view: Opened, pairs: Opened, scores: Sequence[Opened], folders: Sequence[StepFiles]
    ) -> list[Opened] | None:
        """The score shards that a view's shard was made from, in order; None, after reporting why, if unknown."""
        shards = [ScoreShard(n, tuple(_columns(each)), each.file.sha256()) for n, each in enumerate(scores)]
        rows = list(ledgers.candidates(view.file.names[len(pairs.file.names) :], shards))
        for row in rows:
            if ledgers.made_from(pairs.file.sha256(), row) == view.stamp.input:
                made = [scores[each.place] for each in row]
                self._check_record(view, [each.step.name for each in made])
                return made
        lost = [step for step in folders if view.stamp.shard not in step.shards]
        if any(self._book.blames(each.file.path) for each in (pairs, *scores)):
            return None
        if not rows and lost:
            self._book.damage(
                lost[0].file(view.stamp.shard), f"is missing, and {view.name} has columns that no other scorer has"
            )
        elif not rows:
            self._book.damage(view.file.path, "has score columns that are in no folder of scores/")
        elif not self._torn([pairs, *scores]):
            sources = ", ".join(each.name for each in (pairs, *scores))
            self._book.damage(view.file.path, f"was made from different bytes of one of {sources}")
        return None

    def _check_record(self, view: Opened, scores: Sequence[str]) -> None:
        """Compare the record of a view's rules with its shard."""
        identity = view.stamp.identity
        path = self._book.root / "index" / f"rules-{identity[:16]}.json"
        try:
            record = json.loads(path.read_bytes())
            named, recorded, rules = record["fingerprint"], record["scores"], record["rules"]
        except FileNotFoundError:
            self._book.note(path, f"the record of the rules of {view.step.name} is missing")
        except (OSError, ValueError, KeyError, TypeError) as exc:
            self._book.damage(path, f"cannot be read ({exc!r})")
        else:
            whole = record.get("shards") is None  # otherwise the fingerprint also holds the shards compared
            if named != identity or (whole and ledgers.fingerprint(rules, recorded) != identity):
                self._book.damage(path, "the rules in it do not match its name")
            elif recorded != scores:
                self._book.damage(path, f"names different scores than {view.name} was made from")

    def _torn(self, shards: Sequence[Opened]) -> bool:
        torn = False
        for shard in shards:
            try:
                shard.file.check_pages()
            except Unreadable as exc:
                self._book.damage(shard.file.path, str(exc))
                torn = True
        return torn


def score_folders(layout: Layout, view: StepFiles) -> set[str] | None:
    """Names of the score folders that a view was made from, by its first shard; None if that cannot be decided."""
    index = min(view.shards)
    with ExitStack() as stack:
        try:
            mine, pairs = (open_shard(step, index, stack, ["id"]) for step in (view, layout.generated))
            having = [step for step in layout.scores if index in step.shards]
            scores = [open_shard(step, index, stack, ["id"]) for step in having]
            made = Links(Book(layout.root)).view(mine, pairs, scores, layout.scores)
        except Unreadable:
            return None
    return None if made is None else {each.step.name for each in made}


def _columns(shard: Opened) -> list[str]:
    return [name for name in shard.file.names if name != "id"]


class Mined:
    """`shard` for every shard of `mined/`, in ascending order."""

    def __init__(self, book: Book, links: Links, *, deep: bool) -> None:
        self._book, self._links, self._deep = book, links, deep
        self._identity: str | None = None
        self._record: Mapping[str, Any] | None = None
        self._reported = False

    def shard(self, mined: Opened, shown: Sequence[Opened]) -> Iterable[str]:
        """What is wrong with it; `shown` are the shards of the visible views with the same number."""
        if self._identity is None:
            self._identity = mined.stamp.identity
            self._record = self._read(mined)
        if mined.stamp.identity != self._identity:
            return ["was mined with other settings than the shards before it"]
        if self._record is None:
            return []
        view = next((each for each in shown if each.step.name == self._record["view"]), None)
        if view is None or view.stamp.identity != self._record["rules"]:
            self._outdated(mined, self._record["view"])
            return []
        if mined.stamp.input != view.file.sha256():
            self._links.stale(view, [mined])
            return []
        return self._differences(mined, view)

    def _differences(self, mined: Opened, view: Opened) -> Iterable[str]:
        if mined.rejected is not None or not mined.stamp.rejected:
            yield from ledgers.differences(view.ids, mined.ids, mined.rejected_ids)
        if self._deep:
            yield from ledgers.wrong_rows(view.table, [], mined.table, mined.rejected)

    def _outdated(self, mined: Opened, view: str) -> None:
        if not self._reported:
            what = f"was made from pairs that {view} does not contain any more; `synth mine` rebuilds it"
            self._book.note(mined.step.path, what)
        self._reported = True

    def _read(self, mined: Opened) -> Mapping[str, Any] | None:
        identity = mined.stamp.identity
        path = self._book.root / "index" / f"mined-{identity[:16]}.json"
        try:
            record: Mapping[str, Any] = json.loads(path.read_bytes())
            whole = {"view", "rules"} <= record.keys() and ledgers.sha256_of_json(record) == identity
        except FileNotFoundError:
            self._book.note(path, "the record of how mined/ was made is missing")
            return None
        except (OSError, ValueError, TypeError, AttributeError) as exc:
            self._book.damage(path, f"cannot be read ({exc!r})")
            return None
        if not whole:
            self._book.damage(path, "its content does not match its name")
        return record if whole else None


_SHOWN = 5


class Walk:
    """`shard` for every index in ascending order, then `finish`."""

    def __init__(self, layout: Layout, records: Records, book: Book, *, deep: bool) -> None:
        self.bodies = Bodies(layout.root, book, deep=deep)
        self._layout, self._records, self._book, self._deep = layout, records, book, deep
        self._rows, self._items, self._links = RowLedger(), ItemLedger(), Links(book)
        self._mined = Mined(book, self._links, deep=deep)
        shards = records.totals["shards"] if records.totals else None
        self._first = layout.generated if records.existing else layout.passages
        absent = layout.passages if records.existing else None
        shown = [step for step in layout.steps() if not step.hidden and step is not absent]
        self._totals = {step.name: _counting(step, shards, first=step is self._first) for step in shown}
        self._identities: dict[str, str] = {}
        self._due = 0
        self._begun = 0

    def shard(self, index: int) -> None:
        """Check shard `index` of every step that has it."""
        layout = self._layout
        for step in layout.views:
            if step.hidden and index in step.shards:
                self._hidden(step, index)
        with ExitStack() as stack:
            passages = None
            if not self._records.existing:
                passages = self._open(layout.passages, index, stack, [*ledgers.PASSAGE_COLUMNS, "retry_of"])
            existing = ledgers.PAIR_COLUMNS if self._records.existing else ["id"]
            pairs = self._open(layout.generated, index, stack, existing)
            scores = [self._open(step, index, stack, ["id"]) for step in layout.scores]
            shown = [self._open(step, index, stack, ["id"]) for step in layout.views if not step.hidden]
            mined = None if layout.mined is None else self._open(layout.mined, index, stack, ["id"])
            self._upstream(index)
            if passages is not None:
                self._check_passages(passages)
            elif self._records.existing and pairs is not None:
                self._check_existing(pairs)
            else:
                self._rows.lose()
            if pairs is not None:
                self._check_pairs(pairs, passages)
                found = [each for each in scores if each is not None]
                self._check_scores(found, pairs)
                for view in shown:
                    if view is not None:
                        self._check_view(view, pairs, found)
            if mined is not None:
                self._report(mined, self._mined.shard(mined, [view for view in shown if view is not None]))

    def finish(self) -> None:
        """Report what only the totals over all shards show."""
        book, layout, records = self._book, self._layout, self._records
        rows = self._totals[self._first.name]
        if records.totals is None:
            book.note(self._first.path, "the inputs are not fully read yet")
        else:
            for index in sorted(set(range(records.totals["shards"])) - self._first.shards):
                book.damage(self._first.file(index), "is missing, although step 0 is complete")
            self._check_totals(rows)
        generated = self._totals["generated"]
        generated.retried = len(self._items.retried)
        if not records.existing:
            generated.open = self._due - generated.rows_in
        for step in layout.steps():
            self._note_state(step)
        book.steps.extend(self._totals.values())

    def _note_state(self, step: StepFiles) -> None:
        book = self._book
        if step.hidden:
            book.note(step.path, f"a hidden view ({len(step.shards)} shards): being filled, or replaced")
            return
        if step in self._layout.views and step.replaced():
            book.withdraw(step.name)
            book.note(step.path, "was replaced while it was being checked; verify again")
        absent = sorted(self._first.shards - step.shards)
        if absent and step.name in self._totals and step is not self._layout.mined:
            more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
            book.note(step.path, f"not done yet: shard {', '.join(f'{n:08d}' for n in absent[:_SHOWN])}{more}")

    def _check_totals(self, rows: StepTotals) -> None:
        totals, expected = self._records.totals, self._records.input_rows
        assert totals is not None  # noqa: S101 - asked before
        file = self._records.totals_file
        whole = rows.shards == totals["shards"]
        if whole and rows.rejected != totals["rejected"]:
            self._book.damage(file, f"counts {totals['rejected']} rows rejected, the shards {rows.rejected}")
        if whole and self._begun + rows.rejected != totals["rows_in"]:
            self._book.damage(file, f"counts {totals['rows_in']} rows in, the shards {self._begun + rows.rejected}")
        if expected is not None and expected != totals["rows_in"]:
            self._book.damage(file, f"counts {totals['rows_in']} rows in, the inputs have {expected}")

    def _hidden(self, step: StepFiles, index: int) -> None:
        try:
            with ShardFile(step.file(index)) as file:
                self.bodies.note(file.stamp())
        except Unreadable as exc:
            self._book.note(step.file(index), f"cannot be read ({exc})")

    def _open(self, step: StepFiles, index: int, stack: ExitStack, columns: list[str]) -> Opened | None:
        if index not in step.shards:
            return None
        try:
            opened = open_shard(step, index, stack, None if self._deep else columns)
        except Unreadable as exc:
            self._book.damage(step.file(index), str(exc))
            return None
        stamp, first = opened.stamp, step is self._first
        opened.rejected = self.bodies.read(step, stamp, ledgers.ROW_COLUMNS if first else ["id"])
        self._totals[step.name].add(stamp.rows_in, stamp.rows_out, stamp.rejected)
        if step is not self._layout.passages and opened.file.rows != stamp.rows_out:
            self._report(opened, [f"its metadata say {stamp.rows_out} rows, it holds {opened.file.rows}"])
        return opened

    def _upstream(self, index: int) -> None:
        """Every shard of a step also exists in the step before."""
        passages, generated = self._layout.passages, self._layout.generated
        later = [step for step in (*self._layout.scores, *self._layout.views) if index in step.shards]
        if later and index not in generated.shards:
            self._book.damage(generated.file(index), f"is missing, although {later[0].name} has that shard")
        if self._records.existing:
            return
        if (later or index in generated.shards) and index not in passages.shards:
            self._book.damage(passages.file(index), "is missing, although shards were made from it")
        elif index not in passages.shards and index < max(passages.shards, default=0):
            self._book.damage(passages.file(index), "is missing, although later shards exist")

    def _record(self, shard: Opened) -> Record | None:
        record = self._records.by_identity(shard.stamp.identity)
        if record is None and self._records.revisions:
            self._book.damage(shard.file.path, f"was made by another run (identity {shard.stamp.identity[:8]})")
        return record

    def _check_passages(self, shard: Opened) -> None:
        record = self._record(shard)
        table, stamp = shard.table, shard.stamp
        retries = _retries(table)
        found = list(self._rows.positions(table, stamp.first))
        if any(retries):
            begun = table.num_rows
            found += self._items.retry(table["position"].to_pylist(), retries)
        else:
            rows = ledgers.begun(table)
            begun = rows.num_rows
            found += self._rows.chunks(table)
            found += self._rows.rows(rows, shard.rejected, gapless=self._gapless())
        if begun != stamp.rows_out:
            found.append(f"its metadata say that {stamp.rows_out} input rows begin in it, but {begun} do")
        self._begun += 0 if any(retries) else begun  # retried items are not new input
        if record is not None and record.shard_size is not None and table.num_rows > record.shard_size:
            found.append(f"holds {table.num_rows} passages, more than the shard size {record.shard_size}")
        self._report(shard, found)
        if record is not None and record.slots is not None:
            self._due += len(self._items.due(table["position"].to_pylist(), retries, record))

    def _check_existing(self, shard: Opened) -> None:
        self._record(shard)
        rows = ledgers.begun(shard.table)
        self._begun += rows.num_rows
        self._report(shard, self._rows.ids(shard.table, shard.stamp.first))
        self._report(shard, self._rows.rows(rows, shard.rejected, gapless=self._gapless()))

    def _gapless(self) -> bool:
        """Whether every input row must be in some shard; a sample omits rows."""
        return self._records.last is not None and self._records.last.sample is None

    def _check_pairs(self, shard: Opened, passages: Opened | None) -> None:
        record = self._record(shard)
        if passages is None or record is None:
            return
        if shard.stamp.input != passages.file.sha256():
            self._links.stale(passages, [shard])
        if shard.stamp.first != passages.stamp.first:
            self._report(shard, [f"begins at position {shard.stamp.first}, but its passages at {passages.stamp.first}"])
        if record.slots is None:
            return
        due = self._items.due(passages.table["position"].to_pylist(), _retries(passages.table), record)
        rejected_read = shard.rejected is not None or not shard.stamp.rejected
        if len(due) != shard.stamp.rows_in:
            self._report(shard, [f"says {shard.stamp.rows_in} items, but its passages have {len(due)}"])
        if rejected_read:
            self._report(shard, ledgers.differences(due, shard.ids, shard.rejected_ids))
        if self._deep:
            self._report(shard, _other_texts(shard.table, passages.table))

    def _check_scores(self, scores: list[Opened], pairs: Opened) -> None:
        ids = pairs.ids
        for shard in scores:
            if shard.ids != ids:
                self._report(shard, [f"its ids differ from those of {pairs.name}"])
            if not shard.step.name.endswith(f"-{shard.stamp.identity}"):
                self._report(shard, [f"was made by scorer {shard.stamp.identity}, which is not the one of its folder"])
        self._links.stale(
            pairs, [shard for shard in scores if shard.stamp.input != pairs.file.sha256()], of=len(scores)
        )

    def _check_view(self, view: Opened, pairs: Opened, scores: list[Opened]) -> None:
        first = self._identities.setdefault(view.step.name, view.stamp.identity)
        if view.stamp.identity != first:
            self._report(view, ["was made with other rules than the shards before it"])
        if view.rejected is not None or not view.stamp.rejected:
            self._report(view, ledgers.differences(pairs.ids, view.ids, view.rejected_ids))
        made = self._links.view(view, pairs, scores, self._layout.scores)
        if made is not None and self._deep:
            self._report(
                view, ledgers.wrong_rows(pairs.table, [each.table for each in made], view.table, view.rejected)
            )

    def _report(self, shard: Opened, found: Iterable[str]) -> None:
        for what in found:
            self._book.damage(shard.file.path, what)


def _counting(step: StepFiles, shards: int | None, *, first: bool) -> StepTotals:
    """Totals of a step, still zero, with the unit that it counts."""
    if step.name == "passages":
        return StepTotals(step.name, shards, "input rows", "made passages")
    if step.name == "generated":
        return StepTotals(step.name, shards, "pairs and rejected rows" if first else "items", "pairs")
    return StepTotals(step.name, shards, made="scored" if step.name.startswith("scores/") else "kept")


def _retries(table: pa.Table) -> list[str | list[str] | None]:
    if "retry_of" not in table.column_names:
        return [None] * table.num_rows
    found: list[str | list[str] | None] = table["retry_of"].to_pylist()
    return found


def _other_texts(pairs: pa.Table, passages: pa.Table) -> Iterable[str]:
    """Columns in which pairs differ from the passage at their position."""
    place = {position: n for n, position in enumerate(passages["position"].to_pylist())}
    rows = [place.get(int(each.partition("-")[0])) for each in pairs["id"].to_pylist()]
    if None in rows:
        return
    taken = passages.take(pa.array(rows, pa.int64()))
    for mine, theirs in (("passage", "text"), ("passage_id", "id"), ("source", "source")):
        if mine in pairs.column_names and not pairs[mine].equals(taken[theirs].cast(pairs[mine].type)):
            yield f"column {mine} differs from its passages"
