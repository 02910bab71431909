"""The command line: help, usage errors, exit codes, speed."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys

import pytest
import typer

from synth import cli
from synth.cli.app import app
from synth.shards import OutputFolder

SYNTH = [sys.executable, "-m", "synth"]
COMMANDS = list(typer.main.get_command(app).commands)


def test_help_names_every_command_and_ends_well(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert {"run", "check", "preview", "show", "status", "init", "list"} <= set(COMMANDS)
    assert all(f"\n  {name} " in text for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_shows_its_examples_on_lines_of_their_own(command, capsys):
    assert cli.main([command, "--help"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    examples = lines[lines.index("Examples:") + 1 :]
    assert examples
    assert all(line.startswith(f"synth {command}") for line in examples if line)


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("synth 0.")


def test_no_command_shows_the_help_and_is_a_usage_error(capsys):
    assert cli.main([]) == 2
    assert "Commands:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["chek"], "Did you mean 'check'?"),
        (["run"], "Missing argument 'JOB.yaml|OUT'"),
        (["run", "x.yaml", "--nope"], "No such option"),
        (["run", "x.yaml", "--sampel", "3"], "--sample"),
        (["run", "x.yaml", "--sample", "0"], "--sample"),
        (["run", "x.yaml", "--sample", "many"], "--sample"),
        (["status", "out", "more"], "unexpected extra argument"),
        (["run", "no-such-job.yaml"], "no-such-job.yaml: no such file"),
        (["list", "scors"], "Did you mean 'scores'?"),
        (["list", "scores", "cosin"], "Did you mean 'cosine'?"),
    ],
)
def test_usage_errors_exit_2_in_our_own_form(arguments, said, capsys):
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert said in captured.err
    assert not captured.out


def test_help_is_fast_and_imports_nothing_heavy():
    probe = (
        "import sys, contextlib, io; from synth.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()): main(['--help'])\n"
        "heavy = {'numpy', 'pyarrow', 'polars', 'pydantic', 'openai', 'aiohttp', 'torch', 'datasets', 'yaml'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert any(_seconds([*SYNTH, "--help"]) < 0.4 for _ in range(5))


def _seconds(command):
    """Processor seconds, which other processes of the machine do not add to."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("arguments", [["--help"], pytest.param(["list", "scores"], marks=pytest.mark.slow)])
def test_a_closed_pipe_ends_quietly(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*SYNTH, *arguments], stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EMFILE, errno.EDQUOT, errno.EROFS])
def test_what_the_machine_refuses_exits_7_with_a_cure(code, monkeypatch, capsys):
    def refuse(*_args, **_kwargs):
        raise OSError(code, os.strerror(code), "/data/out")

    monkeypatch.setattr(OutputFolder, "open", refuse)
    assert cli.main(["status", "out"]) == 7
    said = capsys.readouterr().err
    assert said.startswith(f"error: /data/out: {os.strerror(code)}. ")
    assert "Traceback" not in said


def test_a_bug_exits_1_with_the_traceback_and_says_that_it_is_one(monkeypatch, capsys):
    def crash(*_args, **_kwargs):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(OutputFolder, "open", crash)
    assert cli.main(["status", "out"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "error: this is a bug in synth: ZeroDivisionError: division by zero." in said


def test_ctrl_c_exits_130(monkeypatch, capsys):
    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(OutputFolder, "open", interrupt)
    assert cli.main(["status", "out"]) == 130
    assert capsys.readouterr().err == "error: interrupted.\n"
