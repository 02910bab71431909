"""JSON over aiohttp: a third of a millisecond of CPU a request, flat in concurrency."""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, SecretStr, field_validator
from pydantic_core import to_json

from synth.errors import JobError, RequestRejected, ServerRefused, SynthError
from synth.servers.faults import (
    Answer,
    NotServed,
    Redactor,
    Setback,
    expand_urls,
    is_loopback,
    parsed,
    refusal,
    shown,
    system_fault,
    tls_refusal,
)
from synth.servers.pace import Clock, Load, read_load
from synth.stage import Stage


class Access(Stage):
    """How to get in: `api_key_env` names the variable that holds the key, never the key itself."""

    tuning: ClassVar[frozenset[str]] = frozenset({"api_key_env", "ca_file", "trust_env"})

    api_key_env: str | None = None
    """Environment variable with the API key; null sends none."""
    ca_file: str | None = None
    """PEM file of a certificate authority to trust beside the system's."""
    trust_env: bool = False
    """Honour HTTP_PROXY and its kin; a server on this machine is never reached through a proxy."""

    @field_validator("api_key_env")
    @classmethod
    def _names_a_variable(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise ValueError("is the name of an environment variable, such as OPENAI_API_KEY, never the key itself")
        return value

    def key(self) -> SecretStr | None:
        """The API key. Raises JobError when the named variable is unset, empty or cannot be a header value."""
        if self.api_key_env is None:
            return None
        value = os.environ.get(self.api_key_env, "").strip()
        if not value:
            raise JobError(
                f"field api_key_env: the environment variable {self.api_key_env} is not set.",
                f"Run `export {self.api_key_env}=…` first, or set api_key_env to null for a server without a key.",
            )
        if not (value.isascii() and value.isprintable()):
            raise JobError(
                f"field api_key_env: {self.api_key_env} holds characters that no key has.", "Copy the key again."
            )
        return SecretStr(value)

    def tls(self) -> ssl.SSLContext:
        """Verification against the system's authorities and `ca_file`. Raises JobError when that cannot be read."""
        context = ssl.create_default_context()
        if self.ca_file is not None:
            try:
                context.load_verify_locations(Path(self.ca_file).expanduser())
            except (OSError, ssl.SSLError) as exc:
                raise JobError(
                    f"field ca_file: {self.ca_file!r} cannot be used: {exc}.", "It must be a file of PEM certificates."
                ) from exc
        return context


if TYPE_CHECKING:
    import aiohttp

_KEEP_ALIVE = 4.0  # seconds; uvicorn closes idle connections after 5, and a POST on one just closed is lost
_CONNECT = 10.0
_GET = 30.0
_LARGEST = 256 * 2**20


class HttpTransport:
    """A `synth.servers.fleet.Transport`; `timeout` is seconds for a whole exchange, `connections` the most at once.

    Sessions are opened by the first call, because aiohttp binds them to the running event loop.
    """

    def __init__(self, access: Access, timeout: float, connections: int, clock: Clock) -> None:
        key = access.key()
        self._authorization = {"Authorization": f"Bearer {key.get_secret_value()}"} if key is not None else {}
        self._hide = Redactor(key)
        # aiohttp has a context of its own; reading the system's authorities again takes a fiftieth of a second
        self._tls = True if access.ca_file is None else access.tls()
        self._trust_env = access.trust_env
        self._timeout = timeout
        self._connections = connections
        self._clock = clock
        self._connector: aiohttp.TCPConnector | None = None
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def post(self, url: str, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Any:
        """The parsed answer to a POST; see Transport for what it raises."""
        return parsed(await self._answer(url, path, self._timeout, _as_json(body), headers), shown(url))

    async def get(self, url: str, path: str) -> Any:
        """The parsed answer to a GET, within 30 s; see Transport for what it raises."""
        return parsed(await self._answer(url, path, min(_GET, self._timeout)), shown(url))

    async def load(self, url: str) -> Load | None:
        """What a vLLM server says of its load, None where it says nothing (now)."""
        try:
            answer = await self._answer(url.removesuffix("/v1"), "/metrics", min(_GET, self._timeout))
        except (NotServed, Setback, SynthError):
            return None
        return read_load(answer.body.decode("utf-8", "replace"))

    async def close(self) -> None:
        """Close all sessions and connections."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()
        if self._connector is not None:
            await self._connector.close()
            self._connector = None

    async def _answer(
        self,
        url: str,
        path: str,
        timeout: float,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        import aiohttp  # noqa: PLC0415 - heavy, only runs with a server need it

        server = shown(url)
        session = self._session(url)
        send = session.get if data is None else session.post
        try:
            async with (
                asyncio.timeout(timeout),
                send(url + path, data=data, headers=headers, allow_redirects=False) as response,
            ):
                if (response.content_length or 0) > _LARGEST:
                    raise Setback(f"{server}: an answer of {response.content_length} bytes")
                answer = Answer(response.status, response.headers, await response.read())  # case-blind headers
        except aiohttp.ClientError as exc:
            raise client_fault(exc, server, self._hide) from exc
        except TimeoutError as exc:
            raise Setback(f"{server}: no full answer within {timeout:.0f} s") from exc
        except OSError as exc:
            raise system_fault(exc) or Setback(f"{server}: {self._hide(str(exc))}") from exc
        if answer.ok:
            return answer
        raise refusal(answer, server, self._clock.wall(), self._hide)

    def _session(self, url: str) -> aiohttp.ClientSession:
        through_proxy = self._trust_env and not is_loopback(url)
        session = self._sessions.get(through_proxy)
        if session is None:
            session = self._sessions[through_proxy] = self._open(trust_env=through_proxy)
        return session

    def _open(self, *, trust_env: bool) -> aiohttp.ClientSession:
        import aiohttp  # noqa: PLC0415 - as above

        if self._connector is None:
            self._connector = aiohttp.TCPConnector(
                limit=self._connections, keepalive_timeout=_KEEP_ALIVE, ssl=self._tls, ttl_dns_cache=60
            )
        return aiohttp.ClientSession(
            connector=self._connector,
            connector_owner=False,
            headers={"Content-Type": "application/json", **self._authorization},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=trust_env,
        )


def _as_json(body: Mapping[str, Any]) -> bytes:
    try:
        return to_json(body)  # a quarter of the time of `json`
    except ValueError:  # a lone surrogate, which only the escapes of `json` can carry
        return json.dumps(body).encode()


def client_fault(exc: aiohttp.ClientError, server: str, hide: Redactor) -> Exception:
    """What an exception of aiohttp stands for: SystemFault, ServerRefused or Setback."""
    import aiohttp  # noqa: PLC0415 - as above

    known = system_fault(exc) or tls_refusal(exc, server, hide)
    if known is not None:
        return known
    said = f"{server}: {hide(str(exc) or type(exc).__name__)}"
    if isinstance(exc, aiohttp.ServerFingerprintMismatch):
        return ServerRefused(f"{server}: TLS: another certificate than the one named.", "See ca_file.")
    if isinstance(exc, aiohttp.InvalidURL | aiohttp.RedirectClientError | aiohttp.NonHttpUrlClientError):
        return ServerRefused(f"{said}.", "Check the URL in the job.")
    if isinstance(exc, aiohttp.TooManyRedirects):
        return ServerRefused(f"{server} redirects.", "Write the final URL in the job.")
    if isinstance(exc, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | aiohttp.ClientHttpProxyError):
        return Setback(said, "unreachable")
    return Setback(said)


if TYPE_CHECKING:
    import openai
    from openai._types import RequestOptions

_SDK_CONNECT = 10.0
_SDK_GET = 30.0


@dataclass(frozen=True, slots=True)
class Route:
    """Where requests go and what every one of them carries."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    key_header: str | None = None
    """Header for the bare key instead of `Authorization: Bearer`; Azure's is `api-key`."""


class SdkTransport:
    """A `synth.servers.fleet.Transport`; `timeout` is seconds for a whole exchange, `connections` the most at once."""

    def __init__(self, route: Route, access: Access, timeout: float, connections: int, clock: Clock) -> None:
        self._route = route
        self._key = access.key()
        self._hide = Redactor(self._key)
        self._tls = access.tls()
        self._trust_env = access.trust_env and not is_loopback(route.url)
        self._timeout = timeout
        self._connections = connections
        self._clock = clock
        self._client: openai.AsyncOpenAI | None = None

    async def post(self, url: str, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Any:
        """The parsed answer to a POST; see Transport for what it raises."""
        return await self._exchange(url, path, self._timeout, body, headers)

    async def get(self, url: str, path: str) -> Any:
        """The parsed answer to a GET, within 30 s; see Transport for what it raises."""
        return await self._exchange(url, path, min(_SDK_GET, self._timeout))

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def _exchange(
        self,
        url: str,
        path: str,
        timeout: float,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        import aiohttp  # noqa: PLC0415 - heavy, only runs with a server need it
        import openai  # noqa: PLC0415 - as above

        server = shown(url)
        client = self._opened()
        bearer = self._key is not None and self._route.key_header is None
        options: RequestOptions = {
            "headers": {**(headers or {}), **({} if bearer else {"Authorization": openai.Omit()})}
        }
        try:
            async with asyncio.timeout(timeout):
                if body is None:
                    answer = await client.get(path, cast_to=object, options=options)
                else:
                    answer = await client.post(path, body=body, cast_to=object, options=options)
        except openai.OpenAIError as exc:
            raise sdk_fault(exc, server, self._clock.wall(), self._hide) from None  # its text may hold the key
        except aiohttp.ClientError as exc:  # what the SDK's aiohttp transport lets through
            raise client_fault(exc, server, self._hide) from None
        except TimeoutError as exc:
            raise Setback(f"{server}: no full answer within {timeout:.0f} s") from exc
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            raise Setback(f"{server}: HTTP 200 with something that is not JSON") from None
        except OSError as exc:
            raise system_fault(exc) or Setback(f"{server}: {self._hide(str(exc))}") from exc
        if not isinstance(answer, dict | list):
            raise Setback(f"{server}: HTTP 200 with something that is not JSON")
        return answer

    def _opened(self) -> openai.AsyncOpenAI:
        if self._client is not None:
            return self._client
        import httpx2  # noqa: PLC0415 - as above
        import openai  # noqa: PLC0415 - as above

        timeout = httpx2.Timeout(None, connect=_SDK_CONNECT)
        key = self._key.get_secret_value() if self._key is not None else ""
        headers: dict[str, Any] = dict(self._route.headers)
        if key and self._route.key_header:
            headers[self._route.key_header] = key
        self._client = openai.AsyncOpenAI(
            api_key=key or "none",
            base_url=self._route.url,
            max_retries=0,
            timeout=timeout,
            default_headers=headers,
            default_query=dict(self._route.query),
            http_client=openai.DefaultAioHttpClient(
                limits=httpx2.Limits(
                    max_connections=self._connections, max_keepalive_connections=self._connections, keepalive_expiry=4.0
                ),
                verify=self._tls,
                follow_redirects=False,
                trust_env=self._trust_env,
                timeout=timeout,
            ),
        )
        return self._client


def sdk_fault(exc: openai.OpenAIError, server: str, wall: float, hide: Redactor) -> Exception:
    """What an exception of the openai package stands for, as `synth.servers.faults` names it."""
    import openai  # noqa: PLC0415 - as above

    if isinstance(exc, openai.APIStatusError):
        response = exc.response
        answer = Answer(response.status_code, response.headers, response.content)
        return Setback(f"{server}: unusable answer") if answer.ok else refusal(answer, server, wall, hide)
    if isinstance(exc, openai.APIConnectionError):
        return _connection_fault(exc, server, hide)
    if isinstance(exc, openai.APIError):
        return Setback(f"{server}: {hide(exc.message)}")
    if isinstance(exc, openai.ContentFilterFinishReasonError | openai.LengthFinishReasonError):
        filtered = isinstance(exc, openai.ContentFilterFinishReasonError)
        return RequestRejected("filtered" if filtered else "too_long", hide(str(exc)))
    return ServerRefused(f"{server}: openai client: {hide(str(exc))}.", "Check the llm or embed section of the job.")


def _connection_fault(exc: openai.APIConnectionError, server: str, hide: Redactor) -> Exception:
    import aiohttp  # noqa: PLC0415 - as above
    import httpx2  # noqa: PLC0415 - as above

    known = system_fault(exc) or tls_refusal(exc, server, hide)
    if known is not None:
        return known
    link: BaseException | None = exc
    while link is not None:
        if isinstance(link, aiohttp.ClientError):
            return client_fault(link, server, hide)
        if isinstance(link, httpx2.UnsupportedProtocol | httpx2.InvalidURL):
            return ServerRefused(f"{server}: {hide(str(link))}.", "Check base_url.")
        link = link.__cause__
    unreachable = isinstance(exc.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError)
    return Setback(f"{server}: {hide(str(exc.__cause__ or exc))}", "unreachable" if unreachable else "failed")


_OPENAI = "https://api.openai.com/v1"
_SECRET_HEADERS = frozenset({"authorization", "api-key", "x-api-key", "proxy-authorization", "cookie"})


class Provider(Access):
    """Where a provider is and what it wants beside the request itself."""

    tuning: ClassVar[frozenset[str]] = Access.tuning | {"base_url", "api_key_header", "extra_headers", "default_query"}

    base_url: str | None = None
    """Null is OpenAI itself; a URL without a path gets `/v1`."""
    api_key_env: str | None = "OPENAI_API_KEY"
    """Environment variable with the API key, sent to `base_url`; null sends none. Servers named by `base_url` may do
    without: there an unset OPENAI_API_KEY is no error."""
    api_key_header: str | None = None
    """Header for the bare key instead of `Authorization: Bearer …`; `api-key` on Azure."""
    extra_headers: dict[str, str] = Field(default_factory=dict)
    """Further headers; never the key."""
    default_query: dict[str, str] = Field(default_factory=dict)
    """Query of every URL, such as Azure's `api-version`."""

    @field_validator("base_url")
    @classmethod
    def _one_url(cls, value: str | None) -> str | None:
        if value is not None and len(expand_urls([value])) > 1:
            raise ValueError("one server only; for several use vllm_server")
        return value

    @field_validator("extra_headers")
    @classmethod
    def _no_secrets(cls, value: dict[str, str]) -> dict[str, str]:
        if secret := sorted(name for name in value if name.lower() in _SECRET_HEADERS):
            raise ValueError(f"{secret[0]} would put a secret into the job file; use api_key_env and api_key_header")
        return value

    def url(self) -> str:
        """The one base URL."""
        return expand_urls([self.base_url or _OPENAI])[0]

    def key(self) -> SecretStr | None:
        """The API key; none where a local server is meant and nothing was named. Raises JobError as `Access.key`."""
        named = "api_key_env" in self.model_fields_set
        if not named and self.base_url is not None and not os.environ.get(self.api_key_env or ""):
            return None
        if self.base_url is None and self.api_key_env is None:
            raise JobError("field api_key_env: OpenAI itself takes no request without a key.", "Name its variable.")
        return super().key()

    def transport(self, timeout: float, connections: int, clock: Clock) -> SdkTransport:
        """A transport to this provider. Raises JobError when the key or CA file is missing."""
        route = Route(self.url(), self.extra_headers, self.default_query, self.api_key_header)
        return SdkTransport(route, self, timeout, connections, clock)
