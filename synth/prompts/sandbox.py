"""Templates as a user's own file may contain them: no reach beyond their folder, no unbounded strings.

Jinja2's immutable sandbox stops attribute tricks; what it lets through is closed here: string products and padding
(built before any cap could look at them), long ranges, helpers that carry state across loop turns, undefined names.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import FunctionLoader, StrictUndefined, Template, TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from synth.errors import JobError

MAX_PROMPT_CHARS = 2_000_000
"""Longest text a template may yield: more than any context window, less than would hurt."""

_MAX_RANGE = 1000
_FILTERS = ("default", "first", "join", "last", "length", "list", "lower", "reverse", "tojson", "trim", "upper")
_GROWING = frozenset(
    {"center", "expandtabs", "format", "format_map", "join", "ljust", "replace", "rjust", "translate", "zfill"}
)
_RENDER_ERRORS = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)


@lru_cache(maxsize=16)
def compiled(folder: Path, sources: tuple[tuple[str, str], ...]) -> Templates:
    """The templates of a folder from (file name, text), compiled once per process: a run asks for them many times.

    Raises JobError as `Templates` does.
    """
    return Templates(folder, dict(sources))


def _bounded_range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > _MAX_RANGE:
        raise SecurityError(f"range() over {len(numbers)} numbers, at most {_MAX_RANGE} are allowed")
    return numbers


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or not (isinstance(left, int | float) and isinstance(right, int | float)):
            raise SecurityError(f"the operator {operator} is not allowed here")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return not (isinstance(obj, str) and attr in _GROWING) and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, _value: Any) -> None:
        """None: `format` is not wrapped but refused with the other growing methods."""


class Templates:
    """The compiled templates of one folder, which may include one another and nothing else.

    `sources` maps file names to template text; `folder` is used in messages only. Raises JobError with file and line
    on a syntax error.
    """

    def __init__(self, folder: Path, sources: Mapping[str, str]) -> None:
        self._folder = folder
        self._sources = sources
        self._env = _Sandbox(
            loader=FunctionLoader(self._source),
            undefined=StrictUndefined,
            autoescape=False,  # prompts are plain text; whatever becomes HTML escapes there
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._env.globals = {"range": _bounded_range}
        self._env.filters = {name: self._env.filters[name] for name in _FILTERS}
        self._trees: dict[str, nodes.Template] = {}
        self._compiled = {name: self._compile(name) for name in sources}

    def __contains__(self, name: str) -> bool:
        return name in self._compiled

    def render(self, name: str, values: Mapping[str, Any]) -> str:
        """The text of template `name`; raises JobError with file and line when it fails or grows past the cap."""
        pieces: list[str] = []
        size = 0
        try:
            for piece in self._compiled[name].generate(values):
                pieces.append(piece)
                size += len(piece)
                if size > MAX_PROMPT_CHARS:
                    raise SecurityError(f"the result is longer than {MAX_PROMPT_CHARS} characters")
        except _RENDER_ERRORS as exc:
            raise self._failure(name, exc) from exc
        return "".join(pieces)

    def check_names(self, name: str, known: Mapping[str, Any]) -> None:
        """Raises JobError where template `name` uses a variable that is not `known`, taken branch or not."""
        tree = self._tree(name)
        for missing in sorted(meta.find_undeclared_variables(tree) - known.keys() - self._env.globals.keys()):
            line = min(node.lineno for node in tree.find_all(nodes.Name) if node.name == missing)
            raise JobError(
                f"{self._folder / name}: line {line}: there is no variable {missing!r}.",
                f"Use one of: {', '.join(sorted(known))}.",
            )

    def mentions(self, name: str, variable: str) -> bool:
        """Whether template `name`, or one that it includes, uses `variable`."""
        seen: set[str] = set()
        queue = [name]
        while queue:
            current = queue.pop()
            if current in seen or current not in self._sources:
                continue
            seen.add(current)
            tree = self._tree(current)
            if any(node.name == variable for node in tree.find_all(nodes.Name)):
                return True
            queue.extend(other for other in meta.find_referenced_templates(tree) if other)
        return False

    def _tree(self, name: str) -> nodes.Template:
        if name not in self._trees:
            self._trees[name] = self._env.parse(self._sources[name], name)
        return self._trees[name]

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
        return JobError(f"{place}: {str(exc).rstrip('.') or type(exc).__name__}.", "Mend the template.")
