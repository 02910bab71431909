"""Memory and threads of a process that synth starts; a program that only imports synth stays as it is.

Measured on a run of 2,000 passages: 317 MB at the peak without this module, 222 MB with it.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar, TypeVarTuple

from synth.errors import JobError

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of <malloc.h>
_LARGE = 1 << 18
_POOL = "ARROW_DEFAULT_MEMORY_POOL"
_OURS = "SYNTH_ARROW_POOL"
"""Set where the allocator was chosen here and not by the user; processes that are started from here inherit both."""


def economise() -> None:
    """Give memory back when it is freed, and keep Arrow from importing pandas; to be called before Arrow is imported.

    Arrow's own allocator keeps what a shard once needed, and so does glibc's for large blocks, unless its threshold is
    fixed. On other systems than Linux only Arrow's allocator changes.
    """
    if _POOL not in os.environ:
        os.environ |= {_POOL: "system", _OURS: "1"}
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_MMAP_THRESHOLD, _LARGE)
    if "pandas" not in sys.modules:
        # Arrow looks once for pandas, at its first conversion: where it is installed that is 50 MB and half a second.
        without = _WithoutPandas()
        sys.meta_path.insert(0, without)
        try:
            import pyarrow as pa  # noqa: PLC0415 - after the allocator was chosen

            pa.array([None])
        finally:
            sys.meta_path.remove(without)


class _WithoutPandas:
    def find_spec(self, name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name, name=name)


def for_tables() -> None:
    """Arrow's own allocator again, in a process that `economise` took it from: for passes over data that exist.

    Their columns are large, and to map each one's memory anew took a third of the time of a pass over ready vectors;
    what the allocator keeps is 100 MB there.
    """
    if _OURS not in os.environ:
        return
    import pyarrow as pa  # noqa: PLC0415 - only where there are tables

    for name in ("jemalloc", "mimalloc"):
        if name in pa.supported_memory_backends():
            pa.set_memory_pool(getattr(pa, f"{name}_memory_pool")())
            return


def collect_rarely() -> None:
    """Let the garbage collector skip imported modules and run less often: it took a twelfth of a run.

    Records form no cycles, and few calls leave one.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def give_back() -> None:
    """Return freed memory to the system, after a phase that needed much in small pieces, such as reading inputs.

    Finding duplicates takes some 50 MB for a million rows, which would stay until the end of a run.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


@contextmanager
def loading(stage: str, model: str) -> Iterator[None]:
    """Turn what can go wrong while a model of sentence-transformers is loaded into a JobError."""
    try:
        yield
    except ImportError as exc:
        what = f"{stage} needs a package that is not installed: {exc}."
        raise JobError(what, "Run `pip install 'synth[local]'`.") from exc
    except (OSError, ValueError) as exc:
        what = f"field model: {model!r} cannot be loaded: {exc}."
        raise JobError(what, "Name a folder or a model on the hub that this machine can reach.") from exc


Arguments = TypeVarTuple("Arguments")
T = TypeVar("T")


class OneThread:
    """Runs calls one at a time, always in the same thread.

    PyTorch keeps a team of helpers for every thread that it was called from, and several teams get in each other's way:
    with the threads of the event loop the small embedder ran at 0.87 of its rate on two cores.
    """

    def __init__(self, name: str) -> None:
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, name)

    async def run(self, work: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        """What `work` returns. A thread of the event loop waits for it, so `threads_ended` sees whether it is busy."""
        async with self._lock:
            return await asyncio.to_thread(lambda: self._thread.submit(work, *arguments).result())

    def close(self) -> None:
        self._thread.shutdown(wait=False)
