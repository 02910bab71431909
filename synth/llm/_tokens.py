"""The tokenizer of a model that is a folder, or in the cache of the hub; nothing is fetched."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from synth.names import path_of
from synth.stage import Tokenize

_FILE = "tokenizer.json"


def local_tokenizer(model: str) -> Tokenize | None:
    """Gives the tokens of a prompt in the model's chat template, without thinking.

    None where its files are not on this machine, transformers is not installed, or the files cannot be used.
    """
    folder = path_of(model)
    if not (folder / _FILE).is_file():
        cached = _cached(model)
        if cached is None:
            return None
        folder = cached.parent
    try:
        from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 - takes seconds, and few jobs have the files

        tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except (ImportError, OSError, ValueError):
        return None
    if not tokenizer.chat_template:
        return None

    def tokenize(messages: Sequence[tuple[str, str]]) -> Sequence[Hashable]:
        prompt = tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in messages],
            add_generation_prompt=True,
            tokenize=False,
            enable_thinking=False,
        )
        ids: list[int] = tokenizer.encode(prompt, add_special_tokens=False)
        return ids

    return tokenize


def _cached(model: str) -> Path | None:
    """The file in the cache of the hub."""
    if model.count("/") != 1:
        return None
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - as above
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415 - as above

    try:
        found = try_to_load_from_cache(model, _FILE)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None
