"""The Python API: rows in memory in, a Run with data frames out, with and without a running event loop."""

import asyncio
import gc
import subprocess
import sys

import datasets
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from loopback import Loopback, say

import synth

TEXTS = [
    "The ferry to the island leaves the harbour at seven every morning and returns at noon, except on Sundays.",
    "Vernalisation is the induction of flowering in plants by exposure to the prolonged cold of winter.",
    "Zinc supplements shorten episodes of diarrhoea in children because zinc restores the lining of the gut.",
]
NAMES = """
    Ask ChatModel ChatReply ChatRequest Draw EmbedStage Encoded Encoder Export InputError Item Job JobError
    Layout LlmStage OutputError PairBatch RequestRejected RerankStage Reranker Run ScoreColumn Scorer
    ServerRefused ServerUnavailable Services Stopped SynthError SystemFault Task TextInputs TooManyUnusable
    aevaluate aexport afilter agenerate amine aplan aprove arelabel arun arun_tasks evaluate export filter generate
    merge mine open_run plan prove read_fields read_text relabel run run_tasks train
"""


def generate(rows=TEXTS, **options):
    fast = {"embed": None, "personas": None, "scores": ["length"], "keep": {"length": {"min": 1}}}
    options = {"llm": "extractive", "progress": False} | fast | options
    return synth.generate(rows, **options)


def test_the_public_names_are_these():
    assert sorted(synth.__all__) == sorted(NAMES.split())
    assert all(getattr(synth, name) is not None for name in synth.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = synth.nothing


def test_importing_synth_loads_nothing_heavy():
    code = "import sys, synth; print({'polars', 'pyarrow', 'numpy', 'pydantic', 'aiohttp', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    "rows",
    [
        TEXTS,
        [{"id": str(n), "text": text} for n, text in enumerate(TEXTS)],
        pl.DataFrame({"text": TEXTS}),
        pd.DataFrame({"text": TEXTS}),
        pa.table({"text": TEXTS}),
        datasets.Dataset.from_dict({"text": TEXTS}),
    ],
    ids=["strings", "dicts", "polars", "pandas", "arrow", "datasets"],
)
def test_passages_in_memory_of_every_kind(rows):
    run = generate(rows)
    assert run.passages()["text"].to_list() == TEXTS
    assert run.generated().height == 3
    assert set(run.kept()["passage"]) <= set(TEXTS)


def test_a_run_answers_from_its_files(tmp_path):
    run = generate(out=tmp_path / "out")
    assert run.kept().height == run.summary.kept == 3
    longest = run.kept()["length"].max()
    assert run.sweep("length", at=(0, longest)).overall[0].kept == 3
    assert run.keep("none", length={"above": longest}).kept == 0
    assert run.kept("none").height == 0
    run.keep(length={"below": longest})
    few = run.kept().height
    assert few < 3
    assert run.rejected("kept").height == 3 - few
    assert run.to_dataset().num_rows == few
    assert synth.open_run(tmp_path / "out").kept().equals(run.kept())
    assert run.scan_kept().select("query").collect().height == few


def test_a_step_that_rejected_nothing_has_its_columns_all_the_same():
    run = generate(TEXTS[:1])
    for step in ("passages", "generated", "kept"):
        assert run.rejected(step).select("passage_id" if step != "passages" else "source", "reason").height == 0


def test_the_same_call_resumes(tmp_path):
    first = generate(out=tmp_path / "out")
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "generated").iterdir()}
    again = generate(out=tmp_path / "out")
    assert again.kept().equals(first.kept())
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "generated").iterdir()} == made
    with pytest.raises(synth.OutputError, match="seed"):
        generate(out=tmp_path / "out", seed=5)


def test_a_notebook_shows_counts_and_rows():
    text = generate(["Tables <b>with</b> markup stand in the second chapter of the manual for printers."])._repr_html_()
    assert "1 passages, 1 items, 1 pairs" in text
    assert "<b>with</b>" not in text


def test_rows_are_printed(capsys):
    generate().show(1)
    assert "passage" in capsys.readouterr().out


def test_it_works_inside_a_running_event_loop():
    async def main():
        return generate().generated().height

    assert asyncio.run(main()) == 3


def test_twins_are_coroutines():
    async def main():
        run = await synth.agenerate(
            TEXTS, llm="extractive", embed=None, personas=None, scores=["length"], progress=False
        )
        return run.generated().height

    assert asyncio.run(main()) == 3


def test_cancelling_stops_the_run_and_the_next_call_resumes(tmp_path):
    with Loopback(lambda _body: say('{"Query": "When does the ferry leave?"}')) as server:
        options = {
            "llm": {"use": "vllm_server", "model": "m", "base_urls": [server.url]},
            "embed": None,
            "personas": None,
            "scores": ["length"],
            "out": tmp_path / "out",
            "progress": False,
        }

        async def main():
            task = asyncio.create_task(synth.agenerate(TEXTS, **options))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())
    assert generate(out=tmp_path / "other").generated().height == 3


@pytest.mark.parametrize("embed", ["served", pytest.param(None, marks=pytest.mark.slow)], ids=["served", "default"])
def test_existing_pairs_are_filtered(embed, server):
    options = {"embed": {"use": "vllm_server", "model": "tiny", "base_urls": [server.url]}} if embed else {}
    pairs = [
        {"question": "when does the ferry leave", "answer": TEXTS[0], "good": 1},
        {"question": "what is zinc", "answer": TEXTS[1], "good": 0},
    ]
    run = synth.filter(
        pairs,
        query="question",
        passage="answer",
        label="good",
        keep={"cosine": {"above": 0.4}},
        progress=False,
        **options,
    )
    assert run.kept()["query"].to_list() == ["when does the ferry leave"]
    assert run.sweep("cosine", label="label", at=(0.4,)).overall[0].precision == 1.0


def test_pairs_go_to_a_trainer(tmp_path):
    run = generate(TEXTS * 4, corpus={"duplicates": "keep"}, task={"queries_per_passage": 2})
    folder = synth.export(run, to="jsonl", out=tmp_path / "files")
    rows = datasets.load_dataset(str(folder), split="train")
    assert rows.num_rows == run.kept().height


def test_a_job_file_runs_with_overrides(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs.txt").write_text(TEXTS[0])
    (tmp_path / "job.yaml").write_text(
        "corpus: {path: docs.txt}\nllm: {use: extractive}\ntask: {use: retrieval}\npersonas: null\n"
        "scores: [{use: length}]\n"
    )
    run = synth.run("job.yaml", out="out", task__queries_per_passage=2, progress=False)
    assert run.generated().height == 2
    assert synth.run("out", progress=False).generated().equals(run.generated())


def test_a_temporary_folder_goes_with_its_run():
    run = generate()
    path = run.path
    assert path.is_dir()
    del run
    gc.collect()
    assert not path.exists()


@pytest.mark.parametrize("rows", [[], 7, [1, 2], ["a", {"text": "b"}]])
def test_other_rows_are_refused(rows):
    with pytest.raises(synth.JobError, match="list of str or of dict"):
        generate(rows)


def test_every_mistake_of_a_call_is_listed():
    with pytest.raises(synth.JobError) as caught:
        generate(task={"queries": 2}, keep={"cosin": {"above": 1}})
    assert "queries" in str(caught.value)
    assert "cosin" in str(caught.value)
