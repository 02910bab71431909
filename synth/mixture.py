"""A job with `tasks:`: several types of training data from one corpus.

    tasks: [{use: retrieval, share: 0.6, queries_per_passage: 2}, {use: sts, share: 0.4, keep: {…}}]

Types of data have columns, scores and rules of their own, so each entry is a run of its own: the job without `tasks`,
with the entry as its `task`, over a `part` of the corpus's rows that no other entry has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Annotated

from pydantic import Field

from synth.document import Document, Problem
from synth.errors import OutputError
from synth.job import Draft, draft_job, mistaken
from synth.stage import Stage
from synth.validation import override, plain, validate

_SECTIONS = ("personas", "scores", "keep", "budget", "target")
"""Keys of a job that an entry may have beside the options of its task; all but the first only it."""


class _Place(Stage):
    """What an entry has that a task has not."""

    share: Annotated[float, Field(gt=0)]
    """Of the items, relative to the sum of all shares."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    """Its folder in the job's output folder; by default the name of the task."""


def entries(document: Document, settings: Sequence[str] = ()) -> dict[str, Draft]:
    """The jobs of the `tasks` of a job, by name, as drafts with their problems; none where it has no `tasks`.

    Raises JobError for mistakes in the list itself.
    """
    data = plain(document.data or {})
    override(data, settings)
    if "tasks" not in data:
        return {}
    listed, places = data.pop("tasks"), list[_Place]()
    if not isinstance(listed, list) or not listed or not all(isinstance(each, dict) for each in listed):
        cure = "Such as [{use: retrieval, share: 0.6}, {use: sts, share: 0.4}]."
        raise mistaken(document, [Problem(("tasks",), "expects a list of tasks with their shares", cure)])
    cures = dict.fromkeys(("task", "data", "part"), "Remove it, or `tasks`.")
    cures |= dict.fromkeys(_SECTIONS[1:], "Put it into the entries of `tasks`.")
    problems = [Problem((key,), "cannot be given beside `tasks`", cure) for key, cure in cures.items() if key in data]
    for n, entry in enumerate(listed):
        name = str(entry.setdefault("use", "retrieval")).rpartition(":")[2].lower()
        given = {"name": name} | {key: entry.pop(key) for key in ("share", "name") if key in entry}
        place, found = validate(_Place, given, ("tasks", str(n)))
        problems += found
        if place and any(place.name == each.name for each in places):
            what, cure = f"has the name {place.name!r}, as another entry has", "Give each a `name` of its own."
            problems.append(Problem(("tasks", str(n), "name"), what, cure))
        places += [place] if place else []
    if problems:
        raise mistaken(document, [*document.problems, *problems])
    common = [each for each in settings if re.split(r"[.=]", each.strip())[0] not in {"tasks", "out"}]
    out = data.pop("out", None) or f"outputs/{Path(document.name).stem}"
    drafts, weights = [], []
    for n, (entry, place) in enumerate(zip(listed, places, strict=True)):
        mine = {key: entry.pop(key) for key in _SECTIONS if key in entry}
        own = data | mine | {"task": entry, "out": f"{out}/{place.name}"}
        draft = draft_job(replace(document, data=own), common)
        here = {"task": ("tasks", str(n))} | {key: ("tasks", str(n), key) for key in mine}
        named = [
            replace(each, path=(*here.get(each.path[0], each.path[:1]), *each.path[1:])) for each in draft.problems
        ]
        drafts.append(replace(draft, document=document, problems=named))
        # a passage has several items in some tasks, and shares are those of the items
        weights.append(place.share / (draft.stages["task"].items_per_passage if draft.stages.get("task") else 1))
    bounds = [0.0, *(each / sum(weights) for each in accumulate(weights[:-1])), 1.0]
    return {
        place.name: replace(draft, file=draft.file and draft.file.model_copy(update={"part": part}))
        for place, draft, part in zip(places, drafts, pairwise(bounds), strict=True)
    }


def runs_in(out: Path) -> list[Path]:
    """The runs of a job with `tasks` in its output folder, in their order; none in any other folder.

    Raises OutputError where one of them is missing: their parts make up the whole.
    """
    parts: list[tuple[float, float, Path]] = []
    for file in out.glob("*/job.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            parts.append((*json.loads(file.read_bytes())["identity"]["part"], file.parent))
    parts.sort()
    if parts and [*(start for start, _, _ in parts), 1.0] != [0.0, *(end for _, end, _ in parts)]:
        what = f"{out}: a run of its job is missing; there are: {', '.join(path.name for _, _, path in parts)}."
        raise OutputError(what, f"Run the job file again: synth run JOB.yaml -o {out}")
    return [path for _, _, path in parts]
