"""What `fit` does with torch: model, loss, the steps, checkpoints, and the saved model."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.sampler import NoDuplicatesBatchSampler
from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss, MarginMSELoss, MatryoshkaLoss
from sentence_transformers.util import pairwise_cos_sim
from transformers import PrinterCallback, TrainerCallback, set_seed
from transformers.utils import logging as library_log

from synth.errors import JobError, SystemFault
from synth.process import loading
from synth.training.fit import TrainSettings
from synth.training.masked_loss import MaskedLoss
from synth.types import Notify

_LOSSES = 200
"""About so many losses of a training are recorded."""
_WARM_UP = 0.1


def train(
    columns: Mapping[str, Sequence[Any]],
    settings: TrainSettings,
    source: str,
    folder: Path,
    *,
    notify: Notify,
    on_step: Callable[[int, int, float | None], None] | None,
    stopping: Callable[[], bool],
) -> dict[str, Any] | None:
    """Train to the end and save `folder/model`; returns what `train.json` says about it.

    None where `stopping` ended it after a checkpoint. Raises JobError, SystemFault.
    """
    library_log.set_verbosity_error()  # type: ignore[no-untyped-call]  # untyped there
    library_log.disable_progress_bar()  # type: ignore[no-untyped-call]  # as above
    set_seed(settings.seed)
    model = load(source, settings.device)
    if not {"input_ids", "attention_mask"} <= set(model.preprocess(["a text"])):
        raise JobError(f"{settings.model}: is not a transformer, and others are not trained here.")
    own_length = model.max_seq_length
    model.max_seq_length = min(own_length or settings.max_tokens, settings.max_tokens)
    if settings.prompt is not None:
        model.prompts["query"] = settings.prompt
    prompts = _prompts(model, columns)
    notify(f"prompt before queries: {prompts['anchor']!r}, before passages: {prompts['positive']!r}")
    if settings.lora:
        _add_adapters(model, settings.lora)
    watch = _Watch(settings.checkpoint, on_step, stopping)
    data = Dataset.from_dict(dict(columns))
    trainer = _Trainer(
        model=model,
        args=_arguments(settings, folder, prompts, len(data)),
        train_dataset=data,
        loss=_loss(model, settings),
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    began, before = time.monotonic(), _last_checkpoint(folder)
    if before is not None:
        notify(f"resuming after step {before.name.removeprefix('checkpoint-')}")
    try:
        trainer.train(resume_from_checkpoint=str(before) if before else None)
    except torch.OutOfMemoryError as exc:
        what = f"out of memory on {model.device}: {str(exc).partition('.')[0]}."
        raise SystemFault(what, "Lower --mini-batch-size or --max-tokens, or train --lora 16.") from exc
    if watch.stopped:
        return None
    losses = [(each["step"], each["loss"]) for each in trainer.state.log_history if "loss" in each]
    if not all(math.isfinite(loss) for _, loss in losses):
        raise JobError("the loss is not a number any more, so the model is useless.", "Lower the learning rate.")
    trainable = sum(each.numel() for each in model.parameters() if each.requires_grad)
    merge_adapters(model)
    model.max_seq_length = own_length
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    return {
        "steps": trainer.state.global_step,
        "seconds": round(time.monotonic() - began, 2),
        "device": str(model.device),
        "precision": "bfloat16" if trainer.args.bf16 else "float32",
        "max_tokens": settings.max_tokens if own_length is None else min(own_length, settings.max_tokens),
        "prompts": {"query": prompts["anchor"], "passage": prompts["positive"]},
        "trainable_parameters": trainable,
        "losses": losses,
    }


def load(source: str, device: str | None) -> SentenceTransformer:
    """A model in float32, whatever precision it is stored in: small updates are lost in bfloat16. Raises JobError."""
    with loading("train", source):
        return SentenceTransformer(
            source, device=device, model_kwargs={"dtype": torch.float32}, trust_remote_code=False
        )


def merge_adapters(model: SentenceTransformer) -> None:
    """Merge LoRA adapters into the weights they adapt, in place; a model without any stays as it is."""
    if not any("lora_" in name for name, _ in model.named_parameters()):
        return
    from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: PLC0415 - only with LoRA

    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, BaseTunerLayer):
                layer.merge()
                setattr(module, name, layer.get_base_layer())
        if getattr(module, "_hf_peft_config_loaded", False):
            module._hf_peft_config_loaded = False  # noqa: SLF001 - else transformers would save the adapters alone


def _prompts(model: SentenceTransformer, columns: Mapping[str, Sequence[Any]]) -> dict[str, str]:
    """What `encode_query` and `encode_document` put before each column's texts."""
    query = model.prompts.get("query") or ""
    document = next((text for name in ("document", "passage", "corpus") if (text := model.prompts.get(name))), "")
    return {name: query if name == "anchor" else document for name in columns if name != "label"}


