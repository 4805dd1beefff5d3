"""The callee's side of calls: what came, what may start, and its one answer.

A CANCEL may overtake its CALL; then a tombstone waits for the call, which is never
started (law 4). A call whose deadline passed on the way is answered "timed out, not
run" (law 10). Answers always travel on CALL. It must not know how a call is run.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from remoting_bus.names import Priority

from . import frames
from .calling import CANCELLED, TIMED_OUT
from .calls import CancelReason, IncomingCall, RefusalCode
from .codec import DecodeError, decode
from .delivery import WINDOW_FRAMES
from .ends import Carried, Inlet, Outlet, StreamEnd, check_movable
from .queue import ABANDONED, LAST, MAX_PARTIAL, Entry
from .streams import uses_of

if TYPE_CHECKING:
    from .session import Session

__all__ = ["Serving"]

_MAX_NAME = 512
"""Characters of a function's name; longer ones are refused before they are looked up."""

# By look-up: calling an enumeration takes four times as long.
_PRIORITIES = {int(priority): priority for priority in Priority}

_MAX_MESSAGE = 4096
"""Characters of a message in a refusal: it may quote what the peer sent."""


class _Partial:
    """A frame that comes in fragments."""

    __slots__ = ("parts", "size")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0


class Serving:
    """The table of calls that the peer made."""

    __slots__ = (
        "_deadlines",
        "_partials",
        "_session",
        "_tombstones",
        "_unclear",
        "behalf",
        "draining",
        "running",
    )

    def __init__(self, session: Session) -> None:
        self._session = session
        self.running: dict[int, IncomingCall] = {}
        self.behalf = 0
        self.draining = False
        self._tombstones: dict[int, int] = {}
        self._partials: dict[int, _Partial] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._unclear: list[tuple[IncomingCall, int]] = []

    # -- what comes --

    def call(self, at: int, frame: list[Any]) -> None:
        """Take a CALL whose number is `at`."""
        _, name, priority, deadline, key, behalf, uses, references, args = frame
        if type(name) is not str or len(name) > _MAX_NAME:
            raise ValueError("a call without a name")
        reason = self._tombstones.pop(at, None) if self._tombstones else None
        if reason is not None:
            self._never(at, uses, "cancelled before it came")
            self._answer(frames.cancelled(at, False, reason, "it was never started"))
            return
        full = self._full(behalf)
        if full is not None:
            self._never(at, uses, full[1])
            self._answer(frames.refused(at, full[0], full[1]))
            return
        session = self._session
        streams: Sequence[StreamEnd] = ()
        if references:
            session.references.received(references)
        if uses:
            carried = session.is_carried(name)
            streams = session.streams.introduce_theirs(at, uses, carried=carried)
        call = IncomingCall(
            at,
            name,
            args,
            streams,
            references,
            _PRIORITIES[priority],
            None,
            key,
            bool(behalf),
        )
        self.running[at] = call
        if behalf:
            self.behalf += 1
        if deadline is None:
            session.events.append(call)
        else:
            self._with_deadline(call, deadline)

    def _full(self, behalf: object) -> tuple[RefusalCode, str] | None:
        """Say why no call is taken now, or None; call-backs have their own room."""
        limit = self._session.terms.max_calls
        if self.draining and not behalf:
            return RefusalCode.ENDING, "this side takes no new calls: it is leaving"
        count = self.behalf if behalf else len(self.running) - self.behalf
        if count >= limit:
            return (
                RefusalCode.OVERLOADED,
                f"{count} calls of this peer are unanswered; max_calls is {limit}",
            )
        return None

    def _with_deadline(self, call: IncomingCall, theirs: int) -> None:
        session = self._session
        if not session.clocks.sure:  # one answer is waited for (law 10)
            self._unclear.append((call, theirs))
            session.ask()
            return
        self._begin_by(call, theirs)

    def _begin_by(self, call: IncomingCall, theirs: int) -> None:
        session = self._session
        instant = session.clocks.instant(theirs / 1e6)
        assert instant is not None, "the call itself has brought a sample"
        call.deadline = instant
        if instant <= session.now:
            self.cancelled_done(call, ran=False, message="its deadline had passed")
            return
        heapq.heappush(self._deadlines, (instant, call.number))
        session.events.append(call)

    def clocks_are_known(self) -> None:
        """Start what waited for the clocks to be compared, believable or not."""
        waiting, self._unclear = self._unclear, []
        for call, theirs in waiting:
            if not call.ended:
                self._begin_by(call, theirs)

    def cancel(self, number: int, reason: int) -> None:
        """Take a CANCEL."""
        call = self.running.get(number)
        why: CancelReason = "timed out" if reason == TIMED_OUT else "cancelled"
        if call is not None:
            call.cancel(why)
            if any(call is waiting for waiting, _ in self._unclear):
                self.cancelled_done(call, ran=False, message="it was never started")
            return
        if number >= self._session.next_call_number():
            if len(self._tombstones) >= 2 * WINDOW_FRAMES:
                raise ValueError("cancels more calls than can be on their way")
            self._tombstones[number] = reason

    def fragment(self, at: int, fields: list[Any]) -> Any:
        """Take a FRAGMENT; return the whole frame when its last part is here."""
        first, state, part = fields
        if first == 0:
            if len(self._partials) >= MAX_PARTIAL:
                raise ValueError("more frames in fragments than allowed")
            partial = self._partials[at] = _Partial()
        else:
            partial = self._partials[first]
        if state == ABANDONED:
            del self._partials[first]
            return None
        partial.parts.append(part)
        partial.size += len(part)
        if partial.size > self._session.terms.max_message + 4096:
            raise ValueError("a frame larger than max_message")
        if state != LAST:
            return None
        del self._partials[first or at]
        try:
            return decode(b"".join(partial.parts))
        except DecodeError as error:
            raise ValueError(str(error)) from error

    def _never(self, at: int, uses: Sequence[int], reason: str) -> None:
        """The call does not come to be: give back what it introduced (law 4)."""
        self._session.streams.refuse_theirs(at, uses, reason)

    # -- answers --

    def returned(
        self,
        call: IncomingCall,
        value: bytes,
        streams: Sequence[StreamEnd],
        references: Sequence[int],
    ) -> None:
        """Answer with a result, or with a refusal where it is too large."""
        limit = self._session.terms.max_message
        if call.ended:
            self._nobody_waits(streams)
            return
        if len(value) > limit - 1024:
            self._nobody_waits(streams)
            self._too_large(call, len(value), limit)
            return
        for end in streams:
            check_movable(end)
        wrote = self._finish(call, None)
        session = self._session
        data = frames.returned(
            call.number,
            wrote,
            uses_of(streams) if streams else (),
            references,
            value,
        )
        if not streams and not references:
            session.outbox.queue.add(Entry(data, call.priority))
            return
        session.references.queued(references)

        def pulled(number: int) -> None:
            session.references.pulled(references)
            session.streams.introduce_ours(number, streams)

        session.outbox.queue.add(Entry(data, call.priority, pulled))

    def _too_large(self, call: IncomingCall, size: int, limit: int) -> None:
        """A result too large becomes an error that names the limit (law 24)."""
        message = (
            f"the result of {call.name!r} takes {size} bytes; the limit max_message "
            f"is {limit}. The call ran. Return large data as a stream or a file"
        )
        self._finish(call, message)
        self._answer(
            frames.refused(call.number, RefusalCode.TOO_LARGE, message), call.priority
        )

    def raised(self, call: IncomingCall, error: bytes, reason: str) -> None:
        """Answer with an error; its streams are reset."""
        if not call.ended:
            wrote = self._finish(call, reason)
            self._answer(frames.raised(call.number, wrote, error), call.priority)

    def refused(self, call: IncomingCall, code: RefusalCode, message: str) -> None:
        """Answer that it did not run; what it carried never counted."""
        if call.ended:
            return
        self._session.references.not_received(call.references)
        self._finish(call, message)
        message = message[:_MAX_MESSAGE]
        self._answer(frames.refused(call.number, code, message), call.priority)

    def cancelled_done(self, call: IncomingCall, *, ran: bool, message: str) -> None:
        """Answer that it was stopped; too late counts as its deadline."""
        if call.ended:
            return
        late = call.cancelled == "timed out"
        late = late or (
            call.deadline is not None and call.deadline <= self._session.now
        )
        if not ran:
            self._session.references.not_received(call.references)
        self._finish(call, message)
        reason = TIMED_OUT if late else CANCELLED
        self._answer(
            frames.cancelled(call.number, ran, reason, message[:_MAX_MESSAGE]),
            call.priority,
        )

    def progress(self, call: IncomingCall, value: bytes) -> None:
        """Report, as long as there is no answer."""
        if not call.ended:
            self._session.outbox.report(
                call.number, frames.progress(call.number, value)
            )

    def _finish(self, call: IncomingCall, reason: str | None) -> list[list[int]]:
        """Take the call out, and close the ends that the program does not keep.

        Returns:
            How far each stream was written, by index (law 5).
        """
        call.ended = True
        self._session.outbox.forget_report(call.number)
        if self.running.pop(call.number, None) is not None and call.on_behalf:
            self.behalf -= 1
        if not call.streams:
            return []
        wrote: list[list[int]] = []
        for index, end in enumerate(call.streams):
            if isinstance(end, Outlet):
                reset = end.error is not None or reason is not None
                wrote.append([index, -1 if reset else end.written])
            elif isinstance(end, Carried) and end.direction == "send":
                wrote.append([index, -1 if end.error or reason else end.arrived])
            if call.keep_streams and reason is None:
                continue
            self._close(end, reason)
        return wrote

    def _close(self, end: StreamEnd, reason: str | None) -> None:
        if reason is not None:
            self._session.streams.give_up(end, reason)
        elif isinstance(end, Outlet):
            end.finish()
        elif isinstance(end, Inlet):
            end.reset("the call returned without reading on")

    def _nobody_waits(self, streams: Sequence[StreamEnd]) -> None:
        for end in streams:
            if not isinstance(end, Carried) and not end.moved:
                end.reset("nobody waits for the result")

    def _answer(self, data: bytes, priority: Priority = Priority.NORMAL) -> None:
        self._session.outbox.queue.add(Entry(data, priority))

    # -- time and the end --

    def wake_at(self) -> float | None:
        """Return when the next deadline of a running call passes."""
        while self._deadlines and self._deadlines[0][1] not in self.running:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def tick(self, now: float) -> None:
        """Cancel what is past its deadline."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number = heapq.heappop(self._deadlines)
            call = self.running.get(number)
            if call is not None:
                call.cancel("timed out")

    def all_ended(self) -> None:
        """The session is over: stop its work; no answer goes anywhere (law 22)."""
        calls, self.running = list(self.running.values()), {}
        self.behalf = 0
        for call in calls:
            call.cancel("lost")
            call.ended = True
        self._tombstones.clear()
        self._partials.clear()
        self._deadlines.clear()
        self._unclear.clear()
