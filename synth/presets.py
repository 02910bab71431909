"""Published recipes by name: files of `configs/presets` with rules (`keep`), mining (`mine`) and training (`train`)."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from synth.document import load_document
from synth.errors import JobError
from synth.shipped import shipped
from synth.validation import plain


def preset_names() -> list[str]:
    return sorted(path.stem for path in shipped("configs", "presets").glob("*.yaml"))


def preset(name: str) -> dict[str, Any]:
    """`about`, `source`, and those of `keep`, `mine` and `train` that the recipe has. Raises JobError."""
    known = preset_names()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        cure = f"Did you mean {near[0]!r}?" if near else f"One of: {', '.join(known)}."
        raise JobError(f"--preset {name}: is not known.", cure)
    return dict(plain(load_document(shipped("configs", "presets", f"{name}.yaml")).data))


def preset_part(name: str | None, part: str) -> dict[str, Any]:
    """The options of one step, none without a preset. Raises JobError where the recipe has none for this step."""
    if name is None:
        return {}
    found = preset(name)
    if part not in found:
        raise JobError(f"--preset {name}: says nothing about this step.", f"See: synth list presets {name}")
    return dict(found[part])
