"""Jinja2 templates of one folder, rendered to text or to chat messages within a time limit.

Jinja2's sandbox serves for its hooks only, because a job can run any Python class anyway. The limits stop a mistake
from hanging a run: loops look at the clock, and an operation that nothing could interrupt must be small.
"""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence, Sized
from functools import lru_cache, wraps
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self, TypeVar

from jinja2 import (
    FunctionLoader,
    StrictUndefined,
    Template,
    TemplateError,
    TemplateSyntaxError,
    meta,
    nodes,
)
from jinja2.sandbox import SandboxedEnvironment
from pydantic import BaseModel, ValidationError

from synth.errors import JobError
from synth.shipped import find

Model = TypeVar("Model", bound=BaseModel)
Messages = tuple[tuple[str, str], ...]
"""(role, content) pairs, as ChatRequest takes them."""

RENDER_SECONDS = 2.0
"""CPU time that one rendering may take."""

_MOST = 1_000_000
"""Largest number that a function or filter takes, most bits of a power, most characters or items of a product."""
_WIDE = re.compile(r"%(?:\([^)]*\))?[-+ #0]*(?:\d*\.)?(?:\d{7}|\*)|\{[^{}]*:[^{}]*\d{7}")
"""Formats that make a short value as long as that."""

_ROLES = ("system", "user", "assistant")
_TICK = "__tick__"
_RENDER_ERRORS = (
    *(TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError),
    *(TimeoutError, MemoryError),
)


@lru_cache(maxsize=16)
def compiled(folder: Path, sources: tuple[tuple[str, str], ...]) -> Templates:
    """The templates of (file name, text), compiled once per process: a run asks for them often. Raises JobError."""
    return Templates(folder, dict(sources))


class PromptFolder:
    """The files of one template folder: its `.j2` templates and whatever else a task reads from it."""

    def __init__(self, folder: Path, files: Mapping[str, bytes]) -> None:
        self.folder = folder
        self.files = MappingProxyType(dict(files))
        """Every file the prompts depend on, by name: the identity of a run, and what it copies to `OUT/prompts/`."""
        sources = ((name, decode(folder / name, content)) for name, content in files.items() if name.endswith(".j2"))
        self._templates = compiled(folder, tuple(sources))

    def __reduce__(self) -> tuple[object, ...]:
        """Prompts go to other processes as the files that they are made of."""
        return type(self), (self.folder, dict(self.files))

    @classmethod
    def load(cls, folder: Path, needed: Sequence[str] = ()) -> Self:
        """Reads the folder once; later changes on disk have no effect. Raises JobError for an unusable file."""
        return cls(folder, cls.read(folder, needed))

    @classmethod
    def read(cls, folder: Path, needed: Sequence[str]) -> dict[str, bytes]:
        """The content of all templates and of the files in `needed`, by name. Raises JobError."""
        try:
            names = {path.name for path in folder.glob("*.j2")}
            missing = [name for name in needed if not (folder / name).is_file()]
            if missing:
                raise JobError(f"{folder}: {missing[0]} is missing.", "`prompts:` names a folder of templates.")
            return {name: (folder / name).read_bytes() for name in sorted(names | set(needed))}
        except OSError as exc:
            raise JobError(f"{exc.filename}: {exc.strerror}.", "`prompts:` names a folder of templates.") from exc

    def rows(self, name: str, kind: type[Model]) -> tuple[Model, ...]:
        """The rows of a file of JSON lines, such as worked examples. Raises JobError naming file, row and field."""
        path, found = self.folder / name, []
        for number, line in enumerate(decode(path, self.files[name]).split("\n"), 1):
            if not line.strip():
                continue
            try:
                found.append(kind.model_validate_json(line))
            except ValidationError as exc:
                error = exc.errors(include_url=False, include_input=False)[0]
                field = ".".join(map(str, error["loc"]))
                what = f"{path}: row {number}: {f'field {field}: ' if field else ''}{error['msg']}."
                raise JobError(what, f"The shipped {name} shows the form.") from exc
        return tuple(found)

    def uses(self, name: str, variable: str) -> bool:
        """Whether a template, or one that it includes, has this variable in it."""
        return self._templates.uses(name, variable)

    def messages(self, name: str, values: Mapping[str, Any]) -> Messages:
        """The messages of `system.j2`, where the folder has one, and then of template `name`, from the same values."""
        return self.system_messages(values) + self._templates.messages(name, values)

    def system_messages(self, values: Mapping[str, Any]) -> Messages:
        """The messages of `system.j2`; none without one."""
        return self._templates.messages("system.j2", values, "system") if "system.j2" in self._templates else ()


