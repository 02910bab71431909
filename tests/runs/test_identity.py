"""What a run is: settings that bear meaning are refused when changed and named, all others change freely."""

import json
import shutil

import pytest

from synth.document import Document
from synth.errors import JobError, OutputError
from synth.job import build_job
from synth.runs import identity
from synth.runs.run import OpenRun, job_of
from synth.shipped import shipped
from synth.sources import InputFile
from synth.steps.score import steps

BASE = {
    "seed": 7,
    "corpus": [{"path": "docs.jsonl", "language": "en"}],
    "personas": {"path": "people.txt"},
    "llm": {"use": "vllm_server", "model": "m", "base_urls": ["http://a:8000"]},
    "embed": {"use": "vllm_server", "model": "e", "base_urls": ["http://a:8100"]},
    "task": {"use": "retrieval"},
    "scores": [{"use": "cosine"}, {"use": "length"}],
    "run": {"shard_size": 20},
}


def put(job, path, value):
    job = json.loads(json.dumps(job))
    *parents, last = path.split(".")
    here = job
    for key in parents:
        here = here[int(key)] if isinstance(here, list) else here.setdefault(key, {})
    here[last] = value
    return job


@pytest.fixture
def place(tmp_path):
    return fill(tmp_path)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A place with a run that was begun, for what leaves it as it is."""
    place = fill(tmp_path_factory.mktemp("begun"))
    start(place, BASE)
    return place


def fill(place):
    lines = [json.dumps({"id": str(n), "text": f"The harbour report number {n} is about boats."}) for n in range(5)]
    (place / "docs.jsonl").write_text("\n".join(lines))
    (place / "people.txt").write_text("".join(f"a person with {n} boats\n" for n in range(9)))
    return place


def load(place, job):
    return build_job(Document("job.yaml", job, {}, ()), (), place)


def start(place, job, sample=None, notify=lambda _: None):
    return OpenRun.open(load(place, job), place / "out", sample=sample, notify=notify)


def refusal(place, job, **more):
    with pytest.raises(OutputError) as caught:
        start(place, job, **more)
    assert caught.value.exit_code == 4
    assert "was started with other settings" in str(caught.value)
    return str(caught.value)


def test_the_hash_of_a_fixed_job_never_changes(tmp_path):
    """A change here refuses the resume of every run that is under way: raise identity.VERSION and say so."""
    job = load(tmp_path, BASE)
    inputs = [InputFile(0, "docs", str(tmp_path / "docs.jsonl"), "docs.jsonl", "jsonl", 1, 2, "ab" * 32, 3)]
    described = identity.describe(job, inputs, {"config.j2": b"x", "query.j2": b"y"}, "cd" * 32, None)
    assert identity.sha256(described) == GOLDEN


GOLDEN = "597a766e0c0553806cffb199e50dc46bcad3d60b2e0233d38c5dec78a392f380"


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("seed", 8, "seed: 7 -> 8"),
        ("run.shard_size", 21, "shard_size: 20 -> 21"),
        ("corpus.0.language", "de", 'corpus.0.language: "en" -> "de"'),
        ("corpus.0.max_chars", 900, "corpus.0.max_chars: 8000 -> 900"),
        ("corpus.0.min_chars", 1, "corpus.0.min_chars: 20 -> 1"),
        ("corpus.0.on_long", "reject", "corpus.0.on_long"),
        ("corpus.0.duplicates", "keep", "corpus.0.duplicates"),
        ("corpus.0.control_tokens", "keep", "corpus.0.control_tokens"),
        ("corpus.0.name", "boats", "corpus.0.name"),
        ("corpus.0.carry", ["id"], "corpus.0.carry"),
        ("personas.top_k", 3, "personas.top_k: 5 -> 3"),
        ("personas.pool", 9, "personas.pool: 5 -> 9"),
        ("personas", None, "personas"),
        ("llm.model", "other", 'llm.model: "m" -> "other"'),
        ("llm.revision", "abc", "llm.revision"),
        ("llm.temperature", 0.9, "llm.temperature: 0.7 -> 0.9"),
        ("llm.top_p", 0.9, "llm.top_p"),
        ("llm.top_k", 9, "llm.top_k"),
        ("llm.min_p", 0.1, "llm.min_p"),
        ("llm.max_tokens", 99, "llm.max_tokens: 512 -> 99"),
        ("llm.thinking", True, "llm.thinking"),
        ("llm.repair", False, "llm.repair"),
        ("llm.extra_body", {"x": 1}, "llm.extra_body"),
        ("llm", {"use": "extractive"}, "llm.use"),
        ("embed.model", "other", "embed.model"),
        ("embed.dimensions", 64, "embed.dimensions"),
        ("task.queries_per_passage", 2, "task.queries_per_passage: 1 -> 2"),
        ("task.question_types", {"summary": 1}, "task.question_types"),
        ("task.difficulties", None, 'task.difficulties: "auto" -> null'),
        ("task.languages", {"same": 1, "de": 1}, "task.languages.other.de"),
        ("task.lengths", [2, 6], "task.lengths.default"),
        ("task.guidance", "Sailors ask.", "task.guidance"),
        ("task.attempts", 4, "task.attempts: 3 -> 4"),
        ("task.retry_on", ["length"], "task.retry_on"),
    ],
)
def test_what_decides_the_output_is_refused_and_named(begun, path, value, named):
    before = (begun / "out" / "job.json").read_bytes()
    assert named in refusal(begun, put(BASE, path, value))
    assert (begun / "out" / "job.json").read_bytes() == before
    assert not (begun / "out" / "job.2.json").exists()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("llm.base_urls", ["http://b:8000-8003"]),
        ("llm.api_key_env", "HOME"),
        ("llm.trust_env", True),
        ("embed.base_urls", ["http://b:8100"]),
        ("embed.batch_size", 8),
        ("run.workers", 2),
        ("run.concurrency", 9),
        ("run.request_timeout", "5m"),
        ("run.keep_replies", "all"),
        ("limits.outage", "1h"),
        ("limits.max_unusable_share", 0.9),
        ("limits.stall", 5),
        ("limits.startup", 5),
        ("scores", [{"use": "cosine"}]),
        ("keep", {"cosine": {"above": 0.1}}),
        ("task.instruction", "Find boats"),
        ("out", "somewhere"),
    ],
)
def test_where_and_how_a_job_runs_changes_freely(begun, path, value):
    assert start(begun, put(BASE, path, value)).identity == start(begun, BASE).identity


def test_the_sample_and_the_data_are_part_of_it(place):
    start(place, BASE)
    assert "sample: null -> 3" in refusal(place, BASE, sample=3)
    (place / "docs.jsonl").write_text((place / "docs.jsonl").read_text().replace("boats", "ships"))
    message = refusal(place, BASE)
    assert "inputs.0.sha256" in message
    (place / "docs.jsonl").write_text((place / "docs.jsonl").read_text().replace("ships", "boats"))
    (place / "people.txt").write_text("a person with no boat\n")
    assert "personas.sha256" in refusal(place, BASE)


def test_data_that_moved_are_the_same_data(place):
    first = start(place, BASE)
    (place / "elsewhere").mkdir()
    shutil.move(place / "docs.jsonl", place / "elsewhere" / "docs.jsonl")
    assert start(place, put(BASE, "corpus.0.path", "elsewhere/docs.jsonl")).identity == first.identity


def own_templates(place):
    folder = place / "mine"
    shutil.copytree(shipped("prompts", "retrieval"), folder)
    return folder


def test_own_templates_are_part_of_it_by_content(place):
    folder = own_templates(place)
    job = put(BASE, "task.prompts", "mine")
    start(place, job)
    (folder / "query.j2").write_text((folder / "query.j2").read_text() + "\nBe kind.\n")
    assert "templates.query.j2" in refusal(place, job)


def test_templates_of_a_newer_package_do_not_reach_a_run_under_way(place, monkeypatch):
    first = start(place, BASE)
    newer = own_templates(place)
    (newer / "query.j2").write_text((newer / "query.j2").read_text() + "\nBe kind.\n")
    monkeypatch.setattr(
        "synth.tasks._task.find", lambda kind, _name, _base: newer if kind == "prompts" else place / "people.txt"
    )
    told = []
    again = start(place, BASE, notify=told.append)
    assert again.identity == first.identity
    assert again.template == first.template
    assert again.prompts.files == first.prompts.files
    (line,) = told
    assert "kept" in line


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda raw: raw[: len(raw) // 2],
        lambda _: b"[]",
        lambda _: b"{}",
        lambda raw: raw.replace(b'"seed": 7', b'"seed": 8', 1),
        lambda raw: raw.replace(b'"job": {', b'"jobs": {'),
        lambda raw: b"\xff\xfe" + raw,
    ],
)
def test_a_damaged_record_is_never_taken_for_a_new_run(place, damage):
    start(place, BASE)
    path = place / "out" / "job.json"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(OutputError) as caught:
        start(place, BASE)
    assert str(path) in str(caught.value)
    assert "is damaged" in str(caught.value)


def test_a_record_of_a_newer_format_asks_for_an_upgrade(place):
    start(place, BASE)
    path = place / "out" / "job.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 99', 1))
    with pytest.raises(OutputError, match="Upgrade synth"):
        start(place, BASE)


def test_a_folder_of_something_else_is_refused(place):
    (place / "out").mkdir()
    (place / "out" / "thesis.tex").write_text("precious")
    with pytest.raises(OutputError, match="is not an output folder of synth"):
        start(place, BASE)
    assert [each.name for each in (place / "out").iterdir()] == ["thesis.tex"]


def test_a_folder_is_enough_to_know_its_job(place):
    first = start(place, put(BASE, "limits.outage", "1h"), sample=3)
    job, history = job_of(place / "out", ("llm.base_urls.0=http://c:1",))
    assert history.last.sample == 3
    assert job.llm.base_urls == ["http://c:1"]
    assert OpenRun.open(job, place / "out", sample=3, notify=print).identity == first.identity


def test_fewer_personas_than_asked_for_are_told(place):
    told = []
    start(place, put(BASE, "personas.top_k", 12), notify=told.append)
    assert "9 personas, fewer than top_k = 12" in told[0]


def test_a_missing_file_of_the_job_is_the_jobs_mistake(place):
    for path in ("personas.path", "task.prompts", "task.examples"):
        with pytest.raises(JobError, match=r"nothing\.here"):
            start(place, put(BASE, path, "nothing.here"))


def test_scorers_are_told_apart_by_what_decides_their_columns(place):
    def names(job):
        loaded = load(place, job)
        return [step.name for step in steps(loaded, loaded.task.instruction)]

    before = names(BASE)
    assert names(put(BASE, "embed.base_urls", ["http://z:1"])) == before
    other_model, other_text = names(put(BASE, "embed.model", "f")), names(put(BASE, "task.instruction", "Find boats"))
    for changed in (other_model, other_text):
        assert changed[0] != before[0]
        assert changed[1] == before[1]
