"""The lanes of one connection: envelopes built and opened, acknowledgements, repetition.

Owns what both halves of a session have in common: numbers, the seal's seam, session
time, and what is due when. It must not know what a frame says, nor the other half.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cbor2 import dumps

from remoting_bus.names import Lane

from .clocks import Clocks
from .codec import DecodeError, decode, head, integer, integers
from .delivery import Fill, Receiver, ReplayWindow, RoundTrip, Sender, Take
from .envelope import (
    HEADER_BYTES,
    EnvelopeKind,
    Header,
    Seal,
    SealBroken,
    cut_trailer,
    pack_header,
    pack_trailer,
    read_header,
)
from .pieces import Data, Piece, items_of, parts_of

__all__ = ["WINDOW_BYTES", "Broken", "LaneCounters", "Lanes", "Opened"]

WINDOW_BYTES: Mapping[Lane, int] = {
    Lane.CONTROL: 256 * 1024,
    Lane.CALL: 4 * 1024 * 1024,
    Lane.BULK: 256 * 1024,
    Lane.LOG: 256 * 1024,
}
"""Bytes unacknowledged per lane. For BULK and LOG they are the bytes in flight through
the broker, where isolation is won or lost (speed.md, 9); `FLIGHT` raises BULK's."""

_BYTES = (Lane.BULK, Lane.LOG)

MAX_AHEAD_BYTES = 32 * 1024 * 1024
"""Bytes kept of frames that came too early, per lane; an honest peer's window is less."""


_NO_STATE = dumps({})

_END_OF_TIME = 1 << 62
"""Microseconds; an echo, which adds to a peer's time, stays within 64 bits."""


class Broken(Exception):
    """The peer broke a rule; its session ends with RemoteProtocolError."""


@dataclass(slots=True)
class LaneCounters:
    """Plain counts of one lane, for `statistics`."""

    envelopes_sent: int = 0
    envelopes_received: int = 0
    frames_sent: int = 0
    frames_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0


class _LaneState:
    """One lane, both directions; made when first used (law 25)."""

    __slots__ = ("counters", "number", "receiver", "replay", "sender", "unsaid")

    def __init__(self, lane: Lane) -> None:
        window = WINDOW_BYTES[lane]
        self.sender = Sender(window)
        self.receiver = Receiver(window)
        self.number = 0
        self.replay = ReplayWindow()
        self.unsaid = False  # something came since we last said what has come
        self.counters = LaneCounters()


@dataclass(slots=True)
class Opened:
    """An envelope that opened.

    Attributes:
        state: Of the peer, by key; see `session` and `freight`.
        released: Frames whose turn has come, with their numbers.
        news: Some frame of ours was acknowledged.
    """

    lane: Lane
    state: dict[int, Any]
    released: list[tuple[int, Any]]
    news: bool


