"""Room for calls to one server, with a limit that moves while calls are under way."""

from __future__ import annotations

import asyncio
from collections import deque


class Gate:
    """At most `limit` calls at once; who continues a passage goes before who begins one.

    Without the second rule a passage's later calls would queue behind the first calls of many others, and its prefix
    would be gone from the server's cache by then. None is no limit.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.busy = 0
        self.filled = False
        """Whether the limit was reached since somebody set this to False."""
        self._ahead: deque[asyncio.Future[bool]] = deque()
        self._behind: deque[asyncio.Future[bool]] = deque()

    @property
    def load(self) -> float:
        """Calls under way and waiting, as a share of the limit where there is one."""
        return (self.busy + len(self._ahead) + len(self._behind)) / (self.limit or 1)

    @property
    def full(self) -> bool:
        return self.limit is not None and self.busy >= self.limit

    async def enter(self, *, ahead: bool) -> bool:
        """Wait for room; False when `turn_away` was called meanwhile. Who gets True calls `leave` later."""
        if not self.full:
            self._take()
            return True
        waiting: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        (self._ahead if ahead else self._behind).append(waiting)
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and waiting.result():
                self.leave()  # room was given in the same moment
            raise

    def leave(self) -> None:
        """Give room back."""
        self.busy -= 1
        self._let_in()

    def move(self, limit: int) -> None:
        """Set the limit; calls under way go on when it falls below them."""
        self.limit = limit
        self._let_in()

    def turn_away(self) -> None:
        """Send off all who wait: the server is down, and another may have room."""
        for queue in (self._ahead, self._behind):
            while queue:
                if not (waiting := queue.popleft()).done():
                    waiting.set_result(False)

    def _take(self) -> None:
        self.busy += 1
        self.filled = self.filled or self.full

    def _let_in(self) -> None:
        while not self.full and (queue := self._ahead or self._behind):
            if not (waiting := queue.popleft()).done():
                self._take()
                waiting.set_result(True)
