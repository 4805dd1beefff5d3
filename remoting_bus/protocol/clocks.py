"""Two clocks that agree on nothing but the length of a second (law 10).

Each envelope carries the sender's session time. The smallest difference seen between
our clock and that is the best guess at what lies between the clocks, plus the shortest
way here. A deadline of the peer's is an instant here by adding it.
"""

from __future__ import annotations

__all__ = ["Clocks"]

_LONGEST_TRIP = 1.0
"""Seconds. A longest believable floor of a round trip; past it a clock stood still, or
every sample so far lay in a queue."""


class Clocks:
    """What is known of the peer's clock.

    Attributes:
        minimum: The smallest difference (ours minus theirs) seen, in seconds.
        sure: The sum of both sides' minimums was a believable round trip when they were
            compared.
    """

    __slots__ = ("_newest", "minimum", "sure")

    def __init__(self) -> None:
        self.minimum: float | None = None
        self.sure = False
        self._newest = 0.0

    def observe(self, theirs: float, now: float) -> None:
        """Take the session time of an envelope that came now."""
        self._newest = difference = now - theirs
        if self.minimum is None or difference < self.minimum:
            self.minimum = difference

    def compare(self, their_minimum: float) -> None:
        """Take the peer's own minimum, told by a heartbeat.

        If both together are absurd every sample is forgotten but that of the envelope
        that told it, which came just now.
        """
        if self.minimum is None:
            return
        trip = self.minimum + their_minimum
        if 0 <= trip <= _LONGEST_TRIP:
            self.sure = True
        else:
            self.minimum = self._newest
            self.sure = False

    def instant(self, theirs: float) -> float | None:
        """Return an instant of theirs on our clock; None while it cannot be told."""
        return None if self.minimum is None else theirs + self.minimum
