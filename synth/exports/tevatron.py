"""JSON lines for Tevatron: passages with ids, and the corpus to encode."""

from __future__ import annotations

from typing import Any, ClassVar

from synth.exports._export import Export, block, page, quoted, tokens
from synth.exports._rows import Document, Facts, Ids, Source, documents, meta
from synth.exports._writers import Files, front_matter

__all__ = ["Tevatron"]

_PART = 256_000_000
_ROOM = 512
"""Tokens that the model of the command reads at most."""
_NOTES = """The folder itself is the data set: with `--dataset_name json` Tevatron would expect tokenised rows. This
model reads 512 tokens at most, and longer texts are cut; give a longer --p_max_len to one that reads more. Queries
begin with the instruction, so leave --query_prefix of Tevatron 2 empty, and --q_max_len must leave room for it (it is
32 unless set). `train_n_passages` is one positive and the negatives of the fullest row; a row with fewer gives some of
them twice. Titles are not in the rows, because queries were made for the text. `meta/`, row by row the same: ids,
scores, and why each negative is one."""


class Tevatron(Export):
    """`query_id`, `query`, `positive_passages`, `negative_passages`; `corpus.jsonl` holds every passage once.

    Tevatron on PyPI (0.1.0) has no option for a prompt, so the instruction is in the query.
    """

    title: ClassVar[str] = "Tevatron"
    hub: ClassVar[bool] = True

    def write(self, source: Source, facts: Facts, files: Files) -> None:
        """The corpus, then rows that name it."""
        ids, prefix = Ids(), self.prefix(facts.instruction)
        for each in documents(source, ids):
            files.line("corpus.jsonl", _passage(each))

        def named(text: str, wanted: str | None) -> dict[str, str]:
            name, new = ids.add(text, wanted)
            found = _passage(Document(name, "", text))
            if new:
                files.line("corpus.jsonl", found)
            return found

        for batch in source.batches(facts.shape):
            for row in batch.rows:
                found: dict[str, Any] = {
                    "query_id": row.id,
                    "query": prefix + row.query,
                    "positive_passages": [
                        named(row.passage, row.passage_id),
                        *(named(each.passage, each.passage_id) for each in row.positives),
                    ],
                    "negative_passages": [named(each.passage, each.passage_id) for each in row.negatives],
                }
                files.line(f"{batch.split}.jsonl", found)
            files.table(f"meta/{batch.split}", meta(batch), _PART)

    def card(self, facts: Facts) -> str:
        """Rows and the corpus; not `meta/`, because all configurations of a data set are of one file type."""
        configs = {
            "default": {split: f"{split}.jsonl" for split in facts.counts.rows},
            "corpus": {"train": "corpus.jsonl"},
        }
        return front_matter(configs, facts.languages, ["tevatron"]) + self.train(facts)

    def train(self, facts: Facts) -> str:
        """The command of Tevatron 0.1.0."""
        lines = [
            "python -m tevatron.driver.train --do_train --output_dir model \\",
            "  --model_name_or_path bert-base-uncased \\",
            f"  --dataset_name {quoted(facts.address)} \\",
            (
                f"  --q_max_len {min(_ROOM, tokens(facts.counts.query_bytes + len(self.prefix(facts.instruction))))} "
                f"--p_max_len {min(_ROOM, tokens(facts.counts.passage_bytes))} \\"
            ),
            f"  --train_n_passages {1 + facts.negatives()} --per_device_train_batch_size 32 \\",
            f"  --learning_rate 1e-5 --num_train_epochs 1 --seed {facts.seed}",
        ]
        return page(
            facts,
            "Training with Tevatron",
            block("bash", *lines),
            _NOTES,
        )


def _passage(each: Document) -> dict[str, str]:
    return {"docid": each.id, "title": each.title, "text": each.text}
