"""Synthetic training pairs for text-embedding and reranking models.

`synth.generate(passages, llm=...)` makes pairs from passages, `synth.run("job.yaml")` runs a job file, `synth.filter`
scores existing pairs; each returns a `Run`. A name is loaded when it is first used. See docs/api.md.
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
        aplan,
        arun,
        arun_tasks,
        export,
        filter,  # noqa: A004 - named after the command
        generate,
        open_run,
        plan,
        run,
        run_tasks,
    )
    from synth.errors import (
        InputError,
        JobError,
        OutputError,
        RequestRejected,
        ServerRefused,
        ServerUnavailable,
        Stopped,
        SynthError,
        SystemFault,
        TooManyUnusable,
    )
    from synth.exports import Export
    from synth.job import Job
    from synth.models import aevaluate, amine, aprove, arelabel, evaluate, mine, prove, relabel
    from synth.replies import read_fields, read_text
    from synth.scores import PairBatch, ScoreColumn, Scorer
    from synth.stage import (
        ChatModel,
        ChatReply,
        ChatRequest,
        EmbedStage,
        Encoded,
        Encoder,
        LlmStage,
        Reranker,
        RerankStage,
        Services,
        TextInputs,
    )
    from synth.tasks import Ask, Draw, Item, Task
    from synth.training.merge import merge
    from synth.training.runs import train
    from synth.types import Layout

_NAMES = {
    "api": "Run aexport afilter agenerate aplan arun arun_tasks export filter generate open_run plan run run_tasks",
    "errors": "InputError JobError OutputError RequestRejected ServerRefused ServerUnavailable Stopped SynthError"
    " SystemFault TooManyUnusable",
    "exports": "Export",
    "job": "Job",
    "models": "aevaluate amine aprove arelabel evaluate mine prove relabel",
    "replies": "read_fields read_text",
    "scores": "PairBatch ScoreColumn Scorer",
    "stage": "ChatModel ChatReply ChatRequest EmbedStage Encoded Encoder LlmStage RerankStage Reranker Services"
    " TextInputs",
    "tasks": "Ask Draw Item Task",
    "training.merge": "merge",
    "training.runs": "train",
    "types": "Layout",
}
_HOME = {name: f"synth.{module}" for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "Ask",
    "ChatModel",
    "ChatReply",
    "ChatRequest",
    "Draw",
    "EmbedStage",
    "Encoded",
    "Encoder",
    "Export",
    "InputError",
    "Item",
    "Job",
    "JobError",
    "Layout",
    "LlmStage",
    "OutputError",
    "PairBatch",
    "RequestRejected",
    "RerankStage",
    "Reranker",
    "Run",
    "ScoreColumn",
    "Scorer",
    "ServerRefused",
    "ServerUnavailable",
    "Services",
    "Stopped",
    "SynthError",
    "SystemFault",
    "Task",
    "TextInputs",
    "TooManyUnusable",
    "aevaluate",
    "aexport",
    "afilter",
    "agenerate",
    "amine",
    "aplan",
    "aprove",
    "arelabel",
    "arun",
    "arun_tasks",
    "evaluate",
    "export",
    "filter",
    "generate",
    "merge",
    "mine",
    "open_run",
    "plan",
    "prove",
    "read_fields",
    "read_text",
    "relabel",
    "run",
    "run_tasks",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'synth' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
