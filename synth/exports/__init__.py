"""Training rows as trainers read them: `synth export --to NAME` names one module here.

Inside: _rows reads pairs with negatives, _export writes files of one kind, and each format is one class with a page
in templates/ that becomes TRAIN.md: how to start its trainer on these files.
"""

from synth.exports._export import Export, Files
from synth.exports._rows import Counts, Facts, Row, Shape, Source

__all__ = ["Counts", "Export", "Facts", "Files", "Row", "Shape", "Source"]
