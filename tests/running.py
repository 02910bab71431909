"""Whole runs over a loopback server that writes a query from the words of the passage in its prompt.

The server knows nothing of synth but its prompts; replies depend on the request body alone, so a run can be repeated
and compared byte for byte. `calls` counts what was asked, by the bytes that were sent.
"""

import json
import re
import zlib
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from synth.cli.run import run_target as command
from synth.pipeline import resolve

_LIST = (
    "harbour ferry island nine morning minutes calm weather captain ticket bridge river stone mill flour baker oven "
    "bread night nurse ward patient lamp ladder roof tile rain gutter garden seed soil worm spade apple orchard "
    "ladder picker basket market price coin scale merchant road cart wheel axle smith forge iron hammer anvil"
)
WORDS = _LIST.split()


def passage(number, words=24):
    """A text of its own for every number, in English enough for the detector."""
    picked = [WORDS[zlib.crc32(f"{number}/{n}".encode()) % len(WORDS)] for n in range(words)]
    return f"The report number {number} is about the {' and the '.join(picked)}."


def write_corpus(path, count, **more):
    rows = [{"id": f"d{n}", "text": passage(n), **{k: f"{v} {n}" for k, v in more.items()}} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def reply(body):
    """What the server's model says: the first free choice, or a query of words that stand in the passage."""
    schema = body["response_format"]["json_schema"]["schema"]["properties"]
    prompt = body["messages"][-1]["content"]
    seed = zlib.crc32(json.dumps(body, sort_keys=True).encode())
    if "Query" not in schema:
        choices = {name: [each for each in part["enum"] if each != "none"] for name, part in schema.items()}
        return {name: offered[seed % len(offered)] for name, offered in choices.items()}
    number = re.search(r"report number (\d+)", prompt)
    words = re.findall(r"the (\w+)", prompt[number.start() :])[:20] if number else WORDS
    picked = [words[(seed >> n) % len(words)] for n in range(0, 12, 3)]
    return {"Query": f"what does report {number[1] if number else 0} say of {' '.join(picked)} {seed % 9973}"}


def completion(body):
    text = json.dumps(reply(body))
    return {
        "model": body["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7},
    }


def job_dict(url, folder, **more):
    served = {"use": "vllm_server", "model": "tiny", "base_urls": [url]}
    return {
        "seed": 3,
        "corpus": {"name": "docs", "path": str(folder / "docs.jsonl"), "language": "en"},
        "personas": {"path": str(folder / "people.txt"), "top_k": 3, "min_similarity": -1},
        "llm": served,
        "embed": served,
        "task": {"use": "retrieval", "queries_per_passage": 2},
        "scores": [{"use": "cosine"}, {"use": "length"}],
        "keep": {"cosine": {"above": 0.2}},
        "limits": {"max_unusable_share": 1},
        "run": {"shard_size": 8, "concurrency": 4},
        **more,
    }


def write_job(folder, job):
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job, sort_keys=False), encoding="utf-8")
    (folder / "people.txt").write_text("".join(f"a person who likes the {w}\n" for w in WORDS[:20]), encoding="utf-8")
    return path


def run(job, out, *settings):
    """`synth run JOB -o OUT`, in this process."""
    command(resolve(Path(job), Path(out), settings, None), as_json=True)


def shards(out, step):
    return sorted((Path(out) / step).glob("????????.parquet"))


def rows(out, step):
    return [row for path in shards(out, step) for row in pq.read_table(path).to_pylist()]


def footer(path):
    keys = pq.read_metadata(path).metadata
    return {key.decode().removeprefix("synth."): keys[key].decode() for key in keys if key.startswith(b"synth.")}


def audit(out, slots=2):
    """Every row of every shard is accounted for in the next step, from the files alone; returns the ids of pairs."""
    out = Path(out)
    steps = {"passages": 1, "generated": slots, "kept": 1}
    for step in steps:
        for path in shards(out, step):
            keys = footer(path)
            rejects = out / "rejected" / step / path.name
            lost = pq.read_table(rejects).num_rows if rejects.exists() else 0
            assert int(keys["in"]) == int(keys["out"]) + int(keys["rejected"])
            assert int(keys["rejected"]) == lost
            if step != "passages":
                assert pq.read_table(path).num_rows == int(keys["out"])
    positions = [row["position"] for row in rows(out, "passages")]
    assert positions == list(range(len(positions)))
    items = {f"{position}-{slot}" for position in positions for slot in range(slots)}
    pairs = [row["id"] for row in rows(out, "generated")]
    unusable = [row["id"] for row in rows(out, "rejected/generated")]
    assert len(pairs) == len(set(pairs))
    assert len(pairs) + len(unusable) == len(items)
    assert {*pairs, *unusable} == items
    kept = [row["id"] for row in rows(out, "kept")]
    dropped = [row["id"] for row in rows(out, "rejected/kept")]
    assert sorted([*kept, *dropped]) == sorted(pairs)
    for folder in (out / "scores").iterdir():
        assert [row["id"] for row in rows(out, f"scores/{folder.name}")] == pairs
    return pairs


def contents(out):
    """Bytes of every shard of every step, by name."""
    out = Path(out)
    steps = ["passages", "generated", "kept", *(f"scores/{each.name}" for each in (out / "scores").iterdir())]
    steps += [f"rejected/{each.name}" for each in out.glob("rejected/*")]
    return {f"{step}/{path.name}": path.read_bytes() for step in steps for path in shards(out, step)}
