"""Every failure has one name; its class says which exit code it ends in and whether waiting can help.

SynthError                  1   a bug, when nothing below fits
├── JobError                2   usage, the job file, or a path in it that does not exist
├── InputError              3   input that exists and cannot be read
├── OutputError             4   the output folder is refused: other identity, damaged, not ours
├── ServerRefused           5   a server says no and waiting will not help (key, model, schema, redirect)
├── ServerUnavailable      75   a server stayed away longer than `limits.outage`; run the same command again
├── TooManyUnusable         6   finished, but more unusable items than `limits.max_unusable_share`
├── SystemFault             7   disk full, permission, file descriptors
├── Stopped            75/130   asked to stop; everything finished so far is on disk
├── RequestRejected         -   this one request cannot succeed (too long, filtered): its item is rejected
└── UnusableReply           -   the model answered, but not with what was asked: asked again, then rejected

The last two never end a run: they become rows of `rejected/`. All of them survive pickling, because
workers hand them to their parent process.
"""

from __future__ import annotations

from functools import partial


class SynthError(Exception):
    """Base of all our errors; `hint` says how to fix it and is printed after the message."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class JobError(SynthError):
    """The command line or the job file asks for something impossible; raised before any model call."""

    exit_code = 2


class InputError(SynthError):
    """An input file exists and cannot be read as what it claims to be."""

    exit_code = 3


class OutputError(SynthError):
    """The output folder belongs to another job, is damaged, or was not made by synth."""

    exit_code = 4


class ServerRefused(SynthError):
    """A server refuses in a way that waiting does not cure: bad key, unknown model, redirect, wrong schema."""

    exit_code = 5


class TooManyUnusable(SynthError):
    """The run finished, but the share of unusable items passed `limits.max_unusable_share`."""

    exit_code = 6


class SystemFault(SynthError):
    """The machine refuses: disk full, no permission, no file descriptors."""

    exit_code = 7


class ServerUnavailable(SynthError):
    """A server stayed unreachable, overloaded or broken for longer than `limits.outage`."""

    exit_code = 75


class Stopped(SynthError):
    """A signal or deadline asked the run to stop; `exit_code` is 130 after Ctrl-C and 75 otherwise."""

    exit_code = 75
    elsewhere = False
    """Whether nobody asked: what is left is in the hands of other processes."""

    def __init__(self, message: str, hint: str = "", *, interrupted: bool = False) -> None:
        super().__init__(message, hint)
        self.interrupted = interrupted
        self.exit_code = 130 if interrupted else 75

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return partial(Stopped, interrupted=self.interrupted), (self.message, self.hint)


class _Reasoned(SynthError):
    """An error that becomes a rejected row: `reason` is the code in that row, `detail` its explanation."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class RequestRejected(_Reasoned):
    """One request that this server will never answer: `too_long`, `filtered`, `bad_request`, `server_error`."""


class UnusableReply(_Reasoned):
    """A reply that is not a usable value; `reason` is one of the codes listed in `synth.replies`."""
