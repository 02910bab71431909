"""Options that every server has: its key, its certificate authority, proxies. None changes what it answers."""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path
from typing import ClassVar

from pydantic import SecretStr, field_validator

from synth.errors import JobError
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
