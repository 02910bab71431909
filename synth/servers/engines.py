"""vLLM's data-parallel engines behind one URL: a passage stays with the one whose prefix cache holds it.

vLLM (0.32, chat completions) takes the engine from the header `X-data-parallel-rank`, from 0; without it every call
goes to the least busy one, and of n engines n-1 compute a passage again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

HEADER = "X-data-parallel-rank"
_HOMES = 1 << 16
_NONE: Mapping[str, str] = {}


class Engines:
    """Which engine of which server a passage goes to: the one with the fewest calls, and then always that one."""

    def __init__(self) -> None:
        self._busy: dict[str, list[int]] = {}
        self._homes: OrderedDict[int, tuple[str, int]] = OrderedDict()

    def learn(self, url: str, count: int) -> None:
        """A server has so many engines (now)."""
        self._busy[url] = [0] * count

    @contextmanager
    def headers(self, url: str, affinity: int) -> Iterator[Mapping[str, str]]:
        """The headers of a call, counted as long as it takes; none where there is nothing to choose."""
        busy = self._busy.get(url)
        if busy is None or len(busy) < 2:  # noqa: PLR2004 - to choose from
            yield _NONE
            return
        engine = self._home(url, affinity, busy)
        busy[engine] += 1
        try:
            yield {HEADER: str(engine)}
        finally:
            busy[engine] -= 1

    def _home(self, url: str, affinity: int, busy: list[int]) -> int:
        home, engine = self._homes.get(affinity, ("", 0))
        if home != url or engine >= len(busy):
            engine = busy.index(min(busy))
            self._homes[affinity] = url, engine
            if len(self._homes) > _HOMES:
                self._homes.popitem(last=False)
        return engine
