"""Prompts: the templates of a folder, and what the retrieval task fills them with."""

from synth.prompts.retrieval import Prompts, SystemPart, config_schema, prompt_folder, query_chars, query_schema
from synth.prompts.templates import Messages, PromptFolder, Templates, has_control_tokens, neutralise

__all__ = [
    "Messages",
    "PromptFolder",
    "Prompts",
    "SystemPart",
    "Templates",
    "config_schema",
    "has_control_tokens",
    "neutralise",
    "prompt_folder",
    "query_chars",
    "query_schema",
]
