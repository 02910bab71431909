"""A finished run in the repository, and what scripts rely on: a change that breaks either one breaks users' folders.

Where the contract changes on purpose, change contract.json and run `python tests/contract/make_contract.py`.
"""

import json
import shutil

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer.main
from loopback import Loopback
from make_contract import HERE, run
from running import completion, contents, shards

from synth.cli import app, main

EXPECTED = json.loads((HERE / "contract.json").read_text(encoding="utf-8"))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A copy of the job and its finished run, as the working folder."""
    shutil.copytree(HERE, tmp_path / "home", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def server():
    with Loopback() as started:
        started.chat = completion
        yield started


@pytest.mark.usefixtures("home")
def test_the_folder_is_sound():
    assert main(["verify", "out", "--deep"]) == 0


def test_it_resumes_without_a_call(home, server, capsys):
    before = contents(home / "out")
    assert run(server.url, "out") == 0
    assert contents(home / "out") == before
    assert server.posts == []
    assert sorted(json.loads(capsys.readouterr().out)) == EXPECTED["summary"]


def test_the_same_job_gives_the_same_run(home, server):
    assert run(server.url, "again") == 0
    old, new = (json.loads((home / name / "job.json").read_text())["identity"] for name in ("out", "again"))
    assert new == old
    before, after = contents(home / "out"), contents(home / "again")
    assert after.keys() == before.keys()
    if pq.read_metadata(shards("out", "kept")[0]).created_by == f"parquet-cpp-arrow version {pa.__version__}":
        assert after == before
    for step in ("passages", "generated", "kept"):
        assert pl.read_parquet(f"again/{step}/*.parquet").equals(pl.read_parquet(f"out/{step}/*.parquet"))


@pytest.mark.usefixtures("home")
def test_its_columns():
    for step, columns in EXPECTED["columns"].items():
        schema = pl.read_parquet(f"out/{step}/*.parquet").schema
        assert {name: str(kind) for name, kind in schema.items()} == columns, step


@pytest.mark.usefixtures("home")
def test_later_commands_work_on_it(server):
    assert main(["keep", "out", "--above", "cosine=0.2", "--as", "strict", "--json"]) == 0
    assert 0 < pl.read_parquet("out/views/strict/*.parquet").height < 5
    served = f"embed.base_urls={json.dumps([server.url])}"
    assert main(["mine", "out", "--range", "0:5", "--num-negatives", "1", "-s", served, "--json"]) == 0
    assert main(["export", "out", "--to", "jsonl", "-o", "pairs", "--json"]) == 0
    assert pl.read_ndjson("pairs/train.jsonl").height == 5
    assert main(["show", "out", "--json"]) == 0


def test_commands_and_options():
    commands = typer.main.get_command(app.app).commands
    for name, options in EXPECTED["options"].items():
        found = [option for parameter in commands[name].params for option in parameter.opts if option.startswith("-")]
        assert sorted(found) == options, name
    assert list(commands) == list(EXPECTED["options"])
