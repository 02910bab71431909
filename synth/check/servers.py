"""Each model of a job asked once, and where passages will go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from synth.check.findings import Finding, Findings
from synth.check.job import check_descriptors
from synth.errors import SynthError
from synth.scores import Scorer
from synth.servers.faults import is_loopback, shown
from synth.servers.probe import ProbeResult
from synth.stage import ClientSettings, Stage

PROBE_SECONDS = 120.0
"""A server that takes longer for one small request is of no use."""


@dataclass(frozen=True, slots=True)
class Model:
    """One model that a job names: where (`llm`, `scores.1.model`), its options, and how it is opened."""

    section: str
    stage: Stage
    open: Callable[[ClientSettings], Any]


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


def named_models(stages: Mapping[str, Any], instruction: str) -> list[Model]:
    """The models of a job's sections and scorers; `instruction` is what embedders and rerankers are told."""
    found: list[Model] = []
    if (llm := stages.get("llm")) is not None:
        found.append(Model("llm", llm, llm.open))
    if (embed := stages.get("embed")) is not None:
        found.append(Model("embed", embed, lambda client: embed.open(client, instruction)))
    for number, scorer in enumerate(stages.get("scores", ())):
        own = {name: getattr(scorer, name) for name in type(scorer).model_fields}
        found += [
            Model(f"scores.{number}.{name}", stage, partial(_brought, scorer, instruction=instruction))
            for name, stage in own.items()
            if isinstance(stage, Stage)
        ]
    return found


def _brought(scorer: Scorer, client: ClientSettings, *, instruction: str) -> Any:
    (model,) = scorer.open(client, instruction).values()
    return model


def ask_all(models: Sequence[Model], findings: Findings, *, offline: bool) -> list[Asked]:
    """Ask every server at the same time; what is wrong with one becomes a finding, the others are still asked."""

    async def gather() -> list[Asked]:
        return list(await asyncio.gather(*(_ask(model, findings, offline=offline) for model in models)))

    return asyncio.run(gather())


async def _ask(named: Model, findings: Findings, *, offline: bool) -> Asked:
    section, stage = named.section, named.stage
    use = type(stage).__module__.rpartition(".")[2]
    asked = Asked(
        section,
        use,
        str(getattr(stage, "model", "")),
        servers=[shown(url) for url in _urls(stage)],
        hosts=hosts(stage),
        proxies=proxies(stage),
    )
    client = ClientSettings(request_timeout=PROBE_SECONDS, notify=findings.warn)
    try:
        model = named.open(client)
    except SynthError as exc:
        findings.add(Finding.of(exc, f"{section}: "))
        return asked
    try:
        check_descriptors(getattr(model, "slots", 0) if asked.hosts else 0, findings)
        probe = getattr(model, "probe", None)
        results = await probe() if probe is not None and not offline else []
    except SynthError as exc:
        findings.add(Finding.of(exc, f"{section}: "))
        return asked
    finally:
        await model.close()
    for result in results:
        for problem in result.problems:
            told = problem if problem.startswith(result.server) else f"{result.server}: {problem}"
            cure = "" if result.reachable else f" Start it, or correct {section}.{_url_key(stage)}."
            ended = told if told.endswith("?") else f"{told.rstrip('.')}."
            findings.add(Finding(f"{section}: {ended}{cure}", 5))
    return replace(asked, results=tuple(results))


def _url_key(stage: Any) -> str:
    return "base_urls" if hasattr(stage, "base_urls") else "base_url"


def proxies(stage: Any) -> list[str]:
    """What HTTP_PROXY and its kin mean for the servers of a stage; nothing for servers on this machine."""
    found = getproxies()
    used = bool(getattr(stage, "trust_env", False))
    told = []
    for url in _urls(stage):
        parts = urlsplit(url)
        proxy = found.get(parts.scheme)
        if proxy is None or is_loopback(url):
            continue
        if proxy_bypass(parts.netloc):
            told.append(f"{parts.netloc} is reached directly: the environment exempts it from proxies")
        elif used:
            told.append(f"{parts.netloc} is reached through the proxy {shown(proxy)} (trust_env)")
        else:
            told.append(f"{parts.netloc} is reached directly: the proxy of the environment counts with trust_env only")
    return list(dict.fromkeys(told))


def hosts(stage: Any) -> list[str]:
    """The hosts other than this machine that a stage sends texts to, each once."""
    return list(dict.fromkeys(urlsplit(url).netloc for url in _urls(stage) if not is_loopback(url)))


def _urls(stage: Any) -> list[str]:
    return list(stage.urls()) if hasattr(stage, "urls") else []
