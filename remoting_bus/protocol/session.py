"""The law of one session: CONTROL and CALL, its phases, and its end.

Theory. A session is not a connection. Its phases:

    OPENING ──proved──▶ OPEN ◀──heard──▶ SUSPENDED      link down, or the peer silent
       │                 │                  │
       │              goodbye            grace over, or a new incarnation
       ▼                 ▼                  ▼
      OVER ◀──ack, 5 s─ CLOSING            OVER

While OPENING calls are queued; while SUSPENDED they wait, and nothing new is pulled, for
what is pulled counts as sent (law 18). OVER is reached once: every call ends, every end
breaks, and the work of the peer's calls is stopped.

The session has two halves, one for each connection. This one owns calls, ids of streams
and the phase; the other (`freight`) owns the bytes. They tell each other by batches
(`crossing`). Output is pulled; what happened is in `events`. Time is handed in. It must
not know which loop runs it, nor anything of the other half but its batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from remoting_bus.errors import (
    ChannelBroken,
    ChannelClosed,
    PeerLost,
    RemoteProtocolError,
)
from remoting_bus.names import Lane, Priority

from . import frames
from .calling import CANCELLED, Calling
from .calls import IncomingCall, OutcomeKind, OutgoingCall, RefusalCode
from .clocks import Clocks
from .crossing import Batch, Move, Number
from .ends import StreamEnd
from .envelope import PlainSeal, Seal
from .flight import Flight
from .goodbye import Goodbye
from .inbox import Inbox
from .lanes import Broken, Lanes, Opened
from .outbox import (
    STATE_ASK,
    STATE_MINIMUM,
    STATE_PARTED,
    STATE_REST,
    STATE_STAY,
    Outbox,
)
from .pulse import Pulse, soonest
from .queue import Entry
from .references import References
from .rest import Rest
from .serving import Serving
from .streams import MAX_STREAMS_PER_FRAME, Streams, stream_id
from .terms import Event, Opening, Phase, PhaseChanged, PhaseKind, Released, Terms

__all__ = ["Session"]


class Session:
    """One conversation with one peer: a `Half` (see `two-loops` in the docs).

    Attributes:
        id: 16 random bytes.
        peer: The peer's name.
        peer_info: What it said of itself.
        peer_incarnation: Random, per start of its process.
        terms: What was agreed.
        phase: See above.
        cause: What ended it.
        events: What happened; the shell takes them after each input.
        over: The shell may forget it: nothing more will be sent.
        rest: Whether anybody uses it, and its end where nobody does.
        more: After `next_envelope` gave one: there may be another one now.
        asks_first: Of two silent peers the one of the lower name does.
        now: The time of the present input.
    """

    def __init__(
        self,
        session: bytes,
        peer: str,
        terms: Terms,
        *,
        is_carried: Callable[[str], bool] = lambda name: False,
        new_token: Callable[[], int],
        seal: Seal | None = None,
        local: str = "",
    ) -> None:
        self.id = session
        self.peer = peer
        self.terms = terms
        self.peer_info: dict[str, Any] = {}
        self.peer_incarnation = b""
        self.phase = Phase.OPENING
        self.cause: BaseException | None = None
        self.events: list[Event] = []
        self.over = False
        self.more = False
        self.now = 0.0
        self.is_carried = is_carried
        self.clocks = Clocks()
        self.references = References(self._emit_release)
        self._batch = Batch()
        self.streams = Streams(lambda: self._batch, new_token)
        self.calling = Calling(self)
        self.serving = Serving(self)
        self._lanes = Lanes(session, seal or PlainSeal(), self.clocks, local)
        self._flight = Flight()
        self.outbox = Outbox(self._lanes, self.clocks)
        self._inbox = Inbox(self)
        self._goodbye = Goodbye()
        self.rest = Rest(self, self._lanes)
        self._pulse = Pulse(self, self._lanes, self._goodbye)
        self.asks_first = local < peer
        self._secret = b""
        self._there_said = 0
        self._last_word = False  # their goodbye is still to be acknowledged
        self._set_terms(terms)

    def _set_terms(self, terms: Terms) -> None:
        self.terms = terms
        self.outbox.limit(terms.max_envelope)

    # -- opening --

    def opened(
        self, terms: Terms, info: dict[str, Any], incarnation: bytes, now: float
    ) -> None:
        """The peer is proved: what waits may go."""
        self.now = now
        self._set_terms(terms)
        self.peer_info = info
        self.peer_incarnation = incarnation
        self._pulse.begin(now)
        self._batch.move(Move.OPEN, Opening(self.id, self.peer, terms, self._secret))
        self.change(Phase.OPEN, "open")
        # The answerer waits for a first sealed envelope; it also compares the clocks.
        self.ask()

    def secure(self, secret: bytes) -> None:
        """Seal with what the handshake gave; before the first envelope."""
        self._secret = secret
        self._lanes.seal = PlainSeal(secret)

    def proved_by(self, envelope: bytes) -> bool:
        """Tell whether only the peer of this handshake can have made an envelope."""
        return self._lanes.opens(envelope)

    @property
    def heard(self) -> bool:
        """The peer has sealed something: it has the session, too."""
        return self._lanes.heard_at is not None

    def renumber(self, session: bytes) -> None:
        """Take the id of the peer's hello, where hellos crossed; nothing was sent."""
        self.id = self._lanes.session = session

    # -- what programs do --

    def start(self, call: OutgoingCall, now: float) -> None:
        """Queue a call; its outcome is set exactly once, whatever happens.

        Raises:
            LimitExceeded: Its arguments are larger than `max_message`.
            ChannelBroken: The session is over.
            ChannelClosed: This side is leaving.
        """
        self.now = now
        if self.phase is Phase.OVER:
            raise self._why_over()
        if self.leaving:
            raise ChannelClosed(f"the channel to {self.peer!r} is closing")
        self.calling.start(call, now)

    def _why_over(self) -> Exception:
        cause = self.cause
        if isinstance(cause, ChannelClosed):
            return ChannelClosed(str(cause))
        if isinstance(cause, PeerLost):
            lost = PeerLost(str(cause), executed="no")
            lost.__cause__ = cause
            return lost
        broken = ChannelBroken(f"the channel to {self.peer!r} is gone: {cause}")
        broken.__cause__ = cause
        return broken

    def cancel(self, call: OutgoingCall, now: float, message: str = "") -> None:
        """Stop a call. Its outcome follows; at once where it was never sent."""
        self.now = now
        self.calling.cancel(call, CANCELLED, message or "cancelled by its caller")

    def forget(self, call: OutgoingCall, now: float, message: str = "") -> None:
        """Stop a call that nobody waits for any more; its outcome is set now."""
        self.now = now
        self.calling.forget(call, message or "its caller has left")

    def returned(
        self,
        call: IncomingCall,
        value: bytes,
        now: float,
        *,
        streams: Sequence[StreamEnd] = (),
        references: Sequence[int] = (),
    ) -> None:
        """Answer with a result (encoded). A second answer does nothing."""
        self.now = now
        self.serving.returned(call, value, streams, references)

    def raised(
        self, call: IncomingCall, error: bytes, now: float, reason: str = "it raised"
    ) -> None:
        """Answer with an error (encoded); its streams are reset with `reason`."""
        self.now = now
        self.serving.raised(call, error, reason)

    def refused(
        self, call: IncomingCall, code: RefusalCode, message: str, now: float
    ) -> None:
        """Answer that it did not run."""
        self.now = now
        self.serving.refused(call, code, message)

    def cancelled_done(
        self, call: IncomingCall, now: float, *, ran: bool, message: str = ""
    ) -> None:
        """Answer that it was stopped; `ran` says whether it had started."""
        self.now = now
        self.serving.cancelled_done(call, ran=ran, message=message)

    def progress(self, call: IncomingCall, value: bytes, now: float) -> None:
        """Report; conflated while it waits to be pulled (law 7)."""
        self.now = now
        self.serving.progress(call, value)

    def drain(self) -> None:
        """Take no new calls from now on; what runs goes on."""
        self.serving.draining = True

    def close(self, reason: str, now: float) -> None:
        """Say goodbye (law 9). Calls not ended are cancelled now; then it ends."""
        self.now = now
        if self.phase is Phase.OVER or self.leaving:
            return
        if self.phase is Phase.OPENING:
            self.end(ChannelClosed(reason), now)
            return
        self._goodbye.leave(reason, now)
        self.outbox.clear()
        self._end_calls(ChannelClosed(f"the channel was closed: {reason}"))
        # Always: the peer may still introduce streams, which nobody here takes any more.
        self._batch.move(Move.CLOSING)
        if not self.streams.used:
            self._goodbye.bytes_end_at(0, 0)
        self.change(Phase.CLOSING, "closing", reason=reason)

    def end(self, cause: BaseException, now: float, kind: PhaseKind = "lost") -> None:
        """Be over, here and now: every call ends, every end breaks."""
        self.now = now
        if self.phase is Phase.OVER:
            return
        self.cause = cause
        self.outbox.clear()
        self._end_calls(cause)
        self._batch.move(Move.OVER, str(cause))
        self.over = not self._last_word
        if isinstance(cause, ChannelClosed):
            kind = "closed"
        self.change(Phase.OVER, kind, cause)

    def _end_calls(self, cause: BaseException) -> None:
        closed = isinstance(cause, ChannelClosed)
        kind = OutcomeKind.CANCELLED if closed else OutcomeKind.LOST
        self.calling.all_ended(cause, kind, str(cause))
        self.serving.all_ended()
        broken = ChannelBroken(f"the channel to {self.peer!r} is gone: {cause}")
        broken.__cause__ = cause
        self.streams.fail_all(broken)
        gone = self.references.clear()
        if gone:
            self.events.append(Released(gone))

    def change(
        self,
        phase: Phase,
        kind: PhaseKind,
        cause: BaseException | None = None,
        reason: str = "",
    ) -> None:
        """Enter a phase, and tell the other half and the shell."""
        if phase is not self.phase and Phase.SUSPENDED in (phase, self.phase):
            self._batch.move(Move.PHASE, phase is Phase.SUSPENDED)
        self.phase = phase
        self.events.append(PhaseChanged(phase, kind, cause, reason))

    # -- what the parts of this half use --

    @property
    def leaving(self) -> bool:
        """This side has begun to say goodbye."""
        return self._goodbye.reason is not None

    def send_control(self, frame: bytes) -> None:
        """Queue a frame on CONTROL."""
        self.outbox.control(frame)

    def probe(self) -> None:
        """Have the bulk half ask whether anybody is there."""
        self._batch.number(Number.PROBE, self.now)

    def ask(self) -> None:
        """Say something that wants an answer with the next envelope."""
        self.outbox.say(STATE_ASK, 1)

    def next_call_number(self) -> int:
        """Return the number below which every CALL frame has come."""
        return self._lanes[Lane.CALL].receiver.next

    def taken_back(self, references: Sequence[int]) -> None:
        """What a call carried never counted at the peer."""
        gone = self.references.taken_back(references)
        if gone:
            self.events.append(Released(gone))

    def released(self, reference: int, count: int) -> None:
        """The peer gave back so many travels of an object of ours."""
        if self.references.released(reference, count):
            self.events.append(Released([reference]))

    def peer_leaves(self, fields: list[Any]) -> None:
        """Take the peer's goodbye; `_go_on` acts on it once all is here."""
        if self._goodbye.heard(fields):
            self._batch.move(Move.EXPECT, fields[1], fields[2])

    def _emit_release(self, reference: int, count: int) -> None:
        self.outbox.queue.add(
            Entry(frames.release(reference, count), Priority.BACKGROUND)
        )

    def release(self, reference: int, now: float) -> None:
        """We use this object of the peer's no more."""
        self.now = now
        self.references.release(reference)

    # -- Half: in --

    def receive(self, envelope: bytes, now: float) -> None:
        """Take an envelope of this session from CONTROL or CALL."""
        self.now = now
        if self.over:
            return
        try:
            opened = self._lanes.open(envelope, now)
            if opened is not None:
                self._take(opened, now)
        except Broken as error:
            self.fail(str(error), now)

    def fail(self, why: str, now: float) -> None:
        """The peer broke a rule: nothing it says can be relied on."""
        self.end(RemoteProtocolError(f"{self.peer!r} broke the protocol: {why}"), now)

    def _take(self, opened: Opened, now: float) -> None:
        self._pulse.heard()
        flight = self._flight.sample(self._lanes.trip, now, busy=self.calling.pulled)
        if flight is not None and self.streams.used:
            self._batch.number(Number.FLIGHT, flight)
        if self.phase is Phase.OVER:
            return
        self._tell_there(opened.news)
        try:
            if opened.state:
                self._take_state(opened.state)
            if opened.released:
                self._inbox.take(opened.lane, opened.released)
        except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            raise Broken(f"a malformed frame: {error}") from error
        self._go_on(now)

    def _tell_there(self, news: bool) -> None:
        """Tell the bulk half which of our introductions the peer has (law 6)."""
        if news and self._there_said < self.streams.newest:
            acknowledged = self._lanes[Lane.CALL].sender.acknowledged
            there = stream_id(acknowledged, MAX_STREAMS_PER_FRAME, ours=True)
            self._batch.number(Number.THERE, there)
            if acknowledged >= self.streams.newest:
                self._there_said = self.streams.newest

    def _go_on(self, now: float) -> None:
        """See whether their goodbye is complete; then be over (law 9)."""
        if self.phase is Phase.OVER:
            return
        reason = self._goodbye.complete(self.next_call_number())
        if reason is not None:
            self.calling.release_held()
            self._last_word = True
            self.end(PeerLost(f"{self.peer!r} has left: {reason}"), now, kind="closed")

    def parted(self, now: float) -> None:
        """The peer has acted on our goodbye, or does not know the session any more."""
        if self._goodbye.reason is not None:
            self.end(ChannelClosed(self._goodbye.reason), now)

    def _take_state(self, state: dict[int, Any]) -> None:
        if STATE_MINIMUM in state:
            was_sure = self.clocks.sure
            self.clocks.compare(state[STATE_MINIMUM] / 1e6)
            if not self.clocks.sure and was_sure:
                self.ask()
            self.serving.clocks_are_known()
        if state.get(STATE_ASK):
            self.outbox.say_minimum()
        if STATE_REST in state:
            self.rest.asked(state[STATE_REST])
        if STATE_STAY in state:
            self.rest.refused(state[STATE_STAY])
        if STATE_PARTED in state:
            self.parted(self.now)

    # -- Half: the other half --

    def cross(self, batch: Batch, now: float) -> None:
        """Take what the bulk half tells."""
        self.now = now
        if self.phase is Phase.OVER:
            return
        self.streams.apply(batch)
        for kind, *arguments in batch.moves:
            if kind is Move.FAILED:
                self.fail(arguments[0], now)
                return
            if kind is Move.LAST:
                self._goodbye.bytes_end_at(*arguments)
            elif kind is Move.ALL_IN:
                self._goodbye.all_in()
            elif kind is Move.UNKNOWN:
                self.send_control(frames.unimplemented(arguments[0]))
        heard = batch.numbers.get((Number.HEARD, 0))
        if heard is not None:
            self._pulse.liveness.heard_beat(heard)
        self.calling.release_held()
        self._go_on(now)

    def take_batch(self) -> Batch | None:
        """Return what the bulk half is to know, if anything."""
        if not self._batch:
            return None
        batch, self._batch = self._batch, Batch()
        return batch

    # -- Half: out --

    def next_envelope(self, now: float) -> bytes | None:
        """Return what is to be sent next, or None."""
        self.now = now
        if self.phase is Phase.OVER:
            return self._final_word(now)
        if self.phase is Phase.OPENING or not self._pulse.link_up:
            return None
        if self.leaving:
            self._say_goodbye(now)
        new_calls = self.phase is not Phase.SUSPENDED and not self.rest.asking
        envelope = self.outbox.pull(now, new_calls=new_calls)
        self.more = self.leaving or self.outbox.waits()
        return envelope

    def _say_goodbye(self, now: float) -> None:
        frame = self._goodbye.pull(self._lanes[Lane.CALL].sender.next - 1)
        if frame is not None:
            self.outbox.control(frame)
            self.outbox.asked_at = now

    def _final_word(self, now: float) -> bytes | None:
        if self.over:
            return None
        self.over = True
        return self.outbox.last_word(now)

    # -- Half: time --

    def link(self, up: bool, now: float, cause: str = "") -> None:
        """The connection of CONTROL and CALL went down, or came back."""
        self.now = now
        self._pulse.link(up, cause)

    def wake_at(self, now: float) -> float | None:
        """Return when `tick` has something to do, or None."""
        if self.over:
            return None
        at = None if self.phase is Phase.OPENING else self._pulse.wake_at()
        return soonest(soonest(at, self.calling.wake_at()), self.serving.wake_at())

    def tick(self, now: float) -> None:
        """Do what is due."""
        self.now = now
        if self.over:
            return
        self.calling.tick(now)
        self.serving.tick(now)
        if self.phase is not Phase.OPENING:
            self._pulse.tick(now)

    def statistics(self) -> dict[str, Any]:
        """Return counts and sizes, for people and tests."""
        return {
            "phase": self.phase.value,
            "lanes": self._lanes.statistics(),
            "queued": self.outbox.queue.waiting,
            "calls_out": len(self.calling),
            "calls_in": len(self.serving.running),
            "streams": len(self.streams),
            "exported": len(self.references.exported),
            "imported": len(self.references.imported),
            "rtt": self._lanes.trip.smoothed,
            "dropped": self._lanes.dropped,
        }
