"""Runs to export: pairs made elsewhere, mined with the bag of words of `mining`."""

import json

import pyarrow.parquet as pq
from running import WORDS, run, write_corpus, write_job

from synth.cli.export import export_run as export
from synth.cli.mine import mine_run as mine
from synth.errors import InputError
from synth.exports import Export
from synth.results.export import ExportArgs
from synth.runners.mining import MineArgs

THINGS = [
    "ferry",
    "bakery",
    "glacier",
    "violin",
    "orchard",
    "lighthouse",
    "tannery",
    "observatory",
    "quarry",
    "aqueduct",
]
PLACES = ["Bergen", "Porto", "Graz", "Lviv", "Turku", "Cork"]
INSTRUCTION = "Given a question on history, retrieve the passage that answers it"


def pair(thing, place):
    number = THINGS.index(thing) * len(PLACES) + PLACES.index(place)
    words = " ".join(WORDS[(number * 7 + n * 3) % len(WORDS)] for n in range(9))
    return {
        "query": f"when was the {thing} of {place} founded",
        "passage": f"The {thing} of {place} was founded by the year of the {words} reform in {place}.",
        "passage_id": f"{thing}-{place}",
        "doc": thing,
    }


def pairs(folder, rows=None, *, size=16, negatives=3, **job):
    """A finished pass over pairs (60 unless `rows` are given), mined unless `negatives` is 0; its folder."""
    rows = [pair(thing, place) for thing in THINGS for place in PLACES] if rows is None else rows
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    base = {
        "seed": 5,
        "data": {"path": str(folder / "pairs.jsonl"), "instruction": INSTRUCTION, "query_language": "en"},
        "embed": {"use": "mining:Bag"},
        "scores": [{"use": "cosine"}],
        "keep": {"cosine": {"above": 0}},
        "run": {"shard_size": size},
    }
    run(write_job(folder, base | job), folder / "out")
    if negatives:
        options = {"range": "0:30", "num_negatives": str(negatives), "max_score": "null", "absolute_margin": "0.01"}
        mine(folder / "out", MineArgs(options=options), as_json=True)
    return folder / "out"


def with_teacher(folder):
    """60 pairs with three negatives each, all scored by one reranker; the score is in the passage."""
    rows = [pair(thing, place) for thing in THINGS for place in PLACES]
    given = [{**row, "passage": f"{row['passage']} P=0.4{n % 9}"} for n, row in enumerate(rows)]
    scores = [{"use": "cosine"}, {"use": "reranker", "model": {"use": "mining:Verdicts"}}]
    out = pairs(folder, given, negatives=0, scores=scores)
    options = {"range": "0:30", "num_negatives": "3", "max_score": "null", "reranker": "{use: mining:Verdicts}"}
    mine(out, MineArgs(options=options | {"absolute_margin": "0.01"}), as_json=True)
    return out


class Tsv(Export):
    """A format of one's own."""

    title = "tab-separated values"

    def write(self, source, facts, files):
        for batch in source.batches(facts.shape):
            for row in batch.rows:
                files.text(f"{batch.split}.tsv", f"{row.query}\t{row.passage}\n")

    def train(self, facts):
        return f"# {facts.title}\n"


class Broken(Tsv):
    """One that fails when half is written."""

    def write(self, source, facts, files):
        super().write(source, facts, files)
        raise InputError("half is written.")


def written(folder, task, *, passages=6, **job):
    """A finished run of another task, by the test double and its own scorers and rules; its folder."""
    write_corpus(folder / "docs.jsonl", passages)
    base = {
        "seed": 3,
        "corpus": {"name": "docs", "path": str(folder / "docs.jsonl"), "language": "en"},
        "personas": None,
        "llm": {"use": "extractive"},
        "embed": {"use": "mining:Bag"},
        "task": task,
        "run": {"shard_size": 3},
    }
    run(write_job(folder, base | job), folder / "out")
    return folder / "out"


def export_of(out, to, folder, *settings):
    """The Parquet table that an export of a run makes."""
    export(out, ExportArgs(to, folder, settings=settings), as_json=True)
    (path,) = (folder / "data").glob("*.parquet")
    return pq.read_table(path)
