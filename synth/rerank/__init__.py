"""Rerankers, one module each; the module's name is what a job writes after `model: {use: …` of the score `reranker`."""
