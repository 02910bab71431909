"""vLLM's own servers over aiohttp: a third of a millisecond of CPU for a request, however many are in flight."""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, SecretStr, field_validator
from pydantic_core import to_json

from synth.errors import JobError, ServerRefused, SynthError
from synth.names import path_of
from synth.servers.faults import (
    Answer,
    NotFoundError,
    Redactor,
    TransientError,
    expand_urls,
    lasting_fault,
    proxy_of,
    shown,
    status_error,
)
from synth.servers.fleet import Fleet, Transport
from synth.servers.limiter import Load, read_load
from synth.stage import ClientSettings, ModelStage

if TYPE_CHECKING:
    import aiohttp

KEEP_ALIVE = 4.0  # seconds; uvicorn closes idle connections after 5, and a POST sent on a closed one is lost
_MAX_ANSWER = 256 * 2**20
CONNECT_TIMEOUT = 10.0
GET_TIMEOUT = 30.0


_TEXTS = frozenset({"messages", "input", "queries", "documents", "stream", "n"})
"""Fields of a request without which nothing can be asked, or whose answer could not be read."""


class ServerAuth(ModelStage):
    """Credentials, TLS and further fields of requests; `api_key_env` names a variable, and never is the key itself."""

    tuning: ClassVar[frozenset[str]] = frozenset({"api_key_env", "ca_file", "trust_env"})

    api_key_env: str | None = None
    """Environment variable with the API key; null sends none."""
    ca_file: str | None = None
    """PEM file of a certificate authority to trust in addition to the system's."""
    trust_env: bool = False
    """Use HTTP_PROXY and the other proxy variables; servers on this machine are always reached directly."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of the request. They replace ours of the same name; null leaves one of ours out, such as
    `seed: null`."""
    cures: ClassVar[Mapping[str, str]] = {}
    """What a job writes to leave out a field that the server refuses, where that is not `extra_body`."""

    @field_validator("extra_body")
    @classmethod
    def _leaves_texts(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(_TEXTS & value.keys()):
            raise ValueError(f"{taken[0]} is written by synth and cannot be changed")
        return value

    @field_validator("api_key_env")
    @classmethod
    def _is_variable_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise ValueError("must be the name of an environment variable, such as OPENAI_API_KEY, not the key itself")
        return value

    def identity(self) -> dict[str, Any]:
        """As of every stage. Where `extra_body` came later, an empty one does not count: older folders lack it."""
        found = super().identity()
        later = self.service != "chat" and type(self).model_fields["extra_body"].default_factory is dict
        return {name: value for name, value in found.items() if name != "extra_body" or value or not later}

    def extended(self, body: Mapping[str, Any], more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A request with the fields of `extra_body`, and of `more`; one that is null there is left out."""
        fields = {**body, **self.extra_body, **(more or {})}
        return {name: value for name, value in fields.items() if value is not None}

    def key(self) -> SecretStr | None:
        """The API key. Raises JobError when the variable is unset, empty or not usable as a header value."""
        if self.api_key_env is None:
            return None
        value = os.environ.get(self.api_key_env, "").strip()
        if not value:
            what = f"field api_key_env: the environment variable {self.api_key_env} is not set."
            hint = f"Run `export {self.api_key_env}=…` first, or set api_key_env to null for a server without a key."
            raise JobError(what, hint)
        if not (value.isascii() and value.isprintable()):
            what = f"field api_key_env: {self.api_key_env} has characters that a key cannot have."
            raise JobError(what, "Copy the key again.")
        return SecretStr(value)

    def tls(self) -> ssl.SSLContext:
        """A context that trusts the system's authorities and `ca_file`. Raises JobError when that is unreadable."""
        if self.ca_file is None:
            return _system_authorities()
        context = ssl.create_default_context()
        try:
            context.load_verify_locations(path_of(self.ca_file))
        except (OSError, ssl.SSLError) as exc:
            what = f"field ca_file: {self.ca_file!r} cannot be used: {exc}."
            raise JobError(what, "It must be a file of PEM certificates.") from exc
        return context


@cache
def _system_authorities() -> ssl.SSLContext:
    """Read once a process: each reading takes a fortieth of a second."""
    return ssl.create_default_context()


class VllmServers(ServerAuth):
    """The servers of one model, all started with the same options."""

    tuning: ClassVar[frozenset[str]] = ServerAuth.tuning | {"base_urls"}

    base_urls: list[str]
    """Their URLs; `http://host:8000-8006/v1` is seven servers, a URL without a path gets `/v1`."""
    revision: str | None = None
    """The checkpoint's revision, for the record only: servers do not report theirs."""

    @field_validator("base_urls")
    @classmethod
    def _are_urls(cls, value: list[str]) -> list[str]:
        expand_urls(value)
        return value

    def urls(self) -> list[str]:
        return expand_urls(self.base_urls)

    def fleet(self, path: str, client: ClientSettings, *, per_server: int, adaptive: bool = False) -> Fleet:
        """These servers behind one call, each with up to `per_server` requests at once unless the job says how many.

        `adaptive` finds the best number below that while working. Raises JobError when the key or CA file is missing.
        """
        urls = self.urls()
        slots = client.concurrency or per_server * len(urls)
        transport = HttpTransport(self, path, client, slots + len(urls))
        most, load = (None if client.concurrency else per_server, transport.load) if adaptive else (None, None)
        return Fleet(
            urls,
            transport,
            client,
            model=self.model,
            slots=slots,
            check_models=True,
            most=most,
            load=load,
            cures=self.cures,
        )


class HttpTransport(Transport):
    """Posts JSON; sessions are opened by the first call, because aiohttp binds them to the running event loop."""

    def __init__(self, auth: ServerAuth, path: str, client: ClientSettings, connections: int) -> None:
        super().__init__(path, auth.key(), client, connections)
        # aiohttp has a context of its own; reading the system's authorities again takes a fiftieth of a second
        self._tls = True if auth.ca_file is None else auth.tls()
        self._trust_env = auth.trust_env
        self._open: aiohttp.ClientSession | None = None

    async def send(self, url: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Any:
        """The JSON of the answer to one request."""
        try:
            data = to_json(body)  # takes a quarter of the time of `json.dumps`
        except ValueError:  # a lone surrogate, which only the escapes of `json.dumps` can carry
            data = json.dumps(body).encode()
        request = partial(self._session().post, url + self.path, data=data, headers=headers)
        return self._parsed(await self._answer(url, request, self._timeout), url)

    async def models(self, url: str) -> Any:
        return self._parsed(await self._get(url, url + "/models"), url)

    async def version(self, url: str) -> str | None:
        """VLLM's version, None when the server does not report one."""
        try:
            found = self._parsed(await self._get(url, url.removesuffix("/v1") + "/version"), url)
        except (NotFoundError, TransientError, SynthError):
            return None
        version = found.get("version") if isinstance(found, dict) else None
        return version if isinstance(version, str) else None

    async def load(self, url: str) -> Load | None:
        try:
            answer = await self._get(url, url.removesuffix("/v1") + "/metrics")
        except (NotFoundError, TransientError, SynthError):
            return None
        return read_load(answer.body.decode("utf-8", "replace"))

    async def close(self) -> None:
        if self._open is not None:
            await self._open.close()
            self._open = None

    async def _get(self, server: str, url: str) -> Answer:
        return await self._answer(server, partial(self._session().get, url), min(GET_TIMEOUT, self._timeout))

    async def _answer(self, server: str, request: Callable[..., Any], timeout: float) -> Answer:
        name = shown(server)
        proxy = proxy_of(server) if self._trust_env else None
        async with exchange(name, timeout, self._redact), request(allow_redirects=False, proxy=proxy) as response:
            if (response.content_length or 0) > _MAX_ANSWER:
                raise TransientError(f"{name}: an answer of {response.content_length} bytes")
            answer = Answer(response.status, response.headers, await response.read())
        if answer.ok:
            return answer
        raise status_error(answer, name, self._clock.wall(), self._redact)

    def _session(self) -> aiohttp.ClientSession:
        if self._open is not None:
            return self._open
        import aiohttp  # noqa: PLC0415 - heavy, needed only by runs with a server

        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        self._open = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._connections, keepalive_timeout=KEEP_ALIVE, ssl=self._tls, ttl_dns_cache=60
            ),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # would also send what ~/.netrc has for the server
        )
        return self._open


@asynccontextmanager
async def exchange(server: str, timeout: float, redact: Redactor) -> AsyncIterator[None]:
    """Limits one request and its answer to `timeout` seconds, and gives what goes wrong on the way its error."""
    import aiohttp  # noqa: PLC0415 - as above

    try:
        async with asyncio.timeout(timeout):
            yield
    except aiohttp.ClientError as exc:
        raise client_error(exc, server, redact) from None  # its text may contain the key
    except TimeoutError as exc:
        raise TransientError(f"{server}: no full answer within {timeout:.0f} s") from exc
    except OSError as exc:
        raise lasting_fault(exc, server, redact) or TransientError(f"{server}: {redact(str(exc))}") from None


def client_error(exc: aiohttp.ClientError, server: str, redact: Redactor) -> Exception:
    """The error for an exception of aiohttp: SystemFault, ServerRefused or TransientError."""
    import aiohttp  # noqa: PLC0415 - as above

    if known := lasting_fault(exc, server, redact):
        return known
    message = f"{server}: {redact(str(exc) or type(exc).__name__)}"
    if isinstance(exc, aiohttp.ServerFingerprintMismatch):
        return ServerRefused(f"{server}: TLS: the server's certificate has another fingerprint.", "See ca_file.")
    if isinstance(
        exc,
        aiohttp.InvalidURL | aiohttp.RedirectClientError | aiohttp.NonHttpUrlClientError | aiohttp.TooManyRedirects,
    ):
        return ServerRefused(f"{message}.", "Check the URL in the job.")
    if isinstance(exc, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | aiohttp.ClientHttpProxyError):
        return TransientError(message, "unreachable")
    return TransientError(message)
