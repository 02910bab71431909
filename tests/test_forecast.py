"""`synth plan`: what a job will cost and keep, held against whole runs over a server that counts."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from faults.extractive_server import Server, write_templates
from loopback import Loopback
from running import job_dict, rows, run, write_corpus, write_job

import synth
from synth.check.costs import PrefixCache
from synth.cli import main
from synth.errors import JobError
from synth.forecast import interval

SHIPPED = Path(__file__).parents[1] / "configs" / "quickstart" / "english.jsonl"


class Counting(Loopback):
    """Writes queries from words of the passage, and counts its tokens: characters."""

    def __init__(self):
        super().__init__()
        self.chat, self.tokens = self.answer, np.zeros(2, np.int64)
        self._model = Server("en")

    def answer(self, body):
        answer = self._model.answer(body)
        self.tokens += [answer["usage"][name] for name in ("prompt_tokens", "completion_tokens")]
        return answer


@pytest.fixture
def server():
    with Counting() as started:
        yield started


def job_of(tmp_path, server, **more):
    write_templates(tmp_path / "templates")
    task = {
        "use": "retrieval",
        "queries_per_passage": 2,
        "prompts": str(tmp_path / "templates"),
        "question_types": {"summary": 1, "keywords": 1},
    }
    scores = [{"use": "cosine"}, {"use": "round_trip"}]
    return job_dict(server.url, tmp_path, task=task, scores=scores, run={"shard_size": 50, "concurrency": 8}, **more)


def forecast(capsys, *arguments):
    """What `synth plan … --json` prints."""
    assert main(["plan", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("corpus", "keep"),
    [
        ("shipped", {"cosine": {"above": 0.5}, "round_trip_rank": {"below": 2}}),
        pytest.param("made", {"cosine": {"above": 0.4}, "round_trip_rank": {"below": 4}}, marks=pytest.mark.slow),
        pytest.param("made", {"round_trip_rank": {"below": 2}}, marks=pytest.mark.slow),
    ],
)
def test_a_pilot_foretells_what_a_whole_run_keeps_and_pays(tmp_path, server, capsys, corpus, keep):
    write_corpus(tmp_path / "docs.jsonl", 100)
    if corpus == "shipped":
        (tmp_path / "docs.jsonl").write_bytes(SHIPPED.read_bytes())
    job = write_job(tmp_path, job_of(tmp_path, server, keep=keep))
    found = forecast(capsys, job, "-o", tmp_path / "out", "--pilot", 24)
    before, server.tokens[:] = asked(server), 0
    again = forecast(capsys, job, "-o", tmp_path / "out", "--pilot", 24)
    assert (again["pilot"], again["kept"], asked(server)) == (found["pilot"], found["kept"], before)  # nothing twice
    run(job, tmp_path / "out")
    expected, low, high = found["kept"]
    assert low < expected < high
    assert low <= len(rows(tmp_path / "out", "kept")) <= high
    costs = found["costs"]
    assert costs["prompt_tokens"] + costs["completion_tokens"] == pytest.approx(server.tokens.sum(), rel=0.03)
    assert costs["calls"] == pytest.approx(asked(server) - before, rel=0.03)


def asked(server):
    return sum(seen.path.endswith("completions") for seen in server.posts)


def test_ranks_of_a_pilot_are_among_the_whole_corpus(tmp_path, server, capsys):
    """Each passage stands ten times in the corpus with one word changed: in a pilot of 12 every query finds its own."""
    write_corpus(tmp_path / "docs.jsonl", 12)
    lines = (tmp_path / "docs.jsonl").read_text().splitlines()
    near = [{**json.loads(each), "id": f"{n}-{m}"} for n, each in enumerate(lines) for m in range(10)]
    for m, row in enumerate(near):
        row["text"] += f" Copy {m}."
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in near))
    job = write_job(tmp_path, job_of(tmp_path, server, keep={"round_trip_rank": {"below": 2}}))
    pilot = forecast(capsys, job, "-o", tmp_path / "out", "--pilot", 12)["pilot"]
    assert len(rows(tmp_path / "out.sample-12", "kept")) > 1.5 * pilot["kept"]
    assert pilot["ranked_among"] == 120
    run(job, tmp_path / "out")
    assert pilot["low"] <= len(rows(tmp_path / "out", "kept")) / 120 <= pilot["high"]


def test_without_a_pilot_nothing_is_asked_or_written(tmp_path, server, capsys):
    write_corpus(tmp_path / "docs.jsonl", 150)
    job = write_job(tmp_path, job_of(tmp_path, server, budget={"tokens": 10**9, "price": [2, 1, 8]}))
    before = sorted(tmp_path.rglob("*"))
    found = forecast(capsys, job, "-o", tmp_path / "out", "--gpu", "h200", "--gpus", "2")
    assert server.log == []
    assert sorted(tmp_path.rglob("*")) == before
    costs = found["costs"]
    assert (costs["passages"], costs["items"], costs["calls"], costs["counted"]) == (150, 300, 600, "bytes")
    assert costs["embeddings"] == 150 + 300 + 150 + 300  # personas and cosine; its queries; round_trip: both again
    sent, computed, out = (costs[f"{name}_tokens"] for name in ("prompt", "computed", "completion"))
    assert 0 < computed < sent
    assert found["cost"] == pytest.approx((2 * computed + sent - computed + 8 * out) / 1e6)
    least = (computed / 9350 + out / 5310) / 2 / 3600 / 1.08
    assert found["hours"] == pytest.approx([least, least * 1.08 / 0.92], rel=0.01)
    assert "measured" in found["rates"]
    assert main(["plan", str(job), "--gpu", "h200", "--precision", "fp8"]) == 2
    assert "There are: --gpu h200 --precision bf16, --gpu h100 --precision bf16" in capsys.readouterr().err
    checked = main(["check", str(job), "--offline", "--json"])
    assert (checked, json.loads(capsys.readouterr().out)["expected"]["prompt_tokens"]) == (0, sent)


def test_tokens_are_counted_with_the_models_own_tokenizer_where_it_is_here(tmp_path, server):
    tokenizers = pytest.importorskip("tokenizers")
    pytest.importorskip("transformers")
    model = tmp_path / "tiny"
    model.mkdir()
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0}, "?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(model / "tokenizer.json"))
    template = "{% for message in messages %}{{ message.content }} end {% endfor %}"
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template}
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    write_corpus(tmp_path / "docs.jsonl", 10)
    job = job_of(tmp_path, server)
    served = {"use": "vllm_server", "model": str(model), "base_urls": [server.url]}
    found = synth.plan(write_job(tmp_path, job | {"llm": served}), progress=False)
    estimate = synth.plan(write_job(tmp_path, job), progress=False)
    assert (found.costs.counted, estimate.costs.counted) == ("tokenizer", "bytes")
    assert found.costs.prompt_tokens != estimate.costs.prompt_tokens


def test_jobs_over_existing_pairs_and_folders_have_no_plan(tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"query": "a", "passage": "b"}\n')
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump({"data": {"path": str(tmp_path / "pairs.jsonl")}, "scores": [], "keep": {}}))
    with pytest.raises(JobError, match="existing pairs"):
        synth.plan(job)


def test_a_prefix_is_computed_once():
    cache = PrefixCache()
    prompts = ["system one: passage A, first", "system one: passage A, second", "system one: passage B", "other"]
    assert [cache.computed(prompt) for prompt in prompts] == [28, 6, 1, 5]
    assert cache.computed(prompts[0]) == 0


def test_an_interval_covers_at_its_rate_though_queries_of_a_passage_succeed_together():
    rng = np.random.default_rng(5)
    hits, trials, asked = 0, 2000, np.full(40, 4.0)
    for _ in range(trials):
        likely = rng.beta(1.5, 1.0, 40)  # each passage has its own chance, 0.6 on average
        low, high = interval(rng.binomial(4, likely).astype(float), asked)
        hits += low <= 0.6 <= high
    assert 0.93 < hits / trials < 0.98
    for share in (0.02, 0.3, 1.0):  # one query a passage
        hits = sum(
            low <= share <= high
            for low, high in (interval(rng.binomial(1, share, 40).astype(float), np.ones(40)) for _ in range(500))
        )
        assert hits / 500 > 0.92
    assert interval(np.zeros(40), np.ones(40))[0] == 0
    assert interval(np.full(40, 2.0), np.full(40, 2.0))[1] == 1
