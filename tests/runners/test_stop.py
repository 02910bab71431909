"""A stop asked for while no server answers: there is nothing to wait for."""

import asyncio
import time
from contextlib import contextmanager

import pytest
from loopback import Fault, Loopback
from running import audit, completion, job_dict, run, write_corpus, write_job

from synth import pipeline
from synth.errors import ServerUnavailable, Stopped
from synth.servers import fleet

SOON = 0.2


class Interrupted(pipeline.Control):
    """Ctrl-C a moment after the models began to work."""

    def notify(self, text):
        pass

    @contextmanager
    def drains(self, stop, _counters):
        asyncio.get_running_loop().call_later(SOON, lambda: stop.ask(interrupted=True))
        yield


@pytest.fixture
def server():
    with Loopback() as started:
        started.chat = completion
        yield started


GONE = {
    "nobody listens": None,
    "out of order": Fault(503),
    "reset": Fault(reset=True),
}


@pytest.mark.parametrize("name", GONE)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
def test_an_interrupt_without_a_server_waits_for_no_call(name, path, server, tmp_path, monkeypatch):
    monkeypatch.setattr(fleet, "_LOOK_SECONDS", 0.05)
    write_corpus(tmp_path / "docs.jsonl", 4)
    job = write_job(tmp_path, job_dict(server.url, tmp_path))
    if GONE[name] is None:
        server.stop()
    server.rule = lambda seen: GONE[name] if seen.path == path else None
    begun = time.monotonic()
    with pytest.raises(Stopped) as caught:
        pipeline.run(pipeline.resolve(job, tmp_path / "out", (), None), None, Interrupted())
    assert time.monotonic() - begun < 6
    assert caught.value.exit_code == 130
    assert str(caught.value).count("synth run") == 1
    if GONE[name] is None:
        server.start()
    server.rule = lambda _: None
    run(job, tmp_path / "out")
    audit(tmp_path / "out")


def test_what_to_do_after_an_outage_is_said_once(server, tmp_path):
    write_corpus(tmp_path / "docs.jsonl", 1)
    job = write_job(tmp_path, job_dict(server.url, tmp_path, limits={"startup": 0.2}))
    server.rule = lambda seen: Fault(503) if seen.method == "POST" else None
    with pytest.raises(ServerUnavailable) as caught:
        pipeline.run(pipeline.resolve(job, tmp_path / "out", (), None), None, pipeline.Control())
    said = str(caught.value)
    assert ("run the same command again" in said) + ("Resume with" in said) == 1
    assert "scripted 503" in said
