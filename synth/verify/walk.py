"""Visits the shards of a run, all steps of one shard together, so that each file is opened and hashed once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import repeat
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from synth.verify import files, ledgers
from synth.verify.files import Layout, Opened, Report, ShardFile, StepFiles, StepTotals, Unreadable, open_shard
from synth.verify.ledgers import Bodies, RowLedger
from synth.verify.records import Record, Records, labels_of

_UNITS = {"passages": ("input rows", "made passages"), "generated": ("items", "pairs")}
"""What a step counts, and what it makes of that."""


def score_folders(layout: Layout, view: StepFiles) -> set[str] | None:
    """Names of the score folders that a view was made from, by its first shard; None if that cannot be decided."""
    index = min(view.shards)
    with ExitStack() as stack:
        try:
            mine, pairs = (open_shard(step, index, stack, ["id"]) for step in (view, layout.generated))
            scores = [open_shard(step, index, stack, ["id"]) for step in layout.scores if index in step.shards]
            made, _ = ledgers.made_from(mine, pairs, scores)
        except Unreadable:
            return None
    return None if made is None else {each.step.name for each in made}


class Walk:
    """`shard` for every index in ascending order, then `finish`.

    Where a shard does not fit what it was made from, a damaged source is blamed if there is one, otherwise the shard.
    """

    def __init__(self, layout: Layout, records: Records, report: Report) -> None:
        self.bodies = Bodies(report)
        self._layout, self._records, self._report = layout, records, report
        self._rows = RowLedger()
        self._settings: dict[str, tuple[str, Mapping[str, Any] | None]] = {}
        """Of a step that was added to the run: the identity of its first shard, and its record."""
        self._first = layout.generated if records.existing else layout.passages
        shards = records.totals["shards"] if records.totals else None
        self._totals: dict[str, StepTotals] = {}
        for step in layout.steps():
            if step.hidden or (records.existing and step is layout.passages):
                continue
            unit, made = _UNITS.get(step.name, ("pairs", "scored" if step in layout.scores else "kept"))
            if records.existing and step is self._first:
                unit = "pairs and rejected rows"
            self._totals[step.name] = StepTotals(step.name, shards, unit, made)
        self._identities: dict[str, str] = {}
        self._retried: set[str] = set()
        self._firsts: dict[str, int] = {}
        """The first position of each revision."""
        self._labels: dict[int, frozenset[str] | None] = {}
        """Of a revision, by number."""
        self._due = 0
        self._begun = 0

    def shard(self, index: int) -> None:
        """Check shard `index` of every step that has it."""
        layout, existing = self._layout, self._records.existing
        for step in layout.views:
            if step.hidden and index in step.shards:
                try:
                    with ShardFile(step.file(index)) as file:
                        self.bodies.named.add(file.stamp().rejects_file)
                except Unreadable as exc:
                    self._report.note(step.file(index), f"cannot be read ({exc})")
        with ExitStack() as stack:
            passages = None
            if not existing:
                passages = self._open(layout.passages, index, stack, [*ledgers.PASSAGE_COLUMNS, "retry_of"])
            pairs = self._open(layout.generated, index, stack, ledgers.PAIR_COLUMNS if existing else ["id"])
            opened = (self._open(step, index, stack) for step in layout.scores)
            scores = [each for each in opened if each is not None]
            opened = (self._open(step, index, stack) for step in layout.views if not step.hidden)
            views = [each for each in opened if each is not None]
            opened = (self._open(step, index, stack) for step in layout.added)
            added = [each for each in opened if each is not None]
            self._check_upstream(index)
            first = pairs if existing else passages
            if first is None:
                self._rows.lose()
            else:
                self._check_first(first)
            if pairs is not None:
                self._check_pairs(pairs, passages)
                self._check_scores(scores, pairs)
                for view in views:
                    self._check_view(view, pairs, scores)
            for each in added:
                self._blame(each, self._wrong_addition(each, [*views, *added]))

    def finish(self) -> None:
        """Report what only the totals over all shards show."""
        report, layout, records = self._report, self._layout, self._records
        if records.totals is None:
            report.note(self._first.path, "the inputs are not fully read yet")
        else:
            for index in sorted(set(range(records.totals["shards"])) - self._first.shards):
                report.blame(self._first.file(index), "is missing, although step 0 is complete")
            self._check_totals(records.totals)
        generated = self._totals["generated"]
        generated.retried = len(self._retried)
        if not records.existing:
            generated.open = self._due - generated.rows_in
        for step in layout.steps():
            if step.hidden:
                report.note(step.path, f"a hidden view ({len(step.shards)} shards): being filled, or replaced")
                continue
            if step in layout.views and step.replaced():
                report.withdraw(step.name)
                report.note(step.path, "was replaced while it was being checked; verify again")
            absent = sorted(self._first.shards - step.shards)
            if absent and step.name in self._totals and step not in layout.added:
                report.note(step.path, f"not done yet: shard {ledgers.some([f'{n:08d}' for n in absent], 5)}")
        report.steps.extend(self._totals.values())

    def _check_totals(self, totals: Mapping[str, int]) -> None:
        rows, expected = self._totals[self._first.name], self._records.input_rows
        read = self._begun + rows.rejected
        file = self._records.totals_file
        whole = rows.shards == totals["shards"]
        if whole and rows.rejected != totals["rejected"]:
            self._report.blame(file, f"counts {totals['rejected']} rows rejected, the shards {rows.rejected}")
        if whole and read != totals["rows_in"]:
            self._report.blame(file, f"counts {totals['rows_in']} rows in, the shards {read}")
        if expected is not None and expected != totals["rows_in"]:
            self._report.blame(file, f"counts {totals['rows_in']} rows in, the inputs have {expected}")

    def _open(self, step: StepFiles, index: int, stack: ExitStack, columns: Sequence[str] = ("id",)) -> Opened | None:
        if index not in step.shards:
            return None
        try:
            opened = open_shard(step, index, stack, None if self._report.deep else columns)
        except Unreadable as exc:
            self._report.blame(step.file(index), str(exc))
            return None
        stamp = opened.stamp
        opened.rejected = self.bodies.read(step, stamp, ledgers.ROW_COLUMNS if step is self._first else ["id"])
        totals = self._totals[step.name]
        totals.shards += 1
        totals.rows_in += stamp.rows_in
        totals.rows_out += stamp.rows_out
        totals.rejected += stamp.rejected
        if step is not self._layout.passages and opened.file.rows != stamp.rows_out:
            self._blame(opened, [f"its metadata say {stamp.rows_out} rows, it holds {opened.file.rows}"])
        return opened

    def _check_upstream(self, index: int) -> None:
        """Every shard of a step also exists in the step before."""
        passages, generated = self._layout.passages, self._layout.generated
        later = [step for step in (*self._layout.scores, *self._layout.views) if index in step.shards]
        if later and index not in generated.shards:
            self._report.blame(generated.file(index), f"is missing, although {later[0].name} has that shard")
        if self._records.existing or index in passages.shards:
            return
        if later or index in generated.shards:
            self._report.blame(passages.file(index), "is missing, although shards were made from it")
        elif index < max(passages.shards, default=0):
            self._report.blame(passages.file(index), "is missing, although later shards exist")

    def _record(self, shard: Opened) -> Record | None:
        record = next((each for each in self._records.revisions if each.sha256 == shard.stamp.identity), None)
        if record is None and self._records.revisions:
            self._report.blame(shard.file.path, f"was made by another run (identity {shard.stamp.identity[:8]})")
        return record

    def _check_first(self, shard: Opened) -> None:
        """A shard of step 0: passages, or external pairs."""
        record, table, stamp, existing = self._record(shard), shard.table, shard.stamp, self._records.existing
        self._blame(shard, self._rows.positions(table, stamp.first, existing=existing))
        retried = [] if existing else ledgers.retries(table)
        planned = record is not None and record.planned is not None
        if any(retried) or planned:  # neither retried items nor those of a round are new input
            for each in (each for again in retried for each in again):
                if each in self._retried:
                    self._blame(shard, [f"retries item {each} a second time"])
                self._retried.add(each)
            begun = table.num_rows
        else:
            if not existing:
                self._blame(shard, self._rows.chunks(table))
            rows = ledgers.begun(table, "positive" if existing else "chunk")
            begun = rows.num_rows
            self._begun += begun
            last = self._records.last
            # samples and parts omit rows
            gapless = last is not None and last.sample is None and not last.identity.get("part")
            self._blame(shard, self._rows.rows(rows, shard.rejected, gapless=gapless))
        if existing:
            return
        if begun != stamp.rows_out:
            self._blame(shard, [f"its metadata say that {stamp.rows_out} input rows begin in it, but {begun} do"])
        if record is None:
            return
        if record.shard_size is not None and table.num_rows > record.shard_size:
            self._blame(shard, [f"holds {table.num_rows} passages, more than the shard size {record.shard_size}"])
        if record.slots is not None:
            self._due += len(self._items(shard, record.slots))

    def _check_pairs(self, shard: Opened, passages: Opened | None) -> None:
        record = self._record(shard)
        if passages is None or record is None:
            return
        if shard.stamp.input != passages.file.sha256:
            self._stale(passages, [shard])
        if shard.stamp.first != passages.stamp.first:
            self._blame(shard, [f"begins at position {shard.stamp.first}, but its passages at {passages.stamp.first}"])
        if record.slots is None:
            return
        due = self._items(passages, record.slots)
        if len(due) != shard.stamp.rows_in:
            self._blame(shard, [f"says {shard.stamp.rows_in} items, but its passages have {len(due)}"])
        self._blame(shard, ledgers.differences(due, shard))
        if record.number not in self._labels:
            self._labels[record.number] = labels_of(record, self._report.root, self._report)
        labels = self._labels[record.number]
        if self._report.deep:
            self._blame(shard, _other_texts(shard.table, passages.table))
            strange = {*shard.table["class_label"].to_pylist()} - labels if labels else ()
            self._blame(shard, [f"has the label {name!r}, which is not of the set" for name in sorted(strange)])

    def _items(self, passages: Opened, slots: int) -> list[str]:
        """Ids of the items of a shard's passages: `slots` of each, or as many as a round has planned."""
        first, made = passages.stamp.first, passages.stamp.identity
        record = next((each for each in self._records.revisions if each.sha256 == made), None)
        counts = record.planned if record is not None else None
        start = first - self._firsts.setdefault(made, first)
        return ledgers.due(passages.table, repeat(slots) if counts is None else counts[start:])

    def _check_scores(self, scores: list[Opened], pairs: Opened) -> None:
        ids = pairs.ids
        for shard in scores:
            if shard.ids != ids:
                self._blame(shard, [f"its ids differ from those of {pairs.name}"])
            if not shard.step.name.endswith(f"-{shard.stamp.identity}"):
                self._blame(shard, [f"was made by scorer {shard.stamp.identity}, which is not the one of its folder"])
        stale = [shard for shard in scores if shard.stamp.input != pairs.file.sha256]
        self._stale(pairs, stale, of=len(scores))

    def _check_view(self, view: Opened, pairs: Opened, scores: list[Opened]) -> None:
        if view.stamp.identity != self._identities.setdefault(view.step.name, view.stamp.identity):
            self._blame(view, ["was made with other rules than the shards before it"])
        self._blame(view, ledgers.differences(pairs.ids, view))
        made = self._made_from(view, pairs, scores)
        if made is not None and self._report.deep:
            self._blame(view, ledgers.wrong_rows(pairs.table, [each.table for each in made], view))

    def _stale(self, source: Opened, stale: Sequence[Opened], *, of: int = 1) -> None:
        """Report that `stale`, of the `of` shards made from `source`, name a different checksum."""
        if not stale or self._torn([source]):
            return
        if len(stale) == of > 1 and len({shard.stamp.input for shard in stale}) == 1:
            self._report.blame(source.file.path, f"its bytes differ from those that {of} shards were made from")
            return
        for shard in stale:
            self._report.blame(shard.file.path, f"was made from different bytes of {source.name}")

    def _made_from(self, view: Opened, pairs: Opened, scores: Sequence[Opened]) -> list[Opened] | None:
        """The score shards that a view's shard was made from, in order; None, after reporting why, if unknown."""
        made, known = ledgers.made_from(view, pairs, scores)
        if made is not None:
            self._check_rules(view, [each.step.name for each in made])
            return made
        lost = [step for step in self._layout.scores if view.stamp.shard not in step.shards]
        if any(self._report.blames(each.file.path) for each in (pairs, *scores)):
            return None
        if not known and lost:
            self._report.blame(
                lost[0].file(view.stamp.shard), f"is missing, and {view.name} has columns that no other scorer has"
            )
        elif not known:
            self._report.blame(view.file.path, "has score columns that are in no folder of scores/")
        elif not self._torn([pairs, *scores]):
            sources = ", ".join(each.name for each in (pairs, *scores))
            self._report.blame(view.file.path, f"was made from different bytes of one of {sources}")
        return None

    def _wrong_addition(self, added: Opened, shown: Sequence[Opened]) -> Iterable[str]:
        """What is wrong with a shard of `mined/` or `relabelled/`, made from one of the shards `shown`."""
        identity, step = added.stamp.identity, added.step.name
        if step not in self._settings:
            name = f"{step}-{identity[:16]}.json"
            record = self._index_record(name, ("view", "rules"), f"the record of how {step}/ was made is missing")
            if record is not None and files.sha256_of_json(record) != identity:
                self._report.blame(self._report.root / "index" / name, "its content does not match its name")
                record = None
            self._settings[step] = identity, record
        first, settings = self._settings[step]
        if identity != first:
            yield f"was {step} with other settings than the shards before it"
        elif settings is not None:
            name = settings["view"]
            view = next((each for each in shown if each.step.name == name), None)
            if view is None or view.stamp.identity != settings["rules"]:
                verb = "mine" if step == "mined" else "relabel"
                what = f"was made from pairs that {name} does not contain any more; `synth {verb}` rebuilds it"
                self._report.note(added.step.path, what)
            elif added.stamp.input != view.file.sha256:
                self._stale(view, [added])
            else:
                yield from ledgers.differences(view.ids, added)
                if self._report.deep:
                    yield from ledgers.wrong_rows(view.table, [], _same_passages(added))

    def _check_rules(self, view: Opened, scores: Sequence[str]) -> None:
        identity = view.stamp.identity
        name = f"rules-{identity[:16]}.json"
        missing = f"the record of the rules of {view.step.name} is missing"
        record = self._index_record(name, ("fingerprint", "scores", "rules"), missing)
        if record is None:
            return
        whole = record.get("shards") is None  # otherwise the fingerprint also holds the shards compared
        computed = files.sha256_of_json({"rules": record["rules"], "scores": record["scores"]})
        if record["fingerprint"] != identity or (whole and computed != identity):
            self._report.blame(self._report.root / "index" / name, "the rules in it do not match its name")
        elif record["scores"] != scores:
            what = f"names different scores than {view.name} was made from"
            self._report.blame(self._report.root / "index" / name, what)

    def _index_record(self, name: str, keys: Sequence[str], missing: str) -> Mapping[str, Any] | None:
        """A JSON object of `index/` with these keys; None, after reporting why, if there is none."""
        path = self._report.root / "index" / name
        try:
            record: Mapping[str, Any] = json.loads(path.read_bytes())
            for key in keys:
                record[key]
        except FileNotFoundError:
            self._report.note(path, missing)
        except (OSError, ValueError, KeyError, TypeError) as exc:
            self._report.blame(path, f"cannot be read ({exc!r})")
        else:
            return record
        return None

    def _torn(self, shards: Sequence[Opened]) -> bool:
        torn = False
        for shard in shards:
            try:
                shard.file.check_pages()
            except Unreadable as exc:
                self._report.blame(shard.file.path, str(exc))
                torn = True
        return torn

    def _blame(self, shard: Opened, found: Iterable[str]) -> None:
        for what in found:
            self._report.blame(shard.file.path, what)


def _other_texts(pairs: pa.Table, passages: pa.Table) -> Iterable[str]:
    """Columns in which pairs differ from the passage at their position."""
    place = {position: n for n, position in enumerate(passages["position"].to_pylist())}
    rows = [place.get(int(each.partition("-")[0])) for each in pairs["id"].to_pylist()]
    if None in rows:
        return
    taken = passages.take(pa.array(rows, pa.int64()))
    for mine, theirs in (("passage", "text"), ("passage_id", "id"), ("source", "source")):
        if mine not in pairs.column_names or pairs[mine].equals(taken[theirs].cast(pairs[mine].type)):
            continue
        parts = mine == "passage" and "unit" in pairs.column_names  # of texts, as the task says
        texts = zip(pairs[mine].to_pylist(), taken[theirs].to_pylist(), strict=True)
        if not (parts and all(part in text for part, text in texts)):
            yield f"column {mine} differs from its passages"


def _same_passages(added: Opened) -> Opened:
    """A shard without the rows whose passage was replaced."""
    if added.step.name != "relabelled":
        return added
    replaced = pc.struct_field(added.table["relabelled"], "replaced")
    return dataclasses.replace(added, table=added.table.filter(pc.is_null(replaced)))
