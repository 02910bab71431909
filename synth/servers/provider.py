"""Options of every provider that is reached through the openai package."""

from __future__ import annotations

import os
from typing import ClassVar

from pydantic import Field, SecretStr, field_validator

from synth.errors import JobError
from synth.servers.access import Access
from synth.servers.clock import Clock
from synth.servers.sdk import Route, SdkTransport
from synth.servers.urls import expand_urls

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
