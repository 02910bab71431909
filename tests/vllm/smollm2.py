"""Writes SmolLM2 from its GGUF file as a folder that vLLM serves: `python smollm2.py FILE FOLDER`.

Runs in vLLM's environment, which has transformers and gguf.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(file: Path, folder: Path) -> None:
    place = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    loaded = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.bfloat16)
    del loaded.config.quantization_config  # of the file; the weights in memory are whole numbers no more
    plain = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.bfloat16)
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**place).save_pretrained(folder)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
