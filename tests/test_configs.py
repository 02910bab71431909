"""The job files that come with synth."""

from __future__ import annotations

import re

import pytest

from synth.cli.list import init
from synth.errors import JobError
from synth.job import load_job
from synth.pipeline import targets
from synth.prompts import Prompts, prompt_folder
from synth.servers.faults import expand_urls
from synth.shipped import find, shipped

OTHERS = ("template", "train-", "prove")
"""Beginnings of the names of files that are not jobs."""
JOBS = sorted(path.name for path in shipped("configs").glob("*.yaml") if not path.name.startswith(OTHERS))
TEMPLATE = shipped("configs", "template.yaml").read_text("utf-8")
SERVE_FLAGS = {
    *("--port", "--host", "--api-key", "--served-model-name", "--max-model-len", "--max-num-seqs", "--runner"),
    *("--tensor-parallel-size", "--enable-prefix-caching", "--gpu-memory-utilization", "--reasoning-parser"),
    *("--default-chat-template-kwargs", "--structured-outputs-config", "--max-num-queued-reqs"),
}
"""Options of `vllm serve` as of 0.32, of those that our comments use."""


def test_the_jobs_that_are_promised_are_there():
    promised = {"quickstart.yaml", "qwen3-32b.yaml", "qwen3-32b-8gpu.yaml", "qwen3-32b-multinode.yaml", "laptop.yaml"}
    assert promised <= set(JOBS)


@pytest.mark.parametrize("name", JOBS)
def test_every_job_is_valid_and_finds_what_it_names(name, monkeypatch):
    monkeypatch.chdir(shipped("configs").parent)
    path = shipped("configs", name)
    for job in [each.job for each in targets(path, None, (), None).values()] or [load_job(path)]:
        assert job.file.personas is None or find("personas", job.file.personas.path, job.base).is_file()
    Prompts.load(prompt_folder("retrieval"))


@pytest.mark.parametrize("name", [*JOBS, "template.yaml"])
def test_lines_fit_a_screen_and_options_of_vllm_exist(name):
    lines = shipped("configs", name).read_text("utf-8").splitlines()
    assert max(map(len, lines)) <= 120
    commands = " ".join(line.lstrip("# ") for line in _serve_lines(lines))
    assert set(re.findall(r"(?<!\S)--[a-z-]+", commands)) <= SERVE_FLAGS


def _serve_lines(lines):
    """Comment lines of `vllm serve` commands with their continuations."""
    inside = False
    for line in lines:
        inside = line.startswith("#") and ("vllm serve" in line or inside)
        if inside:
            yield line
        inside = inside and line.rstrip().endswith("\\")


def test_eight_gpus_are_seven_generators_and_an_embedder():
    job = load_job(shipped("configs", "qwen3-32b-8gpu.yaml"))
    assert len(expand_urls(job.llm.base_urls)) == 7
    assert len(expand_urls(job.embed.base_urls)) == 1


def test_the_template_becomes_a_valid_job_whatever_the_path(tmp_path):
    corpus = 'my "docs": 50% #1/*.jsonl'
    init(tmp_path / "job.yaml", corpus)
    assert load_job(tmp_path / "job.yaml").corpora[0].path == corpus


@pytest.mark.parametrize("line", TEMPLATE.splitlines())
def test_every_commented_out_line_of_the_template_is_valid(line, tmp_path):
    """Each alternative is put in place of what it would replace, or added."""
    match = re.match(r"^( *)# (\w+): +(.+?)(?:  +#.*)?$", line)
    if match is None or match[2] == "guidance":
        return
    text = TEMPLATE.replace("@CORPUS@", "data.jsonl")
    own = f"{match[1]}{match[2]}: {match[3].split('; ')[0]}"
    without = "\n".join(each for each in text.splitlines() if not re.match(rf"{match[1]}{match[2]}:", each))
    at = text.splitlines().index(line.replace("@CORPUS@", "data.jsonl"))
    indented = match[1] != ""
    job = text.replace(line, own) if indented else f"{without}\n{own}\n"
    (tmp_path / "job.yaml").write_text(job, "utf-8")
    try:
        load_job(tmp_path / "job.yaml")
    except JobError as exc:
        pytest.fail(f"line {at + 1}: {own}: {exc}")
