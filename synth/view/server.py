"""The server of `synth view`: a page, and what it asks for, to those who know the token.

The page itself holds nothing of the run and is open to all who reach the port; everything else is a POST with the token
in a header, which no page of another origin can send. Without a name of this machine in `Host` even a page that has had
its own name pointed at this address gets nothing.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache, partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web
from numpy.typing import NDArray
from polars.exceptions import PolarsError

from synth import marks
from synth.errors import JobError, SynthError
from synth.shards import OutputFolder
from synth.types import Attempt, Notify
from synth.view.prompts import Prompter
from synth.view.rows import Ask, Part, parts, passage_of

Answer = Mapping[str, Any]
_STATIC = Path(__file__).parent / "static"
_FILES = {
    "": ("index.html", "text/html"),
    "view.js": ("view.js", "text/javascript"),
    "view.css": ("view.css", "text/css"),
    "tabulator.js": ("tabulator.min.js", "text/javascript"),
    "tabulator.css": ("tabulator.min.css", "text/css"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_TOKEN = "X-Synth-Token"  # noqa: S105 - the name of a header
_PAGE = 200
"""Most rows at once."""


def is_loopback(host: str) -> bool:
    """Whether an address, or a name, is one that only this machine reaches."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Viewer:
    """Answers the questions of the page. Methods raise SynthError for what cannot be answered."""

    def __init__(self, folder: OutputFolder, notify: Notify) -> None:
        self.folder, self._prompter = folder, Prompter(folder, notify)
        parts(folder)

    def about(self, _: Answer) -> Answer:
        """What there is to look at, and how many rows are marked."""
        there = parts(self.folder).values()
        found = [{"name": each.name, "rows": each.rows, "columns": each.columns()} for each in there]
        return {"run": self.folder.path.name, "parts": found, "marks": self._counts()}

    def rows(self, asked: Answer) -> Answer:
        """A page of rows under filters, and how many there are."""
        part, size, page = self._part(asked), int(asked["size"]), int(asked["page"])
        size = max(1, min(size, _PAGE))
        filters = tuple((str(name), str(text)) for name, text in asked["filters"] if str(text).strip())
        sort = asked.get("sort")
        ask = Ask(filters, str(asked["search"]).strip(), (str(sort[0]), bool(sort[1])) if sort else None)
        given = marks.read(self.folder)
        found = _found(part, part.state, ask, tuple(given.values()))
        start = max(0, page - 1) * size
        return {"rows": part.page(found[start : start + size].tolist(), given), "total": len(found)}

    def row(self, asked: Answer) -> Answer:
        """One row whole, with its passage where it does not hold it itself."""
        part = self._part(asked)
        row = part.whole(int(asked["row"]), marks.read(self.folder))
        item = bool(marks.ID.fullmatch(str(row.get("id"))))
        passage = passage_of(self.folder, str(row["id"])) if item and "passage" not in row else {}
        return {"row": row, "passage": passage, "item": item}

    def prompts(self, asked: Answer) -> Answer:
        """What the model was asked in each attempt of a rejected item."""
        row = self._part(asked).whole(int(asked["row"]), {})
        attempts = [
            Attempt(**each | {"seed": int(each["seed"]), "reply": each["reply"] or ""}) for each in row["attempts"]
        ]
        return {"prompts": self._prompter.prompts_of(str(row["id"]), attempts)}

    def mark(self, asked: Answer) -> Answer:
        """Keep a mark."""
        marks.add(self.folder, marks.Mark.of(asked))
        return {"marks": self._counts()}

    def _counts(self) -> Answer:
        given = [each.mark for each in marks.read(self.folder).values()]
        return {"good": given.count("good"), "bad": given.count("bad")}

    def _part(self, asked: Answer) -> Part:
        found = parts(self.folder).get(str(asked["part"]))
        if found is None:
            raise JobError(f"{asked['part']}: has no rows. Load the page again.")
        return found


@lru_cache(maxsize=8)
def _found(part: Part, _state: object, ask: Ask, given: tuple[marks.Mark, ...]) -> NDArray[np.uint32]:
    return part.find(ask, {each.id: each for each in given})


def application(viewer: Viewer, token: str, *, local: bool) -> web.Application:
    """The page and its questions, for clients that send `token`; `local` is whether only this machine is served."""

    @web.middleware
    async def guarded(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
        try:
            if local and not is_loopback(request.host.rpartition(":")[0] or request.host):
                raise web.HTTPForbidden(text="This server answers under the names of this machine alone.")
            given = request.headers.get(_TOKEN, "")
            if request.method != "GET" and not hmac.compare_digest(
                given.encode("utf-8", "surrogateescape"), token.encode()
            ):
                raise web.HTTPUnauthorized(text="Open the address that synth view has printed, with its token.")
            response = await handler(request)
        except web.HTTPException as exc:
            exc.headers.update(_HEADERS)
            raise
        response.headers.update(_HEADERS)
        return response

    async def static(name: str, _: web.Request) -> web.Response:
        file, kind = _FILES[name]
        return web.Response(body=(_STATIC / file).read_bytes(), content_type=kind, charset="utf-8")

    async def answer(question: Callable[[Answer], Answer], request: web.Request) -> web.Response:
        try:
            found = await asyncio.to_thread(question, json.loads(await request.read()))
        except SynthError as exc:
            return web.json_response({"error": str(exc)}, status=400)
        except (ValueError, LookupError, TypeError, OSError, PolarsError) as exc:  # not the page's, or files have gone
            what = f"this cannot be answered ({type(exc).__name__}: {str(exc).splitlines()[:1]}). Load the page again."
            return web.json_response({"error": what}, status=400)
        return web.json_response(found)

    app = web.Application(middlewares=[guarded])
    app.add_routes([web.get(f"/{name}", partial(static, name)) for name in _FILES])
    for question in (viewer.about, viewer.rows, viewer.row, viewer.prompts, viewer.mark):
        app.add_routes([web.post(f"/{question.__name__}", partial(answer, question))])
    return app


async def serve(app: web.Application, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until cancelled; `ready` is told the address. Raises JobError where the port cannot be had."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, shutdown_timeout=1).start()
        address, number = runner.addresses[0][:2]
        ready(f"http://{f'[{address}]' if ':' in address else address}:{number}/")
        await asyncio.Event().wait()
    except OSError as exc:
        what = f"{host}:{port}: cannot be served: {exc.strerror or exc}."
        raise JobError(what, "Name another --port, or none for a free one.") from exc
    finally:
        await runner.cleanup()
