"""What a run is: the settings that decide its output, their hash, and how two runs differ.

Only keys that bear meaning are here, each named explicitly, so that upgrading the package or moving a server never
refuses a resume, and changing what would come out always does. Rules and scorers are not part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from synth.job import Job
from synth.registry import stage_identity
from synth.sources import InputFile
from synth.types import SCHEMA_VERSION

VERSION = 1
"""Of the identity itself: a key added or read in another way raises it, and golden hashes in the tests notice."""


_ELSEWHERE = frozenset({"examples", "style_examples", "prompts", "instruction"})
"""Options of a task that its identity leaves out: the files of the first three count by content, and the instruction
goes into query vectors only, so it belongs to the scorers that embed."""
_SHOWN_CHARS = 80


def describe(
    job: Job,
    inputs: Sequence[InputFile],
    templates: Mapping[str, bytes],
    persona_sha256: str | None,
    sample: int | None,
) -> dict[str, Any]:
    """The identity of a job over these inputs and templates, as plain JSON values."""
    files = [{"corpus": each.corpus_index, "name": each.relative, "sha256": each.sha256} for each in inputs]
    if job.task is None:
        return {
            "version": VERSION,
            "schema": SCHEMA_VERSION,
            "sample": sample,
            "shard_size": job.run.shard_size,
            # the instruction goes into query vectors only, so it belongs to the scorers that embed
            "data": [_without(entry.identity(), "path", "instruction") | {"name": entry.source} for entry in job.data],
            "inputs": files,
        }
    personas = None
    if persona_sha256 is not None and (options := job.file.personas) is not None:
        personas = {"sha256": persona_sha256} | _without(options.identity(), "path", "embed")
    return ({} if job.file.part is None else {"part": list(job.file.part)}) | {
        "version": VERSION,
        "schema": SCHEMA_VERSION,
        "seed": job.file.seed,
        "sample": sample,
        "shard_size": job.run.shard_size,
        # where a corpus lies does not count, but the content of its files does
        "corpus": [_without(corpus.identity(), "path") for corpus in job.corpora],
        "inputs": files,
        "templates": {name: hashlib.sha256(content).hexdigest() for name, content in sorted(templates.items())},
        "personas": personas,
        "llm": None if job.llm is None else stage_identity(job.llm),
        "embed": stage_identity(job.persona_embed) if persona_sha256 and job.persona_embed else None,
        "task": _without(stage_identity(job.task), *_ELSEWHERE),
        **({"target": True} if job.file.target else {}),
    }


def sha256(identity: Mapping[str, Any]) -> str:
    """Hash over canonical JSON: sorted keys, no spaces, ASCII."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The changed settings as `key.path: old -> new`, in order."""
    before, after = _flat(old), _flat(new)
    return [
        f"{key}: {_shown(before.get(key))} -> {_shown(after.get(key))}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, _MISSING) != after.get(key, _MISSING)
    ]


_MISSING = object()


def _without(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in names}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    items = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, Mapping) else ()
    flat: dict[str, Any] = {}
    for key, inner in items:
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat or {prefix: value}


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "..."
