"""Goodbye, from both sides: nothing that was said before it is lost (law 9).

It names the last frame of each lane, and is acted on once all of them have come. Where
there were streams the bulk half says which are the last ones, and when the peer's are
in. It must not know what ends with a session.
"""

from __future__ import annotations

from typing import Any

from . import frames

__all__ = ["GOODBYE_PATIENCE", "Goodbye"]

GOODBYE_PATIENCE = 5.0
"""Seconds that the side that leaves waits for the acknowledgement."""


class Goodbye:
    """What was said of leaving, by either side.

    Attributes:
        reason: Of ours; None while this side stays.
        by: When we wait no longer.
        said: Ours was pulled.
    """

    __slots__ = ("_all_in", "_last_bytes", "_theirs", "by", "reason", "said")

    def __init__(self) -> None:
        self.reason: str | None = None
        self.by: float | None = None
        self.said = False
        self._last_bytes: tuple[int, int] | None = None
        self._theirs: list[Any] | None = None
        self._all_in = False

    def leave(self, reason: str, now: float) -> None:
        """This side leaves; the frame waits for `bytes_end_at`."""
        self.reason = reason
        self.by = now + GOODBYE_PATIENCE

    def bytes_end_at(self, bulk: int, log: int) -> None:
        """These are the numbers of the last frames of bytes; told again, it is no news."""
        if not self.said:
            self._last_bytes = (bulk, log)

    def pull(self, last_call: int) -> bytes | None:
        """Return our GOODBYE, once, as soon as it can be said."""
        if self.reason is None or self._last_bytes is None:
            return None
        frame = frames.goodbye(last_call, *self._last_bytes, self.reason)
        self._last_bytes, self.said = None, True
        return frame

    def heard(self, fields: list[Any]) -> bool:
        """Take the peer's; tell whether the bulk half must say when all is in."""
        self._theirs = fields
        _, bulk, log, _ = fields
        if not bulk and not log:
            self._all_in = True
        return not self._all_in

    def all_in(self) -> None:
        """The bulk half has all that the peer sent."""
        self._all_in = True

    def complete(self, next_call: int) -> str | None:
        """Return the peer's reason once every frame it sent is here."""
        if self._theirs is None or not self._all_in:
            return None
        last_call, _, _, reason = self._theirs
        return str(reason) if next_call > last_call else None
