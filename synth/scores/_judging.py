"""The judge's prompt, the schema of its reply, and what a reply must hold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from synth.errors import JobError, UnusableReply
from synth.prompts import neutralise
from synth.prompts.sandbox import Templates
from synth.replies.objects import read_object
from synth.shipped import find
from synth.stage import ChatReply, JsonSchema

GRADES = range(1, 6)
_KEYS = ("Relevance", "Answerability")
_FILES = ("system.j2", "grade.j2")

SCHEMA: JsonSchema = {
    "type": "object",
    "properties": {key: {"type": "integer", "enum": list(GRADES)} for key in _KEYS},
    "required": list(_KEYS),
    "additionalProperties": False,
}


class Grades(NamedTuple):
    """A judge's verdict, 1 to 5 each."""

    relevance: int
    answerability: int


class JudgePrompt:
    """Templates of one folder: `system.j2`, which never varies, and `grade.j2` with passage, then query."""

    def __init__(self, folder: Path, files: Mapping[str, bytes]) -> None:
        self.sha256 = hashlib.sha256(b"\0".join(files[name] for name in _FILES)).hexdigest()
        self._templates = Templates(folder, {name: content.decode() for name, content in files.items()})
        self._templates.check_names("system.j2", {"instruction": ""})
        self._templates.check_names("grade.j2", {"instruction": "", "passage": "", "query": ""})
        for variable in ("passage", "query"):
            if not self._templates.mentions("grade.j2", variable):
                raise JobError(f"{folder / 'grade.j2'}: the {variable} is not in it.", f"Add {{{{ {variable} }}}}.")

    @classmethod
    def load(cls, name: str) -> JudgePrompt:
        """The templates of a shipped folder or one of the user's. Raises JobError."""
        folder = find("prompts", name, Path.cwd())
        try:
            return cls(folder, {file: (folder / file).read_bytes() for file in _FILES})
        except OSError as exc:
            raise JobError(f"{exc.filename}: {exc.strerror}.", "`prompts:` of the judge names a folder.") from exc
        except UnicodeDecodeError as exc:
            raise JobError(f"{folder}: a template is not UTF-8 ({exc}).") from exc

    def messages(self, query: str, passage: str, instruction: str) -> tuple[tuple[str, str], ...]:
        """Fixed text, passage, query: in this order a server's prefix cache serves all queries of a passage."""
        values = {"instruction": instruction, "passage": neutralise(passage)[0], "query": neutralise(query)[0]}
        return (
            ("system", self._templates.render("system.j2", {"instruction": instruction})),
            ("user", self._templates.render("grade.j2", values)),
        )


def read_grades(reply: ChatReply) -> Grades:
    """The verdict in a reply. Raises UnusableReply with a reason of `synth.replies`."""
    if reply.finish_reason == "content_filter":
        raise UnusableReply("filtered", "the server's content filter stopped the reply")
    if reply.finish_reason == "length":
        raise UnusableReply("truncated", "the reply reached its token limit")
    if not (reply.text or "").strip():
        raise UnusableReply("empty", "the reply has no text")
    values = read_object(reply.text or "", lambda found: all(key in found for key in _KEYS), repair=True).values
    return Grades(*(_grade(values, key) for key in _KEYS))


def _grade(values: Mapping[str, object], key: str) -> int:
    if key not in values:
        raise UnusableReply("key", f"there is no {key} among the keys {list(values)[:10]!r}")
    value = values[key]
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        value = int(value)
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise UnusableReply("type", f"{key} is a {type(value).__name__}, not a whole number")
    if value not in GRADES:
        raise UnusableReply("enum", f"{key} is {value}, not 1 to 5")
    return value
