"""How many bulk bytes may be in flight through the broker.

They stand in front of every call at the broker and at the peer, so they are the knob of
isolation (speed.md, 9). It begins low; it grows while no call is in flight or the round
trip of CONTROL stays near its floor, and shrinks at once when that rises: delay-based,
after LEDBAT (RFC 6817).
"""

from __future__ import annotations

from collections.abc import Sized

from .delivery import RoundTrip

__all__ = ["MAXIMUM", "MINIMUM", "Flight"]

MINIMUM = 256 * 1024
MAXIMUM = 4 * 1024 * 1024

_NEAR = 1.5
_SLACK = 0.002
"""Seconds. A floor of some microseconds would call every turn of a loop a queue."""


class Flight:
    """The allowance of one session."""

    __slots__ = ("_changed_at", "allowed")

    def __init__(self) -> None:
        self.allowed = MINIMUM
        self._changed_at = 0.0

    def sample(self, trip: RoundTrip, now: float, *, busy: Sized) -> int | None:
        """Look at the round trip; return the allowance if it changed."""
        if trip.smoothed == 0.0:
            return None
        near = trip.smoothed <= trip.minimum * _NEAR + _SLACK
        if near or not busy:
            # Once a round trip: only then the last change can be seen.
            if self.allowed >= MAXIMUM or now - self._changed_at < trip.smoothed:
                return None
            wanted = min(self.allowed * 5 // 4, MAXIMUM)
        else:
            wanted = max(self.allowed // 2, MINIMUM)
        if wanted == self.allowed:
            return None
        self._changed_at = now
        self.allowed = wanted
        return wanted
