"""What one failed call means.

Setback           time cures it: down, overloaded, throttled, garbled; costs no item anything
NotServed         404: the model or the path is not there
RequestRejected   this item will never be answered
ServerRefused     no item will ever be answered

Everything a server says is untrusted: it may echo the key, and it may drive a terminal.
"""

from __future__ import annotations

import base64
import errno
import json
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import quote

from pydantic import SecretStr
from pydantic_core import from_json

from synth.errors import RequestRejected, ServerRefused, SystemFault
from synth.servers.retry_after import retry_after
from synth.servers.urls import shown

Kind = Literal["unreachable", "overloaded", "throttled", "denied", "failed", "waiting"]
LONGEST_QUOTE = 500
_THIS_REQUEST = frozenset(
    {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY}
)
_TIMING = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_EARLY})
_TOO_LONG = re.compile(
    r"context[ _](length|window|size)|maximum (input|sequence|prompt) length|max_model_len|too (long|many tokens)"
    r"|longer than the (maximum|model)|exceeds? the (model|maximum|available)|input is too large",
    re.IGNORECASE,
)


class Setback(Exception):  # noqa: N818 - not an error yet: it becomes one when the outage lasts
    """One call failed in a way that time may cure; `pause` is the seconds the server asked for, if it did."""

    def __init__(self, message: str, kind: Kind = "failed", pause: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.kind: Kind = kind
        self.pause = pause


class NotServed(Exception):  # noqa: N818 - an answer, not yet an error: the caller adds what is served
    """The server answers, but has neither this model nor this path (HTTP 404)."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Redactor:
    """Makes a server's words fit to show: without the key in any usual form, short, nothing unprintable."""

    def __init__(self, secret: SecretStr | None = None) -> None:
        value = secret.get_secret_value() if secret is not None else ""
        forms = {value, quote(value, safe=""), json.dumps(value)[1:-1]}
        forms |= {base64.b64encode(f"{before}{value}".encode()).decode().rstrip("=") for before in ("", ":", "Bearer ")}
        self._forms = sorted(forms, key=len, reverse=True) if value else []

    def __call__(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, "[key]")
        cut = text[: LONGEST_QUOTE + 1].strip()
        safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
        return safe if len(safe) <= LONGEST_QUOTE else safe[: LONGEST_QUOTE - 1] + "…"


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer; names in `headers` are found in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        return self.status in range(200, 300)


def parsed(answer: Answer, server: str) -> Any:
    """The JSON of a 2xx answer; raises Setback where it is none: half an answer, or a proxy's error page."""
    with suppress(ValueError):
        return from_json(answer.body)  # a fifth of the time; what it is too strict for, the slow one may read
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        kind = "HTML" if answer.body.lstrip()[:1] == b"<" else "something that is not JSON"
        raise Setback(f"{server}: HTTP {answer.status} with {kind}") from None


def refusal(answer: Answer, server: str, wall: float, hide: Redactor) -> Exception:
    """The exception that a non-2xx answer stands for; `wall` is seconds since 1970, to read HTTP dates by."""
    status = answer.status
    error = _error_object(answer.body)
    said = hide(str(error.get("message") or answer.body.decode("utf-8", "replace")))
    message = f"{server}: HTTP {status}: {said}" if said else f"{server}: HTTP {status}"
    kind = _passing(status)
    if kind is not None:
        return Setback(message, kind, retry_after(answer.headers, wall))
    if status in _THIS_REQUEST:
        return RequestRejected(_reason(status, error, said), said or f"HTTP {status}")
    if status == HTTPStatus.NOT_FOUND:
        return NotServed(message)
    if status in range(300, 400):
        target = hide(shown(answer.headers.get("location", "")))
        return ServerRefused(
            f"{server} redirects to {target or 'nowhere'}.",
            "Redirects are not followed, because they would carry passages elsewhere; write the final URL in the job.",
        )
    return ServerRefused(f"{message}.", "Is this the base URL of an OpenAI-shaped server?")


def _passing(status: int) -> Kind | None:
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return "denied"
    if status in {HTTPStatus.PAYMENT_REQUIRED, HTTPStatus.TOO_MANY_REQUESTS}:
        return "throttled"
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return "overloaded"
    return "failed" if status in _TIMING or status >= HTTPStatus.INTERNAL_SERVER_ERROR else None


def _error_object(body: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    inner = value.get("error", value) if isinstance(value, dict) else value
    if isinstance(inner, str):
        return {"message": inner}
    return inner if isinstance(inner, dict) else {}


def is_too_long(said: str) -> bool:
    """True where an error text says that a prompt does not fit the model."""
    return _TOO_LONG.search(said) is not None


def _reason(status: int, error: Mapping[str, Any], said: str) -> str:
    if error.get("code") == "content_filter":
        return "filtered"
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or error.get("code") == "context_length_exceeded":
        return "too_long"
    if error.get("param") in {"max_tokens", "max_completion_tokens"}:
        return "bad_request"
    if error.get("param") in {"input_tokens", "input_text"} or is_too_long(said):
        return "too_long"
    return "bad_request"


def system_fault(exc: BaseException) -> SystemFault | None:
    """Where the machine itself has run out of file descriptors, which no server can help."""
    for link in _chain(exc):
        if isinstance(link, OSError) and link.errno in {errno.EMFILE, errno.ENFILE}:
            return SystemFault("too many open files.", "Raise `ulimit -n` or lower run.concurrency.")
    return None


def tls_refusal(exc: BaseException, server: str, hide: Redactor) -> ServerRefused | None:
    """A certificate or handshake that will not get better; a connection lost in the handshake is not one."""
    for link in _chain(exc):
        passing = isinstance(link, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError)
        if isinstance(link, ssl.SSLError | ssl.CertificateError) and not passing:
            return ServerRefused(
                f"{server}: TLS: {hide(str(link))}.",
                "If the server's certificate comes from your own authority, name its PEM file in ca_file.",
            )
    return None


def _chain(exc: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = exc
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        inner = getattr(link, "os_error", None)
        if isinstance(inner, BaseException):
            yield inner
        link = link.__cause__ or link.__context__
