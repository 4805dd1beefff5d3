"""The caller's side of calls: from `start` to exactly one outcome (law 17).

A call is *queued*, then *pulled* (it has a number, and may have run), then *answered*.
Taken back while queued it never ran. Whatever else happens it stays in the table until
the peer has answered or the session is over, so that what an answer carries is given
back even when nobody waits for it (law 21). A result is held until the bytes that its
call wrote are here (law 5). It must not know how a call is run.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from remoting_bus.errors import (
    Executed,
    LimitExceeded,
    LocalProtocolError,
    PeerLost,
)

from . import frames
from .calls import Outcome, OutcomeKind, OutgoingCall, RefusalCode
from .ends import Carried, Inlet, StreamEnd, check_movable
from .queue import Entry
from .streams import MAX_STREAMS_PER_FRAME, uses_of

if TYPE_CHECKING:
    from .session import Session

__all__ = ["CANCELLED", "TIMED_OUT", "Calling"]

CANCELLED: Final = 0
TIMED_OUT: Final = 1
"""Reasons of a CANCEL, on the wire."""

_UNPULLED = "it was taken back before it was sent"


class _Held:
    """An answer that waits for the bytes its call wrote."""

    __slots__ = ("call", "outcome", "waits")

    def __init__(
        self,
        call: OutgoingCall,
        outcome: Outcome,
        waits: list[tuple[Inlet | Carried, int]],
    ) -> None:
        self.call = call
        self.outcome = outcome
        self.waits = waits

    def ready(self) -> bool:
        self.waits = [
            (end, offset)
            for end, offset in self.waits
            if end.error is None and not end.ended and end.arrived < offset
        ]
        return not self.waits


class Calling:
    """The table of calls that this side made."""

    __slots__ = ("_deadlines", "_entries", "_held", "_session", "_tie", "pulled")

    def __init__(self, session: Session) -> None:
        self._session = session
        self._entries: dict[OutgoingCall, Entry] = {}  # queued, not wholly pulled
        self.pulled: dict[int, OutgoingCall] = {}
        self._held: dict[int, _Held] = {}
        self._deadlines: list[tuple[float, int, OutgoingCall]] = []
        self._tie = 0

    def __len__(self) -> int:
        return len(self._entries) + len(self.pulled)

    def start(self, call: OutgoingCall, now: float) -> None:
        """Queue a call, or end it at once where its deadline is over."""
        session = self._session
        limit = session.terms.max_message
        if len(call.args) > limit - 1024:
            raise LimitExceeded(
                f"the arguments of {call.name!r} take {len(call.args)} bytes; the "
                f"limit max_message is {limit}. Pass large data as a stream "
                "(remoting_bus.pipe) or a file",
                limit="max_message",
                value=limit,
                asked=len(call.args),
            )
        if len(call.streams) > MAX_STREAMS_PER_FRAME:
            raise LimitExceeded(
                f"a call carries at most {MAX_STREAMS_PER_FRAME} streams",
                limit="streams",
                value=MAX_STREAMS_PER_FRAME,
                asked=len(call.streams),
            )
        for end in call.streams:
            check_movable(end)
        deadline = call.deadline
        if deadline is not None:
            if deadline <= now:
                self._end(call, _timed_out("no", "before it was sent"))
                return
            self._tie += 1
            heapq.heappush(self._deadlines, (deadline, self._tie, call))
        data = frames.call(
            call.name,
            int(call.priority),
            None if deadline is None else int(deadline * 1e6),
            call.key,
            call.on_behalf,
            uses_of(call.streams) if call.streams else (),
            call.references,
            call.args,
        )
        entry = Entry(
            data, call.priority, lambda number: self._was_pulled(call, number)
        )
        self._entries[call] = entry
        if call.references:
            session.references.queued(call.references)
        session.outbox.queue.add(entry)

    def _was_pulled(self, call: OutgoingCall, number: int) -> None:
        del self._entries[call]
        call.number = number
        self.pulled[number] = call
        session = self._session
        if call.references:
            session.references.pulled(call.references)
        if call.streams:
            call.own_ends = session.streams.introduce_ours(number, call.streams)
            if call.forgotten:
                self._give_up_streams(call, "the call was given up")

    def cancel(self, call: OutgoingCall, reason: int, message: str) -> None:
        """Stop a call; its outcome comes with the peer's answer, or at once."""
        if call.outcome is not None or self._take_back(call, reason, message):
            return
        assert call.number is not None
        held = self._held.pop(call.number, None)
        if held is not None:
            # Its answer is here: nothing is sent, its bytes are not waited for.
            del self.pulled[call.number]
            self._release(held.outcome)
            self._end(call, Outcome(OutcomeKind.CANCELLED, message=message))
            self._give_up_streams(call, message)
            return
        if call.cancelling:
            return
        call.cancelling = True
        self._session.send_control(frames.cancel(call.number, reason))

    def _take_back(self, call: OutgoingCall, reason: int, message: str) -> bool:
        entry = self._entries.get(call)
        if entry is None:
            return call.number is None
        session = self._session
        if not session.outbox.queue.remove(entry):
            entry.abandoned = True  # what is left of its fragments says so
        del self._entries[call]
        session.references.pulled(call.references)
        session.taken_back(call.references)
        if reason == TIMED_OUT:
            self._end(call, _timed_out("no", _UNPULLED))
        else:
            self._end(
                call,
                Outcome(OutcomeKind.CANCELLED, message=_UNPULLED, executed="no"),
            )
        for end in call.streams:
            _give_up_handed(end, message)
        return True

    def forget(self, call: OutgoingCall, message: str) -> None:
        """Nobody waits any more: stop it, and give back what an answer carries."""
        call.forgotten = True
        self.cancel(call, CANCELLED, message)
        if call.outcome is None:
            self._end(call, Outcome(OutcomeKind.CANCELLED, message=message))
            self._give_up_streams(call, message)

    # -- answers --

    def progress(self, number: int, value: Any) -> None:
        """Take a PROGRESS: the newest report, dropped once the answer is here."""
        call = self._of(number)
        if call.outcome is None and number not in self._held:
            call.progress = value
            call.wake()

    def returned(self, at: int, frame: list[Any]) -> None:
        """Take a RETURNED, whose number is `at`; hold it for the bytes it names."""
        _, number, wrote, uses, references, value = frame
        session = self._session
        call = self._of(number)
        streams: Sequence[StreamEnd] = ()
        if references:
            session.references.received(references)
        if uses:
            carried = session.is_carried(call.name)
            streams = session.streams.introduce_theirs(at, uses, carried=carried)
        outcome = Outcome(OutcomeKind.RETURNED, value, streams, references)
        self._answer(number, call, outcome, wrote)

    def raised(self, number: int, wrote: Sequence[Sequence[int]], error: Any) -> None:
        """Take a RAISED; it is held for bytes like a result."""
        outcome = Outcome(OutcomeKind.RAISED, value=error)
        self._answer(number, self._of(number), outcome, wrote)

    def refused(self, number: int, code: int, message: str) -> None:
        """Take a REFUSED: the call did not run, but where its result was too large."""
        call = self._of(number)
        try:
            known = RefusalCode(code)
        except ValueError:
            known = RefusalCode.OTHER  # of a newer peer
        executed: Executed = "unknown"
        if known is not RefusalCode.TOO_LARGE:  # of its result: that call did run
            executed = "no"
            self._session.taken_back(call.references)
        outcome = Outcome(
            OutcomeKind.REFUSED, code=known, message=message, executed=executed
        )
        self._answer(number, call, outcome)

    def cancelled(self, number: int, ran: int, reason: int, message: str) -> None:
        """Take a CANCELLED: the call was stopped, or never started."""
        call = self._of(number)
        executed: Executed = "unknown" if ran else "no"
        if not ran:
            self._session.taken_back(call.references)
        if reason == TIMED_OUT:
            outcome = _timed_out(executed, message)
        else:
            outcome = Outcome(OutcomeKind.CANCELLED, message=message, executed=executed)
        self._answer(number, call, outcome)

    def _of(self, number: int) -> OutgoingCall:
        call = self.pulled.get(number)
        if call is None or number in self._held:
            raise ValueError(f"answers call {number}, which is not waiting")
        return call

    def _answer(
        self,
        number: int,
        call: OutgoingCall,
        outcome: Outcome,
        wrote: Sequence[Sequence[int]] = (),
    ) -> None:
        if call.outcome is not None:  # timed out or forgotten meanwhile
            del self.pulled[number]
            self._release(outcome)
            self._give_up_streams(call, "the call was given up")
            return
        if not wrote:
            del self.pulled[number]
            self._end(call, outcome)
            return
        waits: list[tuple[Inlet | Carried, int]] = []
        for index, offset in wrote:
            end = call.own_ends[index]
            if isinstance(end, Inlet | Carried) and offset > 0:
                waits.append((end, offset))
        held = _Held(call, outcome, waits)
        if held.ready():
            del self.pulled[number]
            self._end(call, outcome)
            return
        self._held[number] = held
        for end, offset in held.waits:
            if isinstance(end, Carried) and end.stream is not None:
                self._session.streams.want(end.stream, offset)

    def release_held(self) -> None:
        """Bytes came: let go of the answers that waited for them."""
        for number, held in list(self._held.items()):
            if held.ready():
                del self._held[number]
                del self.pulled[number]
                self._end(held.call, held.outcome)

    def _release(self, outcome: Outcome) -> None:
        """Give back what an answer carries that nobody takes (law 21)."""
        for end in outcome.streams:
            self._session.streams.give_up(end, "the call was given up")
        for reference in outcome.references:
            if reference >= 0:
                self._session.references.release(reference)

    def _give_up_streams(self, call: OutgoingCall, message: str) -> None:
        for end in call.own_ends:
            self._session.streams.give_up(end, message)

    def _end(self, call: OutgoingCall, outcome: Outcome) -> None:
        if call.outcome is not None:
            raise LocalProtocolError("a call ended twice")
        call.outcome = outcome
        call.wake()

    # -- time and the end --

    def wake_at(self) -> float | None:
        """Return when the next deadline of a call that has not ended passes."""
        while self._deadlines and self._deadlines[0][2].outcome is not None:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def tick(self, now: float) -> None:
        """Stop what is past its deadline; its caller waits no longer (law 17)."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, _, call = heapq.heappop(self._deadlines)
            if call.outcome is not None:
                continue
            self.cancel(call, TIMED_OUT, "its deadline passed")
            if call.outcome is None:
                self._end(call, _timed_out("unknown", "no answer by its deadline"))
                self._give_up_streams(call, "the call timed out")

    def all_ended(self, cause: BaseException, kind: OutcomeKind, message: str) -> None:
        """The session is over, or this side says goodbye: end every call, now."""
        for call, entry in list(self._entries.items()):
            executed: Executed = "unknown" if entry.first else "no"
            for end in call.streams:
                _give_up_handed(end, message)
            self._end(
                call, Outcome(kind, message=message, executed=executed, cause=cause)
            )
        for call in list(self.pulled.values()):
            if call.outcome is None:
                executed = cause.executed if isinstance(cause, PeerLost) else "unknown"
                outcome = Outcome(kind, message=message, executed=executed, cause=cause)
                self._end(call, outcome)
        self._entries.clear()
        self.pulled.clear()
        self._held.clear()
        self._deadlines.clear()


def _timed_out(executed: Executed, message: str) -> Outcome:
    return Outcome(OutcomeKind.TIMED_OUT, message=message, executed=executed)


def _give_up_handed(end: StreamEnd, message: str) -> None:
    """An end that was to travel and did not: whoever holds its partner is told."""
    if not isinstance(end, Carried) and not end.moved:
        end.reset(message)
