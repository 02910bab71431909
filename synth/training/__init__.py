"""Embedding models fine-tuned on the pairs of runs, merged, and tested."""
