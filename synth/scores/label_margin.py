"""Whether a text is nearer to its label than to the labels that might mislead, in the embedding space of the job."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pyarrow as pa

from synth.batching import embedded
from synth.errors import JobError
from synth.scores._scorer import PairBatch, ScoreColumn, Scorer
from synth.stage import Services

__all__ = ["LabelMargin"]


class LabelMargin(Scorer):
    """Cosine of a text and its label, and how far it is above that of the nearest misleading label (may be negative).

    Both are null for pairs that are not of the classification task; the margin also without misleading labels. Labels
    are embedded as documents, without underscores, texts as queries with the instruction.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"encoder"})
    outputs = (
        ScoreColumn("label_margin", pa.float64(), low=-2.0, high=2.0),
        ScoreColumn("label_cosine", pa.float64(), low=-1.0, high=1.0),
    )

    async def score(self, batch: PairBatch, services: Services) -> pa.Table:
        """Embed each distinct text and label once. Raises JobError without an encoder."""
        if services.encoder is None:
            raise JobError("scores: label_margin: needs an encoder.", "Add `embed:` to the job.")
        columns = (batch.values(name) for name in ("text", "class_label", "misleading_labels"))
        rows = [
            (row, text, [label, *(others or ())])
            for row, (text, label, others) in enumerate(zip(*columns, strict=True))
            if text is not None and label is not None
        ]
        margins: list[float | None] = [None] * batch.pairs.num_rows
        cosines: list[float | None] = [None] * batch.pairs.num_rows
        if not rows:
            return self.table(margins, cosines)
        texts = {text: n for n, text in enumerate(dict.fromkeys(text for _, text, _ in rows))}
        labels = {name: n for n, name in enumerate(dict.fromkeys(name for _, _, names in rows for name in names))}
        asked, no_text = await embedded(services.encoder, tuple(texts), "query")
        named, no_label = await embedded(
            services.encoder, tuple(name.replace("_", " ").strip() or name for name in labels), "document"
        )
        for row, text, names in rows:
            places = [labels[name] for name in names]
            if no_text[texts[text]] or no_label[places].any():
                continue
            near = named.vectors[places].astype(np.float64) @ asked.vectors[texts[text]].astype(np.float64)
            cosines[row] = float(np.clip(near[0], -1.0, 1.0))
            margins[row] = float(near[0] - near[1:].max()) if len(places) > 1 else None
        return self.table(margins, cosines)
