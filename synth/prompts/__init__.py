"""Prompts: the templates of a folder, and what the retrieval task fills them with."""

from synth.prompts.retrieval import Prompts, config_schema, object_schema, prompt_folder, query_chars, query_schema
from synth.prompts.templates import PromptFolder, neutralise

__all__ = [
    "PromptFolder",
    "Prompts",
    "config_schema",
    "neutralise",
    "object_schema",
    "prompt_folder",
    "query_chars",
    "query_schema",
]
