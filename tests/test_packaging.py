"""Prompts, personas and job files are found from an installed wheel as they are from a checkout."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
LOOK = """
from synth.shipped import shipped
import synth
print(synth.__file__)
for kind, name in [("prompts", "retrieval"), ("personas", "general.jsonl"), ("configs", "quickstart.yaml")]:
    path = shipped(kind, name)
    print(path.exists(), path)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=100)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A fresh environment with the wheel, that borrows the dependencies of this one."""
    home = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)  # a wheel's purelib is what an installer copies there
    return python


def run(python, *arguments, cwd):
    """With the borrowed packages behind the environment's own: PYTHONPATH would let a checkout win."""
    borrowed = sysconfig.get_path("purelib")
    code = f"import sys; sys.path.append({borrowed!r}); sys.argv[0] = 'synth'; "
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [python, "-c", code + arguments[0], *arguments[1:]],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip


def test_the_wheel_holds_what_the_checkout_holds(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = [path for kind in ("prompts", "personas", "configs") for path in (ROOT / kind).rglob("*")]
    expected = {f"synth/_data/{path.relative_to(ROOT)}" for path in shipped if path.is_file()}
    assert expected <= names
    assert {name.split("/")[0] for name in names} <= {"synth", f"synth-{version(wheel)}.dist-info"}
    assert not [name for name in names if name.endswith((".pyc", ".tmp"))]


def version(wheel):
    return wheel.name.split("-")[1]


def test_an_installed_wheel_finds_what_it_ships(installed, tmp_path):
    lines = run(installed, LOOK, cwd=tmp_path).splitlines()
    assert not Path(lines[0]).is_relative_to(ROOT)
    for line in lines[1:]:
        exists, _, path = line.partition(" ")
        assert exists == "True"
        assert "_data" in Path(path).parts


def test_a_checkout_finds_what_it_ships(tmp_path):
    lines = run(sys.executable, f"sys.path.insert(0, {str(ROOT)!r});" + LOOK, cwd=tmp_path).splitlines()
    for line in lines[1:]:
        exists, _, path = line.partition(" ")
        assert exists == "True"
        assert Path(path).is_relative_to(ROOT)


def test_an_installed_wheel_writes_a_job_to_start_from(installed, tmp_path):
    run(installed, "from synth.__main__ import entry; entry()", "init", "job.yaml", cwd=tmp_path)
    assert "corpus" in (tmp_path / "job.yaml").read_text(encoding="utf-8")


def test_the_script_has_an_entry_point(wheel):
    archive = zipfile.ZipFile(wheel)
    points = archive.read(f"synth-{version(wheel)}.dist-info/entry_points.txt").decode()
    assert "synth = synth.__main__:entry" in points
