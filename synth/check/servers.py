"""Each model of a job asked once, and where passages will go."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from synth.check import Finding, Findings
from synth.errors import SynthError
from synth.job import SPARE_DESCRIPTORS
from synth.registry import name_of
from synth.servers.faults import is_loopback, shown
from synth.servers.http import ServerAuth
from synth.stage import ClientSettings, EmbedStage, LlmStage, ModelStage, ProbeResult, RerankStage

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

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Model:
    """One model that a job names, where (`llm`, `scores.1.model`), and the instruction that it gets."""

    section: str
    stage: ModelStage
    instruction: str


def named_models(stages: Mapping[str, Any], instruction: str) -> list[Model]:
    """The models of a job's sections and scorers; `instruction` is for those without one of their own."""
    named = [(section, stages.get(section)) for section in ("llm", "embed")]
    found = [Model(section, stage, instruction) for section, stage in named if isinstance(stage, ModelStage)]
    for number, scorer in enumerate(stages.get("scores", ())):
        own = dict(scorer).get("instruction") or instruction
        found += [Model(f"scores.{number}.{name}", stage, own) for name, stage in scorer.models.items()]
    return found


def ask_all(models: Sequence[Model], findings: Findings, *, offline: bool) -> list[Asked]:
    """Ask all servers at the same time; a problem with one becomes a finding, the others are still asked."""

    async def gather() -> list[Asked]:
        return await asyncio.gather(*(_ask(model, findings, offline=offline) for model in models))

    return asyncio.run(gather())


async def _ask(named: Model, findings: Findings, *, offline: bool) -> Asked:
    section, stage = named.section, named.stage
    asked = Asked(
        section,
        name_of(stage),
        stage.model,
        servers=[shown(url) for url in stage.urls()],
        hosts=hosts(stage),
        proxies=proxies(stage),
    )
    client = ClientSettings(request_timeout=PROBE_SECONDS, notify=findings.warn)
    try:
        results = await _probe(named, client, findings, offline=offline)
    except SynthError as exc:
        findings.add(Finding.of(exc, f"{section}: "))
        return asked
    key = next((name for name in ("base_urls", "base_url") if name in type(stage).model_fields), "model")
    for result in results:
        for problem in result.problems:
            text = problem if problem.startswith(result.server) else f"{result.server}: {problem}"
            cure = "" if result.reachable else f" Start it, or correct {section}.{key}."
            ended = text if text.endswith("?") else f"{text.rstrip('.')}."
            findings.add(Finding(f"{section}: {ended}{cure}", 5))
    return replace(asked, results=tuple(results))


async def _probe(named: Model, client: ClientSettings, findings: Findings, *, offline: bool) -> list[ProbeResult]:
    """What the servers of one model answer. Opening it also shows missing keys and certificates, offline as well."""
    stage = named.stage
    if isinstance(stage, LlmStage):
        chat = stage.open(client)
        await chat.close()
        _check_descriptors(chat.slots if hosts(stage) else 0, findings)
        return [] if offline else await stage.probe(client)
    if isinstance(stage, EmbedStage | RerankStage):
        model = stage.open(client, named.instruction)
        await model.close()
        return [] if offline else await stage.probe(client, named.instruction)
    return []


def proxies(stage: ModelStage) -> list[str]:
    """What HTTP_PROXY and similar variables mean for the servers of a stage; nothing for servers on this machine."""
    found = getproxies()
    used = isinstance(stage, ServerAuth) and stage.trust_env
    lines = []
    for url in stage.urls():
        parts = urlsplit(url)
        proxy = found.get(parts.scheme)
        if proxy is None or is_loopback(url):
            continue
        if proxy_bypass(parts.netloc):
            lines.append(f"{parts.netloc} is reached directly: the environment exempts it from proxies")
        elif used:
            lines.append(f"{parts.netloc} is reached through the proxy {shown(proxy)} (trust_env)")
        else:
            lines.append(f"{parts.netloc} is reached directly: the proxy of the environment counts with trust_env only")
    return list(dict.fromkeys(lines))


def hosts(stage: ModelStage) -> list[str]:
    """The hosts other than this machine that a stage sends texts to, each once."""
    return list(dict.fromkeys(urlsplit(url).netloc for url in stage.urls() if not is_loopback(url)))


def _check_descriptors(slots: int, findings: Findings) -> None:
    """Warn where the requests in flight would need more file descriptors than a process may have."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed != resource.RLIM_INFINITY and slots + SPARE_DESCRIPTORS > allowed:
        findings.warn(
            f"{slots:,} requests in flight need more than the {allowed:,} file descriptors of a process here. "
            f"Run `ulimit -n {2 * (slots + SPARE_DESCRIPTORS)}` first, or lower run.concurrency."
        )
