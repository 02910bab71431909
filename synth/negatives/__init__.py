"""Hard negatives: passages that a model takes for answers although they are not.

The `use:` of `synth mine` names a source: `mined` takes negatives from the corpus, `written` has a language model write
them, `given` takes those that the pairs already have. Inside: _ranking (BM25, fusion) over `synth.search`;
_choosing refuses false negatives, by likeness to a positive and by the reranker.
"""

from synth.negatives._choosing import Selector
from synth.negatives._negatives import Candidate, Item, Negatives, Pool, Positives, Share, query_key, query_keys

__all__ = ["Candidate", "Item", "Negatives", "Pool", "Positives", "Selector", "Share", "query_key", "query_keys"]