def _add_adapters(model: SentenceTransformer, rank: int) -> None:
    try:
        from peft import LoraConfig, TaskType  # noqa: PLC0415 - only with LoRA
    except ImportError as exc:
        raise JobError("lora needs the package peft.", "Run `pip install 'synth[train]'`.") from exc
    options = LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules="all-linear",
    )
    model.add_adapter(options)


def _loss(model: SentenceTransformer, settings: TrainSettings) -> torch.nn.Module:
    loss: torch.nn.Module
    if settings.loss != "distil":
        margin = settings.margin if settings.loss == "masked" else None
        parts = settings.mini_batch_size if settings.mini_batch_size < settings.batch_size else None
        loss = MaskedLoss(model, settings.temperature, margin, parts)
    elif settings.distil == "kl":
        loss = DistillKLDivLoss(
            model, similarity_fct=pairwise_cos_sim, student_temperature=settings.temperature, teacher_temperature=1.0
        )
    else:
        loss = MarginMSELoss(model, similarity_fct=pairwise_cos_sim)
    width: int = model.get_embedding_dimension()
    if not settings.dims:
        return loss
    if (widest := max(settings.dims)) > width:
        raise JobError(f"dims: {widest} is more than the {width} of {settings.model}.", "Name smaller widths.")
    return MatryoshkaLoss(model, loss, sorted({width, *settings.dims}, reverse=True))


def _arguments(
    settings: TrainSettings, folder: Path, prompts: Mapping[str, str], rows: int
) -> SentenceTransformerTrainingArguments:
    batch, parts = settings.batch_size, 1
    if settings.loss == "distil" and batch > settings.mini_batch_size:
        # No text of one pair counts for another, so the batch may be computed in parts.
        parts = -(-batch // settings.mini_batch_size)
        batch = settings.mini_batch_size
    steps = settings.max_steps or math.ceil(math.ceil(rows / settings.batch_size) * settings.epochs)
    cuda = settings.device in (None, "cuda") and torch.cuda.is_available()
    cpu = settings.device == "cpu" or not (cuda or torch.mps.is_available())
    native = cpu and torch.cpu.get_capabilities().get("amx_bf16", False)
    found = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=parts,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=_WARM_UP,
        bf16=native or (cuda and torch.cuda.is_bf16_supported()),
        use_cpu=settings.device == "cpu",
        dataloader_pin_memory=cuda,
        batch_sampler=DistinctPairs,
        prompts={name: text for name, text in prompts.items() if text} or None,
        seed=settings.seed,
        save_strategy="no",  # _Watch says when
        save_total_limit=1,
        logging_steps=max(1, steps // _LOSSES),
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
    )
    found._n_gpu = min(1, found.n_gpu)  # noqa: SLF001 - several would be torch's DataParallel, which splits batches
    return found


class DistinctPairs(NoDuplicatesBatchSampler):  # type: ignore[misc]  # untyped here
    """Batches in which no two pairs have a query or a passage in common; none of a single pair, which has no negatives.

    Hard negatives are not looked at: the loss leaves out one that is another pair's passage. Where passages are few, as
    labels are, only queries are distinct.
    """

    def __init__(self, dataset: Dataset, batch_size: int, **options: Any) -> None:
        few = len(set(dataset["positive"])) < batch_size
        super().__init__(dataset.select_columns(["anchor"] if few else ["anchor", "positive"]), batch_size, **options)

    def __iter__(self) -> Iterator[list[int]]:
        return (batch for batch in super().__iter__() if len(batch) > 1)

    def __len__(self) -> int:
        rows, size = len(self.dataset), int(self.batch_size)
        return rows // size + (rows % size > 1)


def _last_checkpoint(folder: Path) -> Path | None:
    """The newest whole one: its state is the last file that is written."""
    for path in sorted(folder.glob("checkpoint-*"), key=lambda each: -int(each.name.rpartition("-")[2])):
        try:
            json.loads((path / "trainer_state.json").read_bytes())
        except (OSError, ValueError):
            continue
        return path
    return None


class _Trainer(SentenceTransformerTrainer):  # type: ignore[misc]  # untyped here
    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Nothing: `train.json` says how the model was made, and a card would quote rows."""


class _Watch(TrainerCallback):
    """Reports steps, and asks for checkpoints and for the end.

    Both fall on steps that are logged, so that a resumed training has the losses of one that was never stopped.
    """

    def __init__(
        self, every: float, on_step: Callable[[int, int, float | None], None] | None, stopping: Callable[[], bool]
    ) -> None:
        self._every, self._on_step, self._stopping = every, on_step, stopping
        self._saved = time.monotonic()
        self.stopped = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._on_step is not None:
            losses = (each["loss"] for each in reversed(state.log_history) if "loss" in each)
            self._on_step(state.global_step, state.max_steps, next(losses, None))
        if state.global_step % args.logging_steps or state.global_step >= state.max_steps:
            return
        self.stopped = self._stopping()
        control.should_training_stop = control.should_training_stop or self.stopped
        if self.stopped or time.monotonic() - self._saved >= self._every:
            control.should_save = True
            self._saved = time.monotonic()
