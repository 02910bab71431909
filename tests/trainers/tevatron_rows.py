"""Tevatron's datasets on an export: `... FOLDER MODEL GROUP`."""

# ruff: noqa: T201 - a script, run in a process of its own, that says what it saw

import sys
from types import SimpleNamespace

from tevatron.arguments import DataArguments
from tevatron.data import QPCollator, TrainDataset
from tevatron.datasets import HFCorpusDataset, HFTrainDataset
from transformers import AutoTokenizer

folder, name, group = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(name)
if not hasattr(tokenizer, "encode_plus"):  # gone in transformers 5; for ids it did this
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    type(tokenizer).encode_plus = lambda _, ids, max_length, **__: {"input_ids": [cls, *ids[: max_length - 2], sep]}
arguments = DataArguments(dataset_name=folder, train_n_passages=int(group), q_max_len=48, p_max_len=64)
arguments.dataset_proc_num = 1
rows = HFTrainDataset(tokenizer, arguments, None).process()
assert {"query", "positives", "negatives"} == {*rows.column_names}
assert all(row["positives"] and row["negatives"] for row in rows)
assert "instruct" in tokenizer.decode(rows[0]["query"])
print(f"Tevatron: {len(rows)} rows through its preprocessor")
trainer = SimpleNamespace(state=SimpleNamespace(epoch=0), args=SimpleNamespace(seed=1))
made = TrainDataset(arguments, rows, tokenizer, trainer)
queries, passages = QPCollator(tokenizer, max_q_len=48, max_p_len=64)([made[n] for n in range(4)])
assert passages["input_ids"].shape == (4 * int(group), 64)
print(f"Tevatron: a batch of 4 queries and {passages['input_ids'].shape[0]} passages")
corpus = DataArguments(dataset_name=folder, p_max_len=64, dataset_proc_num=1)
corpus.dataset_language = "corpus"
texts = HFCorpusDataset(tokenizer, corpus, None).process()
assert {"text_id", "text"} == {*texts.column_names}
print(f"Tevatron: {len(texts)} passages of the corpus")
