"""Data sets on the Hugging Face hub, streamed; the revision is resolved to a commit once and then fixed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from synth.errors import InputError, JobError, ServerUnavailable
from synth.sources.columns import Columns, fetcher
from synth.sources.options import HUB, Corpus
from synth.sources.records import InputFile, RawRow

if TYPE_CHECKING:
    from datasets import IterableDataset

_ADDRESS = re.compile(
    r"(?:datasets/)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^#]+))?(?:#(?:(?P<config>[^/]+)/)?(?P<split>[^/]+))?"
)
_PEEK = 1000
_TIMEOUT = 30.0


class Address(NamedTuple):
    """The parts of `hf://owner/name@revision#config/split`."""

    repo: str
    revision: str | None
    config: str | None
    split: str


def parse(path: str) -> Address:
    """The parts of a path that starts with `hf://`; the split is `train` unless named. Raises JobError."""
    match = _ADDRESS.fullmatch(path.removeprefix(HUB))
    if match is None:
        raise JobError(
            f"corpus.path: {path!r} is no data set on the hub.", "Write hf://owner/name[@revision][#[config/]split]."
        )
    return Address(match["repo"], match["revision"], match["config"], match["split"] or "train")


def inspect_hub(index: int, corpus: Corpus) -> InputFile:
    """The data set as one input whose `sha256` is the commit that the revision means now.

    Raises JobError when the hub knows no such data set or revision, InputError when it cannot be reached.
    """
    from huggingface_hub import HfApi  # noqa: PLC0415 - costs a second
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError  # noqa: PLC0415 - as above

    address = parse(corpus.path)
    try:
        commit = HfApi().dataset_info(address.repo, revision=address.revision, timeout=_TIMEOUT).sha
        rows = _rows_by_card(address, commit)
    except (RepositoryNotFoundError, RevisionNotFoundError) as exc:
        raise JobError(
            f"corpus.path: the hub has no {corpus.path!r}, or keeps it private.", "Check the name, or set HF_TOKEN."
        ) from exc
    except (_network_error(), OSError, ValueError) as exc:
        raise InputError(
            f"{corpus.path}: the Hugging Face hub cannot be used from here ({type(exc).__name__}).",
            "Download the data set where there is a network, and name its files in corpus.path.",
        ) from exc
    relative = corpus.path.removeprefix(HUB)
    return InputFile(index, corpus.source, corpus.path, relative, "hub", 0, 0, commit or "", rows)


def peek(file: InputFile) -> list[Mapping[str, Any]]:
    """The first rows, which tell the columns and their types."""
    return list(islice(_rows(file), _PEEK))


def read(file: InputFile, columns: Columns, wanted: Callable[[int], bool] | None) -> Iterator[RawRow]:
    """Raw rows. Raises ServerUnavailable when the hub goes away meanwhile."""
    fetch = fetcher(columns)
    for row, values in enumerate(_rows(file)):
        if wanted is None or wanted(row):
            yield fetch(row, values)


def _rows_by_card(address: Address, commit: str | None) -> int | None:
    from datasets import load_dataset_builder  # noqa: PLC0415 - costs seconds

    splits = load_dataset_builder(address.repo, address.config, revision=commit).info.splits or {}
    if splits and address.split not in splits:
        raise JobError(
            f"corpus.path: {address.repo} has no split {address.split!r} (splits: {', '.join(splits)}).",
            f"Write hf://{address.repo}#{next(iter(splits))}.",
        )
    return splits[address.split].num_examples or None if splits else None


def _rows(file: InputFile) -> Iterator[Mapping[str, Any]]:
    try:
        yield from _open(file)
    except (_network_error(), OSError) as exc:
        raise ServerUnavailable(
            f"{file.path}: the Hugging Face hub went away ({type(exc).__name__}).", "Run the same command again later."
        ) from exc


def _open(file: InputFile) -> IterableDataset:
    from datasets import load_dataset  # noqa: PLC0415 - costs seconds

    address = parse(file.path)
    revision = file.sha256 or address.revision
    return load_dataset(address.repo, address.config, split=address.split, revision=revision, streaming=True)


def _network_error() -> type[Exception]:
    """What the hub's HTTP library raises: taken from its client, because that changes libraries between versions."""
    from huggingface_hub import errors  # noqa: PLC0415 - costs a second

    return errors.HTTPError  # type: ignore[attr-defined,no-any-return,unused-ignore] # imported there, not exported
