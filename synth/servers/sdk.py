"""JSON over the openai package: keys, headers and gateways of every provider that it reaches.

Requests go through `post(cast_to=object)`: the typed methods cost three times the CPU. The SDK's own retries and
redirects are off; what it raises is named anew here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from synth.errors import RequestRejected, ServerRefused
from synth.servers.access import Access
from synth.servers.clock import Clock
from synth.servers.faults import Answer, Redactor, Setback, refusal, system_fault, tls_refusal
from synth.servers.http import client_fault
from synth.servers.urls import is_loopback, shown

if TYPE_CHECKING:
    import openai
    from openai._types import RequestOptions

_CONNECT = 10.0
_GET = 30.0


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
        return await self._exchange(url, path, min(_GET, self._timeout))

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

        timeout = httpx2.Timeout(None, connect=_CONNECT)
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
