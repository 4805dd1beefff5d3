"""What waits to be pulled on the CALL lane: three priorities, and large frames in parts.

URGENT goes first; below it deficit round robin (Shreedhar and Varghese, 1996) shares
the lane by bytes, so that nothing starves. A frame that is larger than an envelope
travels as fragments, and goes to the back of its own priority after each, so that what
is small or urgent passes between them (law 28).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from remoting_bus.names import Priority

from . import frames

__all__ = ["CallQueue", "Entry"]

_QUANTUM = {Priority.NORMAL: 32 * 1024, Priority.BACKGROUND: 8 * 1024}
"""Bytes a round: NORMAL has four fifths of the lane while both have something."""

_FRAGMENT_HEAD = 32

MAX_PARTIAL = 8
"""Large frames in parts at the same time; bounds what the receiver puts together."""

MORE, LAST, ABANDONED = 0, 1, 2


class Entry:
    """A frame that waits.

    Attributes:
        pulled: Called with its number, once the whole of it was pulled.
        first: The number of its first fragment, once that was pulled.
        abandoned: The rest of its fragments need not travel.
        gone: It was pulled, or taken back.
    """

    __slots__ = ("abandoned", "data", "first", "gone", "offset", "priority", "pulled")

    def __init__(
        self,
        data: bytes,
        priority: Priority,
        pulled: Callable[[int], None] | None = None,
    ) -> None:
        self.data = data
        self.priority = priority
        self.pulled = pulled
        self.first = 0
        self.offset = 0
        self.abandoned = False
        self.gone = False


class CallQueue:
    """The queue. What bounds it: the callers, each of whom waits for its own call."""

    __slots__ = ("_deficit", "_levels", "_partial", "_turn", "largest", "waiting")

    def __init__(self, largest: int) -> None:
        self.largest = largest
        self.waiting = 0
        self._levels: tuple[deque[Entry], ...] = (deque(), deque(), deque())
        self._deficit = [0, 0, 0]
        self._turn = Priority.BACKGROUND  # so the first turn is NORMAL's
        self._partial = 0

    def __bool__(self) -> bool:
        return self.waiting > 0

    def add(self, entry: Entry) -> None:
        """Put a frame at the end of its priority."""
        self._levels[entry.priority].append(entry)
        self.waiting += 1

    def remove(self, entry: Entry) -> bool:
        """Take a frame back; False if all of it, or a part, was pulled."""
        if entry.first or entry.gone:
            return False
        # Left in its place, to be passed over: a search would cost all that waits.
        entry.gone = True
        entry.data = b""
        self.waiting -= 1
        return True

    def clear(self) -> None:
        """Forget all that waits."""
        for level in self._levels:
            level.clear()
        self.waiting = 0

    def fill(
        self, frames: list[bytes], room: int, number: int, window: int, most: int
    ) -> None:
        """Append whole frames while there is nothing to share the lane with.

        So it is nearly always, and half of what a frame costs is the calls of the
        general way: that is `take`'s.
        """
        urgent, normal, background = self._levels
        while normal and not urgent and not background:
            entry = normal[0]
            data = entry.data
            size = len(data)
            if entry.gone:
                normal.popleft()
                continue
            if size > room or window <= 0 or most <= 0:
                return
            if entry.first or size > self.largest:
                return
            normal.popleft()
            entry.gone = True
            self.waiting -= 1
            if entry.pulled is not None:
                entry.pulled(number)
            frames.append(data)
            number += 1
            room -= size
            window -= size
            most -= 1

    def take(self, room: int, number: int) -> bytes | None:
        """Return the next frame or fragment of at most `room` bytes, or None."""
        if not self.waiting:
            return None
        for level in self._order():
            entry = self._choose(level)
            if entry is None:
                continue
            data = self._cut(entry, room, number)
            if data is None:
                return None
            self._deficit[level] -= len(data)
            return data
        return None

    def _order(self) -> tuple[Priority, ...]:
        """Return the priorities in the order in which they may be served now."""
        normal, background = self._levels[1], self._levels[2]
        if normal and background:
            if self._deficit[self._turn] <= 0:
                self._turn = (
                    Priority.BACKGROUND
                    if self._turn is Priority.NORMAL
                    else Priority.NORMAL
                )
                self._deficit[self._turn] += _QUANTUM[self._turn]
            other = Priority.NORMAL + Priority.BACKGROUND - self._turn
            return (Priority.URGENT, self._turn, Priority(other))
        # Nobody owes for what went while nobody else waited.
        self._deficit = [0, 0, 0]
        return (Priority.URGENT, Priority.NORMAL, Priority.BACKGROUND)

    def _choose(self, level: Priority) -> Entry | None:
        """Return the first of a level that may go: it bounds frames in parts."""
        queue = self._levels[level]
        while queue and queue[0].gone:
            queue.popleft()
        if not queue:
            return None
        if self._partial < MAX_PARTIAL:
            return queue[0]
        for _ in range(len(queue)):
            entry = queue[0]
            if not entry.gone and (entry.first or len(entry.data) <= self.largest):
                return entry
            queue.rotate(-1)
        return None

    def _cut(self, entry: Entry, room: int, number: int) -> bytes | None:
        data = entry.data
        if len(data) <= self.largest and not entry.first:
            if len(data) > room:
                return None
            self._finish(entry, number)
            return data
        space = min(room, self.largest) - _FRAGMENT_HEAD
        if space < min(4096, self.largest // 2):
            return None
        if entry.abandoned:
            self._partial -= 1
            entry.pulled = None
            self._finish(entry, number)
            return frames.fragment(entry.first, ABANDONED, b"")
        part = data[entry.offset : entry.offset + space]
        first, entry.offset = entry.first, entry.offset + len(part)
        if not first:
            entry.first = number
            self._partial += 1
        if entry.offset < len(data):
            self._levels[entry.priority].rotate(-1)
            return frames.fragment(first, MORE, part)
        self._partial -= 1
        self._finish(entry, number)
        return frames.fragment(first, LAST, part)

    def _finish(self, entry: Entry, number: int) -> None:
        self._levels[entry.priority].popleft()
        entry.gone = True
        self.waiting -= 1
        if entry.pulled is not None:
            entry.pulled(number)
