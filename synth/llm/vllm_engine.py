"""Chat with vLLM inside this process: one machine, no server to start."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from synth.errors import JobError, RequestRejected, ServerUnavailable
from synth.llm._tokens import local_tokenizer
from synth.servers.faults import is_too_long
from synth.stage import ChatReply, ChatRequest, ClientSettings, LlmStage, ProbeResult, Tokenize

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

__all__ = ["VllmEngine"]

_SLOTS = 256
_OURS = frozenset({"model", "revision", "tensor_parallel_size", "max_model_len", "structured_outputs_config"})


class VllmEngine(LlmStage):
    """A model run by vLLM in this process; replies follow their schema, without needless white space."""

    model: str
    """A folder or a name on the hub."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    tensor_parallel_size: int = Field(default=1, gt=0)
    """GPUs that share the model."""
    max_model_len: int | None = Field(default=None, gt=0)
    """Tokens of prompt and reply together; null takes the model's own limit."""
    engine: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of vLLM's AsyncEngineArgs."""
    temperature: float = Field(default=0.7, ge=0)
    top_p: float = Field(default=0.8, gt=0, le=1)
    top_k: int = 20
    """0 or -1 for no limit."""
    min_p: float = Field(default=0.0, ge=0, le=1)

    @field_validator("engine")
    @classmethod
    def _new_arguments(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(_OURS & set(value)):
            raise ValueError(f"{taken[0]} has an option of its own or is set by synth")
        return value

    @property
    def gpus(self) -> int:
        return self.tensor_parallel_size

    def tokenizer(self) -> Tokenize | None:
        return local_tokenizer(self.model)

    def open(self, client: ClientSettings) -> EngineChat:
        return EngineChat(self, client)


class EngineChat:
    """A ChatModel over vLLM's AsyncLLM; `slots` requests are worth having in flight. Must be closed."""

    troubled = False

    def __init__(self, options: VllmEngine, client: ClientSettings) -> None:
        self.slots = client.concurrency or _SLOTS
        self._options = options
        self._timeout = client.request_timeout
        self._engine: AsyncLLM | None = None
        self._asked = 0

    async def complete(self, request: ChatRequest) -> ChatReply:
        """The model's reply, unchecked.

        Raises RequestRejected for a prompt that the model cannot take, JobError when the engine cannot be loaded and
        ServerUnavailable when it dies or hangs.
        """
        engine = self._loaded()
        from vllm.exceptions import VLLMClientError, VLLMError  # noqa: PLC0415 - there once the engine is loaded

        self._asked += 1
        name = f"{request.key.position}-{request.key.slot}-{request.key.stage}-{self._asked}"
        try:
            async with asyncio.timeout(self._timeout):
                return await self._generate(engine, request, name)
        except (VLLMClientError, ValueError) as exc:
            reason = "too_long" if is_too_long(str(exc)) else "bad_request"
            raise RequestRejected(reason, str(exc)[:500]) from exc
        except (VLLMError, TimeoutError) as exc:
            what = f"the vLLM engine of {self._options.model} died or hung: {exc or type(exc).__name__}."
            raise ServerUnavailable(what, "Its own messages are above; run the same command again.") from exc

    async def probe(self) -> list[ProbeResult]:
        """One result: the engine loads, and how much it reads at once. Raises JobError when it does not load."""
        engine = self._loaded()
        name = self._options.model
        return [ProbeResult(name, reachable=True, models=(name,), max_model_len=engine.model_config.max_model_len)]

    async def close(self) -> None:
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None

    def _loaded(self) -> AsyncLLM:
        if self._engine is not None:
            return self._engine
        options = self._options
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: PLC0415 - heavy, only this backend needs it
            from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415 - as above

            arguments = AsyncEngineArgs(
                model=options.model,
                revision=options.revision,
                tensor_parallel_size=options.tensor_parallel_size,
                max_model_len=options.max_model_len,
                structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
                **options.engine,
            )
            self._engine = AsyncLLM.from_engine_args(arguments)
        except ImportError as exc:
            raise JobError(f"llm vllm_engine: {exc}.", "Run `pip install 'synth[vllm]'`.") from exc
        except (TypeError, ValueError, OSError) as exc:
            what = f"llm vllm_engine: {options.model!r} cannot be loaded: {exc}."
            raise JobError(what, "See llm.model and llm.engine.") from exc
        return self._engine

    async def _generate(self, engine: AsyncLLM, request: ChatRequest, name: str) -> ChatReply:
        from vllm import sampling_params as vllm  # noqa: PLC0415 - as above

        options = self._options
        prompt = engine.get_tokenizer().apply_chat_template(
            [{"role": role, "content": content} for role, content in request.messages],
            add_generation_prompt=True,
            tokenize=False,
            enable_thinking=False,
        )
        sampling = vllm.SamplingParams(
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=options.top_k,
            min_p=options.min_p,
            seed=request.seed,
            max_tokens=request.max_tokens,
            structured_outputs=vllm.StructuredOutputsParams(json=dict(request.schema)),
            output_kind=vllm.RequestOutputKind.FINAL_ONLY,
        )
        final = None
        async for output in engine.generate({"prompt": prompt}, sampling, name):
            final = output
        if final is None or not final.outputs:
            return ChatReply(None, "stop", options.model)
        best = final.outputs[0]
        return ChatReply(
            text=best.text,
            finish_reason=best.finish_reason or "stop",
            model=options.model,
            prompt_tokens=len(final.prompt_token_ids or ()),
            completion_tokens=len(best.token_ids),
        )
