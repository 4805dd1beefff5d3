"""Rest: a session that was opened for the purpose ends when nobody uses it.

Only the side that opened it asks. Whatever it could cut must be known to both, so:

    opener    nothing in flight for a while: new calls wait, "may we part?" (a number)
    peer      nothing in flight here: GOODBYE        else: "no, stay" (the same number)
    opener    acts on the goodbye, or goes on

While the question is open the opener sends no call, and the peer that agrees has none
under way, so a goodbye that comes of it ends nothing. Each question has a number of its
own and one answer: a question that was answered "no" and comes late changes nothing. It
must not know who keeps a session, or why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from remoting_bus.names import Lane

from .lanes import Lanes
from .outbox import STATE_REST, STATE_STAY
from .terms import Phase, Stays

if TYPE_CHECKING:
    from .session import Session

__all__ = ["AT_REST", "Rest"]

AT_REST = "nobody uses it"
"""The reason of a goodbye that comes of a question."""

_LOOKS = 4
"""Times that it is looked at in the time of rest: it ends that much late, at most."""


class Rest:
    """What one session knows of its being used.

    Attributes:
        wake_at: When to look again; None where this side does not end it.
        asking: The question is open: new calls wait.
        kept: Users that no frame tells of; above 0 this side does not part.
    """

    __slots__ = (
        "_after",
        "_lanes",
        "_number",
        "_refused",
        "_seen",
        "_session",
        "_since",
        "asking",
        "kept",
        "wake_at",
    )

    def __init__(self, session: Session, lanes: Lanes) -> None:
        self._session = session
        self._lanes = lanes
        self._after = 0.0
        self._since = 0.0
        self._seen = (1, 1)  # the next frames of CALL, out and in
        self._number = 0
        self._refused = 0
        self.asking = False
        self.kept = 0
        self.wake_at: float | None = None

    def begin(self, now: float, after: float) -> None:
        """End the session once it was not used for so many seconds."""
        self._after = after
        self._since = now
        self.wake_at = now + after / _LOOKS

    def tick(self, now: float) -> None:
        """Look, or ask again."""
        if self.wake_at is None or now < self.wake_at:
            return
        if self.asking:
            self._ask(now)
            return
        calls = self._lanes[Lane.CALL]
        seen = (calls.sender.next, calls.receiver.next)
        if seen != self._seen or self._session.phase is not Phase.OPEN or self._used():
            self._seen, self._since = seen, now
        elif now - self._since >= self._after:
            self.asking = True
            self._number += 1
            self._ask(now)
            return
        self.wake_at = now + self._after / _LOOKS

    def _ask(self, now: float) -> None:
        session = self._session
        if session.phase is Phase.OPEN:
            session.outbox.say(STATE_REST, self._number)
        self.wake_at = now + min(
            self._lanes.trip.probe_timeout * 2, session.terms.heartbeat
        )

    def _used(self) -> bool:
        session = self._session
        return bool(
            self.kept
            or len(session.calling)
            or session.serving.running
            or len(session.streams)
            or session.references.exported
            or session.references.imported
            or session.outbox.queue
            or self._lanes[Lane.CALL].sender.unacknowledged
        )

    def asked(self, number: int) -> None:
        """The peer asks whether it may end.

        Raises:
            TypeError: It is no number.
        """
        session = self._session
        if session.phase is not Phase.OPEN or session.leaving:
            return
        if number > self._refused and not self._used():
            session.close(AT_REST, session.now)
            return
        self._refused = max(self._refused, number)
        session.outbox.say(STATE_STAY, self._refused)

    def refused(self, number: int) -> None:
        """The peer still uses it: go on."""
        if self.asking and number == self._number:
            self.asking = False
            self._since = self._session.now
            self.wake_at = self._since + self._after / _LOOKS
            self._session.events.append(Stays())
