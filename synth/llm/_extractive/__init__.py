"""How `extractive` chooses and asks without a model: key phrases, question forms, one wording file per language.

words (text → clauses of tokens) → keyphrases (tokens → ranked phrases) → choosing (stage one), asking (stage two).
`wordings/<code>.json` is all that a further language needs; a language without one still gets keyword-like queries.
"""
