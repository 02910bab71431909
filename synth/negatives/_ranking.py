"""Rankings of passages by words (BM25) or by several methods.

Tokens are words in scripts with spaces; in others, single characters and pairs of neighbours, which need no dictionary.
Robertson & Zaragoza 2009 (BM25, in Lucene's form); Cormack et al. 2009 (fusion with k = 60).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synth.errors import JobError
from synth.hashing import terms
from synth.search import Corpus, Excluded, Hits, products

_K1, _B = 1.2, 0.75
_FUSION = 60


def lexical(
    corpus: Corpus, queries: Sequence[str], vectors: NDArray[np.float32], depth: int, excluded: Excluded
) -> Hits:
    """The `depth` best passages of each query by BM25 with their cosines; passages must share a term with the query.

    Ties are in row order. Raises JobError without the package bm25s.
    """
    model, vocabulary = _index(corpus)
    rows = np.full((len(queries), depth), -1, np.int64)
    for n, query in enumerate(queries):
        known = [vocabulary[term] for term in dict.fromkeys(terms(query)) if term in vocabulary]
        if not known:
            continue
        scores = np.array(model.get_scores(known), np.float32)
        scores[excluded.row[excluded.query == n]] = 0
        found = np.flatnonzero(scores > 0)
        if len(found) > depth:
            least = np.partition(scores[found], len(found) - depth)[len(found) - depth]
            found = found[scores[found] >= least]
        best = found[np.lexsort((found, -scores[found]))][:depth]
        rows[n, : len(best)] = best
    # The score rules need cosines: passages without a vector go.
    which, place = np.nonzero(rows >= 0)
    cosines = np.full(rows.shape, -np.inf)
    cosines[which, place] = products(vectors, which, corpus, rows[which, place])
    dead = ~corpus.gather(rows[which, place]).any(axis=1)
    cosines[which[dead], place[dead]] = -np.inf
    order = np.argsort(np.isneginf(cosines), axis=1, kind="stable")
    rows = np.where(np.isneginf(cosines), -1, rows)
    return Hits(np.take_along_axis(rows, order, 1), np.take_along_axis(cosines, order, 1))


def fused(rankings: Sequence[Hits]) -> Hits:
    """One ranking by the sum of 1 / (60 + rank), as deep as the first; ties are in row order."""
    depth = rankings[0].rows.shape[1]
    rows = np.full_like(rankings[0].rows, -1)
    scores = np.full(rows.shape, -np.inf)
    for n in range(len(rows)):
        total: dict[int, float] = {}
        cosine: dict[int, float] = {}
        for ranking in rankings:
            hits = zip(ranking.rows[n].tolist(), ranking.scores[n].tolist(), strict=True)
            for rank, (row, score) in enumerate(hits, 1):
                if row >= 0:
                    total[row] = total.get(row, 0.0) + 1 / (_FUSION + rank)
                    cosine[row] = score
        best = sorted(total, key=lambda row: (-total[row], row))[:depth]
        rows[n, : len(best)] = best
        scores[n, : len(best)] = [cosine[row] for row in best]
    return Hits(rows, scores)


@lru_cache(maxsize=1)
def _index(corpus: Corpus) -> tuple[Any, dict[str, int]]:
    """The BM25 index of a corpus, built once per process and kept in memory: about 8 bytes per term of a passage."""
    try:
        import bm25s  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise JobError(f"mined: BM25 needs a package: {exc}.", "Run `pip install 'synth[mine]'`.") from exc
    vocabulary: dict[str, int] = {}
    ids = [[vocabulary.setdefault(term, len(vocabulary)) for term in terms(text)] for text in corpus.texts()]
    model = bm25s.BM25(k1=_K1, b=_B)
    model.index((ids, vocabulary), show_progress=False)
    return model, vocabulary
