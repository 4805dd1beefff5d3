"""Is the peer there? When to ask, when to probe, and what silence means (law 12).

CONTROL silent while beats are answered is "slow": its loop is blocked, its machine is
not. Both silent is "silent". After a sleep or a blocked loop of our own the bus is read
first, and silence is judged afterwards: that is a *pardon*. It must not know what
follows from a verdict; that is `session`'s.
"""

from __future__ import annotations

from typing import Literal

from .lanes import Lanes

__all__ = ["SILENT_AFTER", "Liveness", "Verdict", "asks_after", "heartbeat_of"]

BEATS_PER_SECOND = 200
"""Beats that one endpoint bears, before it wants longer intervals: some 3 % of a core."""

LONGEST_HEARTBEAT = 60.0
"""Seconds; the size of a fleet never asks for more. Silence is then known in four minutes,
which is less than the default grace."""

SILENT_AFTER = 4
"""Heartbeat intervals without a word after which the peer counts as silent."""

_PROBE_AFTER = 2
"""Intervals after which the bulk connection asks, too."""

_BLOCKED_AFTER = 3
"""Intervals between two ticks after which it was we who stood still."""

Verdict = Literal["heard", "slow", "silent"]


def heartbeat_of(sessions: int, least: float) -> float:
    """Return the interval that an endpoint with so many sessions wants for another one.

    Sessions keep what they agreed on, so those of a fleet that grew have intervals from
    `least` on: together they beat with the logarithm of its size, not with its size.
    """
    return max(least, min(sessions / BEATS_PER_SECOND, LONGEST_HEARTBEAT))


def asks_after(session: bytes, interval: float) -> float:
    """Return the silence after which the side that asks first does: from three quarters.

    By the session's id, which is random: a fleet that was interrupted at one moment
    does not beat as one ever after. The other side waits for the whole interval, so
    that one question serves both.
    """
    return interval * (0.75 + session[0] / 1280)


class Liveness:
    """What one session knows of its peer's being there.

    Attributes:
        suspended_at: When the grace began to run.
    """

    __slots__ = (
        "_beat_heard",
        "_lanes",
        "_pardoned_at",
        "_probed_at",
        "_ticked_at",
        "suspended_at",
    )

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._beat_heard = 0.0
        self._pardoned_at = 0.0
        self._probed_at = 0.0
        self._ticked_at = 0.0
        self.suspended_at = 0.0

    def begin(self, now: float) -> None:
        """The peer was proved just now."""
        self._pardoned_at = self._ticked_at = now

    def pardon(self, now: float) -> None:
        """Silence before now was not the peer's fault."""
        self._pardoned_at = now

    def heard_beat(self, at: float) -> None:
        """A beat was answered on the other connection."""
        self._beat_heard = at

    def quiet_for(self, now: float) -> float:
        """Return for how long CONTROL and CALL have been silent, in seconds."""
        return now - self._quiet_since()

    def _quiet_since(self) -> float:
        heard = self._lanes.heard_at
        return self._pardoned_at if heard is None else max(self._pardoned_at, heard)

    def next_question(self, asked_at: float, interval: float) -> float:
        """Return when the peer is to be asked for a word."""
        return max(self._quiet_since(), asked_at) + interval

    def ticked(self, now: float, interval: float, grace: float) -> None:
        """Note that time is looked at; find out whether we stood still."""
        if now - self._ticked_at > _BLOCKED_AFTER * interval:
            self._pardoned_at = now
            self.suspended_at = max(self.suspended_at, now - grace / 2)
        self._ticked_at = now

    def probe_due(self, now: float, interval: float) -> bool:
        """Tell whether a beat is to be sent now, once an interval."""
        if self.quiet_for(now) < _PROBE_AFTER * interval:
            return False
        if now - self._probed_at < interval:
            return False
        self._probed_at = now
        return True

    def judge(self, now: float, interval: float) -> Verdict:
        """Say what the present silence means."""
        if self.quiet_for(now) < SILENT_AFTER * interval:
            return "heard"
        if now - self._beat_heard <= _PROBE_AFTER * interval:
            return "slow"
        return "silent"
