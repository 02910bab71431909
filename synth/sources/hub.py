"""Data sets on the Hugging Face hub, streamed; the revision is resolved to a commit once and then fixed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from synth.errors import InputError, JobError, ServerUnavailable
from synth.sources.options import HUB, Corpus
from synth.sources.records import InputFile
from synth.sources.text import ObjectRow, Wanted

_ADDRESS = re.compile(
    r"(?:datasets/)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^#]+))?(?:#(?:(?P<config>[^/]+)/)?(?P<split>[^/]+))?"
)
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
        hint = "Write hf://owner/name[@revision][#[config/]split]."
        raise JobError(f"corpus.path: {path!r} is not a data set on the hub.", hint)
    return Address(match["repo"], match["revision"], match["config"], match["split"] or "train")


def inspect_hub(index: int, corpus: Corpus) -> InputFile:
    """The data set as one input file; its `sha256` is the commit of the revision. Raises JobError, InputError."""
    from datasets import load_dataset_builder  # noqa: PLC0415 - costs seconds
    from huggingface_hub import HfApi  # noqa: PLC0415 - costs a second
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError  # noqa: PLC0415 - as above

    address = parse(corpus.path)
    try:
        commit = HfApi().dataset_info(address.repo, revision=address.revision, timeout=_TIMEOUT).sha
        splits = load_dataset_builder(address.repo, address.config, revision=commit).info.splits or {}
    except (RepositoryNotFoundError, RevisionNotFoundError) as exc:
        what = f"the hub has no public data set {corpus.path!r}"
        raise JobError(f"corpus.path: {what}.", "Check the name, or set HF_TOKEN.") from exc
    except (_network_error(), OSError, ValueError) as exc:
        hint = "Download the data set on a machine with network access, and name its files in corpus.path."
        what = f"the Hugging Face hub cannot be reached ({type(exc).__name__})"
        raise InputError(f"{corpus.path}: {what}.", hint) from exc
    if splits and address.split not in splits:
        what = f"{address.repo} has no split {address.split!r} (splits: {', '.join(splits)})"
        raise JobError(f"corpus.path: {what}.", f"Write hf://{address.repo}#{next(iter(splits))}.")
    rows = splits[address.split].num_examples or None if splits else None
    relative = corpus.path.removeprefix(HUB)
    return InputFile(index, corpus.source, corpus.path, relative, "hub", 0, 0, commit or "", rows)


def rows(file: InputFile, wanted: Wanted | None) -> Iterator[ObjectRow]:
    """The wanted rows in order. Raises ServerUnavailable when the connection to the hub is lost."""
    from datasets import load_dataset  # noqa: PLC0415 - costs seconds

    address = parse(file.path)
    revision = file.sha256 or address.revision
    try:
        found = load_dataset(address.repo, address.config, split=address.split, revision=revision, streaming=True)
        for number, values in enumerate(found):
            if wanted is None or wanted(number):
                size = sum(len(value) for value in values.values() if isinstance(value, (str, bytes)))
                yield ObjectRow(number, values, size)
    except (_network_error(), OSError) as exc:
        what = f"the connection to the Hugging Face hub was lost ({type(exc).__name__})"
        raise ServerUnavailable(f"{file.path}: {what}.", "Run the same command again later.") from exc


def _network_error() -> type[Exception]:
    from huggingface_hub import errors  # noqa: PLC0415 - costs a second

    # what its HTTP library raises: taken from the client, because that library changes between versions
    return errors.HTTPError  # type: ignore[attr-defined,no-any-return,unused-ignore] # imported there, not exported
