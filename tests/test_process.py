"""What a process of the command line does about its memory, tried in processes of their own."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

ECONOMISE = "from synth.process import economise; economise()"
needs_pandas = pytest.mark.skipif(find_spec("pandas") is None, reason="there is no pandas to keep out")


@pytest.fixture(autouse=True)
def _nothing_chosen(monkeypatch):
    """A command that ran in this process may have chosen."""
    for name in ("ARROW_DEFAULT_MEMORY_POOL", "SYNTH_ARROW_POOL"):
        monkeypatch.delenv(name, raising=False)


def ran(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
@needs_pandas
def test_arrow_imports_pandas_by_itself_and_not_after_economising():
    look = "import sys, pyarrow as pa; pa.array([1]); print('pandas' in sys.modules)"
    assert ran(look) == ["True"]
    assert ran(f"{ECONOMISE}; {look}") == ["False"]


@pytest.mark.slow
@needs_pandas
def test_who_asks_for_pandas_still_gets_it():
    code = "import pyarrow as pa; print(len(pa.table({'a': [1, 2]}).to_pandas()))"
    assert ran(f"{ECONOMISE}; {code}") == ["2"]


@pytest.mark.slow
def test_arrow_uses_the_system_allocator_unless_the_environment_says_otherwise(monkeypatch):
    code = f"{ECONOMISE}; import pyarrow as pa; print(pa.default_memory_pool().backend_name)"
    assert ran(code) == ["system"]
    other = next(
        name
        for name in ("mimalloc", "jemalloc")
        if name in ran("import pyarrow as pa; print(*pa.supported_memory_backends())")
    )
    monkeypatch.setenv("ARROW_DEFAULT_MEMORY_POOL", other)
    assert ran(code) == [other]


@pytest.mark.slow
def test_passes_over_tables_have_arrows_own_allocator_back_unless_the_environment_names_one(monkeypatch):
    code = f"{ECONOMISE}; import synth.process as m; m.for_tables(); import pyarrow as pa; print(NAME)"
    code = code.replace("NAME", "pa.default_memory_pool().backend_name")
    assert ran(code)[0] in {"jemalloc", "mimalloc"}
    monkeypatch.setenv("ARROW_DEFAULT_MEMORY_POOL", "system")
    assert ran(code) == ["system"]


@pytest.mark.slow
def test_a_program_that_does_not_economise_keeps_its_allocator():
    before, after = ran(
        "import pyarrow as pa; from synth.process import for_tables; print(pa.default_memory_pool().backend_name); "
        "for_tables(); print(pa.default_memory_pool().backend_name)"
    )
    assert before == after


@pytest.mark.slow
def test_processes_started_from_there_have_the_same_allocators():
    """They import Arrow before they can choose one."""
    name = "print(pa.default_memory_pool().backend_name)"
    child = f"import synth.runners.workers, pyarrow as pa; {ECONOMISE}; {name}; m.for_tables(); {name}"
    child = f"import synth.process as m; {child}"
    first, then = ran(f"import subprocess, sys; {ECONOMISE}; subprocess.run([sys.executable, '-c', {child!r}])")
    assert first == "system"
    assert then in {"jemalloc", "mimalloc"}
