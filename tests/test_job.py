"""A job file is right, or every mistake in it is named at once with its line and its cure."""

import json

import pyarrow as pa
import pytest

from synth.errors import JobError
from synth.job import job_from_json
from synth.job import load_job as load
from synth.scores import ScoreColumn, Scorer

GOOD = """\
seed: 7
corpus:
  path: docs.jsonl
llm: {use: extractive}
embed: {use: sentence_transformers}
task:
  use: retrieval
  attempts: 3
scores: [{use: cosine}, {use: length}]
keep:
  cosine: {above: 0.7}
run:
  shard_size: 20
"""


class Shouting(Scorer):
    """Whether the query is in capitals."""

    outputs = (ScoreColumn("shouting", pa.bool_()),)

    async def score(self, batch, services):  # noqa: ARG002 - the seam's
        return self.table([query.isupper() for query in batch.texts("query")])


def refused(job, text, *settings):
    with pytest.raises(JobError) as caught:
        job(text, *settings)
    assert caught.value.exit_code == 2
    return str(caught.value)


def changed(old, new):
    assert old in GOOD
    return GOOD.replace(old, new)


def test_what_a_job_leaves_out_has_its_default(job):
    got = job("corpus: {path: a}\nllm: {use: extractive}\nembed: {use: sentence_transformers}\n")
    assert (got.file.seed, got.run.shard_size, got.run.workers, got.run.concurrency) == (0, 1000, 1, "auto")
    assert (got.limits.outage, got.limits.max_line_bytes, got.limits.max_unusable_share) == (1800.0, 64_000_000, 0.5)
    assert [type(scorer).__name__ for scorer in got.scores] == [
        "Cosine", "RoundTrip", "LanguageCheck", "Length", "Copying",
    ]  # fmt: skip
    assert [(c.column, c.value) for c in got.rules.conditions if c.column == "cosine"] == [("cosine", 0.7)]
    assert (got.file.personas.top_k, got.file.personas.pool) == (5, 5)
    assert got.task.queries_per_passage == 1
    assert got.llm.repair is True


def test_options_of_a_task_without_use_are_those_of_the_usual_one(job):
    text = "corpus: {path: a}\nllm: {use: extractive}\nembed: {use: sentence_transformers}\n"
    got = job(text, "task.queries_per_passage=2")
    assert got.task.queries_per_passage == 2
    assert got.as_json() == job(text + "task: {use: retrieval, queries_per_passage: 2}\n").as_json()


