"""What a failed call means.

TransientError    may pass with time: down, overloaded, throttled; the call is tried again
GarbledAnswerError   the same for HTTP 200 with another body, which at first is asked again only twice
NotFoundError     HTTP 404: the server has no such model or path
RequestRejected   this request will never be answered
ServerRefused     no request will ever be answered

Whatever a server sends is untrusted: it may contain the key or control a terminal.
"""

from __future__ import annotations

import base64
import errno
import ipaddress
import json
import math
import re
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import quote, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from pydantic import SecretStr
from pydantic_core import from_json

from synth.errors import RequestRejected, ServerRefused, SystemFault

MAX_RETRY_AFTER = 300.0
"""Seconds; a server that asks for a longer pause is tried again after this."""


def retry_after(headers: Mapping[str, str], wall: float) -> float | None:
    """Seconds to wait, 0 to `MAX_RETRY_AFTER`, or None when no header gives a usable value.

    Reads `retry-after-ms`, then `retry-after` as seconds, then as HTTP date (RFC 9110, 10.2.3). `wall` is seconds since
    1970. `headers` must ignore case, or have its names in lower case.
    """
    seconds: float | None = None
    with suppress(KeyError, ValueError, OverflowError):
        seconds = parsedate_to_datetime(headers["retry-after"]).timestamp() - wall
    for name, unit in (("retry-after", 1), ("retry-after-ms", 1000)):
        with suppress(KeyError, ValueError):
            number = float(headers[name]) / unit
            seconds = number if math.isfinite(number) else seconds
    return None if seconds is None else min(max(seconds, 0.0), MAX_RETRY_AFTER)


_PORT_RANGE = re.compile(r":(\d+)-(\d+)(?=/|$)")
_MAX_PORT = 65535
_MAX_SERVERS = 4096
_NOT_IN_URLS = " \"'<>`\\^{|}"
_SCHEME = re.compile(r"(?:[a-z][a-z+.]*:/{2,}|https?:?/+|https?:|/{2,})+", re.IGNORECASE)
_ENDPOINT = re.compile(
    r"/(chat/completions|completions|embeddings|score|rerank|models|responses|messages|pooling"
    r"|api/(chat|generate|embed|embeddings))/*$"
)


def expand_urls(written: list[str]) -> list[str]:
    """All base URLs that a job's `base_urls` names, in order, without a trailing slash.

    `http://host:8000-8006/v1` is seven servers. A URL without a path gets `/v1`, where OpenAI-shaped servers live.
    Raises ValueError, with the right URL where it can be guessed, for another scheme than http(s), no host, white
    space, an endpoint such as `/chat/completions`, a query, an empty range or a server named twice.
    """
    urls: list[str] = []
    for text in map(str.strip, written):
        if not (match := _PORT_RANGE.search(text)):
            urls.append(_checked(text))
            continue
        first, last = int(match[1]), int(match[2])
        if not 0 < first <= last <= _MAX_PORT or last - first >= _MAX_SERVERS:
            raise ValueError(f"{match[0][1:]} is not a range of ports such as 8000-8006")
        before, after = text[: match.start()], text[match.end() :]
        urls += [_checked(f"{before}:{port}{after}") for port in range(first, last + 1)]
    if not urls:
        raise ValueError("the list is empty; write at least one URL such as http://localhost:8000/v1")
    twice = sorted({url for url in urls if urls.count(url) > 1})
    if twice:
        raise ValueError(f"{shown(twice[0])} is named twice")
    return urls


def _checked(url: str) -> str:
    if not (wrong := _mistake(url)):
        parts = urlsplit(url)
        return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") or "/v1", "", ""))
    right = _guessed(url)
    raise ValueError(wrong if _mistake(right) else f"{wrong}; write {right}")


def _mistake(url: str) -> str:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises ValueError for an invalid port
    except ValueError as exc:
        return f"{shown(url)!r} is not a URL: {exc}"
    if parts.username or parts.password:
        return f"{shown(url)} contains a user name or password; name the key's variable in api_key_env"
    if any(each in _NOT_IN_URLS or not each.isprintable() for each in url):
        return f"{shown(url)!r} has white space or another character that a URL cannot have"
    if (
        parts.scheme not in {"http", "https"}
        or not parts.hostname
        or "://" in parts.path
        or parts.hostname in {"http", "https"}
    ):
        return f"{shown(url)!r} is not an http or https URL"
    if parts.query or parts.fragment:
        return f"{shown(url)} has a query or fragment, which a base URL cannot have"
    endpoint = _ENDPOINT.search(parts.path)
    return f"{shown(url)} ends in {endpoint[0]}, which is added to a base URL" if endpoint else ""


