"""What time and the link do to a session: silence, suspension, grace, patience.

It asks, probes, suspends and resumes, and ends a session whose peer stayed away; whether
the peer is there is `liveness`'s to judge. It must not know calls, nor what a frame says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from remoting_bus.errors import ChannelClosed, PeerLost

from .goodbye import Goodbye
from .lanes import Lanes
from .liveness import Liveness, asks_after
from .terms import Phase, PhaseChanged, PhaseKind

if TYPE_CHECKING:
    from .session import Session

__all__ = ["Pulse", "soonest"]


def soonest(one: float | None, other: float | None) -> float | None:
    """Return the earlier of two times; None is never."""
    if one is None or (other is not None and other < one):
        return other
    return one


class Pulse:
    """The timers of one session.

    Attributes:
        link_up: The connection of CONTROL and CALL.
        liveness: What is known of the peer's being there.
    """

    __slots__ = (
        "_asks_after",
        "_goodbye",
        "_lanes",
        "_session",
        "_slow",
        "link_up",
        "liveness",
    )

    def __init__(self, session: Session, lanes: Lanes, goodbye: Goodbye) -> None:
        self._session = session
        self._lanes = lanes
        self._goodbye = goodbye
        self._slow = False
        self._asks_after = 0.0
        self.link_up = True
        self.liveness = Liveness(lanes)

    def begin(self, now: float) -> None:
        """The peer was proved just now, and the terms are agreed on."""
        session = self._session
        self._asks_after = session.terms.heartbeat
        if session.asks_first:
            self._asks_after = asks_after(session.id, self._asks_after)
        self.liveness.begin(now)

    def heard(self) -> None:
        """An envelope of the peer's has come."""
        session = self._session
        if session.phase is Phase.SUSPENDED and self.link_up:
            self._lanes.link_back(session.now)
            session.change(Phase.OPEN, "resumed")
        if self._slow:
            self._slow = False
            session.events.append(PhaseChanged(session.phase, "resumed"))

    def link(self, up: bool, cause: str) -> None:
        """The connection went down, or came back."""
        session = self._session
        if up == self.link_up:
            return
        self.link_up = up
        if session.phase in (Phase.OVER, Phase.OPENING):
            return
        if up:
            self.liveness.pardon(session.now)
            self._lanes.link_back(session.now)
            session.ask()
        elif session.phase is Phase.OPEN:
            self._suspend("link down", cause)

    def _suspend(self, kind: PhaseKind, reason: str) -> None:
        self.liveness.suspended_at = self._session.now
        self._session.change(Phase.SUSPENDED, kind, reason=reason)

    def wake_at(self) -> float | None:
        """Return when `tick` has something to do."""
        session = self._session
        at = self._goodbye.by
        if self.link_up:
            at = soonest(at, self._next_beat())
            at = soonest(at, self._lanes.wake_at(session.terms.heartbeat))
        if session.phase is Phase.SUSPENDED:
            at = soonest(at, self._grace_ends())
        return soonest(at, session.rest.wake_at)

    def _grace_ends(self) -> float:
        return self.liveness.suspended_at + self._session.terms.grace

    def _next_beat(self) -> float:
        asked_at = self._session.outbox.asked_at
        if self._goodbye.said:  # a lost "parted" is asked for again
            return asked_at + self._lanes.trip.probe_timeout
        return self.liveness.next_question(asked_at, self._asks_after)

    def tick(self, now: float) -> None:
        """Do what is due."""
        session = self._session
        interval, grace = session.terms.heartbeat, session.terms.grace
        self.liveness.ticked(now, interval, grace)
        if self.link_up:
            self._lanes.tick(now, interval)
            self._judge_silence(now, interval)
        session.rest.tick(now)
        if session.phase is Phase.SUSPENDED and now >= self._grace_ends():
            late = f"{session.peer!r} did not come back within {grace:g} s"
            session.end(PeerLost(late), now)
        elif self._goodbye.by is not None and now >= self._goodbye.by:
            session.end(ChannelClosed(self._goodbye.reason or "closed"), now)

    def _judge_silence(self, now: float, interval: float) -> None:
        session = self._session
        if now >= self._next_beat():
            session.ask()
        if self.liveness.probe_due(now, interval):
            session.probe()
        if session.phase is not Phase.OPEN:
            return
        match self.liveness.judge(now, interval):
            case "heard":
                pass
            case "slow":
                if not self._slow:
                    self._slow = True
                    session.events.append(PhaseChanged(session.phase, "peer slow"))
            case "silent":
                quiet = self.liveness.quiet_for(now)
                self._suspend("peer silent", f"no word for {quiet:.1f} s")
