"""BEIR's own loader on an export, every split: `... FOLDER`."""

# ruff: noqa: T201 - a script, run in a process of its own, that says what it saw

import sys
from pathlib import Path

from beir.datasets.data_loader import GenericDataLoader

folder = Path(sys.argv[1])
for path in sorted((folder / "qrels").glob("*.tsv")):
    corpus, queries, judged = GenericDataLoader(str(folder)).load(split=path.stem)
    assert judged
    assert {*judged} == {*queries}
    assert all(document in corpus and score > 0 for found in judged.values() for document, score in found.items())
    print(f"BEIR: {path.stem}: {len(queries)} queries, {len(corpus)} passages")
