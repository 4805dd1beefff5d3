"""The bytes of a session: BULK and LOG, the stream table, credit, early data.

The half that lives at the bulk connection, on the I/O thread where there is one. It is
made when a session first has a stream, inside a `standby.Standby`. It owns the states of
every stream; the Session owns their ids, calls and the phase. They tell each other by
batches (`crossing`). It must not know calls, results or links.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from remoting_bus.names import Lane

from . import frames
from .clocks import Clocks
from .crossing import Batch, Move, Number
from .ends import Inlet, Outlet, StreamReset
from .envelope import OVERHEAD, PlainSeal, Seal
from .flows import MAX_WINDOW, WINDOW, Incoming, Outgoing
from .frames import FrameKind, StreamUse
from .lanes import Broken, Lanes
from .pieces import Data, Piece, data
from .terms import Opening

__all__ = ["BULK_ENVELOPE", "EARLY", "MAX_STREAMS", "PIECE", "Freight", "Introduced"]

BULK_ENVELOPE = 256 * 1024
"""Bytes of streams in an envelope: fewer, larger messages cost a broker's client less.
The largest piece fits, so that none leaves a rest that travels alone."""

_HEADS = 1024
"""Bytes beside those for the heads of frames."""

PIECE = 64 * 1024
"""Bytes of one DATA frame where several streams have some: the grain of fairness."""

EARLY = 256 * 1024
"""Bytes of streams whose introduction is still on its way, over all of them (law 6)."""

MAX_STREAMS = 100_000
"""Streams of a session at once; only a faulty peer gets there, calls are fewer."""

STATE_CREDIT = 10
STATE_BLOCKED = 11
"""State of this connection: [stream, offset, …] of credit given; streams that ask."""

_MOST_CREDITS = 100
"""Pairs said in one envelope; the rest follows in the next (bounds `OVERHEAD`)."""


def _nothing() -> None:
    pass


class Introduced:
    """A carried stream has its end here: the shell starts the job of this token."""

    __slots__ = ("end", "token")

    def __init__(self, token: int, end: Inlet | Outlet) -> None:
        self.token = token
        self.end = end


class Freight:
    """The bulk half of one session, and the home of the ends that are carried."""

    def __init__(self, opening: Opening, seal: Seal | None = None) -> None:
        self.now = 0.0
        self.touched: Callable[[], None] = _nothing
        self.events: list[Introduced] = []
        self.failed: str | None = None
        self.lanes = Lanes(opening.session, seal or PlainSeal(), Clocks())
        self.touched_at = 0.0
        self.paused = False
        self._batch = Batch()
        self._out: dict[int, Outgoing] = {}
        self._in: dict[int, Incoming] = {}
        self._ready: dict[Lane, deque[Outgoing]] = {}
        self._early: dict[int, list[Any]] = {}
        self._early_bytes = 0
        self._highest = -1  # of the peer's streams that were introduced
        self._there = -1  # of ours whose introduction the peer has
        self._ahead_bytes = 0  # sent on streams above `_there`
        self._credits: dict[int, int] = {}
        self._notes: list[tuple[Lane, bytes]] = []  # STOP frames, bounded by streams
        self._closing = False
        self._leaving = False
        self._expected: tuple[int, int] | None = None
        self._turn = 0
        self._budget = max(
            min(BULK_ENVELOPE + _HEADS, opening.terms.max_envelope - OVERHEAD), 1024
        )
        self._heartbeat = opening.terms.heartbeat

    # -- from the Session --

    def cross(self, batch: Batch, now: float) -> None:
        """Take moves, then numbers."""
        self.now = self.touched_at = now
        for kind, *arguments in batch.moves:
            move = _MOVES.get(kind)
            if move is not None:
                move(self, *arguments)
        for (number, stream), value in batch.numbers.items():
            if number is Number.CONSUMED:
                self.consume(stream, int(value))
            elif number is Number.WANTED:
                self._want(stream, int(value))
            elif number is Number.THERE:
                self._now_there(int(value))
            elif number is Number.FLIGHT:
                self.lanes[Lane.BULK].sender.window = int(value)
        self._maybe_all_in()

    def _introduce(
        self, stream: int, value: int, ours: bool, token: int | None
    ) -> None:
        use = StreamUse(value)
        sends = use.sends == ours
        end: Inlet | Outlet | None = None
        if token is not None:
            end = Outlet(self, stream) if sends else Inlet(self, stream)
            self.events.append(Introduced(token, end))
        log = use.lane is Lane.LOG
        if sends:
            assert not isinstance(end, Inlet)
            self._out[stream] = Outgoing(stream, log=log, end=end)
        else:
            assert not isinstance(end, Outlet)
            self._in[stream] = Incoming(stream, log=log, end=end)
        if not ours:
            self._highest = max(self._highest, stream)
            waiting = self._early.pop(stream, ())
            for frame in waiting:
                if frame[0] == FrameKind.DATA:
                    self._early_bytes -= len(frame[3])
                self._take_known(frame)

    def _phase(self, paused: bool) -> None:
        self.paused = paused

    def _close(self) -> None:
        """Goodbye: what was not pulled is reset; then nothing new (law 9)."""
        self._closing = self._leaving = True
        self._early.clear()  # what introduces them is not taken any more
        self._early_bytes = 0
        for out in list(self._out.values()):
            if out.pieces or out.closing is None:
                self._reset_out(out, "the channel was closed")
        for incoming in list(self._in.values()):
            self._break(incoming.end, "the channel was closed")
        self._in.clear()

    def _expect(self, bulk: int, log: int) -> None:
        self._expected = (bulk, log)

    def _over(self, reason: str) -> None:
        for out in self._out.values():
            self._break(out.end, reason)
        for incoming in self._in.values():
            self._break(incoming.end, reason)
        self._out.clear()
        self._in.clear()
        self._ready.clear()
        self._early.clear()

    def _break(self, end: Inlet | Outlet | None, reason: str) -> None:
        if end is not None:
            end.home = None
            end.fail(StreamReset(reason))

    def _want(self, stream: int, offset: int) -> None:
        incoming = self._in.get(stream)
        if incoming is None:
            return  # it ended, and the Session was told
        incoming.wanted = offset
        if incoming.arrived >= offset:
            self._batch.number(Number.ARRIVED, incoming.arrived, stream)

    def _now_there(self, stream: int) -> None:
        if stream > self._there:
            self._there = stream
            self._ahead_bytes = sum(
                out.sent for out in self._out.values() if self._is_ahead(out)
            )
            for out in self._out.values():
                self._mark(out)

    # -- Home: moves of the Session's ends, and carried ends here --

    def write(self, stream: int, piece: Piece) -> None:
        """Queue a piece."""
        out = self._out.get(stream)
        if out is not None and out.closing is None and not self._closing:
            out.write(piece)
            self._mark(out)
            self.touched()

    def finish(self, stream: int) -> None:
        """Say the end once all is out."""
        out = self._out.get(stream)
        if out is not None and out.closing is None:
            out.closing = "finish"
            self._mark(out)
            self.touched()

    def reset(self, stream: int, reason: str) -> None:
        """Give up an end here, whichever it is."""
        out = self._out.get(stream)
        if out is not None:
            self._reset_out(out, reason)
            if out.end is not None:
                out.end.fail(StreamReset(reason))  # the Session gave it up
                self._batch.move(Move.RESET, stream, reason)
        else:
            self._stop(stream, reason)
        self.touched()

    def consume(self, stream: int, offset: int) -> None:
        """The program has read up to here; give credit."""
        incoming = self._in.get(stream)
        if incoming is None:
            return
        spare = MAX_WINDOW - sum(each.window for each in self._in.values())
        credit = incoming.read(offset, self.now, self.lanes.trip.smoothed, spare)
        if credit is not None:
            self._credits[stream] = credit
            self.touched()

    def _reset_out(self, out: Outgoing, reason: str) -> None:
        if out.closing != "reset":
            out.give_up(reason)
            self._mark(out)

    def _stop(self, stream: int, reason: str) -> None:
        incoming = self._in.pop(stream, None)
        if incoming is None:
            return
        if incoming.end is not None:
            incoming.end.fail(StreamReset(reason))  # the Session gave it up
            self._batch.move(Move.STOP, stream, reason)
        self._credits.pop(stream, None)
        self._notes.append(
            (self._lane(incoming.log), frames.reset(FrameKind.STOP, stream, reason))
        )

    # -- in --

    def receive(self, envelope: bytes, now: float) -> None:
        """Take an envelope of this session from BULK or LOG."""
        self.now = self.touched_at = now
        try:
            opened = self.lanes.open(envelope, now)
            if opened is None:
                return
            try:
                self._take_state(opened.state)
                for _, frame in opened.released:
                    self._take(frame)
            except (TypeError, ValueError, IndexError, KeyError) as error:
                raise Broken(f"a malformed frame: {error}") from error
        except Broken as error:
            self.failed = str(error)
            self._batch.move(Move.FAILED, str(error))
        self._maybe_all_in()

    def _take_state(self, state: dict[int, Any]) -> None:
        given = state.get(STATE_CREDIT, ())
        for wire, credit in zip(given[::2], given[1::2], strict=True):
            out = self._out.get(wire ^ 1)
            if out is not None and credit > out.credit:
                out.credit = credit
                out.asked_at = None
                out.patience = 0.5
                self._mark(out)
        for wire in state.get(STATE_BLOCKED, ()):
            incoming = self._in.get(wire ^ 1)
            if incoming is not None:
                self._credits[wire ^ 1] = incoming.limit

    def _take(self, frame: list[Any]) -> None:
        kind = frame[0]
        if kind not in _OF_STREAMS:
            self._batch.move(Move.UNKNOWN, kind)  # a newer peer's: CONTROL tells it
            return
        stream = frame[1] = frame[1] ^ 1
        if stream & 1 and stream > self._highest:
            self._keep_early(stream, frame)
        else:
            self._take_known(frame)

    def _take_known(self, frame: list[Any]) -> None:
        if frame[0] == FrameKind.STOP:
            self._stopped(frame[1], frame[2])
        else:
            self._take_bytes(frame)

    def _keep_early(self, stream: int, frame: list[Any]) -> None:
        """Bytes before their stream (law 6)."""
        if self._leaving:
            return
        if frame[0] == FrameKind.DATA:
            self._early_bytes += len(frame[3])
        if self._early_bytes > EARLY + BULK_ENVELOPE or len(self._early) > MAX_STREAMS:
            raise ValueError("more bytes before their streams than allowed")
        self._early.setdefault(stream, []).append(frame)

    def _take_bytes(self, frame: list[Any]) -> None:
        kind, stream, third, *rest = frame
        incoming = self._in.get(stream)
        if incoming is None:
            return  # it ended here; its bytes are nobody's
        if kind == FrameKind.DATA:
            incoming.accept(third, rest[0])
            if incoming.end is not None:
                incoming.end.push(rest[0])
                if incoming.wanted is not None and incoming.arrived >= incoming.wanted:
                    self._batch.number(Number.ARRIVED, incoming.arrived, stream)
            else:
                self._batch.move(Move.PIECE, stream, rest[0])
            return
        del self._in[stream]
        self._credits.pop(stream, None)
        if kind == FrameKind.FINISH:
            if third != incoming.arrived:
                raise ValueError("a stream ends elsewhere than its bytes")
            if incoming.end is not None:
                self._batch.number(Number.ARRIVED, incoming.arrived, stream)
                incoming.end.end()
            self._batch.move(Move.FINISH, stream)
        else:
            if incoming.end is not None:
                incoming.end.fail(StreamReset(third))
            self._batch.move(Move.RESET, stream, third)

    def _stopped(self, stream: int, reason: str) -> None:
        out = self._out.get(stream)
        if out is None or out.closing == "reset":
            return
        if out.end is not None:
            out.end.fail(StreamReset(reason))
        self._batch.move(Move.STOP, stream, reason)
        self._drop_out(out)

    def _drop_out(self, out: Outgoing) -> None:
        del self._out[out.stream]
        out.pieces.clear()
        out.queued = 0
        out.closing = None

    def _maybe_all_in(self) -> None:
        if self._expected is None:
            return
        bulk, log = self._expected
        if (
            self.lanes[Lane.BULK].receiver.next > bulk
            and self.lanes[Lane.LOG].receiver.next > log
        ):
            self._expected = None
            self._batch.move(Move.ALL_IN)

    def take_batch(self) -> Batch | None:
        """Return what the Session is to know."""
        if not self._batch:
            return None
        batch, self._batch = self._batch, Batch()
        return batch

    # -- out --

    @staticmethod
    def _lane(log: bool) -> Lane:
        return Lane.LOG if log else Lane.BULK

    def _is_ahead(self, out: Outgoing) -> bool:
        return not out.stream & 1 and out.stream > self._there

    def _mark(self, out: Outgoing) -> None:
        if out.ready() and not out.listed:
            out.listed = True
            self._ready.setdefault(self._lane(out.log), deque()).append(out)
        elif out.asked_at is None and out.blocked():
            # Written while at the limit: the credit may have come, and been lost.
            out.asked_at = self.now + out.patience

    def next_envelope(self, now: float) -> bytes | None:
        """Return what is to be sent next: BULK and LOG by turns, four to one."""
        self.now = now
        if self.paused:
            return None
        order = [Lane.BULK, Lane.LOG]
        if self._turn >= 4:
            order.reverse()
        for lane in order:
            envelope = self._build(lane, now)
            if envelope is not None:
                self._turn = self._turn + 1 if lane is Lane.BULK else 0
                self._say_last()
                return envelope
        self._say_last()
        return None

    def _build(self, lane: Lane, now: float) -> bytes | None:
        used = self.lanes.get(lane)
        pending = self._ready.get(lane) or any(at is lane for at, _ in self._notes)
        state = self._say_credits(lane, now)
        if not pending and state is None and not (used and used.sender.lost):
            return self.lanes.build(lane, None, None, now, 0) if used else None
        return self.lanes.build(
            lane, lambda room, number: self._pull(lane, room), state, now, self._budget
        )

    def _say_credits(self, lane: Lane, now: float) -> dict[int, Any] | None:
        if lane is Lane.LOG:
            return None
        state: dict[int, Any] = {}
        if self._credits:
            said: list[int] = []
            for stream in list(self._credits)[:_MOST_CREDITS]:
                said += (stream, self._credits.pop(stream))
            state[STATE_CREDIT] = said
        asking = []
        for out in self._out.values():
            if out.asked_at is not None and out.asked_at <= now and out.blocked():
                asking.append(out.stream)
                out.patience = min(out.patience * 2, self._heartbeat)
                out.asked_at = now + out.patience
        if asking:
            state[STATE_BLOCKED] = asking[:_MOST_CREDITS]
        return state or None

    def _pull(self, lane: Lane, room: int) -> bytes | Data | None:
        for index, (at, note) in enumerate(self._notes):
            if at is lane and len(note) <= room:
                del self._notes[index]
                return note
        queue = self._ready.get(lane)
        while queue:
            out = queue[0]
            if out.stream not in self._out or not out.ready():
                queue.popleft().listed = False
                if out.blocked():
                    out.asked_at = self.now + out.patience
                continue
            if room < 4096 and room < self._budget:
                return None
            if not self._may_go_ahead(out):
                queue.popleft().listed = (
                    False  # back when its introduction was acknowledged
                )
                continue
            queue.rotate(-1)
            # Alone it fills the envelope: each frame costs.
            most = room - 64 if len(queue) == 1 else min(room - 64, PIECE)
            if self._is_ahead(out):
                most = min(most, EARLY - self._ahead_bytes)
            return self._frame_of(out, most)
        return None

    def _may_go_ahead(self, out: Outgoing) -> bool:
        """Streams that the peer may not know yet share a small allowance (law 6)."""
        return not self._is_ahead(out) or self._ahead_bytes + PIECE <= EARLY

    def _frame_of(self, out: Outgoing, most: int) -> bytes | Data:
        if out.pieces:
            offset = out.sent
            piece = out.cut(most)
            if self._is_ahead(out):
                self._ahead_bytes += len(piece)
            self._tell_room(out)
            return data(out.stream, offset, piece)
        closing, reason = out.closing, out.reason
        self._drop_out(out)
        if closing == "finish":
            if out.end is not None:
                self._batch.move(Move.FINISH, out.stream)
            return frames.finish(out.stream, out.sent)
        return frames.reset(FrameKind.RESET, out.stream, reason)

    def _tell_room(self, out: Outgoing) -> None:
        if out.end is not None:
            out.end.give_room(out.room)
        elif out.room - out.told_room >= WINDOW // 4 or not out.pieces:
            out.told_room = out.room
            self._batch.number(Number.ROOM, out.room, out.stream)

    def _say_last(self) -> None:
        """Everything that will be sent was pulled: tell the last numbers."""
        if self._closing and not self._notes and not any(self._ready.values()):
            bulk = self.lanes[Lane.BULK].sender.next - 1
            log = self.lanes[Lane.LOG].sender.next - 1
            self._batch.move(Move.LAST, bulk, log)
            self._closing = False

    # -- time --

    def link_back(self, now: float) -> None:
        """The bulk connection came back."""
        self.lanes.link_back(now)
        for out in self._out.values():
            if out.blocked():
                out.asked_at = now

    def give_up_streams(self, reason: str) -> None:
        """The bulk link stayed down past the grace (law 22)."""
        for out in list(self._out.values()):
            if out.end is not None:
                out.end.fail(StreamReset(reason))
            self._batch.move(Move.STOP, out.stream, reason)
            self._reset_out(out, reason)
        for incoming in list(self._in.values()):
            if incoming.end is not None:
                incoming.end.fail(StreamReset(reason))
            self._batch.move(Move.RESET, incoming.stream, reason)
            self._stop(incoming.stream, reason)

    def wake_at(self, now: float) -> float | None:
        """Return when `tick` has something to do."""
        if self.paused:
            return None
        soonest = self.lanes.wake_at(self._heartbeat)
        for out in self._out.values():
            at = out.asked_at
            if at is not None and (soonest is None or at < soonest) and out.blocked():
                soonest = at
        return soonest

    def tick(self, now: float) -> None:
        """Do what is due."""
        self.now = now
        if not self.paused:
            self.lanes.tick(now, self._heartbeat)

    @property
    def idle(self) -> bool:
        """No stream, and everything acknowledged."""
        return not (self._out or self._in or self._early or self._notes) and not any(
            state.sender.unacknowledged or state.receiver.ahead or state.unsaid
            for _, state in self.lanes.items()
        )

    def statistics(self) -> dict[str, Any]:
        """Return counts and sizes, for people and tests."""
        return {
            "lanes": self.lanes.statistics(),
            "streams": len(self._out) + len(self._in),
            "queued_bytes": sum(out.queued for out in self._out.values()),
            "early_bytes": self._early_bytes,
        }


_OF_STREAMS = (FrameKind.DATA, FrameKind.FINISH, FrameKind.RESET, FrameKind.STOP)

_MOVES: dict[Move, Callable[..., None]] = {
    Move.INTRODUCE: Freight._introduce,
    Move.PIECE: Freight.write,
    Move.FINISH: Freight.finish,
    Move.RESET: Freight.reset,
    Move.STOP: Freight._stop,
    Move.PHASE: Freight._phase,
    Move.CLOSING: Freight._close,
    Move.EXPECT: Freight._expect,
    Move.OVER: Freight._over,
}
