"""Training rows as trainers read them: `synth export --to NAME` names one module here.

Inside: _rows reads pairs with negatives, _writers writes files of one kind, and each format is one class with a page
in templates/ that becomes TRAIN.md: how to start its trainer on these files.
"""

from synth.exports._export import Export
from synth.exports._rows import Counts, Facts, Row, Shape, Source
from synth.exports._writers import Files

__all__ = ["Counts", "Export", "Facts", "Files", "Row", "Shape", "Source"]
