"""A Qwen3-Embedding of 0.8 million random parameters: last-token pooling, left padding, a prompt for queries."""

import runpy
from pathlib import Path

PROMPT = "Instruct: find it\nQuery:"
WIDTH = 128


def write(folder, texts):
    """Save the model in `folder`; its tokenizer is trained on the texts."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from tokenizers import processors

    maker = runpy.run_path(str(Path(__file__).parent / "vllm" / "tiny_model.py"))
    maker["write"](folder / "bare", texts)
    transformer = Transformer(str(folder / "bare"))
    tokenizer = transformer.tokenizer
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", tokenizer.pad_token_id)]
    )
    tokenizer.padding_side = "left"
    modules = [transformer, Pooling(WIDTH, pooling_mode="lasttoken"), Normalize()]
    model = SentenceTransformer(modules=modules, prompts={"query": PROMPT, "document": ""}, device="cpu")
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"


def load(folder, **options):
    """The model in `folder`, on the CPU."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", **options)
