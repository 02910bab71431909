"""Hard negatives: passages that a model takes for answers and that are none.

`synth mine` names a source with `use:`: `mined` takes them from the corpus, `written` has a language model write them.
Inside: _options → _ranking (band, margin, pick), _search and _lexical (retrieve) over _corpus; what is picked goes
through _choosing, where _likeness and the reranker refuse false negatives.
"""

from synth.negatives._choosing import Found, Negative, Selector
from synth.negatives._negatives import Item, Negatives, Positives, query_key, query_keys
from synth.search import Corpus, CorpusText, build, products, usable

__all__ = [
    "Corpus",
    "CorpusText",
    "Found",
    "Item",
    "Negative",
    "Negatives",
    "Positives",
    "Selector",
    "build",
    "products",
    "query_key",
    "query_keys",
    "usable",
]
