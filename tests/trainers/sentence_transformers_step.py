"""sentence-transformers' own collator on an export, and one step of training: `... FOLDER MODEL`.

Rows are anchor, positive and negatives, or sentence1, sentence2 and score.
"""

# ruff: noqa: T201 - a script, run in a process of its own, that says what it saw

import sys

import torch
from datasets import load_dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss, CoSENTLoss

folder, name = sys.argv[1:]
rows = load_dataset(folder, "default", split="train")
meta = load_dataset(folder, "meta", split="train")
assert len(rows) == len(meta)
texts = [name for name in rows.column_names if name != "score"]
graded = "score" in rows.column_names
expected = ["anchor", "positive", *(f"negative_{n}" for n in range(1, len(texts) - 1))]
assert texts == (["sentence1", "sentence2"] if graded else expected)
model = SentenceTransformer(name, device="cpu")
prompts = {texts[0]: "Instruct: find it\nQuery:"}
collator = SentenceTransformerDataCollator(preprocess_fn=model.preprocess, prompts=prompts)
batch = collator([rows[n] for n in range(4)])
columns = [
    {key.removeprefix(f"{column}_"): value for key, value in batch.items() if key.startswith(f"{column}_")}
    for column in texts
]
assert all({"input_ids", "attention_mask"} <= each.keys() for each in columns), batch.keys()
assert "instruct : find it query :" in model.tokenizer.decode(columns[0]["input_ids"][0])
loss = CoSENTLoss(model) if graded else CachedMultipleNegativesRankingLoss(model, mini_batch_size=2)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
before = [parameter.detach().clone() for parameter in model.parameters()]
value = loss(columns, batch.get("label"))
value.backward()
optimizer.step()
assert torch.isfinite(value)
assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
print(f"sentence-transformers: {len(rows)} rows of {len(columns)} columns, one step, loss {value.item():.4f}")
