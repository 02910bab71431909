"""ms-swift's loader, preprocessor and template inputs on an export: `... FOLDER`."""

# ruff: noqa: T201 - a script, run in a process of its own, that says what it saw

import sys

from datasets import load_dataset
from swift.dataset.preprocessor import AutoPreprocessor
from swift.template.template_inputs import TemplateInputs

folder = sys.argv[1]
for form, role in (("embedding", "user"), ("reranker", "assistant")):
    rows = load_dataset("json", data_files=f"{folder}/{form}/train.jsonl", split="train")
    ready = AutoPreprocessor()(rows, load_from_cache_file=False)
    assert len(ready) == len(rows), (len(ready), len(rows))
    assert {"messages", "positive_messages", "negative_messages"} <= {*ready.column_names}
    for row in ready:
        found = TemplateInputs.from_dict(dict(row))
        assert found.positive
        assert found.negative
        assert all(each.messages[0]["role"] == role for each in (*found.positive, *found.negative))
        assert found.chosen.messages[-1]["role"] == "user"
        assert (found.chosen.system is None) == (form == "embedding")
        text = found.chosen.messages[-1]["content"]
        assert text.startswith("Instruct: ") == (form == "embedding")
    print(f"ms-swift: {len(ready)} rows for {form}")
