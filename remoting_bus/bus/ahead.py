"""A log's reader for drivers whose broker sends records ahead of their being read.

Owns the records between the broker and the program, and the two places of a reader: what
the program has had, and what is wanted from the broker next. How many stand between is
the driver's business: it asks for no more while there are enough. It must not know any
broker.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import anyio

from .log import LogReader, Record

__all__ = ["AheadReader"]


class _Anew(NamedTuple):
    """Stands among the records where another log begins."""

    first: int | None


class AheadReader(LogReader):
    """A reader with records ahead; a driver's own is made of it.

    Attributes:
        wanted: The position that is wanted from the broker next; None until it is known.
        ahead: Records that wait to be read.
        ahead_bytes: Of their bodies.
        ended: What ended it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.wanted: int | None = None
        self.ahead = 0
        self.ahead_bytes = 0
        self.ended: Exception | None = None
        self._items: deque[Record | _Anew] = deque()
        self._arrival: anyio.Event | None = None

    async def __anext__(self) -> Record:
        while True:
            while self._items:
                item = self._items.popleft()
                if isinstance(item, _Anew):
                    self.begin_again(item.first)
                    continue
                self.ahead -= 1
                self.ahead_bytes -= len(item.body)
                self.taken(item)
                if self.passed(item.position):
                    return item
            if self.ended is not None:
                raise self.ended
            self._arrival = anyio.Event()
            await self._arrival.wait()

    def put(self, record: Record) -> bool:
        """Take a record from the broker; False if it is older than what is wanted."""
        if self.ended is not None:
            return False
        if self.wanted is not None and record.position < self.wanted:
            return False
        self.wanted = record.position + 1
        self._items.append(record)
        self.ahead += 1
        self.ahead_bytes += len(record.body)
        self._wake()
        return True

    def anew(self, first: int | None) -> None:
        """What comes next is of another log; its oldest record has position `first`."""
        self.wanted = first
        self._items.append(_Anew(first))
        self._wake()

    def end(self, error: Exception) -> None:
        """Give out nothing more, but what ended it."""
        self.ended = self.ended or error
        self._items.clear()
        self.ahead = self.ahead_bytes = 0
        self._wake()

    def taken(self, record: Record) -> None:
        """A record is about to be given out: a driver may have room for more."""

    def _wake(self) -> None:
        if self._arrival is not None:
            self._arrival.set()
            self._arrival = None
