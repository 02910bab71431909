"""A loopback proxy that takes `response_format` out of every request: a server whose grammar is off."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


class GrammarOff:
    """In front of the server at `url` while open; `with GrammarOff(url) as proxy:` then use `proxy.url`."""

    def __init__(self, url: str) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(url.removesuffix("/v1")))
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(target: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._forward(None)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body.pop("response_format", None)
            self._forward(json.dumps(body).encode())

        def _forward(self, data: bytes | None) -> None:
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(target + self.path, data=data, headers=headers)  # noqa: S310 - loopback
            try:
                with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310 - loopback
                    status, answer = response.status, response.read()
            except urllib.error.HTTPError as exc:
                with exc:
                    status, answer = exc.code, exc.read()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name
            pass

    return Handler
