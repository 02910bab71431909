"""Embedding models fine-tuned on the pairs of runs, and merged."""
