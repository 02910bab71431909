"""Which files of a folder are its data.

Recognised are the output folder of a run, an export, a BEIR or MTEB folder, what `save_to_disk` of `datasets` writes,
and a data set of the Hugging Face Hub, with configurations in its card or without. Of any other folder a corpus is its
.txt and .md files, and pairs are in all files of data.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from synth.errors import InputError, JobError
from synth.sources.records import FileKind

_METADATA = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "export.json"})
_PAGES = re.compile(
    r"(readme|license|licence|changelog|contributing|citation|notice|authors|train)\.(md|txt)", re.IGNORECASE
)
_CARD = re.compile(r"\A---\r?\n(.*?)^---\r?$", re.DOTALL | re.MULTILINE)
_SHARD = re.compile(r"[0-9]{8}\.parquet")
_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".parquet", ".tsv", ".csv", ".tsv.gz", ".csv.gz")


def data_files(
    folder: Path, kind_of: Callable[[str], FileKind | None], *, pairs: bool
) -> tuple[Path, Sequence[Path], Sequence[Path]]:
    """The folder that relative paths start from, the files to read there, and the others in it.

    `kind_of` gives the kind that a file name claims. Raises JobError where the card of a data set has several
    configurations and no default, InputError for a card or a list of files that cannot be used, PermissionError.
    """
    if (folder / "job.json").is_file() and (folder / "generated").is_dir():
        folder /= "generated" if pairs or not (folder / "passages").is_dir() else "passages"
    every = _visible(folder)
    found = _recognised(folder, every, pairs=pairs)
    if not found:
        data = [each for each in every if kind_of(each.name) not in (None, "text") and each.name not in _METADATA]
        texts = [each for each in every if kind_of(each.name) == "text"]
        # single JSON files in `data` are more often what belongs to pages of a site
        hub = [each for each in data if each.parent == folder / "data" and (pairs or each.suffix != ".json")]
        only_pages = len(texts) < len(every) and all(_PAGES.fullmatch(each.name) for each in texts)
        found = hub or data if pairs or hub or only_pages or (data and _is_cloned(folder)) else texts
    known = set(found)
    return folder, found, [each for each in every if each not in known]


def _recognised(folder: Path, every: Sequence[Path], *, pairs: bool) -> Sequence[Path]:
    if shards := [each for each in _entries(folder) if _SHARD.fullmatch(each.name)]:
        return shards
    if joined := _joined(folder):
        return joined if pairs else [each for each in joined if _role(each, folder) == "corpus"]
    return _exported(folder, pairs=pairs) or _saved(folder) or _carded(folder, every, pairs=pairs)


def _visible(folder: Path) -> list[Path]:
    """All files below a folder, and links to folders, but hidden ones. Raises PermissionError."""

    def refuse(exc: OSError) -> NoReturn:
        raise exc

    found: list[Path] = []
    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in names if not name.startswith(".")]
        found += [path for name in folders if (path := Path(root, name)).is_symlink()]  # not followed
    return found


def _joined(folder: Path) -> list[Path]:
    """The files of a BEIR or MTEB folder (corpus, queries and judgements), none if it is not one."""
    found = {role: _part(folder, role) for role in ("corpus", "queries", "qrels")}
    found["qrels"] = found["qrels"] or _part(folder, "data")
    return [each for files in found.values() for each in files] if all(found.values()) else []


def _part(folder: Path, role: str) -> list[Path]:
    inner = [*_entries(folder / role), *(each for each in _entries(folder) if each.name.split(".")[0] == role)]
    return [each for each in inner if each.is_file() and each.name.endswith(_SUFFIXES)]


def _role(file: Path, folder: Path) -> str:
    return file.relative_to(folder).parts[0].split(".")[0]


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _exported(folder: Path, *, pairs: bool) -> list[Path]:
    """The files of an export of synth that hold pairs, or passages where it has a corpus."""
    names = _listed(folder / "export.json", "files")
    found = [
        folder / name for name in names if not name.startswith(("meta/", "reranker/")) and name.endswith(_SUFFIXES)
    ]
    corpus = [each for each in found if _role(each, folder) == "corpus"]
    return corpus if corpus and not pairs else [each for each in found if each not in corpus]


def _saved(folder: Path) -> list[Path]:
    """The files that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    if splits := _listed(folder / "dataset_dict.json", "splits"):
        return [file for split in splits for file in _saved(folder / split)]
    if _listed(folder / "state.json", "_indices_data_files"):
        hint = "Save it again after flatten_indices()."
        raise InputError(f"{folder}: a data set saved with a selection of its rows.", hint)
    return [folder / each["filename"] for each in _listed(folder / "state.json", "_data_files")]


def _carded(folder: Path, every: Iterable[Path], *, pairs: bool) -> list[Path]:
    """The files of the default configuration of a data set card; for a corpus, of one called `corpus`."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    try:
        front = yaml.safe_load(head[1]) if (head := _CARD.match(text)) else None
    except yaml.YAMLError as exc:
        raise InputError(f"{card}: the front matter is not YAML ({exc}).", "Correct it, or name the files.") from exc
    given = front.get("configs") if isinstance(front, dict) else None
    configs = {str(each.get("config_name")): each for each in given or () if isinstance(each, dict)}
    if not configs:
        return []
    default = next((name for name, each in configs.items() if each.get("default") is True), "default")
    name = "corpus" if "corpus" in configs and not pairs else next(iter(configs)) if len(configs) == 1 else default
    if name not in configs:
        what = f"{folder}: its card has the configurations {', '.join(configs)}, and no default"
        raise JobError(f"{what}.", "Name the files of one, with a pattern.")
    patterns = list(_patterns(configs[name].get("data_files", f"{configs[name].get('data_dir', 'data')}/*")))
    known = set(every)
    found = dict.fromkeys(each for pattern in patterns for each in _matching(folder, pattern) if each in known)
    if not found:
        what = f"{card}: no file is called {', '.join(patterns)}, as its configuration {name} has it"
        raise InputError(f"{what}.", "Download the files, or name others with a pattern.")
    return list(found)


def _is_cloned(folder: Path) -> bool:
    """Whether the folder is a repository of data, as every one of the Hub is."""
    attributes = folder / ".gitattributes"
    return attributes.is_file() and b"filter=lfs" in attributes.read_bytes()


def _patterns(value: Any) -> Iterable[str]:
    """All patterns of `data_files`: a text, a list, a mapping by split, or a list of mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in [value["path"]] if "path" in value else value.values():
            yield from _patterns(each)
    elif isinstance(value, list):
        for each in value:
            yield from _patterns(each)


def _matching(folder: Path, pattern: str) -> list[Path]:
    if (folder / pattern).is_file():
        return [folder / pattern]
    try:
        return sorted(folder.glob(pattern))
    except (ValueError, NotImplementedError):  # an absolute path, or no pattern at all
        return []


def _listed(path: Path, key: str) -> list[Any]:
    """A list in a JSON file, empty if the file does not exist."""
    try:
        found = json.loads(path.read_bytes()) if path.is_file() else {}
        return list(found.get(key) or ())
    except (ValueError, AttributeError, TypeError) as exc:
        raise InputError(
            f"{path}: cannot be read as JSON ({exc}).", "Write the folder again, or name its files."
        ) from exc
