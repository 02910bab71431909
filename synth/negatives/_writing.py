"""The prompt for written negatives, the schema of the reply, and what a reply must hold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from synth.errors import JobError, UnusableReply
from synth.prompts import neutralise
from synth.prompts.sandbox import Templates
from synth.replies.objects import read_object
from synth.shipped import find
from synth.sources.checks import storable
from synth.stage import ChatReply, JsonSchema

_KEY = "Negatives"
_FILES = ("system.j2", "write.j2")


def schema(count: int) -> JsonSchema:
    """An object with a list of `count` texts."""
    texts = {"type": "array", "items": {"type": "string"}, "minItems": count, "maxItems": count}
    return {"type": "object", "properties": {_KEY: texts}, "required": [_KEY], "additionalProperties": False}


class WriterPrompt:
    """Templates of one folder: `system.j2`, which never varies, and `write.j2` with passage, query and number."""

    def __init__(self, folder: Path, files: Mapping[str, bytes]) -> None:
        self.sha256 = hashlib.sha256(b"\0".join(files[name] for name in _FILES)).hexdigest()
        self._templates = Templates(folder, {name: content.decode() for name, content in files.items()})
        self._templates.check_names("system.j2", {})
        self._templates.check_names("write.j2", {"passage": "", "query": "", "count": 1})
        for variable in ("passage", "query"):
            if not self._templates.mentions("write.j2", variable):
                raise JobError(f"{folder / 'write.j2'}: the {variable} is not in it.", f"Add {{{{ {variable} }}}}.")

    @classmethod
    def load(cls, name: str) -> WriterPrompt:
        """The templates of a shipped folder or one of the user's. Raises JobError."""
        folder = find("prompts", name, Path.cwd())
        try:
            return cls(folder, {file: (folder / file).read_bytes() for file in _FILES})
        except OSError as exc:
            raise JobError(f"{exc.filename}: {exc.strerror}.", "`prompts:` of `written` names a folder.") from exc
        except UnicodeDecodeError as exc:
            raise JobError(f"{folder}: a template is not UTF-8 ({exc}).") from exc

    def messages(self, query: str, passage: str, count: int) -> tuple[tuple[str, str], ...]:
        """Fixed text, then passage and query: all pairs of a passage share what stands before the query."""
        values = {"passage": neutralise(passage)[0], "query": neutralise(query)[0], "count": count}
        return (
            ("system", self._templates.render("system.j2", {})),
            ("user", self._templates.render("write.j2", values)),
        )


def read_negatives(reply: ChatReply, count: int) -> list[str]:
    """The distinct passages in a reply, at most `count`. Raises UnusableReply with a reason of `synth.replies`."""
    if reply.finish_reason == "content_filter":
        raise UnusableReply("filtered", "the server's content filter stopped the reply")
    if reply.finish_reason == "length":
        raise UnusableReply("truncated", "the reply reached its token limit")
    if not (reply.text or "").strip():
        raise UnusableReply("empty", "the reply has no text")
    values = read_object(reply.text or "", lambda found: _KEY in found, repair=True).values
    if _KEY not in values:
        raise UnusableReply("key", f"there is no {_KEY} among the keys {list(values)[:10]!r}")
    found = values[_KEY]
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise UnusableReply("type", f"{_KEY} is not a list of texts")
    texts = list(dict.fromkeys(storable(each.strip()) for each in found if each.strip()))
    if not texts:
        raise UnusableReply("empty", "the list holds no text")
    return texts[:count]
