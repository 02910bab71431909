"""MTEB's loader on an export, and the evaluation of TRAIN.md, with a small model: `... FOLDER MODEL`."""

# ruff: noqa: T201 - a script, run in a process of its own, that says what it saw

import re
import sys
from pathlib import Path

import mteb
from mteb.abstasks.retrieval_dataset_loaders import RetrievalDatasetLoader
from sentence_transformers import SentenceTransformer

folder, name = sys.argv[1:]
what = "a table of texts"
if (Path(folder) / "corpus").exists():
    data = RetrievalDatasetLoader(folder, "main", split="test").load()
    judged = {document for documents in data["relevant_docs"].values() for document in documents}
    assert judged <= {*data["corpus"]["id"]}
    assert {*data["relevant_docs"]} == {*data["queries"]["id"]}
    assert len({*data["corpus"]["id"]}) == len(data["corpus"])
    what = f"{len(data['queries'])} queries over {len(data['corpus'])} passages"
code = re.search(r"```python\n(.*?)```", (Path(folder) / "TRAIN.md").read_text(encoding="utf-8"), re.DOTALL)[1]
mteb.get_model = lambda _name: SentenceTransformer(name, device="cpu")  # the page names one that is not at hand
made = {}
exec(compile(code, "TRAIN.md", "exec"), made)  # noqa: S102 - the page that is tested
result = made["results"][0]
score = result.get_score()
assert -1 <= score <= 1
print(f"MTEB: {what}, main score {score:.3f}")
