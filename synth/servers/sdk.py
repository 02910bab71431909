"""Every other provider, through the openai package."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from synth.errors import JobError, RequestRejected, ServerRefused
from synth.servers.faults import (
    Answer,
    Redactor,
    TransientError,
    expand_urls,
    lasting_fault,
    proxy_of,
    shown,
    status_error,
)
from synth.servers.fleet import Fleet, Transport
from synth.servers.http import CONNECT_TIMEOUT, GET_TIMEOUT, KEEP_ALIVE, ServerAuth, client_error, exchange
from synth.stage import ClientSettings

if TYPE_CHECKING:
    import openai

_OPENAI = "https://api.openai.com/v1"
_SECRET_HEADERS = frozenset({"authorization", "api-key", "x-api-key", "proxy-authorization", "cookie"})
Resource = Literal["chat", "embeddings"]


def is_openai(base_url: Any) -> bool:
    """Whether a `base_url`, or null, is OpenAI itself."""
    try:
        return base_url is None or f".{urlsplit(base_url).hostname}".endswith(".openai.com")
    except (TypeError, ValueError, AttributeError):
        return False


class Provider(ServerAuth):
    """An OpenAI-compatible provider: its URL, key, headers and query."""

    tuning: ClassVar[frozenset[str]] = ServerAuth.tuning | {
        "base_url",
        "api_key_header",
        "extra_headers",
        "default_query",
    }

    base_url: str | None = None
    """Null is OpenAI itself; a URL without a path gets `/v1`."""
    api_key_env: str | None = None
    """Environment variable with the API key; null sends none. Where it is not set it is OPENAI_API_KEY for OpenAI
    itself, and null for every other `base_url`."""
    api_key_header: str | None = None
    """Header for the bare key instead of `Authorization: Bearer …`; `api-key` on Azure."""
    extra_headers: dict[str, str] = Field(default_factory=dict)
    """Further headers; never the key."""
    default_query: dict[str, str] = Field(default_factory=dict)
    """Query of every URL, such as Azure's `api-version`."""

    @model_validator(mode="before")
    @classmethod
    def _names_the_key_of_openai(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "api_key_env" in data:
            return data
        return data | {"api_key_env": "OPENAI_API_KEY"} if is_openai(data.get("base_url")) else data

    @field_validator("base_url")
    @classmethod
    def _is_one_url(cls, value: str | None) -> str | None:
        if value is not None and len(expand_urls([value])) > 1:
            raise ValueError("must be one server; use vllm_server for several")
        return value

    @field_validator("extra_headers")
    @classmethod
    def _has_no_secrets(cls, value: dict[str, str]) -> dict[str, str]:
        if secret := sorted(name for name in value if name.lower() in _SECRET_HEADERS):
            raise ValueError(f"{secret[0]} would put a secret into the job file; use api_key_env and api_key_header")
        return value

    def urls(self) -> list[str]:
        return expand_urls([self.base_url or _OPENAI])

    def key(self) -> SecretStr | None:
        """The API key. Raises JobError as `ServerAuth.key`."""
        if self.base_url is None and self.api_key_env is None:
            raise JobError("field api_key_env: OpenAI requires a key.", "Name the variable that contains it.")
        return super().key()

    def fleet(self, resource: Resource, client: ClientSettings, *, slots: int) -> Fleet:
        """This provider as a fleet of one, with `slots` requests in flight unless the job says how many.

        Raises JobError when the key or CA file is missing.
        """
        slots = client.concurrency or slots
        transport = SdkTransport(self, resource, client, slots + 1)
        return Fleet(self.urls(), transport, client, model=self.model, slots=slots, cures=self.cures)


class SdkTransport(Transport):
    """One resource of the SDK's client.

    Raises JobError when the key or the CA file cannot be read.
    """

    def __init__(self, provider: Provider, resource: Resource, client: ClientSettings, connections: int) -> None:
        path = "/chat/completions" if resource == "chat" else "/embeddings"
        super().__init__(path, provider.key(), client, connections)
        self._provider = provider
        self._resource = resource
        self._tls = provider.tls()
        self._client: openai.AsyncOpenAI | None = None
        self._extra_headers: Mapping[str, Any] = {}

    async def send(self, url: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Any:
        """The JSON of the answer to one request."""
        client = self._connected()
        # Raw answers: the SDK would build its own models only for us to take them apart, at half a millisecond each.
        create: Any = client.chat.completions.with_raw_response.create
        if self._resource == "embeddings":
            create = client.embeddings.with_raw_response.create
        texts = {name: body[name] for name in ("messages", "input") if name in body}
        extra_headers = {**self._extra_headers, **(headers or {})}
        asked = create(model=body.get("model", ""), **texts, extra_body=body, extra_headers=extra_headers)
        return await self._exchange(asked, url, self._timeout)

    async def models(self, url: str) -> Any:
        listed: Any = self._connected().models.with_raw_response.list(extra_headers=dict(self._extra_headers))
        return await self._exchange(listed, url, min(GET_TIMEOUT, self._timeout))

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def _exchange(self, request: Awaitable[Any], url: str, timeout: float) -> Any:
        import openai  # noqa: PLC0415 - heavy, needed only by runs with a server

        server = shown(url)
        try:
            async with exchange(server, timeout, self._redact):  # the SDK's client lets errors of aiohttp through
                raw = await request
        except openai.OpenAIError as exc:
            raise sdk_error(exc, server, self._clock.wall(), self._redact) from None  # its text may contain the key
        except UnicodeEncodeError:
            raise RequestRejected("encoding", "the text has half of a surrogate pair") from None
        return self._parsed(Answer(raw.status_code, raw.headers, raw.content), url)

    def _connected(self) -> openai.AsyncOpenAI:
        if self._client is not None:
            return self._client
        import httpx2  # noqa: PLC0415 - as above
        import openai  # noqa: PLC0415 - as above

        provider, url = self._provider, self._provider.urls()[0]
        key = self._key.get_secret_value() if self._key is not None else ""
        headers = {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": "synth"}
        if key and provider.api_key_header:
            headers[provider.api_key_header] = key
        if not key or provider.api_key_header:
            self._extra_headers = {"Authorization": openai.Omit()}
        timeout, most = httpx2.Timeout(None, connect=CONNECT_TIMEOUT), self._connections
        self._client = _client_class()(
            headers | provider.extra_headers,
            api_key=key or "none",
            admin_api_key="",  # an empty text, because None is looked up in the environment
            organization="",
            project="",
            webhook_secret="",
            base_url=url,
            max_retries=0,
            timeout=timeout,
            default_query=dict(provider.default_query),
            http_client=openai.DefaultAioHttpClient(
                limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most, keepalive_expiry=KEEP_ALIVE),
                verify=self._tls,
                follow_redirects=False,
                proxy=proxy_of(url) if provider.trust_env else None,
                trust_env=False,
                timeout=timeout,
            ),
        )
        return self._client


@cache
def _client_class() -> Any:
    import openai  # noqa: PLC0415 - as above

    class Client(openai.AsyncOpenAI):
        """Sends the headers and the body of the job, and nothing of its own.

        Other headers come from OPENAI_CUSTOM_HEADERS or describe this machine; `encoding_format` would come back after
        a job left it out.
        """

        def __init__(self, headers: Mapping[str, str], **options: Any) -> None:
            super().__init__(**options)
            self._headers: dict[str, str | openai.Omit] = dict(headers)

        async def _prepare_options(self, options: Any) -> Any:
            if options.extra_json is not None:
                options.json_data, options.extra_json = options.extra_json, None
            return options

        @property
        def default_headers(self) -> dict[str, str | openai.Omit]:
            return self._headers

    return Client


def sdk_error(exc: openai.OpenAIError, server: str, wall: float, redact: Redactor) -> Exception:
    """The error for an exception of the openai package, as `synth.servers.faults` names it."""
    import openai  # noqa: PLC0415 - as above

    if isinstance(exc, openai.APIStatusError):
        response = exc.response
        answer = Answer(response.status_code, response.headers, response.content)
        return TransientError(f"{server}: unusable answer") if answer.ok else status_error(answer, server, wall, redact)
    if isinstance(exc, openai.APIConnectionError):
        return _connection_error(exc, server, redact)
    if isinstance(exc, openai.APIError):
        return TransientError(f"{server}: {redact(exc.message)}")
    if isinstance(exc, openai.ContentFilterFinishReasonError | openai.LengthFinishReasonError):
        filtered = isinstance(exc, openai.ContentFilterFinishReasonError)
        return RequestRejected("filtered" if filtered else "too_long", redact(str(exc)))
    return ServerRefused(f"{server}: openai client: {redact(str(exc))}.", "Check the llm or embed section of the job.")


def _connection_error(exc: openai.APIConnectionError, server: str, redact: Redactor) -> Exception:
    import aiohttp  # noqa: PLC0415 - as above
    import httpx2  # noqa: PLC0415 - as above

    if known := lasting_fault(exc, server, redact):
        return known
    cause = exc.__cause__
    while cause is not None and not isinstance(cause, aiohttp.ClientError):
        if isinstance(cause, httpx2.UnsupportedProtocol | httpx2.InvalidURL):
            return ServerRefused(f"{server}: {redact(str(cause))}.", "Check base_url.")
        cause = cause.__cause__
    if cause is not None:
        return client_error(cause, server, redact)
    unreachable = isinstance(exc.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError)
    return TransientError(f"{server}: {redact(str(exc.__cause__ or exc))}", "unreachable" if unreachable else "failed")
