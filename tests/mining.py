"""Small models for tests of mining, named in job files as `mining:Bag`, `mining:Verdicts` and `mining:Writer`."""

import asyncio
import json
import re
import sys
import threading
import zlib

import numpy as np

from synth.errors import RequestRejected
from synth.stage import ChatReply, EmbedStage, Encoded, LlmStage, RerankStage

WIDTH = 96
asked = []
"""Every (kind, text) that a model of this module was asked."""


class Bag(EmbedStage):
    """Vectors of hashed words; a text with `NaN` in it gets NaN, one with `REFUSED` is refused."""

    model: str = "bag"

    def open(self, client, instruction):  # noqa: ARG002 - the seam's signature
        return _Bag()


class _Bag:
    slots = 1

    async def encode(self, texts, role):
        asked.extend((role, text) for text in texts)
        if any("REFUSED" in text for text in texts):
            raise RequestRejected("too_long", "it says so")
        return Encoded(np.array([vector(text) for text in texts], np.float32), np.zeros(len(texts), np.bool_))

    async def close(self):
        pass


def vector(text):
    found = np.full(WIDTH, 0.01)
    for word in re.findall(r"\w+", text.casefold()):
        found[zlib.crc32(word.encode()) % WIDTH] += 1
    return np.full(WIDTH, np.nan) if "NaN" in text else found / np.linalg.norm(found)


class Verdicts(RerankStage):
    """A reranker that finds its verdict in the document: `P=0.95`, `P=nan`; else 0.1."""

    def open(self, client, instruction):  # noqa: ARG002 - the seam's signature
        return _Verdicts()


class _Verdicts:
    batch_size = 4

    async def score(self, pairs):
        asked.extend(("pair", document) for _, document in pairs)
        found = [re.search(r"P=(nan|[\d.]+\d)", document) for _, document in pairs]
        return np.array([float(each[1]) if each else 0.1 for each in found])

    async def close(self):
        pass


class Graded(RerankStage):
    """A reranker whose document says its score for a word of the query: `ferry:0.95`; else 0.05."""

    def open(self, client, instruction):  # noqa: ARG002 - the seam's signature
        return _Graded()


class _Graded:
    batch_size = 4

    async def score(self, pairs):
        asked.extend(("pair", document) for _, document in pairs)
        return np.array([grade(query, document) for query, document in pairs])

    async def close(self):
        pass


def grade(query, document):
    told = dict(re.findall(r"(\w+):([\d.]+\d)", document))
    return next((float(told[word]) for word in query.split() if word in told), 0.05)


class Judge(LlmStage):
    """A language model whose passage says its verdict, `says partly`; its first `inventions` quotes are not there."""

    inventions: int = 0

    def open(self, client):  # noqa: ARG002 - as above
        return _Judge(self.inventions)


class _Judge:
    slots = 2
    troubled = False

    def __init__(self, inventions):
        self._inventions = inventions

    async def complete(self, request):
        await asyncio.sleep(0)
        asked.append((request.schema_name, request.messages[-1][1]))
        passage = request.inputs.passage
        quote = "made up" if request.key.attempt < self._inventions else passage[:14]
        return ChatReply(json.dumps({"Quote": quote, "Verdict": re.search(r"says (\w+)", passage)[1]}), "stop", "judge")

    async def close(self):
        pass


class Writer(LlmStage):
    """A language model that writes `replies`, one a call, the last one for ever; `{query}` is filled in."""

    replies: list[str]

    def open(self, client):  # noqa: ARG002 - as above
        return _Writer(self.replies)


class _Writer:
    slots = 2
    troubled = False

    def __init__(self, replies):
        self._replies = replies

    async def complete(self, request):
        await asyncio.sleep(0)
        asked.append((request.schema_name, request.messages[-1][1]))
        replies = [FACETS] if request.schema_name == "facets" else self._replies
        reply = replies[min(request.key.attempt, len(replies) - 1)]
        return ChatReply(reply.replace("{query}", request.inputs.query), "stop", "writer")

    async def close(self):
        pass


class Deep(LlmStage):
    """A language model of this process in the middle of a long reply, for which closing it waits."""

    def open(self, client):  # noqa: ARG002 - as above
        return _Deep()


class _Deep:
    slots = 1
    troubled = False

    async def complete(self, request):  # noqa: ARG002 - as above
        print("thinking", file=sys.stderr, flush=True)  # noqa: T201 - for the test that waits
        await asyncio.Event().wait()

    async def close(self):
        threading.Event().wait()


def facet(name, critical, kind="other_thing"):
    return {"Facet": name, "Critical": critical, "Break": kind, "How": f"tells of another {name}"}


def required(*facets):
    """A reply that holds these requirements of a query."""
    return json.dumps({"Need": "to know", "Boundary": "here", "Facets": list(facets)})


FACETS = required(
    facet("place", True),
    facet("tone", False),
    facet("hour", True, "other_condition"),
    facet("price", True, "other_aim"),
)


def said(*texts):
    """A reply that holds these negatives."""
    return json.dumps({"Negatives": list(texts)})
