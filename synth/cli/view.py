"""`synth view`: rows in the browser."""

from __future__ import annotations

import asyncio
import re
import secrets
from typing import Annotated

import typer

from synth.cli.app import RunFolder, command
from synth.errors import JobError
from synth.terminal import say, tell

_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,}")


@command(
    "synth view out                         prints an address to open; Ctrl-C ends it",
    "synth view out --port 8123             for ssh -L 8123:localhost:8123 HOST",
    "synth view out --host 0.0.0.0 --token $(openssl rand -hex 16)",
)
def view(
    out: RunFolder,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Default: a free one.", show_default=False)] = 0,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Another than this machine's own needs a --token.")
    ] = "127.0.0.1",
    token: Annotated[
        str | None,
        typer.Option(
            envvar="SYNTH_VIEW_TOKEN", help="What a browser must know; default: a new one.", show_default=False
        ),
    ] = None,
    browser: Annotated[bool, typer.Option("--open", help="Open the address in a browser.")] = False,
) -> None:
    """Look at rows in the browser: search, filter, read, mark.

    Generated, kept, rejected and mined rows and named views, with passages, prompts and replies. Marks (good, bad, a
    comment) go to OUT/marks.jsonl, and are labels for `synth sweep --label-column marks`.
    """
    from synth.shards import OutputFolder
    from synth.view.server import Viewer, application, is_loopback, serve

    local = is_loopback(host)
    cure = "A token has 16 characters or more, of A-Z, a-z, 0-9, - and _: SYNTH_VIEW_TOKEN=$(openssl rand -hex 16)"
    if token is None and not local:
        raise JobError(f"--host {host}: everyone who reaches this machine could read the run. Name a --token.", cure)
    token = token or secrets.token_urlsafe()
    if not _TOKEN.fullmatch(token):
        raise JobError("--token: is too short, or has other characters than those of an address.", cure)

    def ready(address: str) -> None:
        url = f"{address}#{token}"
        say(url)
        tell("open this address in a browser; Ctrl-C ends it")
        if browser:
            import webbrowser

            webbrowser.open(url)

    app = application(Viewer(OutputFolder.open(out, notify=tell), tell), token, local=local)
    try:
        asyncio.run(serve(app, host, port, ready))
    except KeyboardInterrupt:
        tell("ended; marks are in marks.jsonl")
