"""MTEB's loader on an export, and one evaluation with the task of TRAIN.md: `... FOLDER MODEL`."""

# ruff: noqa: T201 - a script, run in a process of its own, that says what it saw

import re
import sys
from pathlib import Path

import mteb
from mteb.abstasks.retrieval_dataset_loaders import RetrievalDatasetLoader
from sentence_transformers import SentenceTransformer

folder, name = sys.argv[1:]
data = RetrievalDatasetLoader(folder, "main", split="test").load()
judged = {document for documents in data["relevant_docs"].values() for document in documents}
assert judged <= {*data["corpus"]["id"]}
assert {*data["relevant_docs"]} == {*data["queries"]["id"]}
assert len({*data["corpus"]["id"]}) == len(data["corpus"])
code = re.search(r"```python\n(.*?)```", (Path(folder) / "TRAIN.md").read_text(encoding="utf-8"), re.DOTALL)[1]
made = {}
exec(compile(code, "TRAIN.md", "exec"), made)  # noqa: S102 - the page that is tested
task = next(value for key, value in made.items() if key.endswith("Retrieval") and key != "AbsTaskRetrieval")()
result = mteb.evaluate(SentenceTransformer(name, device="cpu"), task, cache=None, overwrite_strategy="always")
score = result[0].get_score()
assert 0 < score <= 1
print(f"MTEB: {len(data['queries'])} queries over {len(data['corpus'])} passages, nDCG@10 {score:.3f}")
