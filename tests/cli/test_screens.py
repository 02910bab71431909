"""What a screen shows: bars and tables that fit 80 columns, plain lines where nobody watches, completion."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
import time

import pytest
from rich.cells import cell_len
from rich.console import Console

from synth import cli
from synth import progress as displays
from synth.progress import Display, bars, line
from synth.results.render import summary_view
from synth.results.summary import Summary
from synth.runners.progress import Counters, Phase, Snapshot

SYNTH = [sys.executable, "-m", "synth"]
COMMANDS = ["run", "check", "preview", "filter", "keep", "sweep", "show", "status", "verify"]
COMMANDS += ["gc", "mine", "export", "init", "list"]
FULL = Snapshot(
    (
        Phase("generate", "items", 1_250_000, 4_000_000, 250_000, 36_000.0),
        Phase("score", "pairs", 900_000, 3_900_000, 0, 36_000.0),
        Phase("near_duplicate", "shards", 3, 4000, 0, 60.0),
    ),
    ("87% kept", "28.0 passages/s", "61,200 tokens/s", "1,024 in flight", "server not answering", "31,250 unusable"),
)


def screen(width=80, **options):
    return Console(file=io.StringIO(), width=width, force_terminal=True, color_system="truecolor", **options)


def test_bars_fit_80_columns_with_every_figure_whole():
    console = Console(file=io.StringIO(), width=80)
    console.print(bars(FULL))
    text = console.file.getvalue()
    assert all(cell_len(each) <= 80 for each in text.splitlines())
    for figure in ("31%", "1,250,000/4,000,000 items", "27.8/s", "near_duplicate", *FULL.figures):
        assert figure in " ".join(text.split())


def test_a_terminal_shows_bars_and_clears_them_at_the_end():
    console = screen()
    with Display(lambda: FULL, console=console):
        pass
    drawn = console.file.getvalue()
    assert "generate" in drawn
    assert "\x1b[1A\x1b[2K" in drawn
    assert all(cell_len(each) <= 80 for each in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn).splitlines())
    assert "server not" in drawn
    assert "31,250 unusable" in drawn


@pytest.mark.parametrize("options", [{"force_terminal": False}, {"force_terminal": True, "_environ": {"TERM": "dumb"}}])
def test_elsewhere_lines_come_when_the_work_gets_further_and_never_twice(options, monkeypatch, capsys):
    monkeypatch.setattr(displays, "_PLAIN_SECONDS", 0.001)
    looks, seen = iter([0, 0, 0, 5, 5, 5, 9, 9, 9]), threading.Event()

    def look():
        done = next(looks, None)
        if done is None:
            seen.set()
        return Snapshot((Phase("generate", "items", 9 if done is None else done, 10, seconds=2.0),))

    with Display(look, console=Console(file=io.StringIO(), **options)):
        assert seen.wait(30)
    lines = capsys.readouterr().err.splitlines()
    assert [each.partition(",")[0] for each in lines] == [
        "generate 0/10 items 0%",
        "generate 5/10 items 50%",
        "generate 9/10 items 90%",
    ]


def test_a_line_names_the_phases_at_work_and_their_rest():
    finished = Phase("generate", "items", 10, 10, seconds=5.0)
    assert line(Snapshot((finished, Phase("score", "pairs", 5, 10, 0, 5.0)))) == "score 5/10 pairs 50%, 0:00:05 left"
    assert line(Snapshot((finished,))) == ""
    waiting = Phase("score", "pairs", 1, 10, 0, 5.0)
    both = line(Snapshot((Phase("generate", "items", 5, 10, seconds=5.0), waiting)))
    assert both == "generate 5/10 items 50%, 0:00:05 left; score 1/10 pairs 10%", "scoring waits for shards"


def test_a_model_without_a_server_shows_no_server():
    counters = Counters(items_total=4, started=time.monotonic() - 1)
    assert "server" not in line(counters.snapshot())


def test_a_summary_fits_80_columns():
    row = {"id": "0-0", "query": "q " * 200, "passage": "漢字の文章" * 200, "passage_language": "ja", "cosine": 0.5}
    summary = Summary(
        rows_in=5,
        rows_rejected={"too_short": 1, "duplicate": 1},
        passages=3,
        items=6,
        pairs=5,
        unusable={"not_json": 1},
        kept=4,
        dropped={"cosine above 0.5": 1},
        mixes={"question_type": {f"a_long_question_type_{n}": 1 for n in range(9)}},
        lengths={"inside": 1.0},
        cosine=[0, 0, 1, 0, 0, 0, 4, 0, 0, 0],
        languages=[{"language": code, "pairs": 2, "kept": 2, "cosine": 0.6} for code in ("en", "de")],
        kept_share=0.8,
        shuffled_share=0.01,
        median_copied=0.2,
        repaired=1,
        truncated_passages=1,
        tokens=(1000, 200),
        personas={"A beekeeper in Slovenia asking whether hive losses from bears are covered by the law": 2},
        kept_rows=[row],
        scores=["cosine"],
    )
    console = Console(file=io.StringIO(), width=80, highlight=False)
    for part in summary_view(summary, embedder="all-MiniLM-L6-v2", seconds=10.0, made=6):
        console.print(part)
    lines = console.file.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert any("kept" in each and "4 (80% of the pairs)" in each for each in lines)
    assert any("chance level" in each for each in lines)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_80_columns(command, capsys):
    assert cli.main([*command.split(), "--help"]) == 0
    assert [each for each in capsys.readouterr().out.splitlines() if len(each) > 80] == []


@pytest.mark.parametrize("words", ["list", "list scores", "list llm vllm_server", "list corpus", "list keep"])
def test_lists_fit_80_columns_and_hold_no_control_codes_in_a_pipe(words, monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert cli.main(words.split()) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert [each for each in text.splitlines() if cell_len(each) > 80] == []


@pytest.mark.parametrize(
    ("variable", "value"), [pytest.param("TERM", "dumb", marks=pytest.mark.slow), ("NO_COLOR", "1")]
)
def test_a_plain_terminal_gets_no_colors(variable, value):
    main, side = os.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", variable: value}
    done = subprocess.run(
        [*SYNTH, "list", "tasks"], stdout=side, stderr=side, stdin=side, env=environment, check=True, timeout=60
    )
    os.close(side)
    text = os.read(main, 65536).decode()
    os.close(main)
    assert done.returncode == 0
    assert "retrieval" in text
    assert "\x1b[3" not in text
    if variable == "TERM":
        assert "\x1b" not in text


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("synth sw", {"sweep"}), ("synth s", {"sweep", "show", "status"}), ("synth run --sam", {"--sample"})],
)
def test_the_shell_completes_commands_and_options(typed, offered, monkeypatch, capsys):
    monkeypatch.setenv("_SYNTH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr()
    assert offered == set(said.out.split())
    assert said.err == ""