def _guessed(url: str) -> str:
    """The base URL that was probably meant, without user, password, query and fragment."""
    bare = "".join(each for each in url.replace("\\", "/") if each.isprintable() and each not in _NOT_IN_URLS)
    scheme = _SCHEME.match(bare)
    bare = bare[scheme.end() :] if scheme else bare
    host, slash, path = re.split(r"[?#]", bare, maxsplit=1)[0].partition("/")
    host = host.rpartition("@")[2]
    near = ":" in host or is_loopback(f"http://{host}")  # what has a port is rarely a provider
    secure = scheme[0].lower().startswith("https") if scheme and "http" in scheme[0].lower() else not near
    return f"http{'s' * secure}://{host}{_ENDPOINT.sub('', slash + path).rstrip('/') or '/v1'}"


@lru_cache(maxsize=1024)  # called with every request
def shown(url: str) -> str:
    """The URL without user, password, query and fragment: safe in messages."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not a URL)"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def is_loopback(url: str) -> bool:
    """Whether a request to `url` stays on this machine."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for `url`, with its credentials; None for this machine and exempt hosts."""
    parts = urlsplit(url)
    found = getproxies()
    proxy = found.get(parts.scheme) or found.get("all")
    if proxy is None or is_loopback(url) or proxy_bypass(parts.netloc):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


Kind = Literal["unreachable", "overloaded", "throttled", "denied", "spent", "failed", "garbled", "waiting"]
MAX_QUOTE = 500
_REJECTED = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY})
_TRANSIENT: dict[int, Kind] = {
    HTTPStatus.UNAUTHORIZED: "denied",
    HTTPStatus.FORBIDDEN: "denied",
    HTTPStatus.PAYMENT_REQUIRED: "spent",
    HTTPStatus.TOO_MANY_REQUESTS: "throttled",
    HTTPStatus.SERVICE_UNAVAILABLE: "overloaded",
    HTTPStatus.REQUEST_TIMEOUT: "failed",
    HTTPStatus.CONFLICT: "failed",
    HTTPStatus.TOO_EARLY: "failed",
}
_TOO_LONG_TEXT = re.compile(
    r"context[ _](length|window|size)|maximum (input|sequence|prompt) length|max_model_len|too (long|many tokens)"
    r"|longer than the (maximum|model)|exceeds? the (model|maximum|available)|input is too large",
    re.IGNORECASE,
)


class TransientError(Exception):
    """One call failed in a way that may pass; `pause` is the seconds the server asked for, if any."""

    def __init__(self, message: str, kind: Kind = "failed", pause: float | None = None) -> None:
        super().__init__(message)
        self.kind: Kind = kind
        self.pause = pause


class GarbledAnswerError(TransientError):
    """HTTP 200 with something that is not an answer; `quote` is its beginning, safe to print."""

    def __init__(self, message: str, quote: str) -> None:
        super().__init__(message, "garbled")
        self.quote = quote

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return GarbledAnswerError, (str(self), self.quote)


class NotFoundError(Exception):
    """The server has no such model or path (HTTP 404)."""


class Redactor:
    """Makes a server's text safe to print: no key in any usual encoding, short, printable characters only."""

    def __init__(self, secret: SecretStr | None = None) -> None:
        value = secret.get_secret_value() if secret is not None else ""
        forms = {value, quote(value, safe=""), json.dumps(value)[1:-1]}
        forms |= {base64.b64encode(f"{before}{value}".encode()).decode().rstrip("=") for before in ("", ":", "Bearer ")}
        self._forms = sorted(forms, key=len, reverse=True) if value else []

    def __call__(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, "[key]")
        cut = text[: MAX_QUOTE + 1].strip()
        safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
        return safe if len(safe) <= MAX_QUOTE else safe[: MAX_QUOTE - 1] + "…"


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer; `headers` finds names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        return self.status in range(200, 300)


def parse_json(answer: Answer, server: str, wall: float, redact: Redactor) -> Any:
    """The JSON of a 2xx answer.

    Raises the error of `status_error` for an error object in it, and GarbledAnswerError when it is not JSON: half an
    answer, or a proxy's page.
    """
    try:
        value = from_json(answer.body)  # takes a fifth of the time of `json.loads`, which accepts a little more
    except ValueError:
        try:
            value = json.loads(answer.body)
        except (ValueError, RecursionError):
            kind = "HTML" if answer.body.lstrip()[:1] == b"<" else "something that is not JSON"
            quote = redact(answer.body.decode("utf-8", "replace"))
            raise GarbledAnswerError(f"{server}: HTTP {answer.status} with {kind}", quote) from None
    if isinstance(value, dict) and not (value.get("choices") or value.get("data")):
        error = value.get("error")
        if error or value.get("object") == "error":
            code = str(error.get("code") if isinstance(error, dict) else value.get("code"))
            status = int(code) if code.isdecimal() and int(code) in range(400, 600) else answer.status
            raise status_error(replace(answer, status=status), server, wall, redact)
    return value


