"""Training rows as trainers read them: `synth export --to NAME` names one module here.

Inside: _rows (pairs with negatives, as they stand on disk) → _writers (files of one kind) → one class a format, which
also says in TRAIN.md how its trainer is to be started. _documents gives passages and queries the ids that BEIR needs.
"""

from synth.exports._export import Export
from synth.exports._rows import Counts, Facts, Negative, Row, Shape, Source
from synth.exports._writers import Files

__all__ = ["Counts", "Export", "Facts", "Files", "Negative", "Row", "Shape", "Source"]
