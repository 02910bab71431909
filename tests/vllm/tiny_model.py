"""Writes a Qwen3 checkpoint with random weights, small enough that vLLM serves it on a CPU at once.

    python tests/vllm/tiny_model.py FOLDER TEXT_FILE...

What it says is noise. What surrounds it is not: chat template, grammar, prefix cache, metrics and errors are those of
the real server. The tokenizer is trained on the text files, so that prompts get a realistic number of tokens.
"""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

_VOCABULARY = 4096
_CONTEXT = 8192
_TURN = "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
_OPENING = "<|im_start|>assistant\n"
_NO_THOUGHT = "<think>\n\n</think>\n\n"
CHAT_TEMPLATE = (
    "{% for message in messages %}" + _TURN + "{% endfor %}"
    "{% if add_generation_prompt %}" + _OPENING +
    "{% if enable_thinking is defined and not enable_thinking %}" + _NO_THOUGHT + "{% endif %}{% endif %}"
)  # fmt: skip


def write(folder: Path, texts: list[str]) -> None:
    """Train a tokenizer on the texts, draw weights with a fixed seed, and save both in `folder`."""
    tokenizer = _tokenizer(texts)
    torch.manual_seed(7)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=_CONTEXT,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    tokenizer.save_pretrained(folder)
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def _tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    pieces.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=_VOCABULARY,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    special = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return PreTrainedTokenizerFast(tokenizer_object=pieces, chat_template=CHAT_TEMPLATE, **special)


if __name__ == "__main__":
    write(Path(sys.argv[1]), [Path(name).read_text(encoding="utf-8") for name in sys.argv[2:]])