def by_index(answer: Any, count: int, what: str) -> list[dict[str, Any]]:
    """The entries of an answer in the order of the `count` inputs; one without `index` stands at its own place.

    Raises TransientError unless there is exactly one for each input.
    """
    data = answer.get("data") if isinstance(answer, dict) else None
    if not data or not isinstance(data, list):
        raise TransientError(f"HTTP 200 with something that is not {what}s")
    found: dict[int, dict[str, Any]] = {}
    for place, entry in enumerate(data):
        index = entry.get("index") if isinstance(entry, dict) else "?"
        index = place if index is None else index
        if type(index) is not int or not 0 <= index < count or index in found:
            raise TransientError(f"HTTP 200 with {what} {place + 1} for input {index!r} of {count}")
        found[index] = entry
    if len(found) != count:
        raise TransientError(f"HTTP 200 with {len(found)} {what}s for {count} inputs")
    return [found[index] for index in range(count)]


_EXHAUSTED = re.compile(
    r"insufficient[_ ](quota|balance|credit|fund)|credit balance is too low|out of credits|arrearage|账户余额不足"
    r"|exceeded_current_quota|billing_(hard_limit|not_active)|billing hard limit",
    re.IGNORECASE,
)
_LATER = re.compile(r"(try again|retry) (in|after)", re.IGNORECASE)


def status_error(answer: Answer, server: str, wall: float, redact: Redactor) -> Exception:
    """The error for an answer that is none; `wall` is seconds since 1970, for HTTP dates."""
    status = answer.status
    error = _error_object(answer.body)
    text = redact(str(error.get("message") or answer.body.decode("utf-8", "replace")))
    message = f"{server}: HTTP {status}: {text}" if text else f"{server}: HTTP {status}"
    pause = retry_after(answer.headers, wall)
    said = " ".join(str(each) for each in (error.get("code"), error.get("type"), text))
    spent = status < HTTPStatus.INTERNAL_SERVER_ERROR and _EXHAUSTED.search(said) and not (pause or _LATER.search(text))
    kind = _TRANSIENT.get(status, "failed" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else None)
    kind = "spent" if spent else kind
    if kind is not None:
        return TransientError(message, kind, pause)
    if status in _REJECTED:
        param = error.get("param")
        named = f" (param: {redact(param)})" if isinstance(param, str) and param not in text else ""
        return RequestRejected(_reason(status, error, text), f"{text}{named}" or f"HTTP {status}")
    if status == HTTPStatus.NOT_FOUND:
        return NotFoundError(message)
    if status in range(300, 400):
        target = redact(shown(answer.headers.get("location", ""))) or "nowhere"
        hint = "Write the final URL in the job: redirects are not followed, because they could send passages elsewhere."
        return ServerRefused(f"{server} redirects to {target}.", hint)
    hint = "Check that this is the base URL of an OpenAI-compatible server."
    lasting = ServerRefused(f"{message}.", hint)
    return GarbledAnswerError(f"{server}: HTTP {status} with an error", text) if answer.ok else lasting


def _error_object(body: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    inner = value.get("error") or value if isinstance(value, dict) else value
    if isinstance(inner, str):
        return {"message": inner}
    return inner if isinstance(inner, dict) else {}


def is_too_long(text: str) -> bool:
    return _TOO_LONG_TEXT.search(text) is not None


def _reason(status: int, error: Mapping[str, Any], text: str) -> str:
    code, param = error.get("code"), error.get("param")
    if code == "content_filter":
        return "filtered"
    too_long = status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or code == "context_length_exceeded"
    if param not in {"max_tokens", "max_completion_tokens"}:
        too_long = too_long or param in {"input_tokens", "input_text"} or is_too_long(text)
    return "too_long" if too_long else "bad_request"


_NEEDED = frozenset({"model", "messages", "input", "queries", "documents"})


def named_field(words: str, body: Mapping[str, Any]) -> str | None:
    """The field of a request that a server's refusal is about; None where it names none that may be left out.

    A name within the field's value counts, and so does its beginning, as long as it cannot be an ordinary word.
    """
    said: list[str] = [word for word in re.findall(r"\w+", words) if word not in _NEEDED]
    within = {name: set(re.findall(r"\w+_\w+", json.dumps(value, default=str))) for name, value in body.items()}
    for word in said:
        if word in body:
            return word
    near = (n for word in said if "_" in word for n in within if n.startswith(word) or word in within[n])
    return next((name for name in near if name not in _NEEDED), None)


def lasting_fault(exc: BaseException, server: str, redact: Redactor) -> SystemFault | ServerRefused | None:
    """The error for a fault that waiting does not cure, None for every other one.

    Such are a machine without file descriptors, and a certificate or handshake that will keep failing: not one that
    was only cut off.
    """
    link: BaseException | None = exc
    while link is not None:
        for cause in (link, getattr(link, "os_error", None)):
            if isinstance(cause, OSError) and cause.errno in {errno.EMFILE, errno.ENFILE}:
                return SystemFault("too many open files.", "Raise `ulimit -n` or lower run.concurrency.")
            lost = isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError)
            if isinstance(cause, ssl.SSLError) and not lost:
                return ServerRefused(
                    f"{server}: TLS: {redact(str(cause))}.",
                    "If the certificate comes from your own authority, name its PEM file in ca_file.",
                )
        link = link.__cause__ or link.__context__
    return None
