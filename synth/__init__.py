"""Synthetic training pairs for text-embedding and reranking models.

`synth.generate(passages, llm=...)` makes pairs from passages, `synth.run("job.yaml")` runs a job file, `synth.filter`
scores existing pairs; each returns a `Run`. Every name below is loaded when it is first used. See docs/api.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synth.api import (
        Run,
        aexport,
        afilter,
        agenerate,
        amine,
        arun,
        export,
        filter,  # noqa: A004 - named after the command
        generate,
        mine,
        open_run,
        run,
    )
    from synth.errors import (
        InputError,
        JobError,
        OutputError,
        ServerRefused,
        ServerUnavailable,
        Stopped,
        SynthError,
        SystemFault,
        TooManyUnusable,
    )
    from synth.job import Job
    from synth.scores import PairBatch, ScoreColumn, Scorer
    from synth.stage import ChatModel, Encoder, Reranker
    from synth.tasks import Task

_MODULES = {
    "synth.api": ("Run aexport afilter agenerate amine arun export filter generate mine open_run run"),
    "synth.errors": (
        "InputError JobError OutputError ServerRefused ServerUnavailable Stopped SynthError SystemFault TooManyUnusable"
    ),
    "synth.job": "Job",
    "synth.scores": "PairBatch ScoreColumn Scorer",
    "synth.stage": "ChatModel Encoder Reranker",
    "synth.tasks": "Task",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = [
    "ChatModel",
    "Encoder",
    "InputError",
    "Job",
    "JobError",
    "OutputError",
    "PairBatch",
    "Reranker",
    "Run",
    "ScoreColumn",
    "Scorer",
    "ServerRefused",
    "ServerUnavailable",
    "Stopped",
    "SynthError",
    "SystemFault",
    "Task",
    "TooManyUnusable",
    "aexport",
    "afilter",
    "agenerate",
    "amine",
    "arun",
    "export",
    "filter",
    "generate",
    "mine",
    "open_run",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'synth' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
