"""`synth status`: which steps are done, which shards are being worked on."""

from __future__ import annotations

import json
from dataclasses import asdict

from synth.cli.app import AsJson, RunFolder, app, examples
from synth.terminal import columns, say, show


@app.command(
    epilog=examples(
        "synth status out",
        "synth status out --json",
    )
)
def status(out: RunFolder, as_json: AsJson = False) -> None:
    """What is done and what is left, step by step."""
    from synth.results.status import read_status
    from synth.shards import OutputFolder

    steps, working = read_status(OutputFolder.open(out))
    if as_json:
        say(json.dumps({"steps": [asdict(s) for s in steps], "open": [asdict(o) for o in working]}))
        return
    rows = [
        (
            step.step,
            f"{step.shards:,}/{'?' if step.of is None else f'{step.of:,}'}",
            *(f"{count:,}" for count in (step.rows_in, step.rows_out, step.rejected)),
        )
        for step in steps
    ]
    show(columns(("step", "shards", "rows in", "rows out", "rejected"), rows))
    for step in steps:
        if step.rules is not None:
            say(f"{step.step}: {step.rules}")
    for each in working:
        state = "being worked on" if each.held else "left over, taken up again by the next run"
        say(f"{each.step} {each.shard}: {state}, last reply {each.idle_seconds:,.0f} s ago")
    behind = {step.step for step in steps if step.of is None or step.shards < step.of}
    if any(name != "mined" and not name.startswith("views/") for name in behind):
        say(f"resume with: synth run {out}")
    elif "mined" in behind:
        say(f"resume with: synth mine {out}")
