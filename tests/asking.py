"""A chat request to ask and a vllm_server backend to ask it of, for tests of transports; one request to any model."""

import asyncio
import contextlib

import openai.resources.chat.completions  # what the SDK imports at its first call takes minutes of a fast clock
import openai.resources.embeddings
import openai.resources.models  # noqa: F401 - as above
from loopback import FastClock

from synth.batching import gathered
from synth.llm.vllm_server import VllmServer
from synth.stage import Candidates, ChatRequest, ClientSettings, ConfigInputs, LlmStage, ReplyKey
from synth.types import Passage

SCHEMA = {
    "type": "object",
    "properties": {"kind": {"type": "string", "enum": ["summary", "facts"]}},
    "required": ["kind"],
    "additionalProperties": False,
}


def ask(position=0, text="What would one ask?", slot=0):
    passage = Passage(position, f"p{position}", "A passage.", "en", "test")
    inputs = ConfigInputs(Candidates(passage, (), ()), ("summary", "facts"), (), ())
    messages = (("system", "Be brief."), ("user", text))
    return ChatRequest(ReplyKey(position, slot, "config", 0), messages, SCHEMA, "config", 2**62 + 5, 99, inputs)


class Said(list):
    """What `notify` was told."""


@contextlib.asynccontextmanager
async def opened(*servers, clock=None, said=None, client=None, **options):
    settings = {"request_timeout": 5.0, "outage": 1800.0, "startup": 900.0} | (client or {})
    notify = said.append if said is not None else lambda _: None
    urls = [s if isinstance(s, str) else s.url for s in servers]
    stage = VllmServer(model="tiny", base_urls=urls, **options)
    model = stage.open(ClientSettings(notify=notify, clock=clock or FastClock(), **settings))
    try:
        yield model
    finally:
        await model.close()


def complete(*servers, requests=None, **options):
    async def run():
        async with opened(*servers, **options) as model:
            return await gathered(model.complete(r) for r in requests or [ask()])

    return asyncio.run(run())


def described(kind, url, **options):
    """The options of a served model at `url`."""
    where = {"base_url": url} if "base_url" in kind.model_fields else {"base_urls": [url]}
    return kind(model="tiny", **where, **options)


def asked(kind, url, texts=("a text",), *, said=None, probe=False, **options):
    """What the model that a job describes so makes of one request, or of a probe."""
    stage = described(kind, url, **options)
    client = ClientSettings(
        notify=said.append if said is not None else lambda _: None,
        clock=FastClock(),
        request_timeout=9.0,
        startup=900.0,
    )

    async def run():
        model = stage.open(client) if isinstance(stage, LlmStage) else stage.open(client, "find answers")
        try:
            if probe:
                return (await model.probe())[0]
            if isinstance(stage, LlmStage):
                return await model.complete(ask())
            if hasattr(model, "encode"):
                return await model.encode(list(texts), "document")
            return await model.score([("a query", text) for text in texts])
        finally:
            await model.close()

    return asyncio.run(run())
