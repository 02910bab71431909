"""Streams that are closed or full, homes that are not there, and names made to look like messages."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

from synth.cli import main
from synth.errors import SystemFault
from synth.terminal import say, show, tell, words

FORGED = "x\nerror: forged"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a job over three passages, for a model without a server."""
    monkeypatch.chdir(tmp_path)
    rows = [{"id": f"d{n}", "text": f"A passage about harbours, ferries and tides, number {n}."} for n in range(3)]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write(tmp_path)
    return tmp_path


def write(folder, name="job.yaml", docs="docs.jsonl", **more):
    job = {
        "corpus": {"path": docs, "language": "en"},
        "personas": None,
        "llm": {"use": "extractive"},
        "task": {"use": "retrieval", "question_types": {"summary": 1}, "difficulties": None},
        "scores": [{"use": "length"}],
        "limits": {"max_unusable_share": 1},
    }
    (folder / name).write_text(json.dumps(job | more))


def shell(text, folder):
    """Run a command line as a shell does; `synth` in it is this one."""
    command = text.replace("synth", f"{sys.executable} -m synth", 1)
    return subprocess.run(command, shell=True, cwd=folder, capture_output=True, check=False, timeout=60)  # noqa: S602 - it closes streams


@pytest.mark.parametrize("streams", ["<&- >&- 2>&-", pytest.param("2>/dev/full", marks=pytest.mark.slow)])
def test_streams_that_take_nothing_do_not_end_a_run(place, streams):
    done = shell(f"synth run job.yaml -o out {streams}", place)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr + done.stdout
    assert main(["verify", "out", "--deep", "--json"]) == 0


@pytest.mark.parametrize("print_it", [say, lambda text: show(words(text))])
def test_a_full_stream_is_a_fault_of_the_machine_on_standard_output_alone(monkeypatch, print_it):
    with open("/dev/full", "w") as full, open("/dev/full", "w") as other:  # noqa: PTH123 - devices
        monkeypatch.setattr(sys, "stdout", full)
        monkeypatch.setattr(sys, "stderr", other)
        with pytest.raises(SystemFault, match="standard output"):
            print_it("a line")
        tell("another")


def test_no_stream_at_all_takes_everything(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    say("a line")
    tell("a line")
    show(words("a line"))


@pytest.mark.parametrize(("term", "coloured"), [("dumb", False), ("xterm", True)])
def test_a_terminal_that_knows_no_codes_gets_none(monkeypatch, term, coloured):
    ours, theirs = pty.openpty()
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", term)
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        show(words("a heading", "bold"))
        said = os.read(ours, 1000)
    os.close(ours)
    assert b"a heading" in said
    assert (b"\x1b" in said) == coloured


def test_a_terminal_that_went_away_ends_the_printing(monkeypatch):
    ours, theirs = pty.openpty()
    os.close(ours)
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        say("a line")
        show(words("another"))


@pytest.mark.parametrize(
    "words_",
    [
        ["check", f"{FORGED}.yaml"],
        ["run", "job.yaml", "-s", f"corpus.path={FORGED}.jsonl"],
        ["run", "job.yaml", "-s", f"corpus.path='{FORGED}.jsonl'"],
        ["status", FORGED],
        ["filter", f"{FORGED}/y", "-o", "out"],
        ["filter", "columns.jsonl", "-o", "out"],
        ["run", "columns.yaml", "-o", "out"],
        ["export", FORGED, "--to", "beir", "-o", "x"],
        ["list", FORGED],
        ["run", "job.yaml", "-o", "out", "--deadline", FORGED],
        [FORGED],
    ],
)
def test_a_name_cannot_look_like_a_message(place, capsys, words_):
    (place / "columns.jsonl").write_text(json.dumps({FORGED: "a text", "n": 1}))
    write(place, "columns.yaml", "columns.jsonl")
    assert main(words_) in (2, 3)
    captured = capsys.readouterr()
    lines = (captured.out + captured.err).splitlines()
    assert not [line for line in lines if line.startswith("error: forged")]
    assert sum(line.startswith("error: ") for line in lines) == 1


def test_files_and_folders_with_such_names_are_read_and_shown_escaped(place, capsys):
    folder = place / FORGED
    folder.mkdir()
    (place / "docs.jsonl").rename(folder / "a\tb\nmistake 1: c.jsonl")
    write(place, docs=f"{FORGED}/*.jsonl", out=f"{FORGED} out")
    assert main(["check", "job.yaml"]) == 0
    assert main(["run", "job.yaml"]) == 0
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert "a\\tb\\nmistake 1: c.jsonl" in " ".join(said.split()).replace("\\n ", "\\n")
    assert "x\\nerror: forged out" in said
    assert not [line for line in said.splitlines() if line.startswith(("error: ", "mistake 1: c"))]


@pytest.mark.parametrize("name", ["~nobody-of-this-name/docs.jsonl", "~docs.jsonl", "~$docs.jsonl"])
def test_a_tilde_that_is_no_home_is_a_letter(place, name):
    (place / name).parent.mkdir(exist_ok=True)
    (place / "docs.jsonl").rename(place / name)
    write(place, docs=name)
    assert main(["run", "job.yaml", "-o", "~out"]) == 0
    assert main(["verify", "~out"]) == 0
