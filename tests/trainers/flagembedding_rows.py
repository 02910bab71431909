"""FlagEmbedding's dataset and collator on an export: `... FOLDER MODEL GROUP [distil]`."""

# ruff: noqa: T201 - a script, run in a process of its own, that says what it saw

import sys
from pathlib import Path

from FlagEmbedding.abc.finetune.embedder.AbsArguments import AbsEmbedderDataArguments
from FlagEmbedding.abc.finetune.embedder.AbsDataset import (
    AbsEmbedderCollator,
    AbsEmbedderSameDatasetTrainDataset,
    AbsEmbedderTrainDataset,
)
from transformers import AutoTokenizer

folder, name, group, *distil = sys.argv[1:]
(train,) = Path(folder).glob("train*")  # the trainer takes a folder's name for what its rows allow
tokenizer = AutoTokenizer.from_pretrained(name)
arguments = AbsEmbedderDataArguments(
    train_data=[str(train)],
    train_group_size=int(group),
    query_instruction_for_retrieval="find it",
    query_instruction_format="Instruct: {}\\nQuery:{}",
    knowledge_distillation=bool(distil),
)
rows = AbsEmbedderTrainDataset(arguments, tokenizer)
examples = [rows[n] for n in range(len(rows))]
assert all(len(passages) == int(group) for _, passages, _ in examples)
assert all(query.startswith("Instruct: ") and "\nQuery:" in query for query, _, _ in examples)
if distil:
    assert all(len(scores) == int(group) for _, _, scores in examples)
made = AbsEmbedderCollator(tokenizer, query_max_len=32, passage_max_len=64, return_tensors="pt")(examples[:4])
assert made["passages"]["input_ids"].shape[0] == 4 * int(group)
same = AbsEmbedderSameDatasetTrainDataset(arguments, 4, 0, tokenizer)
assert len(same.dataset) == len(rows)
assert {*same.no_in_batch_neg_flags} == {train.name.endswith("no_in_batch_neg")}
print(f"FlagEmbedding: {len(rows)} rows in groups of {group}{', with teacher scores' if distil else ''}")
