"""What a task prepares once per run, before its first item: made by one process, kept as `prepared.json`.

Its model calls are journaled, so a killed run asks none of them twice; the file, once there, is never made again.
"""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

from synth.errors import OutputError, Stopped, TooManyUnusable, UnusableReply
from synth.runs import identity
from synth.runs.run import PREPARED, OpenRun
from synth.sources import sample_rows
from synth.stage import ChatModel
from synth.steps.generate import JournaledChat
from synth.tables import PASSAGES, passages
from synth.tasks import Writer
from synth.types import Passage

_LOOK_SECONDS = 0.2


async def once(run: OpenRun, chat: ChatModel, stopping: Callable[[], bool]) -> None:
    """Returns when `prepared.json` is there, or is not needed; made here unless another process is making it.

    Raises Stopped, TooManyUnusable where no reply of the model can be used, OutputError where the file that shards
    were made from is gone, and what `chat` raises.
    """
    if not run.task.prepares_from:
        return
    path = run.folder.path / PREPARED
    while not path.exists():
        if stopping():
            raise Stopped("stopping: no further requests are sent")
        journal = run.folder.step("prepared").claim(run.revision)
        if journal is None:
            await asyncio.sleep(_LOOK_SECONDS)
            continue
        with closing(journal):
            if not path.exists():  # else another process has made it since
                await _make(run, JournaledChat(chat, journal, stopping))
            journal.drop()


async def _make(run: OpenRun, chat: JournaledChat) -> None:
    generated = run.folder.step("generated")
    if any(generated.meta(index).identity == run.identity for index in generated.done()):
        what = f"{run.folder.path / PREPARED}: is missing, and shards were made from it."
        raise OutputError(what, "Restore it from a backup.")
    try:
        made = await asked(run.writer(), _sample(run), chat)
    except TooManyUnusable:
        chat.journal.drop()  # the next run asks anew
        raise
    content = {"prepared": made, "sha256": identity.sha256(made)}
    run.folder.put_if_absent(PREPARED, (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode())


async def asked(writer: Writer, passages: Sequence[Passage], chat: ChatModel) -> Mapping[str, Any]:
    """What the task prepares from these passages. Raises TooManyUnusable where no reply of the model can be used."""
    try:
        return await writer.prepare(passages, chat)
    except UnusableReply as exc:
        what = f"task: the model prepared nothing that a run can use; its last reply: {exc}."
        hint = "Use a larger model, raise task.attempts, or give it in the job file; `synth preview` shows the replies."
        raise TooManyUnusable(what, hint) from exc


def _sample(run: OpenRun) -> Sequence[Passage]:
    """As many passages as the task prepares from, spread evenly over the run."""
    step, totals = run.folder.step("passages"), run.history.totals()
    shards = sorted(step.done())
    found: list[Passage] = []
    for position in sorted(sample_rows(totals["passages"] if totals else 0, run.task.prepares_from)):
        index = shards[bisect_right(shards, position, key=lambda each: step.meta(each).first) - 1]
        table = step.read_columns(index, [name for name in PASSAGES.names if name != "retry_of"])
        found += passages(table.slice(position - step.meta(index).first, 1))
    return found
