"""Bad job files, each through `synth run`: every row of the catalogue; all of them before anything is asked or written.

The numbers are those of docs/reliability.md.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from catalogue import good, lines
from loopback import Loopback

from synth.cli import main

JOB = """\
seed: 7
corpus: {path: CORPUS, language: en}
personas: null
llm: {use: extractive}
scores: [{use: length}]
keep: {}
task:
  use: retrieval
  attempts: 3
run:
  shard_size: 20
"""
TEMPLATES = ("config.j2", "query.j2")


def changed(old, new):
    assert old in JOB
    return JOB.replace(old, new)


def task(written):
    return changed("  attempts: 3", f"  {written}")


BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
)
CASES = {
    "F1 an unknown key": (changed("seed: 7", "sede: 7"), "job.yaml:1: sede: unknown key", "'seed'"),
    "F1 an unknown key below": (changed("attempts", "atempts"), "task.atempts: unknown key", "'attempts'"),
    "F2 a number in quotes": (changed("seed: 7", 'seed: "3"'), "seed", "3 without quotes"),
    "F2 true for a number": (changed("seed: 7", "seed: true"), "seed", "whole number"),
    "F3 NaN": (JOB + "limits: {max_unusable_share: .nan}\n", "limits.max_unusable_share", ""),
    "F3 infinity": (changed("shard_size: 20", "request_timeout: .inf"), "run.request_timeout", "finite"),
    "F3 a negative number": (changed("shard_size: 20", "shard_size: -1"), "run.shard_size", ">= 1"),
    "F4 no for false": (JOB + "limits: {strict: no}\n", "limits.strict: expects true or false", "Write false."),
    "F4 true as a name": (changed("{path", "{name: true, path"), "corpus.name", 'quotes, as "true"'),
    "F4 12:30": (JOB + "limits: {outage: 12:30}\n", "limits.outage", "15m"),
    "F4 3.10": (changed("{path", "{id: 3.10, path"), "corpus.id", "quotes"),
    "F5 a key twice": (JOB + "seed: 8\n", "the key stands twice", "Remove one"),
    "F6 an expansion bomb": (BOMB, "100,000 values", ""),
    "F6 a file of 2 MB": ("# " + "x" * 2_000_000 + "\n" + JOB, "at most 1,000,000", ""),
    "F7 a Python tag": (changed("seed: 7", "seed: !!python/object:os.system {}"), "the tag", "plain value"),
    "F9 an empty file": ("", "the file is empty", "synth init"),
    "F9 a list": ("- a\n", "not a list", "corpus"),
    "F14 an unknown language": (task("languages: {germna: 1}"), "task.languages", "German"),
    "F15 weights all zero": (task("languages: {same: 0}"), "task.languages", "above 0"),
    "F15 a negative weight": (task("question_types: {keywords: -1}"), "question_types.keywords", ">= 0"),
    "F16 a threshold outside": (
        changed("scores: [{use: length}]\nkeep: {}", "keep: {cosine: {above: 1.5}}"),
        "keep.cosine",
        "1",
    ),
    "F16 a range upside down": (task("lengths: {default: [8, 3]}"), "task.lengths.default", "upside down"),
    "F18 a key in the file": (
        changed("{use: extractive}", "{use: openai, model: m, api_key: sk-zebra}"),
        "llm.api_key",
        "api_key_env",
    ),
    "F18 a key as the variable": (
        changed("{use: extractive}", "{use: openai, model: m, api_key_env: sk-zebra-1}"),
        "llm.api_key_env",
        "not the key itself",
    ),
    "F20 shard size 0": (changed("shard_size: 20", "shard_size: 0"), "run.shard_size", ">= 1"),
    "F20 concurrency 0": (changed("shard_size: 20", "concurrency: 0"), "run.concurrency", ">= 1"),
    "F20 timeout 0": (changed("shard_size: 20", "request_timeout: 0"), "run.request_timeout", "> 0"),
}


@pytest.fixture
def written(tmp_path):
    """Writes a job file beside a good corpus; gives the arguments of a command."""
    corpus = lines(tmp_path / "in.jsonl", good())

    def write(text):
        path = tmp_path / "job.yaml"
        path.write_text(text.replace("CORPUS", str(corpus)), "utf-8")
        return [str(path)]

    return write


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("command", ["run", "check"])
def test_a_bad_job_file_ends_in_2_with_place_and_cure(name, command, written, tmp_path, capsys):
    text, where, cure = CASES[name]
    arguments = written(text) + (["-o", str(tmp_path / "out")] if command == "run" else [])
    assert main([command, *arguments]) == 2
    said = "".join(capsys.readouterr())
    assert where in said
    assert cure in said
    assert "zebra" not in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_f6_anchors_are_allowed(written, tmp_path):
    text = changed("run:\n  shard_size: 20", "run: &r\n  shard_size: 20")
    assert main(["run", *written(text), "-o", str(tmp_path / "out"), "--json"]) == 0


TEMPLATE_CASES = {
    "F10 an undefined variable": ("config.j2", "{{ passage }} {{ pasage }}", "pasage"),
    "F11 no passage": ("query.j2", "no such thing", "passage"),
    "F12 a syntax error": ("query.j2", "{{ passage }}\n{% if %}", "line 2"),
    "F12 a loop without end": (
        "query.j2",
        "{{ passage }}{% for i in range(10000000000) %}x{% endfor %}",
        "0.2 seconds",
    ),
    "F12 an outside file": ("query.j2", "{{ passage }}{% include '/etc/passwd' %}", "/etc/passwd"),
}


def templates(folder):
    """A folder of templates that work."""
    shipped = Path(__file__).parents[2] / "prompts" / "retrieval"
    folder.mkdir()
    for path in shipped.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("name", TEMPLATE_CASES)
def test_a_bad_template_ends_in_2(name, written, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("synth.prompts.templates.RENDER_SECONDS", 0.2)
    file, source, said = TEMPLATE_CASES[name]
    folder = templates(tmp_path / "prompts")
    (folder / file).write_text(source)
    text = task(f"prompts: {folder}")
    assert main(["run", *written(text), "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert file in error
    assert main(["check", *written(text), "--offline"]) == 2


def test_f10_a_missing_template_file(written, tmp_path, capsys):
    folder = templates(tmp_path / "prompts")
    (folder / "query.j2").unlink()
    assert main(["run", *written(task(f"prompts: {folder}")), "-o", str(tmp_path / "out")]) == 2
    assert "query.j2" in capsys.readouterr().err


def test_f20_concurrency_above_the_file_descriptors_is_a_warning(written, capsys):
    with Loopback() as server:
        served = f"{{use: vllm_server, model: tiny, base_urls: ['{server.url}']}}"
        text = changed("{use: extractive}", served).replace("shard_size: 20", "concurrency: 60000")
        main(["check", *written(text)])
    assert "descriptors" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda record: record | {"format": 99}, "newer synth"),
        (lambda record: record | {"sha256": "0" * 64}, "damaged"),
        (lambda _: None, "damaged"),
    ],
    ids=["F22 a newer format", "F22 another hash", "F22 no JSON"],
)
def test_f22_a_folder_that_cannot_be_trusted(damage, said, written, tmp_path, capsys):
    arguments = ["run", *written(JOB), "-o", str(tmp_path / "out")]
    assert main([*arguments, "--json"]) == 0
    path = tmp_path / "out" / "job.json"
    record = damage(json.loads(path.read_text()))
    path.write_text("{broken" if record is None else json.dumps(record))
    before = {each: each.read_bytes() for each in (tmp_path / "out").rglob("*.parquet")}
    assert main(arguments) == 4
    assert said in capsys.readouterr().err
    assert {each: each.read_bytes() for each in (tmp_path / "out").rglob("*.parquet")} == before


def test_f22_another_identity_names_the_keys(written, tmp_path, capsys):
    assert main(["run", *written(JOB), "-o", str(tmp_path / "out"), "--json"]) == 0
    assert main(["run", *written(changed("seed: 7", "seed: 8")), "-o", str(tmp_path / "out")]) == 4
    assert "seed: 7 -> 8" in capsys.readouterr().err


def test_every_row_of_the_catalogue_has_its_test():
    # F23, a job file of an older version: there is none yet whose form has changed
    numbers = {1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 16, 18, 20, 22}
    assert {int(name.split()[0][1:]) for name in [*CASES, *TEMPLATE_CASES]} | {22} == numbers
