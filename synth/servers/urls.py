"""Base URLs as people write them in jobs, and as we may show them."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from urllib.parse import urlsplit, urlunsplit

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
