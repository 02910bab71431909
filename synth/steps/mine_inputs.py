"""What mining starts from: the corpus as texts, and which passages answer which queries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synth import identity, run_folder
from synth.errors import JobError
from synth.negatives import Corpus, CorpusText, Positives, query_keys
from synth.run_folder import Run
from synth.shards import StepFolder
from synth.sources import Corpus as CorpusOptions
from synth.sources import InputFile, PassageRow, inspect, read_passages


@dataclass(frozen=True, slots=True)
class CorpusSource:
    """Where the passages come from: those of the run, or `files` and the positives of the run's pairs.

    `document` is a column that tells which passages are chunks of one document; where it is None, chunks that synth cut
    are known by their row.
    """

    run: Run
    options: tuple[CorpusOptions, ...] = ()
    files: tuple[InputFile, ...] = ()
    document: str | None = None

    @classmethod
    def of(cls, run: Run, paths: Sequence[str], document: str | None) -> CorpusSource:
        """Look the files up. Raises JobError, InputError where one is not what its name says."""
        carry = () if document is None else (document,)
        options = tuple(CorpusOptions(path=path, min_chars=1, carry=carry) for path in paths)
        files = inspect(options, Path.cwd(), run.job.read_limits()) if options else []
        return cls(run, options, tuple(files), document)

    @property
    def fingerprint(self) -> str:
        """Names the index: what the passages are and what embeds them. Reads all of their shards once."""
        step = self._step
        embed = self.run.job.embed
        what = {
            "format": 1,
            "document": self.document,
            "files": [(file.corpus_index, file.relative, file.sha256) for file in self.files],
            "shards": [step.checksum(index) for index in sorted(step.done())],
            "embed": None if embed is None else {"use": f"{type(embed).__module__}"} | embed.identity(),
        }
        return identity.sha256(what)[:16]

    def texts(self) -> Iterator[CorpusText]:
        """Every passage, the files first; equal ones as often as they stand there, unusable rows as empty texts."""
        if self.files:
            rows = read_passages(self.options, self.files, self.run.job.read_limits())
            for row in rows:
                if isinstance(row, PassageRow):
                    yield CorpusText(row.id, row.text, self._document(row.carried, f"{row.source}\0{row.source_row}"))
                else:
                    yield CorpusText("", "")  # which the index counts
        for index in sorted(self._step.done()):
            yield from self._shard(index)

    @property
    def _step(self) -> StepFolder:
        """The step whose passages all positives are among."""
        passages = self.run.folder.step("passages")
        return passages if passages.done() and not self.files else self.run.folder.step("generated")

    def _shard(self, index: int) -> Iterator[CorpusText]:
        step = self._step
        passages = step.name == "passages"
        ours = ("text", "id", "source", "source_row") if passages else ("passage", "passage_id", "id")
        present = step.schema(index).names
        names = [name for name in (*ours, self.document) if name in present]
        if self.document is not None and self.document not in present and not self.files:
            raise JobError(
                f"{step.file(index)}: there is no column {self.document}.",
                "Carry it: `carry` of the corpus, or name another with --document.",
            )
        for row in step.read_columns(index, names).to_pylist():
            text = row["text"] if passages else row["passage"]
            name = row.get("passage_id") if not passages else row["id"]
            own = f"{row['source']}\0{row['source_row']}" if passages else ""
            yield CorpusText(str(name if name is not None else row["id"]), text or "", self._document(row, own))

    def _document(self, row: Any, own: str) -> str:
        if self.document is None:
            return own
        value = row.get(self.document)
        return own if value is None else f"{self.document}\0{value}"


def positives(step: StepFolder, corpus: Corpus) -> Positives:
    """Which rows of the corpus answer which query, by the pairs of a step; a label of 0 or less denies it."""
    return Positives(_pairs(step, corpus))


def _pairs(step: StepFolder, corpus: Corpus) -> Iterable[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
    for index in sorted(step.done()):
        names = [name for name in ("query", "passage", "label") if name in step.schema(index).names]
        table = step.read_columns(index, names).to_pylist()
        pairs = [(row["query"], row["passage"]) for row in table if row["query"] and row["passage"] and not denied(row)]
        rows = corpus.rows([passage for _, passage in pairs])
        found = rows >= 0
        yield query_keys(query for query, _ in pairs)[found], rows[found]


def denied(row: dict[str, Any]) -> bool:
    """Whether the pair's own label says that the passage does not answer the query."""
    label = row.get("label")
    return label is not None and not label > 0


def finished(run: Run, view: str) -> list[int]:
    """The shards of a view, all of them. Raises JobError where the run is not at its end, or has no such view."""
    totals = run_folder.totals(run.folder)
    done = run.folder.step(view).done()
    if not done and view != "kept":
        raise JobError(
            f"{run.folder.path}: there is no view {view.removeprefix('views/')}.", "See: synth keep --as NAME"
        )
    if totals is None or len(done) < totals["shards"]:
        count = (
            "its inputs are not read to their end" if totals is None else f"{len(done)} of {totals['shards']} shards"
        )
        raise JobError(
            f"{run.folder.path}: the run is not finished ({view}: {count}), and negatives come from all of it.",
            f"Run it to its end first: synth run {run.folder.path}",
        )
    return sorted(done)


Tell = Callable[[str], None]
