"""Each model of a job asked once, and where passages will go."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np
from numpy.typing import NDArray

from synth.batching import encode_all
from synth.check import Findings
from synth.errors import SynthError
from synth.generators import Generators
from synth.job import SPARE_DESCRIPTORS
from synth.servers.faults import is_loopback, proxy_of, shown
from synth.servers.http import ServerAuth
from synth.servers.probe import UNRELATED
from synth.stage import (
    ChatModel,
    ClientSettings,
    EmbedStage,
    Encoder,
    LlmStage,
    ModelStage,
    ProbeResult,
    Probing,
    Reranker,
    RerankStage,
    name_of,
)

PROBE_SECONDS = 120.0
"""A server that takes longer for one small request cannot be used."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One model of the job: what it is, its servers, those of their hosts that are not this machine, and their answers.

    `results` is empty where nothing was asked: in-process models without a probe, and `--offline`.
    """

    section: str
    use: str
    model: str
    servers: Sequence[str]
    """URLs without secrets; empty for a model in this process."""
    hosts: Sequence[str]
    results: Sequence[ProbeResult] = ()
    proxies: Sequence[str] = ()
    """What the proxy variables of the environment do to these hosts, in sentences; empty where there are none."""


async def ask_all(
    stages: Mapping[str, Any], instruction: str, passages: Sequence[str], findings: Findings, *, offline: bool
) -> list[Asked]:
    """Ask the models of all sections and scorers at the same time, and the embedder whether it reads `passages`.

    `instruction` is for those without one of their own. A problem with one becomes a finding, the others are still
    asked.
    """
    llm = stages.get("llm")
    every = llm.members if isinstance(llm, Generators) else [("llm", llm)]
    named = [(section, stage, instruction) for section, stage in every]
    named += [(section, stages.get(section), instruction) for section in ("embed", "personas.embed")]
    for number, scorer in enumerate(stages.get("scores", ())):
        own = dict(scorer).get("instruction") or instruction
        named += [(f"scores.{number}.{name}", stage, own) for name, stage in scorer.models.items()]
    models = [(section, stage, own) for section, stage, own in named if isinstance(stage, ModelStage)]
    return await asyncio.gather(*(_ask(*each, passages, findings, offline=offline) for each in models))


async def _ask(
    section: str, stage: ModelStage, instruction: str, passages: Sequence[str], findings: Findings, *, offline: bool
) -> Asked:
    urls = stage.urls()
    hosts = list(dict.fromkeys(urlsplit(url).netloc for url in urls if not is_loopback(url)))
    asked = Asked(section, name_of(stage), stage.model, [shown(url) for url in urls], hosts, proxies=proxies(stage))
    limit = PROBE_SECONDS
    client = ClientSettings(request_timeout=limit, outage=limit, startup=limit, notify=findings.warn)
    results: list[ProbeResult] = []
    try:
        if isinstance(stage, LlmStage):
            chat = stage.open(client)
            _check_descriptors(chat.slots if hosts else 0, findings)
            results = await _probed(chat, None, offline=offline)
        elif isinstance(stage, EmbedStage | RerankStage):
            texts = passages if section == "embed" else ()
            look = _reads_whole(stage.model, texts, findings) if texts else None
            results = await _probed(stage.open(client, instruction), look, offline=offline)
    except SynthError as exc:
        findings.error(exc, f"{section}: ")
        return asked
    for text in _problems(section, stage, results):
        findings.add(text, 5)
    return replace(asked, results=tuple(results))


async def _probed(
    model: ChatModel | Encoder | Reranker, then: Callable[[Any], Awaitable[None]] | None, *, offline: bool
) -> list[ProbeResult]:
    """What a model answers; one without problems is handed to `then`.

    Opening it also shows missing keys and certificates, offline as well.
    """
    try:
        found = await model.probe() if isinstance(model, Probing) and not offline else []
        if then is not None and found and not any(each.problems for each in found):
            await then(model)
        return found
    finally:
        await model.close()


MOST_EMBEDDED = 32
"""Passages embedded at most, to see whether the embedder reads them to their ends."""
_STEPS = 16
"""Beginnings of the longest passage that are tried, to see how much the embedder reads."""


def _reads_whole(model: str, passages: Sequence[str], findings: Findings) -> Callable[[Any], Awaitable[None]]:
    """Warns where an embedder does not read passages to their ends, with the length that it does read."""

    async def look(encoder: Encoder) -> None:
        cut = await _truncated(encoder, passages)
        if not cut.any():
            return
        longest = max((text for text, each in zip(passages, cut, strict=True) if each), key=len)
        lengths = [len(longest) * part // _STEPS for part in range(1, _STEPS)]
        fits = ~await _truncated(encoder, [longest[:length] for length in lengths])
        most = max((length for length, each in zip(lengths, fits, strict=True) if each), default=0) // 100 * 100
        cure = f"Set corpus.max_chars to {most:,} or use" if most else "Lower corpus.max_chars, or use"
        findings.warn(
            f"embed: {model} reads {int(cut.sum())} of the {len(cut)} passages looked at only in part: the rest of "
            "them counts neither for personas nor for cosine, and with `truncate: error` they are rejected. "
            f"{cure} an embedder that reads longer texts."
        )

    return look


async def _truncated(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.bool_]:
    """Which texts an embedder reads only the beginning of, or refuses as too long.

    Where it does not say, a text is cut when another end in its last eighth leaves its vector as it was.
    """
    encoded, refused = await encode_all(encoder, texts, "document")
    cut = encoded.truncated.copy()
    cut[[n for n, why in refused.items() if why.reason == "too_long"]] = True
    if encoded.silent:
        others, also = await encode_all(encoder, [text[: len(text) * 7 // 8] + UNRELATED for text in texts], "document")
        same = np.einsum("ij,ij->i", encoded.vectors, others.vectors) > 1 - _SAME
        same[[*refused, *also]] = False
        cut |= same
    return cut


_SAME = 1e-6
"""How far the cosine of two equal vectors may be from 1."""


def _problems(section: str, stage: ModelStage, results: Sequence[ProbeResult]) -> Iterator[str]:
    key = next((name for name in ("base_urls", "base_url") if name in type(stage).model_fields), "model")
    for result in results:
        for problem in result.problems:
            text = problem if problem.startswith(result.server) else f"{result.server}: {problem}"
            cure = "" if result.reachable else f" Start it, or correct {section}.{key}."
            yield f"{section}: {text if text.endswith('?') else text.rstrip('.') + '.'}{cure}"


def proxies(stage: ModelStage) -> list[str]:
    """What HTTP_PROXY and similar variables mean for the servers of a stage; nothing for servers on this machine."""
    used = isinstance(stage, ServerAuth) and stage.trust_env
    lines = []
    for url in stage.urls():
        parts = urlsplit(url)
        proxy, named = proxy_of(url), getproxies()
        if is_loopback(url) or not (named.get(parts.scheme) or named.get("all")):
            continue
        how = "directly: the environment exempts it from proxies"
        if proxy is not None:
            how = f"through the proxy {shown(proxy)} (trust_env)"
            how = how if used else "directly: the proxy of the environment counts with trust_env only"
        lines.append(f"{parts.netloc} is reached {how}")
    return list(dict.fromkeys(lines))


def _check_descriptors(slots: int, findings: Findings) -> None:
    """Warn where the requests in flight would need more file descriptors than a process may have."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed != resource.RLIM_INFINITY and slots + SPARE_DESCRIPTORS > allowed:
        findings.warn(
            f"{slots:,} requests in flight need more than the {allowed:,} file descriptors of a process here. "
            f"Run `ulimit -n {2 * (slots + SPARE_DESCRIPTORS)}` first, or lower run.concurrency."
        )
