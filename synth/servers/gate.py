"""Room for calls to one server, with a limit that moves while calls are under way, and one line before all servers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Line:
    """Calls that begin a passage: each goes to whichever server has room first.

    Had they a server each beforehand, a slow one would still have its queue when the others have nothing left to do.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[Gate | None]] = deque()

    async def wait(self) -> Gate | None:
        """The gate that let this call in, to be left later; None when `turn_away` was called meanwhile."""
        waiting: asyncio.Future[Gate | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and (gate := waiting.result()) is not None:
                gate.leave()  # room was given in the same moment
            raise

    def turn_away(self) -> None:
        """Send off all who wait: whom they wait for has changed."""
        while (waiting := self.first()) is not None:
            waiting.set_result(None)

    def first(self) -> asyncio.Future[Gate | None] | None:
        """Take out who has waited longest, None when nobody waits."""
        while self._waiting:
            if not (waiting := self._waiting.popleft()).done():
                return waiting
        return None


class Gate:
    """At most `limit` calls at once; who continues a passage goes before who begins one in the `line`.

    Without that rule a passage's later calls would queue behind the first calls of many others, and its prefix would be
    gone from the server's cache by then. None is no limit.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.line = Line()
        """Servers that answer alike share one."""
        self.is_open: Callable[[], bool] = lambda: True
        """Whether the server may be given calls that begin a passage now."""
        self.busy = 0
        self.filled = False
        """Whether the limit was reached since somebody set this to False."""
        self._ahead: deque[asyncio.Future[bool]] = deque()

    @property
    def load(self) -> float:
        """Calls under way and waiting, as a share of the limit where there is one."""
        return (self.busy + len(self._ahead)) / (self.limit or 1)

    @property
    def full(self) -> bool:
        return self.limit is not None and self.busy >= self.limit

    async def enter(self) -> bool:
        """Wait for room at this very server; False when `turn_away` was called meanwhile.

        Who gets True calls `leave` later.
        """
        if not self.full:
            self._take()
            return True
        waiting: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._ahead.append(waiting)
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
        while self._ahead:
            if not (waiting := self._ahead.popleft()).done():
                waiting.set_result(False)
        self.line.turn_away()

    def _take(self) -> None:
        self.busy += 1
        self.filled = self.filled or self.full

    def _let_in(self) -> None:
        while not self.full and self._ahead:
            if not (waiting := self._ahead.popleft()).done():
                self._take()
                waiting.set_result(True)
        while not self.full and self.is_open() and (beginning := self.line.first()) is not None:
            self._take()
            beginning.set_result(self)
