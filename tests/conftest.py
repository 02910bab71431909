"""What many tests share: no file outside of the test's own folder, and jobs written as people write them."""

import gc
import os
import signal
import sys

import pytest

# Asserts are rewritten once and not in every worker of every run, even where the environment forbids bytecode.
sys.dont_write_bytecode = False
gc.set_threshold(50_000, 20, 20)  # as the command does: imports and collected tests leave no garbage
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for torch: models here are tiny, and several workers share the cores

from hypothesis import settings  # noqa: E402 - after bytecode is allowed
from loopback import Loopback  # noqa: E402 - as above
from xdist.scheduler import LoadScopeScheduling  # noqa: E402 - as above

from synth.job import load_job  # noqa: E402 - as above

TORCH = ("tests/training/", "tests/scores/test_similarity.py", "tests/negatives/test_written.py")
"""And scikit-learn, which comes with it."""

settings.register_profile("suite", max_examples=15, deadline=None)  # a busy machine is not a fault
settings.register_profile("thorough", max_examples=400, deadline=None)  # of ./.ci/run, by --hypothesis-profile
settings.load_profile("suite")


class ByFile(LoadScopeScheduling):
    """Of several workers one runs all tests of a file, which share fixtures, and one all files that load torch."""

    def _split_scope(self, nodeid):
        file = nodeid.partition("::")[0]
        return "torch" if file.startswith(TORCH) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return ByFile(config, log) if config.getvalue("dist") == "load" else None


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