class Lanes:
    """All lanes of one connection of one session."""

    def __init__(
        self,
        session: bytes,
        seal: Seal,
        clocks: Clocks,
        sender: str = "",
    ) -> None:
        self.session = session
        self._trailer = pack_trailer(sender) if sender else b""
        self.trip = RoundTrip()
        self.clocks = clocks
        self.dropped = 0
        self.heard_at: float | None = None
        self.sent_at: float | None = None
        self.seal = seal
        self._lanes: dict[Lane, _LaneState] = {}
        self._echo = 0  # the newest session time of the peer, in microseconds
        self._echo_at = 0.0

    def __getitem__(self, lane: Lane) -> _LaneState:
        state = self._lanes.get(lane)
        if state is None:
            state = self._lanes[lane] = _LaneState(lane)
        return state

    def get(self, lane: Lane) -> _LaneState | None:
        """Return a lane if it was used."""
        return self._lanes.get(lane)

    def items(self) -> list[tuple[Lane, _LaneState]]:
        """Return the lanes that were used."""
        return list(self._lanes.items())

    # -- out --

    def build(
        self,
        lane: Lane,
        take: Take | None,
        state: dict[int, Any] | None,
        now: float,
        budget: int,
        fill: Fill | None = None,
    ) -> bytes | None:
        """Return an envelope with what is due on `lane`, or None if nothing is.

        Args:
            lane: Its frames are of this lane.
            take: Gives new frames; None where the lane may not send any now.
            state: To be said in it; with it an envelope is made without frames, too.
            now: The time.
            budget: Bytes for frames.
            fill: Gives many new frames at once; see `delivery`.
        """
        own = self[lane]
        number = own.number + 1
        runs: list[int] = []
        frames: list[bytes | Data] = []
        if take is not None:
            runs, frames = own.sender.pull(budget, now, number, take, fill)
        if not frames and state is None and not self.ack_due(now):
            return None
        acks = []
        for each, other in self._lanes.items():
            if other.unsaid:
                other.unsaid = False
                acks.append(integers([each, *other.receiver.acknowledgement()]))
        own.number = number
        own.counters.envelopes_sent += 1
        own.counters.frames_sent += len(frames)
        echo = self._echo + int((now - self._echo_at) * 1e6) if self._echo else 0
        start = (
            head(5 + len(frames)),
            integer(int(now * 1e6)),
            integer(echo),
            head(len(acks)),
            *acks,
            dumps(state) if state else _NO_STATE,
            integers(runs),
        )
        self.sent_at = now
        header = pack_header(EnvelopeKind.SEALED, lane, self.session, number)
        if lane in _BYTES:  # few and large: each part is copied once, by the seal
            parts = (*start, *parts_of(frames))
            own.counters.bytes_sent += sum(map(len, parts))
            return self.seal.seal(header, number, *parts)
        body = b"".join((*start, *frames))  # type: ignore[arg-type]
        own.counters.bytes_sent += len(body)
        sealed = self.seal.seal(header, number, body)
        return sealed + self._trailer if lane is Lane.CONTROL else sealed

    def ack_due(self, now: float) -> bool:
        """Tell whether an acknowledgement may wait no longer."""
        for state in self._lanes.values():
            ack_at = state.receiver.ack_at
            if ack_at is not None and ack_at <= now:
                return True
        return False

    # -- in --

    def open(self, envelope: bytes, now: float) -> Opened | None:
        """Open an envelope; None where it is to be dropped (it is counted).

        Raises:
            Broken: The peer sealed something that breaks a rule.
        """
        header = read_header(envelope)
        if header is None:
            self.dropped += 1
            return None
        own = self[header.lane]
        if not own.replay.is_new(header.number):
            self.dropped += 1
            return None
        if header.lane is Lane.CONTROL:
            envelope = cut_trailer(envelope)
        body: Piece
        try:
            start = envelope[:HEADER_BYTES]
            if header.lane in _BYTES:
                body = self.seal.open(start, header.number, memoryview(envelope))
                items = items_of(body)
            else:
                body = self.seal.open(start, header.number, envelope)
                items = decode(body)
        except (SealBroken, DecodeError):
            self.dropped += 1
            return None
        own.replay.mark(header.number)
        own.counters.envelopes_received += 1
        own.counters.bytes_received += len(body)
        try:
            return self._read(header, own, items, len(body), now)
        except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            raise Broken(f"a malformed envelope: {error}") from error

    def _read(
        self, header: Header, own: _LaneState, items: Any, size: int, now: float
    ) -> Opened:
        time, echo, acks, state, runs, *frames = items
        if type(time) is not int or not 0 <= time < _END_OF_TIME:
            raise ValueError("the session time is no number of microseconds")
        self.heard_at = now
        self.clocks.observe(time / 1e6, now)
        if time > self._echo:
            self._echo, self._echo_at = time, now
        if echo:
            self.trip.sample(now - echo / 1e6)
        news = False
        for lane, upto, *ranges in acks:
            sender = self[Lane(lane)].sender
            news |= sender.acknowledge(upto, ranges, now, self.trip)
        if type(state) is not dict:
            raise ValueError("state is not a map")
        released: list[tuple[int, Any]] = []
        if frames:
            own.unsaid = True
            own.counters.frames_received += len(frames)
            own.receiver.accept(runs, frames, size, now, released)
            if own.receiver.ahead_bytes > MAX_AHEAD_BYTES:
                raise ValueError("more came too early than a window holds")
        return Opened(header.lane, state, released, news)

    def opens(self, envelope: bytes) -> bool:
        """Tell whether an envelope was sealed for this session; nothing changes."""
        header = read_header(envelope)
        if header is None:
            return False
        if header.lane is Lane.CONTROL:
            envelope = cut_trailer(envelope)
        try:
            self.seal.open(envelope[:HEADER_BYTES], header.number, envelope)
        except SealBroken:
            return False
        return True

    # -- time --

    def wake_at(self, ceiling: float) -> float | None:
        """Return when something is due: an acknowledgement, a repetition."""
        soonest: float | None = None
        for state in self._lanes.values():
            at = state.receiver.ack_at
            if at is not None and (soonest is None or at < soonest):
                soonest = at
            if state.sender.unacknowledged:
                at = state.sender.wake_at(self.trip, ceiling)
                if at is not None and (soonest is None or at < soonest):
                    soonest = at
        return soonest

    def tick(self, now: float, ceiling: float) -> None:
        """Mark what is to be sent again."""
        for state in self._lanes.values():
            state.sender.tick(now, self.trip, ceiling)

    def link_back(self, now: float) -> None:
        """The link came back: all that was not acknowledged goes again (law 16)."""
        for state in self._lanes.values():
            state.sender.everything_lost()
            state.unsaid = True
            state.receiver.ack_at = now

    def statistics(self) -> dict[str, dict[str, float]]:
        """Return counts per lane, by the lane's name."""
        return {
            lane.name: {
                "frames_sent": state.counters.frames_sent,
                "frames_received": state.counters.frames_received,
                "envelopes_sent": state.counters.envelopes_sent,
                "envelopes_received": state.counters.envelopes_received,
                "bytes_sent": state.counters.bytes_sent,
                "bytes_received": state.counters.bytes_received,
                "retransmits": state.sender.repeated,
                "duplicates": state.receiver.duplicates,
                "in_flight": state.sender.bytes_unacknowledged,
                "rtt": self.trip.smoothed,
            }
            for lane, state in self._lanes.items()
        }
