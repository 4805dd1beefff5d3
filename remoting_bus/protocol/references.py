"""Counts of references that travel: who may still use what.

Each time a reference travels its exporter adds one; a release says how many travels are
given back, and is queued only after every queued frame that names the reference was
pulled (law 8). What the objects are is `_remote`'s to know.

On the wire an id is an object of the sender's; minus one minus the id is the receiver's
own object, come home, which is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["MAX_REFERENCES", "References"]

MAX_REFERENCES = 1_000_000
"""Objects exported to, or imported from, one peer; past it calls are refused."""


class References:
    """The two tables of one session."""

    __slots__ = ("_emit", "_queued", "_waiting", "exported", "imported")

    def __init__(self, emit: Callable[[int, int], None]) -> None:
        self.exported: dict[int, int] = {}
        self.imported: dict[int, int] = {}
        self._queued: dict[int, int] = {}
        self._waiting: dict[int, int] = {}
        self._emit = emit

    def queued(self, references: Sequence[int]) -> None:
        """A frame that names these was queued."""
        for each in references:
            if each >= 0:
                self.exported[each] = self.exported.get(each, 0) + 1
            else:
                home = -1 - each
                self._queued[home] = self._queued.get(home, 0) + 1

    def pulled(self, references: Sequence[int]) -> None:
        """That frame was pulled, or taken back."""
        for each in references:
            if each >= 0:
                continue
            home = -1 - each
            left = self._queued[home] - 1
            if left:
                self._queued[home] = left
                continue
            del self._queued[home]
            count = self._waiting.pop(home, 0)
            if count:
                self._emit(home, count)

    def taken_back(self, references: Sequence[int]) -> list[int]:
        """A frame that carried these never counted at the peer.

        Returns:
            Our objects that no peer can use any more.
        """
        return [each for each in references if each >= 0 and self._less(each, 1)]

    def received(self, references: Sequence[int]) -> None:
        """A frame that names these was accepted.

        Raises:
            ValueError: More than a table holds, or an object of ours that the peer
                does not have.
        """
        for each in references:
            if each >= 0:
                self.imported[each] = self.imported.get(each, 0) + 1
            elif -1 - each not in self.exported:
                raise ValueError("names an object that was not exported to it")
        if len(self.imported) > MAX_REFERENCES:
            raise ValueError("more references than a table holds")

    def not_received(self, references: Sequence[int]) -> None:
        """A frame that named these was refused after all."""
        for each in references:
            if each >= 0:
                left = self.imported[each] - 1
                if left:
                    self.imported[each] = left
                else:
                    del self.imported[each]

    def release(self, reference: int) -> None:
        """We use this object of the peer's no more."""
        count = self.imported.pop(reference, 0)
        if not count:
            return
        if reference in self._queued:
            self._waiting[reference] = self._waiting.get(reference, 0) + count
        else:
            self._emit(reference, count)

    def released(self, reference: int, count: int) -> bool:
        """The peer gave travels back; True if nobody can use the object any more.

        Raises:
            ValueError: More than it ever got.
        """
        if count < 1 or count > self.exported.get(reference, 0):
            raise ValueError("releases a reference more often than it travelled")
        return self._less(reference, count)

    def _less(self, reference: int, count: int) -> bool:
        left = self.exported[reference] - count
        if left:
            self.exported[reference] = left
            return False
        del self.exported[reference]
        return True

    def clear(self) -> list[int]:
        """The session is over; return our objects that were exported in it."""
        gone = list(self.exported)
        for table in (self.exported, self.imported, self._queued, self._waiting):
            table.clear()
        return gone
