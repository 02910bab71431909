"""What many tests share: no file outside of the test's own folder, and jobs written as people write them."""

import os
import signal

import pytest
from loopback import Loopback

from synth.job import load_job


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Persona vectors are cached per user; tests have a cache of their own."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(autouse=True, scope="session")
def _hangs_up():
    """Under nohup the processes that tests start would ignore SIGHUP, as they should for a user of nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def job(tmp_path):
    """Writes a job file and loads it: `job(text, "seed=3")` gives the Job or raises JobError."""

    def write(text, *settings):
        path = tmp_path / "job.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_job(path, settings)

    return write


@pytest.fixture
def server():
    with Loopback() as running:
        yield running
