"""Negatives from the corpus."""

from __future__ import annotations

from synth.negatives._searched import Searched

__all__ = ["Mined"]


class Mined(Searched):
    """Passages of the corpus that are near the query but do not answer it.

    All passages are ranked for each query, exactly and without known positives and other chunks of their documents.
    The score rules read cosines, whatever the ranking. See docs/negatives.md for the window, with an example.
    """