@pytest.mark.parametrize(
    ("text", "where", "cure"),
    [
        (changed("seed: 7", "sede: 7"), "job.yaml:1: sede: unknown key", "'seed'"),
        (changed("  attempts: 3", "  atempts: 3"), "job.yaml:8: task.atempts: unknown key", "'attempts'"),
        (changed("shard_size", "shardsize"), "job.yaml:13: run.shardsize: unknown key", "'shard_size'"),
        (changed("  path: docs", "  pth: x\n  path: docs"), "job.yaml:3: corpus.pth: unknown key", "'path'"),
        (changed("seed: 7", 'seed: "3"'), 'job.yaml:1: seed: expects a whole number, not "3"', "3 without quotes"),
        (changed("seed: 7", "seed: true"), "job.yaml:1: seed: expects a whole number, not true", ""),
        (changed("seed: 7", "seed: 1.5"), "job.yaml:1: seed: expects a whole number, not 1.5", ""),
        (changed("0.7", ".nan"), "job.yaml:11: keep.cosine", ""),
        (changed("shard_size: 20", "shard_size: 0"), "job.yaml:13: run.shard_size: 0 is out of range", ">= 1"),
        (changed("shard_size: 20", "shard_size: -5"), "run.shard_size: -5 is out of range", ">= 1"),
        (changed("shard_size: 20", "concurrency: 0"), "job.yaml:13: run.concurrency: 0", ">= 1"),
        (changed("shard_size: 20", "request_timeout: 0"), "run.request_timeout: 0 is out of range", "> 0"),
        (changed("shard_size: 20", "request_timeout: -1m"), "run.request_timeout", "15m"),
        (changed("shard_size: 20", "request_timeout: .inf"), "run.request_timeout", "finite"),
        (GOOD + "limits: {outage: 5 parsecs}\n", "job.yaml:14: limits.outage: '5 parsecs' is not a duration", "30s"),
        (
            GOOD + "limits: {max_line_bytes: 64 furlongs}\n",
            "limits.max_line_bytes: '64 furlongs' is not a size",
            "64MB",
        ),
        (GOOD + "limits: {max_unusable_share: 1.5}\n", "limits.max_unusable_share: 1.5 is out of range", "<= 1"),
        (changed("  path:", "  name: true\n  path:"), "job.yaml:3: corpus.name: expects text, not true", "quotes"),
        (GOOD + "limits: {strict: no}\n", "job.yaml:14: limits.strict: expects true or false", "Write false."),
        (GOOD + "limits: {outage: 12:30}\n", "job.yaml:14: limits.outage: '12:30' is not a duration", "15m"),
        (changed("  path:", "  id: 3.10\n  path:"), "job.yaml:3: corpus.id: expects text, not 3.1", "quotes"),
        (
            GOOD + "limits: {max_unusable_share: '1e-2'}\n",
            "limits.max_unusable_share: expects a number",
            "Write 0.01 without quotes",
        ),
        (GOOD + "seed: 8\n", "job.yaml:1: seed: the key stands twice (lines 1 and 14)", "Remove one"),
        (changed("seed: 7", "seed: !!python/object:os.system {}"), "job.yaml:1: seed: the tag", "plain value"),
        ("", "the file is empty", "synth init"),
        ("- corpus\n", "not a list", "corpus"),
        (changed("attempts: 3", "languages: {same: 1, germna: 1}"), "task.languages", "German"),
        (changed("attempts: 3", "question_types: {keywords: 0}"), "question_types", "above 0"),
        (changed("attempts: 3", "question_types: {keywords: -1}"), "question_types.keywords", ">= 0"),
        (changed("attempts: 3", "question_types: {riddle: 1}"), "task: question type 'riddle'", "means"),
        (changed("attempts: 3", "difficulties: {phd: 0, university: 0}"), "task.difficulties", "above 0"),
        (changed("attempts: 3", "difficulties: {expert: 1}"), "task: difficulty 'expert'", "phd"),
        (changed("attempts: 3", "languages: {same: 0}"), "task.languages", "above 0"),
        (changed("attempts: 3", "languages: {same: 1, de: {same: 1}}"), "task.languages: mixes", "one of the two"),
        (changed("attempts: 3", "lengths: {default: [8, 3]}"), "task.lengths.default", "upside down"),
        (changed("attempts: 3", "lengths: {keyword: [2, 6]}"), "task: lengths names 'keyword'", "keywords"),
        (changed("0.7", "1.5"), "job.yaml:11: keep.cosine", "1"),
        (changed("cosine: {above: 0.7}", "cosin: {above: 0.7}"), "job.yaml:11: keep.cosin", "cosine"),
        (changed("use: extractive", "use: extractiv"), "job.yaml:4: llm.use: unknown name 'extractiv'", "extractive"),
        (
            changed("use: extractive", "use: openai, model: m, api_key: sk-zebra"),
            "job.yaml:4: llm.api_key",
            "api_key_env",
        ),
        (
            changed("use: extractive", "use: vllm_server, model: m, base_urls: [http://h], api_key_env: sk-zebra-1"),
            "llm.api_key_env",
            "not the key itself",
        ),
        (changed("{use: extractive}", "extractive"), "job.yaml:4: llm: expects a mapping", ""),
        (changed("{use: extractive}", "{}"), "job.yaml:4: llm.use: names no stage", "extractive"),
        (
            changed("use: extractive", 'use: "synth.scores.cosine:Cosine"'),
            "job.yaml:4: llm.use: 'synth.scores.cosine:Cosine' is not a subclass of LlmStage",
            "extractive",
        ),
        (
            changed("use: extractive", 'use: "synth.scores.cosine:Cosin"'),
            "job.yaml:4: llm.use: the module synth.scores.cosine has no 'Cosin'",
            "no subclass of LlmStage",
        ),
        (
            changed("use: extractive", 'use: "nowhere:Thing"'),
            "job.yaml:4: llm.use: 'nowhere:Thing' cannot",
            "folder of the job file",
        ),
        (changed("corpus:\n  path: docs.jsonl\n", ""), "corpus: is required and not given", "Add `corpus:`"),
        (GOOD + "out: ../elsewhere\n", "job.yaml:14: out: names a folder", "`..`"),
        (GOOD + "out: ~/elsewhere\n", "job.yaml:14: out: names a folder", "`~`"),
        (GOOD + "limits: {stall: null}\n", "job.yaml:14: limits.stall", "number"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_its_cure(job, text, where, cure):
    message = refused(job, text)
    assert where in message
    assert cure in message
    assert "zebra" not in message
    assert "mistakes" not in message, "one mistake is reported once"


@pytest.mark.parametrize(
    ("scores", "keep"),
    [
        (f'{{use: "{__name__}:Shoutin"}}', "shouting: {is: true}"),
        (f'{{use: "{__name__}:Shouting", loud: 3}}', "shouting: {is: true}"),
        ("{use: cosin}", "cosine: {above: 0.7}"),
        ("{use: cosine, as: [x]}", "mini: {above: 0.7}"),
        ("{use: near_duplicates}", "unique: {by: query_cluster, best: length}"),
    ],
)
def test_a_scorer_that_is_refused_is_the_only_mistake(job, scores, keep):
    text = changed("[{use: cosine}, {use: length}]", f"[{scores}, {{use: length}}]").replace(
        "cosine: {above: 0.7}", keep
    )
    message = refused(job, text)
    assert "job.yaml:9: scores.0" in message
    assert "mistakes" not in message


def test_a_task_that_is_refused_is_the_only_mistake(job):
    text = changed("use: retrieval", 'use: "no_module_here:Titles"').replace("cosine: {above: 0.7}", "words: {min: 3}")
    message = refused(job, text)
    assert "job.yaml:7: task.use: 'no_module_here:Titles' cannot be imported" in message
    assert "mistakes" not in message


def test_five_mistakes_are_reported_together(job):
    text = (
        changed("seed: 7", "sede: 7")
        .replace("use: extractive", "use: extractiv")
        .replace("shard_size: 20", "shard_size: 0")
        .replace("attempts: 3", "languages: {germna: 1}")
        .replace("above: 0.7", "abov: 0.7")
    )
    message = refused(job, text)
    assert "job.yaml: 5 mistakes" in message
    lines = message.splitlines()[1:]
    assert len(lines) == 5
    for key in ("sede", "keep.cosine.abov", "run.shard_size", "llm.use", "task.languages"):
        assert sum(f"{key}:" in line for line in lines) == 1


def test_what_needs_an_embedder_is_named_where_there_is_none(job):
    without = changed("embed: {use: sentence_transformers}\n", "")
    message = refused(job, without)
    assert "personas: need" in message
    assert "scores.0: needs an embedder. Add `embed:`" in message
    bare = without.replace("{use: cosine}, ", "").replace("keep:\n  cosine: {above: 0.7}\n", "personas: null\n")
    assert job(bare).embed is None


def test_a_corpus_is_one_mapping_or_a_list(job):
    one = job(GOOD)
    many = job(changed("corpus:\n  path: docs.jsonl", "corpus: [{path: docs.jsonl}, {path: more.csv, name: m}]"))
    assert [c.path for c in one.corpora] == ["docs.jsonl"]
    assert [(c.path, c.source) for c in many.corpora] == [("docs.jsonl", "docs"), ("more.csv", "m")]


@pytest.mark.parametrize(
    ("setting", "read", "value"),
    [
        ("seed=3", lambda j: j.file.seed, 3),
        ("corpus.path=other.csv", lambda j: j.corpora[0].path, "other.csv"),
        ("corpus.id=010", lambda j: j.corpora[0].id, "010"),
        ("corpus.id=yes", lambda j: j.corpora[0].id, "yes"),
        ("corpus.id=2024-01-01", lambda j: j.corpora[0].id, "2024-01-01"),
        ("corpus.id=null", lambda j: j.corpora[0].id, None),
        ("corpus.language=no", lambda j: j.corpora[0].language, "no"),
        ("limits.outage=90", lambda j: j.limits.outage, 90.0),
        ("limits.outage=1.5h", lambda j: j.limits.outage, 5400.0),
        ("limits.max_line_bytes=2MiB", lambda j: j.limits.max_line_bytes, 2 * 2**20),
        ("scores.1.use=copying", lambda j: type(j.scores[1]).__name__, "Copying"),
        ("task.languages={same: 1, de: 1}", lambda j: j.task.languages.root, {"other": {"same": 1.0, "de": 1.0}}),
        ("task.guidance=12", lambda j: j.task.guidance, "12"),
        ("task.guidance=a=b", lambda j: j.task.guidance, "a=b"),
        ("keep.cosine.above=0.5", lambda j: j.rules.conditions[0].value, 0.5),
        ("run.concurrency=9", lambda j: j.run.concurrency, 9),
    ],
)
def test_a_setting_replaces_one_value(job, setting, read, value):
    assert read(job(GOOD, setting)) == value


def test_a_setting_reaches_into_a_list_of_corpora(job):
    text = changed("corpus:\n  path: docs.jsonl", "corpus: [{path: a}, {path: b}]")
    assert [c.id for c in job(text, "corpus.1.id=007").corpora] == ["auto", "007"]


@pytest.mark.parametrize(
    ("setting", "wrong"),
    [
        ("seed", "expects key.path=value"),
        ("=3", "expects key.path=value"),
        ("seed=abc", 'seed: expects a whole number, not "abc"'),
        ("seed=[", "not a YAML value"),
        ("seed=2024-13-45", "expects a whole number"),
        ("seed=!!python/object:os.system {}", "not a YAML value"),
        ("seed.deep=3", "seed is a single value"),
        ("scores.9.use=length", "a list of 2"),
        ("scores.x.use=length", "a list of 2"),
        ("sede=3", "'seed'"),
        ("run.shard_size=0", "run.shard_size: 0 is out of range"),
    ],
)
def test_a_setting_that_cannot_be_is_named(job, setting, wrong):
    assert wrong in refused(job, GOOD, setting)


def test_a_stage_of_ones_own_is_named_by_module_and_class(job):
    got = job(changed("{use: length}", f'{{use: "{__name__}:Shouting"}}'))
    assert type(got.scores[1]).__name__ == "Shouting"
    assert "lord" in refused(job, changed("{use: length}", f'{{use: "{__name__}:Shouting", lord: 1}}'))
    assert "Whisper" in refused(job, changed("{use: length}", f'{{use: "{__name__}:Whisper"}}'))


def test_a_missing_job_file_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(JobError, match="no such file") as caught:
        load(tmp_path / "none.yaml")
    assert "synth init" in str(caught.value)


def test_a_job_survives_its_own_json(job):
    text = changed(
        "attempts: 3",
        "languages: {de: {same: 0.8, en: 0.2}, other: {same: 1}}\n"
        '  question_types: {keywords: 2, duty: {weight: 1, means: "who must do what"}}\n'
        "  lengths: {default: [3, 9], keywords: [{range: [2, 4], weight: 2}]}\n"
        "  difficulties: null",
    )
    first = job(text, "limits.outage=30m", "personas.top_k=3")
    again = job_from_json(json.loads(json.dumps(first.as_json())), "job.json", first.base)
    assert again.file == first.file
    assert again.task == first.task
    assert again.rules.canonical() == first.rules.canonical()


def test_stages_are_frozen_and_strict(job):
    got = job(GOOD)
    with pytest.raises(ValueError, match="frozen"):
        got.task.attempts = 4
    assert hash(got.run) == hash(job(GOOD).run)