class PairPrompt:
    """Two templates of a folder that ask about a pair: `system.j2`, and `template` with passage and query.

    `name` is a shipped folder or one of the user's; `fixed` are the values that are the same for all pairs. Raises
    JobError as `PromptFolder.load` does, and where a template uses another variable or does not use the pair.
    """

    def __init__(self, name: str, template: str, fixed: Mapping[str, Any]) -> None:
        folder, names = find("prompts", name, Path.cwd()), ("system.j2", template)
        files = PromptFolder.read(folder, names)
        self.sha256 = hashlib.sha256(b"\0".join(files[each] for each in names)).hexdigest()
        self._templates = compiled(folder, tuple((each, decode(folder / each, files[each])) for each in names))
        self._template, self._fixed = template, fixed
        self._templates.check_names("system.j2", fixed)
        self._templates.check_names(template, {**fixed, "passage": "", "query": ""}, ("passage", "query"))

    def messages(self, query: str, passage: str) -> Messages:
        """Fixed text, then passage and query: a server's prefix cache serves all queries of a passage."""
        values = {**self._fixed, "passage": neutralise(passage)[0], "query": neutralise(query)[0]}
        render = self._templates.render
        return ("system", render("system.j2", self._fixed)), ("user", render(self._template, values))


def decode(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise JobError(f"{path}: byte {exc.start} is not UTF-8.", "Save the file as UTF-8.") from exc


def _small(size: float, what: str) -> None:
    if size > _MOST:
        raise OverflowError(f"{what} is over {_MOST:,}")


class _Environment(SandboxedEnvironment):
    """An environment whose loops and calls look at the clock, and whose other operations cannot take long."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.start()
        self.globals = {"range": range, _TICK: self.tick}
        self.filters = {name: self._bounded(each) for name, each in self.filters.items()}
        self.filters["format"] = lambda text, *args, **named: self.call_binop(None, "%", str(text), named or args)

    def start(self) -> None:
        """Gives RENDER_SECONDS from now."""
        self._wall, self._cpu = time.monotonic() + RENDER_SECONDS, math.inf

    def tick(self, *given: Any) -> str:
        """Raises TimeoutError when the time is up, OverflowError for a large number or range among arguments."""
        if time.monotonic() > self._wall:  # the thread's own clock costs a system call, so it is read only from here on
            now = time.thread_time()
            self._cpu = min(self._cpu, now + RENDER_SECONDS)
            if now >= self._cpu:
                raise TimeoutError(f"rendering took more than {RENDER_SECONDS:g} seconds")
        for each in given:
            size = each if isinstance(each, int) else len(each) if isinstance(each, range) else 0
            _small(size, "a number given to a function or filter")
        return ""

    def _bounded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **named: Any) -> Any:
            self.tick(*args, *named.values())
            return function(*args, **named)

        return call

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        if obj is not range:  # a loop over it looks at the clock
            self.tick(*args, *kwargs.values())
        return context.call(obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            _small(left.bit_length() * right, "the number of bits of a power")
        elif operator == "*":
            for text, times in ((left, right), (right, left)):
                size = len(text) * times if isinstance(text, Sized) and isinstance(times, int) else 0
                _small(size, "the length of a product")
        elif isinstance(left, str) and _WIDE.search(left):
            _small(math.inf, "the width in a format")
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        _small(math.inf if wrapped and _WIDE.search(value.__self__) else 0, "the width in a format")
        return wrapped

    def _generate(
        self,
        source: nodes.Template,
        name: str | None,
        filename: str | None,
        defer_init: bool = False,  # noqa: FBT001, FBT002 - the signature is Jinja2's
    ) -> str:
        for node in source.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
            tick = nodes.Call(nodes.Name(_TICK, "load"), [], [], None, None)
            body = node.body  # type: ignore[attr-defined] # all three have one
            body.insert(0, nodes.Output([tick], lineno=body[0].lineno if body else 1))
        return super()._generate(source, name, filename, defer_init)


@lru_cache(maxsize=64)
def _variables(source: str) -> tuple[frozenset[str], dict[str, int], tuple[str, ...]]:
    """Undeclared variables of a template, its names by their first line, the templates it includes: once per text."""
    tree = _Environment().parse(source)
    lines: dict[str, int] = {}
    for node in tree.find_all(nodes.Name):
        lines[node.name] = min(node.lineno, lines.get(node.name, node.lineno))
    others = tuple(filter(None, meta.find_referenced_templates(tree)))
    return frozenset(meta.find_undeclared_variables(tree)), lines, others


class Templates:
    """The compiled templates of one folder, which may include one another and nothing else. Raises JobError."""

    def __init__(self, folder: Path, sources: Mapping[str, str]) -> None:
        self._folder = folder
        self._sources = sources
        self._env = _Environment(
            loader=FunctionLoader(self._source),
            undefined=StrictUndefined,
            autoescape=False,  # prompts are plain text; whatever becomes HTML escapes there
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._compiled = {name: self._compile(name) for name in sources}

    def __contains__(self, name: str) -> bool:
        return name in self._compiled

    def messages(self, name: str, values: Mapping[str, Any], role: Literal["system", "user"] = "user") -> Messages:
        """What template `name` yields: each `{% call message(role) %}` block is a message of its own.

        The text outside the blocks is one more message of `role`: a system message comes before the blocks, a user
        message after them. Raises JobError with file and line when rendering fails or takes too long.
        """
        turns: list[tuple[str, str]] = []

        def message(who: str, caller: Callable[[], str]) -> str:
            if who not in _ROLES:
                raise ValueError(f"message({who!r}): the role must be one of {', '.join(_ROLES)}")
            turns.append((who, caller().removesuffix("\n")))
            return ""

        text = self.render(name, {**values, "message": message}).removesuffix("\n")
        if turns and not text.strip():
            return tuple(turns)
        return ((role, text), *turns) if role == "system" else (*turns, (role, text))

    def render(self, name: str, values: Mapping[str, Any]) -> str:
        """The text of template `name`; raises JobError with file and line when rendering fails or takes too long."""
        self._env.start()
        try:
            return self._compiled[name].render(values)
        except _RENDER_ERRORS as exc:
            raise self._failure(name, exc) from exc

    def check_names(self, name: str, known: Mapping[str, Any], used: Sequence[str] = ()) -> None:
        """Raises JobError where template `name` uses a variable that is not `known`, in any branch, or none of `used`.

        Each of `used` must occur in it or in a template that it includes.
        """
        undeclared, lines, _ = _variables(self._sources[name])
        there = {*known, "message"}
        for missing in sorted(undeclared - there - self._env.globals.keys()):
            what = f"line {lines[missing]}: unknown variable {missing!r}"
            raise JobError(f"{self._folder / name}: {what}.", f"Use one of: {', '.join(sorted(there))}.")
        for variable in (each for each in used if not self.uses(name, each)):
            raise JobError(f"{self._folder / name}: does not use the {variable}.", f"Add {{{{ {variable} }}}}.")

    def uses(self, name: str, variable: str) -> bool:
        """Whether template `name`, or one that it includes, has this variable in it."""
        included, found = [name], set[str]()
        for each in included:  # grows by those that they include
            _, lines, others = _variables(self._sources.get(each, ""))
            found |= lines.keys()
            included += [other for other in others if other not in included]
        return variable in found

    def _source(self, name: str) -> tuple[str, str, None] | None:
        return (self._sources[name], str(self._folder / name), None) if name in self._sources else None

    def _compile(self, name: str) -> Template:
        try:
            template = self._env.get_template(name)
        except TemplateSyntaxError as exc:
            raise JobError(f"{exc.filename or self._folder / name}: line {exc.lineno}: {exc.message}.") from exc
        except _RENDER_ERRORS as exc:  # constant expressions are already tried while compiling
            raise self._failure(name, exc) from exc
        template.globals = dict(template.globals)  # a ChainMap, which every rendering would copy key by key
        return template

    def _failure(self, name: str, exc: Exception) -> JobError:
        place = str(self._folder / name)
        frame = exc.__traceback__
        while frame is not None:  # the innermost frame that is a template: Jinja2 gives it the template's own lines
            filename = frame.tb_frame.f_code.co_filename
            if Path(filename).parent == self._folder and Path(filename).name in self._sources:
                place = f"{filename}: line {frame.tb_lineno}"
            frame = frame.tb_next
        return JobError(f"{place}: {str(exc).rstrip('.') or type(exc).__name__}.", "Correct the template.")


# A server splits `<|im_end|>` in a passage exactly as the one it wrote itself. U+200B after the first character of
# every such token keeps the text readable and takes its power away. It covers only the tokens known here by name or
# form.
_NAMED = (
    # Qwen, DeepSeek: reasoning and tools
    *("<think>", "</think>", "<tools>", "</tools>"),
    *("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
    # Llama 2, Mistral
    *("<s>", "</s>", "<<SYS>>", "<</SYS>>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[ARGS]"),
    *("[THINK]", "[/THINK]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"),
    # Gemma, GLM, sentencepiece
    *("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<bos>", "<eos>", "<pad>", "<unk>"),
    *("<mask>", "[gMASK]", "<sop>", "<eop>"),
)


def _rests(first: str) -> str:
    return "|".join(re.escape(token[1:]) for token in _NAMED if token[0] == first)


# ChatML, Llama 3, GPT and DeepSeek (fullwidth bars) share one form. Lookaheads leave the rest of a token to be searched
# as well: one may hide inside another.
_TOKEN = re.compile(rf"<(?=[|｜][^|｜]*[|｜]>|{_rests('<')})|\[(?={_rests('[')})")


def has_control_tokens(text: str) -> bool:
    return _TOKEN.search(text) is not None


def neutralise(text: str) -> tuple[str, int]:
    """`text` with every control token broken by U+200B after its first character, and how many there were."""
    if "<" not in text and "[" not in text:
        return text, 0
    return _TOKEN.subn("\\g<0>\u200b", text)
