"""One vLLM server process: started, waited for, ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

GENERATOR = "Qwen/Qwen3-32B"
SMOLLM2 = "SmolLM2-135M-Instruct"
EMBEDDER = "sentence-transformers/all-MiniLM-L6-v2"
STRUCTURED = '{"backend":"xgrammar","disable_any_whitespace":true}'
CONTEXT = 8192
"""Tokens of a prompt and its reply; also the most in one batch, because vLLM's CPU build dies ("CPU Generator does not
use offset") when it cuts the prompt of a request with a seed in two, so chunked prefill stays off."""
SMALL_CONTEXT = 2048
_STARTUP = 300
_POLL = 0.5


@dataclass
class Server:
    """A vLLM server that this session started."""

    command: list[str]
    environment: Mapping[str, str]
    log: Path
    port: int
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, python: str, options: Sequence[str], environment: Mapping[str, str], log: Path) -> Self:
        """Start on a free port, without waiting: two of them load at the same time."""
        port = _free_port()
        command = [python, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--enforce-eager", *options]
        return cls(command, environment, log, port, _launch(command, environment, log))

    def start_again(self) -> None:
        """After `kill`: the same server on the same port, without waiting."""
        self.process = _launch(self.command, self.environment, self.log)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def wait(self) -> None:
        """Until `/health` answers; between two looks, wait for the process to end, which it should not."""
        for _ in range(int(_STARTUP / _POLL)):
            if self._healthy():
                return
            try:
                self.process.wait(timeout=_POLL)
            except subprocess.TimeoutExpired:
                continue
            break
        raise RuntimeError(f"vLLM did not come up:\n{self.log.read_text(errors='replace')[-3000:]}")

    def stop(self) -> None:
        """Terminate the process, and kill it when it will not go."""
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout=10)

    def kill(self) -> None:
        """SIGKILL for the server and the engine processes that it started, as when a machine goes down."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=30)

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False


def _launch(command: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(
            command, env=environment, cwd=log.parent, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
