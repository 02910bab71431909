"""Test sets: what a folder or file of queries and judgements, of similar sentences, translations or labels holds.

What it is shows from its names: corpus, queries and qrels are a retrieval test (BEIR and MTEB folders, Parquet too);
two sentences with a score are STS, two without one are translations, a text with a label is a classification.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import polars as pl

from synth import splits
from synth.errors import InputError, JobError
from synth.names import path_of
from synth.shards import OutputFolder
from synth.sources import InputFile, ReadLimits
from synth.sources.beir import Collection, collection
from synth.sources.columns import usual_name
from synth.sources.files import expand, look
from synth.sources.readers import file_schema, raw_rows
from synth.sources.records import Selection
from synth.types import Notify

_LIMITS = ReadLimits()
_FIRST = ("sentence1", "text", "source", "sentence")
_SECOND = ("sentence2", "english", "target", "translation")
HELDOUT = "heldout:"
_MTEB = "mteb:"


@dataclass(frozen=True, slots=True)
class Retrieval(Collection):
    """Queries, documents, and which documents are relevant."""

    name: str
    digest: str
    """Of the files, or of the texts."""
    synthetic: bool = False
    """Whether its queries were generated: then it says little about people's queries."""


@dataclass(frozen=True, slots=True)
class Sentences:
    """Pairs of sentences: with people's `scores` a test of similarity (STS), without them translations."""

    name: str
    digest: str
    first: list[str]
    second: list[str]
    scores: list[float] | None
    groups: list[str]
    """By row, the language of a translation: only sentences of one group are compared."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Texts with labels; a linear probe is trained on `train` and tested on `test`."""

    name: str
    digest: str
    train: tuple[list[str], list[str]]
    test: tuple[list[str], list[str]]


TestSet = Retrieval | Sentences | Labelled


def read_test(spec: str, notify: Notify) -> TestSet:
    """The test that `--test` names: a folder or file, `heldout:RUN`, or `mteb:TASK`.

    Raises JobError where there is nothing of this name, InputError where its files cannot be used.
    """
    if spec.startswith(HELDOUT):
        return heldout(OutputFolder.open(path_of(spec.removeprefix(HELDOUT))))[0]
    if spec.startswith(_MTEB):
        return _of_mteb(spec.removeprefix(_MTEB))
    path = path_of(spec)
    if not path.exists():
        raise JobError(f"--test {spec}: no such file or folder.", "Name a BEIR or MTEB folder, or heldout:RUN.")
    files = [look(0, path.name, each, _LIMITS) for each in expand(spec, Path.cwd(), pairs=True, notify=notify)]
    if not files:
        raise InputError(f"{path}: holds no file that can be read.", "A retrieval test has corpus, queries and qrels.")
    name, digest = path.name.split(".")[0], _digest(file.sha256 for file in files)
    if {file.role for file in files} == {"corpus", "queries", "qrels"}:
        found = collection(files, _LIMITS)
        if found.missing:
            notify(f"{path}: {found.missing:,} judgements name a query or a document that is not there")
        return Retrieval(found.documents, found.queries, found.relevant, found.missing, name, digest)
    return _of_columns(pl.concat([_frame(file) for file in files], how="diagonal_relaxed"), path, name, digest)


def heldout(folder: OutputFolder, share: float = 0.1, seed: int = 0) -> tuple[Retrieval, frozenset[str]]:
    """A test of a run's own pairs, and the ids of the pairs in it, which must not be trained on.

    Pairs with an equal query, passage or document, and near-duplicates, are on one side (`synth.splits`). All passages
    of the run are documents. Raises JobError where there is nothing to hold out.
    """
    step = folder.step("generated")
    found = splits.split(folder, splits.SplitOptions((("test", share),), seed=seed))
    documents: dict[str, str] = {}
    queries: dict[str, str] = {}
    relevant: dict[str, dict[str, int]] = {}
    for index in sorted(step.done()):
        rows = step.read_columns(index, ["id", "query", "passage"]).to_pylist()
        for row, split in zip(rows, found.of(index, [row["id"] for row in rows]), strict=True):
            if not row["query"] or not row["passage"]:
                continue
            key = f"{splits.text_key(row['passage']):016x}"
            documents[key] = row["passage"]
            if split == "test":
                queries[row["id"]] = row["query"]
                relevant[row["id"]] = {key: 1}
    if not queries or len(queries) == len(documents):
        raise JobError(f"{folder.path}: too few pairs to hold some out.", "Name a folder of people's queries instead.")
    name, digest = f"heldout-{folder.path.name}", _digest([*documents, *queries])
    return Retrieval(documents, queries, relevant, 0, name, digest, synthetic=True), frozenset(queries)


