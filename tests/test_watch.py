"""When nothing comes back: the run names what it waits for and stops, resumable."""

import json

from loopback import Fault
from running import completion, job_dict, run, write_corpus, write_job

from synth.cli import main


def test_a_server_that_falls_silent_is_named_with_what_is_in_flight(tmp_path, server, capsys):
    server.chat = completion
    write_corpus(tmp_path / "docs.jsonl", 6)
    asked = 0

    def rule(seen):
        nonlocal asked
        asked += "messages" in (seen.body or {})
        return Fault(delay=60) if asked > 5 else None

    server.rule = rule
    job = write_job(tmp_path, job_dict(server.url, tmp_path, limits={"stall": 0.5, "unusable": 1}))
    assert main(["run", str(job), "-o", str(tmp_path / "out")]) == 75
    said = capsys.readouterr().err
    assert "no model call has ended for 0.5 s (limits.stall)" in said
    assert "in flight: passage" in said
    assert "and 1 more" not in said
    assert f"synth run {tmp_path / 'out'}" in said
    server.rule = lambda _: None
    run(job, tmp_path / "out")
    totals = json.loads((tmp_path / "out" / "index" / "passages.json").read_text())
    assert totals["passages"] == 6


def test_a_server_that_is_known_to_be_away_has_limits_of_its_own(tmp_path, server, capsys):
    """An outage longer than `stall` is waited for."""
    server.chat = completion
    write_corpus(tmp_path / "docs.jsonl", 4)
    failures = 0

    def rule(seen):
        nonlocal failures
        failing = "messages" in (seen.body or {}) and len(server.posts) > 12 and failures < 4
        failures += failing
        return Fault(503) if failing else None

    server.rule = rule
    job = write_job(tmp_path, job_dict(server.url, tmp_path, limits={"stall": 0.2, "unusable": 1}))
    assert main(["run", str(job), "-o", str(tmp_path / "out"), "--json"]) == 0, capsys.readouterr().err
