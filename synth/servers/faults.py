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
import ipaddress
import json
import math
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import SecretStr
from pydantic_core import from_json

from synth.errors import RequestRejected, ServerRefused, SystemFault

LONGEST = 300.0
"""Seconds; a server that asks for more is asked again after this, and ends as an outage if it stays closed."""


def retry_after(headers: Mapping[str, str], wall: float) -> float | None:
    """Seconds to wait, 0 to `LONGEST`, or None where nothing (sensible) is said; `wall` is seconds since 1970.

    Reads `retry-after-ms`, then `retry-after` as seconds, then as HTTP date (RFC 9110, 10.2.3). `headers` must look
    names up without regard to case, or have them in lower case.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _clamped(milliseconds / 1000)
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None:
        return _clamped(seconds)
    if text is None:
        return None
    try:
        return _clamped(parsedate_to_datetime(text).timestamp() - wall)
    except (ValueError, OverflowError):
        return None


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _clamped(seconds: float) -> float:
    return min(max(seconds, 0.0), LONGEST)


_RANGE = re.compile(r":(\d+)-(\d+)(?=/|$)")
_MOST = 4096


def expand_urls(written: list[str]) -> list[str]:
    """All base URLs that a job's `base_urls` names, in order, without a trailing slash.

    `http://host:8000-8006/v1` is seven servers. A URL without a path gets `/v1`, where OpenAI-shaped servers live.
    Raises ValueError for another scheme than http(s), no host, a query, an empty range or a server named twice.
    """
    urls = [_checked(url) for text in written for url in _ports(text.strip())]
    if not urls:
        raise ValueError("no server is named; write at least one URL such as http://localhost:8000/v1")
    twice = sorted({url for url in urls if urls.count(url) > 1})
    if twice:
        raise ValueError(f"{shown(twice[0])} is named twice")
    return urls


def _ports(text: str) -> list[str]:
    match = _RANGE.search(text)
    if not match:
        return [text]
    first, last = int(match[1]), int(match[2])
    if not 0 < first <= last <= 65535 or last - first >= _MOST:  # noqa: PLR2004 - the highest TCP port
        raise ValueError(f"{match[0][1:]} is not a range of ports, lowest first")
    return [f"{text[: match.start()]}:{port}{text[match.end() :]}" for port in range(first, last + 1)]


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{shown(url)!r} is not an http or https URL")
    if parts.username or parts.password:
        raise ValueError(
            f"{shown(url)} carries a name or password; put the key in a variable and name it in api_key_env"
        )
    if parts.query or parts.fragment:
        raise ValueError(f"{shown(url)} has a query or fragment, which a base URL cannot have")
    parts.port  # noqa: B018 - raises ValueError for a port that is none
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") or "/v1", "", ""))


@lru_cache(maxsize=1024)  # asked for with every call
def shown(url: str) -> str:
    """The URL without user, password, query and fragment: safe in messages."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not a URL)"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def is_loopback(url: str) -> bool:
    """True where a request to `url` stays on this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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
