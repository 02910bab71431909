"""The command line: `main` runs one command and returns its exit code. `_MODULES` have the commands."""

from __future__ import annotations

import errno
import functools
import importlib
import os
import re
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from synth.cli import app as application
from synth.errors import SynthError
from synth.names import note
from synth.terminal import silence, tell

# In the order of the help page. Importing a module attaches its commands to `app`.
_MODULES = (
    "run",
    "check",
    "plan",
    "preview",
    "personas",
    "filter",
    "keep",
    "sweep",
    "report",
    "view",
    "folder",
    "relabel",
    "mine",
    "export",
    "evaluate",
    "prove",
    "train",
    "merge",
    "list",
)
for _name in _MODULES:
    importlib.import_module(f"synth.cli.{_name}")


def main(argv: list[str] | None = None) -> int:  # noqa: PLR0911 - one per way to end
    """Run a command; returns its exit code, and prints an error as `error: WHAT IS WRONG. WHAT TO DO.`."""
    argv = sys.argv[1:] if argv is None else argv
    with suppress(OSError):
        note(Path.cwd().parts)
    note(part for each in argv for part in re.split("[/=]", each))
    if "_SYNTH_COMPLETE" in os.environ:  # the shell asks for completions
        return int(_command().main(prog_name="synth", standalone_mode=False) or 0)
    try:
        with _command().make_context("synth", argv) as context:
            context.command.invoke(context)
    except typer.Exit as exc:
        return exc.exit_code
    except typer.TyperException as exc:
        return _misused(exc)
    except SynthError as exc:
        return _failed(str(exc), exc.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return _failed("interrupted.", 130)
    except BrokenPipeError:
        silence(sys.stdout)
        return 0
    except Exception as exc:  # noqa: BLE001 - the last resort: it is reported in full
        return _crashed(exc)
    return 0


@functools.cache
def _command() -> Any:
    """Built once a process: reading all signatures takes as long as a small command."""
    return typer.main.get_command(application.app)


def _misused(exc: typer.TyperException) -> int:
    context = getattr(exc, "ctx", None)
    path = context.command_path if context else "synth"
    message = exc.format_message() if hasattr(exc, "format_message") else str(exc)
    return _failed(f"{message.rstrip('.')}{'' if message.endswith('?') else '.'} See: {path} --help", 2)


def _crashed(exc: Exception) -> int:
    from synth.shards import disk

    if isinstance(exc, OSError) and exc.errno in {*disk.CURES} - {errno.ENOENT}:  # a file that is missing is a bug
        fault = disk.refused(exc, exc.filename or "the machine")
        return _failed(str(fault), fault.exit_code)
    tell("".join(traceback.format_exception(exc)).rstrip())
    what = f"{type(exc).__name__}: {exc}".splitlines()[0]
    return _failed(f"this is a bug in synth: {what}. Please report it with the lines above; finished work is safe.", 1)


def _failed(message: str, code: int) -> int:
    tell(f"error: {message}")
    return code
