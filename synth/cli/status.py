"""`synth status`: which steps are done, which shards are being worked on."""

from __future__ import annotations

import json
from dataclasses import asdict

from synth.cli.app import AsJson, RunFolder, app, examples
from synth.terminal import say


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
    width = max([28, *(len(step.step) + 2 for step in steps)])
    say(f"{'step':<{width}}{'shards':>12}{'in':>12}{'out':>12}{'rejected':>12}")
    for step in steps:
        of = f"{step.shards}/{step.of}" if step.of is not None else f"{step.shards}/?"
        say(f"{step.step:<{width}}{of:>12}{step.rows_in:>12,}{step.rows_out:>12,}{step.rejected:>12,}")
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