def _of_mteb(task: str) -> Retrieval:
    """A retrieval task of MTEB whose data are on this machine. Raises JobError."""
    try:
        import mteb  # noqa: PLC0415 - optional, and it takes seconds

        found = mteb.get_task(task)
        found.load_data()
        subset = found.dataset["default"][found.metadata.eval_splits[0]]
        relevant = {
            query: {doc: int(n) for doc, n in docs.items() if n > 0} for query, docs in subset["relevant_docs"].items()
        }
        relevant = {query: docs for query, docs in relevant.items() if docs}
        rows = subset["corpus"].to_list()
        documents = {row["id"]: f"{row.get('title') or ''} {row['text']}".strip() for row in rows}
        queries = {row["id"]: row["text"] for row in subset["queries"].to_list() if row["id"] in relevant}
    except ImportError as exc:
        raise JobError(f"--test mteb:{task}: mteb is not installed.", "pip install mteb") from exc
    except (KeyError, TypeError, AttributeError, OSError, ValueError) as exc:
        what = f"--test mteb:{task}: cannot be loaded as a retrieval task: {exc}."
        raise JobError(what, "Its data have to be in the cache of datasets; other tasks: mteb run.") from exc
    return Retrieval(documents, queries, relevant, 0, task, _digest([*documents, *queries]))


def _of_columns(frame: pl.DataFrame, path: Path, name: str, digest: str) -> TestSet:
    first, second = usual_name(_FIRST, frame.columns), usual_name(_SECOND, frame.columns)
    score, label = usual_name(["score"], frame.columns), usual_name(["label"], frame.columns)
    if first and second:
        frame = _only_test(frame).drop_nulls([first, second])
        groups = frame[next((each for each in ("language", "lang") if each in frame.columns), second)]
        scores = None if score is None else frame[score].cast(pl.Float64, strict=False).fill_null(float("nan"))
        if scores is not None and scores.is_nan().any():
            raise InputError(f"{path}: column {score!r}: not all values are numbers.", "Fix or remove those rows.")
        one = ["all"] * len(frame) if groups.name == second else groups.cast(pl.String).to_list()
        given = None if scores is None else scores.to_list()
        return Sentences(name, digest, frame[first].to_list(), frame[second].to_list(), given, one)
    if first and label:
        frame = frame.drop_nulls([first, label]).with_columns(pl.col(label).cast(pl.String))
        train, test = frame.filter(pl.col("split") == "train"), _only_test(frame.filter(pl.col("split") != "train"))
        if train.is_empty() or test.is_empty():
            what = f"{path}: a classification test needs training and test rows."
            raise InputError(what, "Name the files train and test, or give a column `split` with these values.")
        return Labelled(name, digest, *((each[first].to_list(), each[label].to_list()) for each in (train, test)))
    what = f"{path}: is not a test that synth knows (columns: {', '.join(frame.columns)})."
    hint = "Retrieval: corpus, queries, qrels; STS: sentence1, sentence2, score; classification: text, label, split."
    raise InputError(what, hint)


def _only_test(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows of the split `test` if there is one, else all."""
    test = frame.filter(pl.col("split") == "test")
    return frame if test.is_empty() else test


def _frame(file: InputFile) -> pl.DataFrame:
    """All columns of a file, and `split`: where it has none, the beginning of the file's name."""
    names = tuple(file_schema(file, _LIMITS).names)
    columns: dict[str, list[object]] = {name: [] for name in names}
    for raw in raw_rows(file, Selection(names), _LIMITS):
        for place, fault in raw.faults.items():
            raise InputError(f"{file.path}: row {raw.numbers[place]}: {fault.detail}.", "Fix or remove that row.")
        for name in names:
            columns[name] += raw.values[name]
    frame = pl.DataFrame(columns, strict=False)
    stem = PurePosixPath(file.relative).name.split(".")[0].split("-")[0]
    return frame if "split" in names else frame.with_columns(pl.lit(stem).alias("split"))


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
