"""Hard negatives: passages that a model takes for answers and that are none.

`synth mine` names a source with `use:`: `mined` takes them from the corpus, `written` has a language model write them.
Inside: _options → _ranking (band, margin, pick), _search and _lexical (retrieve) over _corpus; what is picked goes
through _choosing, where _likeness and the reranker refuse false negatives.
"""

from synth.negatives._choosing import Desk, Found, Negative
from synth.negatives._corpus import Corpus, CorpusText, build, usable
from synth.negatives._items import Item, Positives, query_key, query_keys
from synth.negatives._options import Negatives
from synth.negatives._search import products

__all__ = [
    "Corpus",
    "CorpusText",
    "Desk",
    "Found",
    "Item",
    "Negative",
    "Negatives",
    "Positives",
    "build",
    "products",
    "query_key",
    "query_keys",
    "usable",
]
