"""What one loop has to tell another and was not taken yet.

Owns a lock, a table from session to batch, and one wake. Batches of a session merge
until they are taken, so what stands here is bounded by what a batch is bounded by. It
must not know what crosses.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["Crossing", "Merging"]


class Merging(Protocol):
    """Something that a later one of its kind can be added to."""

    def add(self, later: Any, /) -> None:
        """Merge what was made after this one."""


B = TypeVar("B", bound=Merging)


class Crossing(Generic[B]):
    """One direction between two loops; any thread may call it.

    Args:
        wake: Called when something stands here after nothing did, in the thread of the
            putter and with no lock held.
    """

    __slots__ = ("_batches", "_lock", "_wake", "cause", "closed")

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._batches: dict[bytes, B] = {}
        self.closed = False
        self.cause: BaseException | None = None

    def __bool__(self) -> bool:
        return bool(self._batches)

    def put(self, session: bytes, batch: B) -> None:
        """Leave a batch; once closed it is dropped."""
        with self._lock:
            if self.closed:
                return
            was_empty = not self._batches
            waiting = self._batches.get(session)
            if waiting is None:
                self._batches[session] = batch
            else:
                waiting.add(batch)
        if was_empty:
            self._wake()

    def take(self) -> dict[bytes, B]:
        """Take all that stands here."""
        if not self._batches:
            return {}
        with self._lock:
            batches, self._batches = self._batches, {}
        return batches

    def close(self, cause: BaseException | None = None) -> None:
        """Drop what is put from now on, and wake the taker. Again it does nothing."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
            self.cause = cause
        self._wake()
