"""From a generator in a thread to the loop: bounded, and with one wake for a batch.

The thread waits while the loop has not taken what is there, and is let go when the call
is over. It must not know what the bytes are.
"""

from __future__ import annotations

import threading

from remoting_bus._loop import Loop

__all__ = ["Relay", "RelayClosed"]

_FULL = 64 * 1024
"""Bytes that a generator may be ahead of the loop; the stream buffers more."""


class RelayClosed(Exception):
    """Nobody takes anything any more."""


class Relay:
    """A bounded buffer, filled by one thread and emptied by one task."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._signal = loop.signal()
        self._condition = threading.Condition()
        self._parts: list[bytes] = []
        self._size = 0
        self._closed = False
        self._finished = False

    def put(self, part: bytes) -> None:
        """Add bytes, in the thread; waits while the buffer is full.

        Raises:
            RelayClosed: The call is over.
        """
        with self._condition:
            while self._size >= _FULL and not self._closed:
                self._condition.wait()
            if self._closed:
                raise RelayClosed
            was_empty = not self._parts
            self._parts.append(part)
            self._size += len(part)
        if was_empty:
            self._loop.post(self._signal.set)

    def finish(self) -> None:
        """Say, in the thread, that no more will come."""
        self._finished = True
        self._loop.post(self._signal.set)

    async def take(self) -> bytes:
        """Return all that is there, b"" once the thread has finished; on the loop."""
        while True:
            finished = self._finished  # first: what was put before it is then seen
            with self._condition:
                parts, self._parts = self._parts, []
                self._size = 0
                self._condition.notify()
            if parts or finished:
                return b"".join(parts)
            await self._signal.wait()

    def close(self) -> None:
        """Let the thread go: what it puts next raises."""
        with self._condition:
            self._closed = True
            self._condition.notify()
