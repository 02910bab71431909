"""JSON over aiohttp: a third of a millisecond of CPU a request, flat in concurrency."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from synth.errors import ServerRefused, SynthError
from synth.servers.access import Access
from synth.servers.clock import Clock
from synth.servers.faults import Answer, NotServed, Redactor, Setback, parsed, refusal, system_fault, tls_refusal
from synth.servers.pace import Load, read_load
from synth.servers.urls import is_loopback, shown

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
