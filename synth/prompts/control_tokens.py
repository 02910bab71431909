"""Chat control tokens inside foreign text: found, and broken so that a tokenizer reads them as plain characters.

A server splits `<|im_end|>` in a passage exactly as the one it wrote itself. Inserting U+200B after the first character
of every such token keeps the text readable and takes its power away; it works on strings, so only tokens known here by
name or form are covered.
"""

from __future__ import annotations

import re

_NAMED = (
    # Qwen, DeepSeek: reasoning and tools
    *(
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<tool_response>",
        "</tool_response>",
        "<tools>",
        "</tools>",
    ),
    # Llama 2, Mistral
    *("<s>", "</s>", "<<SYS>>", "<</SYS>>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[ARGS]"),
    *("[THINK]", "[/THINK]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"),
    # Gemma, GLM, sentencepiece
    *("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<bos>", "<eos>", "<pad>", "<unk>"),
    *("<mask>", "[gMASK]", "<sop>", "<eop>"),
)


def _rests(first: str) -> str:
    return "|".join(re.escape(token[1:]) for token in _NAMED if token[0] == first)


# ChatML, Llama 3, GPT and DeepSeek (fullwidth bars) share one form. Lookaheads leave the rest of a token to be searched
# as well: one may hide inside another.
_TOKEN = re.compile(rf"<(?=[|｜][^|｜]*[|｜]>|{_rests('<')})|\[(?={_rests('[')})")


def has_control_tokens(text: str) -> bool:
    """Whether `text` holds at least one known control token."""
    return _TOKEN.search(text) is not None


def neutralise(text: str) -> tuple[str, int]:
    """`text` with every control token broken by U+200B after its first character, and how many there were."""
    if "<" not in text and "[" not in text:
        return text, 0
    return _TOKEN.subn("\\g<0>\u200b", text)
