"""Workers as actors of a Ray cluster: the same worker on every node, over one folder that all nodes see.

Ray starts them, reports when one has died, and carries messages. Claims and commits go through the folder as always, so
a shard that two nodes make is the same shard, and one whose node died continues from its journal.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from synth.errors import JobError, OutputError, SystemFault
from synth.process import collect_rarely
from synth.runners.workers import OnMessage, Task, Worker

_WAITING_SECONDS = 60.0
"""How long a worker may wait for a place in the cluster before a notice."""
_STORE_BYTES = 100_000_000
"""Object store of a Ray that starts here: only messages go through it."""


class Cluster:
    """A context connected to a Ray cluster.

    `address` is `auto` for the cluster that this machine belongs to, or `ray://HOST:PORT`; None takes RAY_ADDRESS, or
    else starts Ray on this machine for the time of the context.
    """

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        self._address = address or os.environ.get("RAY_ADDRESS") or "local"
        self._workers = workers or 1
        self._ray: Any = None
        self._started = 0

    def __enter__(self) -> Self:
        """Connect. Raises JobError when ray is not installed, SystemFault when the cluster does not answer."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray  # noqa: PLC0415 - heavy, and an extra
        except ImportError as exc:
            raise JobError(f"--runner ray: {exc}.", "Run `pip install 'synth[ray]'`.") from exc
        options: dict[str, Any] = {"address": self._address, "logging_level": "warning"}
        if self._address == "local":
            cores = max(os.cpu_count() or 1, self._workers)
            options |= {"num_cpus": cores, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as exc:
            what = f"--ray-address {self._address}: cannot connect to a Ray cluster: {exc}."
            raise SystemFault(what, "Use the same versions of Ray and Python here and in the cluster.") from exc
        finally:
            signal.signal(signal.SIGTERM, handler)  # Ray puts its own in place, and we drain
        self._ray = ray
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()

    @property
    def nodes(self) -> int:
        return sum(node["Alive"] and node["Resources"].get("CPU", 0) >= 1 for node in self._ray.nodes())

    def launch(self, task: Task, on_message: OnMessage) -> Actor:
        """Start a worker where there is room, spread over the nodes."""
        job, environment = task.run.job, None
        if job.code is not None:  # its process has to import classes that lie beside the job file
            paths = [str(job.code), *filter(None, [os.environ.get("PYTHONPATH")])]
            environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}}
        actors = self._ray.remote(RayWorker).options(
            num_cpus=1,
            num_gpus=max(stage.gpus if stage is not None else 0 for stage in (job.llm, job.embed, job.persona_embed)),
            max_restarts=0,
            scheduling_strategy="SPREAD",
            runtime_env=environment,
        )
        self._started += 1
        return Actor(self._ray, actors.remote(str(Path.cwd()), task), str(self._started), on_message)


class Actor:
    """A worker in the cluster, seen from the supervisor; as `Launched`."""

    def __init__(self, ray: Any, actor: Any, name: str, on_message: OnMessage) -> None:
        self.name = name
        self.ended = asyncio.Event()
        self.death = ""
        self._ray = ray
        self._actor = actor
        self._on_message = on_message
        self._placed = self._ended = False
        self._following = asyncio.create_task(self._follow())

    def send(self, kind: str, value: Any) -> None:
        """Send it a message; a worker that still waits for a place is not needed any more when all stop."""
        if kind == "stop" and not self._placed:
            self.kill()
        else:
            self._actor.receive.remote(kind, value)

    def kill(self) -> None:
        self._ray.kill(self._actor)

    async def _follow(self) -> None:
        notice = ("notice", f"worker {self.name} waits for a free place in the cluster")
        waiting = asyncio.get_running_loop().call_later(_WAITING_SECONDS, self._on_message, notice)
        try:
            where = await self._actor.begin.remote()
            self._placed = True
            self.name = f"{self.name} ({where})"
            waiting.cancel()
            while not self._ended:
                for message in await self._actor.messages.remote():
                    if message[0] == "ended":
                        self.death, self._ended = message[1], True
                        break
                    self._on_message(message)
        except self._ray.exceptions.RayError as exc:
            self.death = self.death or " ".join(line.strip() for line in str(exc).splitlines()[:8])
        finally:
            waiting.cancel()
            with suppress(self._ray.exceptions.RayError):
                self.kill()  # gives its place to others
            self.ended.set()


class RayWorker:
    """The actor. Ray calls its methods, all on one event loop, which is also the worker's."""

    def __init__(self, folder: str, task: Task) -> None:
        with suppress(OSError):
            os.chdir(folder)  # a job may hold paths relative to it
        self._task = task
        self._messages: list[tuple[Any, ...]] = []
        self._news = asyncio.Event()
        collect_rarely()
        self._worker = Worker(task, self._send)

    async def begin(self) -> str:
        self._working = asyncio.create_task(self._work())
        return f"{socket.gethostname()}, process {os.getpid()}"

    async def messages(self) -> list[tuple[Any, ...]]:
        """The messages since the last call, as soon as there is one."""
        await self._news.wait()
        self._news.clear()
        messages, self._messages = self._messages, []
        return messages

    async def receive(self, kind: str, value: Any) -> None:
        self._worker.receive(kind, value)

    def _send(self, *message: Any) -> None:
        self._messages.append(message)
        self._news.set()

    async def _work(self) -> None:
        death, path = "", self._task.run.folder.path
        try:
            if (path / "job.json").exists():
                await self._worker.work()
            else:
                what = f"{path}: does not exist on {socket.gethostname()}."
                self._send("error", OutputError(what, "Mount the folder under the same path on every node."))
        except Exception:  # noqa: BLE001 - whatever it is, the supervisor has to know that a shard may have caused it
            death = traceback.format_exc().rstrip()
        self._send("ended", death)
