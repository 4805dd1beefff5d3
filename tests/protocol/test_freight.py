"""The bulk half by itself: every stream ends once, and no bound is passed."""

from __future__ import annotations

from typing import Any

import pytest
from cbor2 import dumps

from remoting_bus.names import Lane
from remoting_bus.protocol.crossing import Batch, Move, Number
from remoting_bus.protocol.ends import MAX_PIECE, Inlet, Outlet, StreamReset
from remoting_bus.protocol.envelope import EnvelopeKind, read_header
from remoting_bus.protocol.flows import WINDOW
from remoting_bus.protocol.frames import FrameKind, StreamUse, finish, reset
from remoting_bus.protocol.freight import EARLY, PIECE, Freight
from remoting_bus.protocol.handshake import pack
from remoting_bus.protocol.pieces import Data, data
from remoting_bus.protocol.standby import FOLD_AFTER, Standby
from remoting_bus.protocol.streams import stream_id
from remoting_bus.protocol.terms import Opening, Terms

OPENING = Opening(b"s" * 16, "peer", Terms(heartbeat=1.0), b"secret")


class Halves:
    """The bulk halves of two peers, and a wire that may lose what is on it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.one, self.two = Standby(OPENING), Standby(OPENING)
        self.told: dict[Standby, list[Any]] = {self.one: [], self.two: []}
        self.numbers: dict[Standby, dict[Any, float]] = {self.one: {}, self.two: {}}
        self.lanes: list[Lane] = []
        self.cut = False

    def tell(self, half: Standby, *move: Any) -> None:
        """Give a half a move, as its Session would."""
        batch = Batch()
        batch.move(*move)
        half.cross(batch, self.now)

    def number(
        self, half: Standby, kind: Number, value: float, stream: int = 0
    ) -> None:
        batch = Batch()
        batch.number(kind, value, stream)
        half.cross(batch, self.now)

    def stream(
        self, use: StreamUse = StreamUse.SENDS, number: int = 1
    ) -> tuple[Any, Any]:
        """Introduce a stream by `one`, with both its ends here; return them."""
        ours = stream_id(number, 0, ours=True)
        self.tell(self.one, Move.INTRODUCE, ours, int(use), True, 1)
        self.number(self.one, Number.THERE, ours)
        self.tell(self.two, Move.INTRODUCE, ours ^ 1, int(use), False, 2)
        ends = [half.events.pop().end for half in (self.one, self.two)]
        return ends[0], ends[1]

    def run(self, seconds: float = 0.5) -> None:
        """Exchange all that is due for a while."""
        until = self.now + seconds
        while self.now < until:
            for half, other in ((self.one, self.two), (self.two, self.one)):
                half.tick(self.now)
                while (envelope := half.next_envelope(self.now)) is not None:
                    header = read_header(envelope)
                    assert header is not None
                    self.lanes.append(header.lane)
                    if not self.cut:
                        other.receive(envelope, self.now)
                batch = half.take_batch()
                if batch is not None:
                    self.told[half] += batch.moves
                    self.numbers[half] |= batch.numbers
            self.now += 0.01


def test_a_carried_stream_goes_from_end_to_end() -> None:
    """Its bytes never cross; both sides learn of its end."""
    halves = Halves()
    out, inlet = halves.stream()
    assert out.write_nowait(b"bytes")
    out.finish()
    halves.run()
    assert [inlet.read_nowait(), inlet.read_nowait()] == [b"bytes", b""]
    assert {move[0] for moves in halves.told.values() for move in moves} == {
        Move.FINISH
    }
    assert halves.one.freight is not None
    assert halves.one.freight.idle


def test_the_introducer_may_read() -> None:
    """The same stream the other way round."""
    halves = Halves()
    inlet, out = halves.stream(StreamUse.RECEIVES)
    assert isinstance(inlet, Inlet)
    assert isinstance(out, Outlet)
    out.write_nowait(b"answer")
    halves.run()
    assert inlet.read_nowait() == b"answer"


def test_logs_travel_on_a_lane_of_their_own() -> None:
    """A flood of them stops no file."""
    halves = Halves()
    out, inlet = halves.stream(StreamUse.SENDS_LOG)
    out.write_nowait(b"line\n")
    out.finish()
    halves.run()
    assert inlet.read_nowait() == b"line\n"
    assert Lane.LOG in halves.lanes


def test_much_more_than_a_window_arrives_whole() -> None:
    """Credit rises as it is read; the writer is never further ahead than a buffer."""
    halves = Halves()
    out, inlet = halves.stream()
    piece, wrote, got = bytes(range(256)) * 256, 0, b""
    for _ in range(400):
        while wrote < 64 and out.write_nowait(piece):
            wrote += 1
        halves.run(0.02)
        while data := inlet.read_nowait():
            got += data
    assert got == piece * 64


def test_streams_that_the_peer_may_not_know_share_a_little() -> None:
    """Law 6: until their introductions are known to be there; a lone one, too."""
    halves = Halves()
    streams = [stream_id(number, 0, ours=True) for number in (1, 2)]
    for token, each in enumerate(streams):
        move = (Move.INTRODUCE, each, int(StreamUse.SENDS), True, token)
        halves.tell(halves.one, *move)
    first, second = (each.end for each in halves.one.events)
    freight = halves.one.freight
    assert isinstance(first, Outlet)
    assert isinstance(second, Outlet)
    assert freight is not None
    freight.lanes[Lane.BULK].sender.window = 100 * WINDOW

    def pull_all() -> int:
        while halves.one.next_envelope(halves.now) is not None:
            pass
        return sum(freight._out[each].sent for each in streams)

    assert first.write_nowait(bytes(EARLY - PIECE))
    assert pull_all() == EARLY - PIECE
    assert second.write_nowait(bytes(MAX_PIECE))
    assert pull_all() == EARLY
    halves.number(halves.one, Number.THERE, streams[-1])
    assert pull_all() == EARLY - PIECE + MAX_PIECE


def test_credit_that_was_lost_is_asked_for() -> None:
    """Law 2: whoever is at a limit asks again; the newest limit is the answer."""
    halves = Halves()
    out, inlet = halves.stream()
    for _ in range(8):
        out.write_nowait(bytes(WINDOW // 4))
        halves.run(0.05)
    halves.cut = True
    read = 0
    while piece := inlet.read_nowait():
        read += len(piece)
    halves.run(0.2)  # the new credit is lost here
    halves.cut = False
    halves.run(5)
    while piece := inlet.read_nowait():
        read += len(piece)
    assert read == out.written


def test_a_writer_that_gives_up_breaks_the_reader() -> None:
    """With its reason; the Session is told on both sides."""
    halves = Halves()
    out, inlet = halves.stream()
    out.write_nowait(b"some")
    halves.run()
    out.reset("disk full")
    halves.run()
    assert inlet.read_nowait() == b"some"
    with pytest.raises(StreamReset, match="disk full"):
        inlet.read_nowait()
    for moves in halves.told.values():
        assert [move[0] for move in moves] == [Move.RESET]


def test_a_reader_that_gives_up_stops_the_writer() -> None:
    """Bytes on their way are dropped."""
    halves = Halves()
    out, inlet = halves.stream()
    out.write_nowait(b"some")
    inlet.reset("enough")
    halves.run()
    with pytest.raises(StreamReset, match="enough"):
        out.write_nowait(b"more")
    for moves in halves.told.values():
        assert [move[0] for move in moves] == [Move.STOP]
    assert halves.two.freight is not None
    assert halves.two.freight.statistics()["streams"] == 0


def test_a_held_result_is_told_when_its_bytes_are_here() -> None:
    """Law 5, for an end whose home is this half: asked for before, or after."""
    halves = Halves()
    out, inlet = halves.stream()
    halves.number(halves.two, Number.WANTED, 3, inlet.stream)
    halves.run()
    assert not halves.numbers[halves.two]
    out.write_nowait(b"abc")
    halves.run()
    assert halves.numbers[halves.two][Number.ARRIVED, inlet.stream] == 3
    halves.numbers[halves.two].clear()
    halves.number(halves.two, Number.WANTED, 2, inlet.stream)
    halves.run()
    assert halves.numbers[halves.two][Number.ARRIVED, inlet.stream] == 3


def test_goodbye_resets_what_was_not_sent() -> None:
    """And says which frames are the last, and when the peer's are in."""
    halves = Halves()
    out, inlet = halves.stream()
    for _ in range(2):
        out.write_nowait(bytes(WINDOW))
        halves.run(0.05)
    halves.cut = True
    halves.tell(halves.one, Move.CLOSING)
    halves.run(0.05)
    last = next(move for move in halves.told[halves.one] if move[0] is Move.LAST)
    halves.tell(halves.two, Move.EXPECT, *last[1:])
    halves.run(0.05)
    assert not halves.told[halves.two]
    halves.cut = False
    halves.run(5)
    kinds = [move[0] for move in halves.told[halves.two]]
    assert kinds == [Move.RESET, Move.ALL_IN]
    while inlet.error is None or inlet.pieces:
        inlet.read_nowait()
    with pytest.raises(StreamReset, match="closed"):
        inlet.read_nowait()


def test_the_end_of_the_session_breaks_every_end() -> None:
    """Here and now."""
    halves = Halves()
    out, _ = halves.stream()
    inlet, _ = halves.stream(StreamUse.RECEIVES, number=2)
    halves.tell(halves.one, Move.OVER, "the peer is lost")
    assert halves.one.over
    for end in (out, inlet):
        assert isinstance(end.error, StreamReset)
    assert halves.one.next_envelope(halves.now) is None


def test_streams_are_given_up_when_the_link_stays_down() -> None:
    """Law 22: this side's ends break now, the peer's once the link is back."""
    halves = Halves()
    out, there = halves.stream()
    inlet, other = halves.stream(StreamUse.RECEIVES, number=2)
    halves.one.link(False, halves.now)
    assert halves.one.next_envelope(halves.now) is None
    halves.one.give_up_streams("the bulk link was down for 300 s")
    assert isinstance(out.error, StreamReset)
    assert isinstance(inlet.error, StreamReset)
    halves.one.link(True, halves.now)
    halves.run()
    assert isinstance(there.error, StreamReset)
    assert isinstance(other.error, StreamReset)


def test_nothing_is_sent_while_suspended() -> None:
    """What is pulled then would only be repeated."""
    halves = Halves()
    out, inlet = halves.stream()
    halves.tell(halves.one, Move.PHASE, True)
    out.write_nowait(b"later")
    halves.run()
    assert inlet.read_nowait() is None
    halves.tell(halves.one, Move.PHASE, False)
    halves.run()
    assert inlet.read_nowait() == b"later"


IN = stream_id(1, 0, ours=True)


@pytest.mark.parametrize(
    "frame",
    [
        data(IN, 5, b"a hole"),
        data(IN, 0, bytes(WINDOW + 1)),
        finish(IN, 7),
        dumps([20, IN, 0]),
        dumps([20, "x"]),
    ],
)
def test_a_peer_that_breaks_a_rule_is_reported(frame: bytes | Data) -> None:
    """A hole, too much, an end elsewhere, a frame without its fields."""
    halves = Halves()
    halves.stream()
    freight = halves.one.freight
    assert freight is not None
    waiting = [frame]
    envelope = freight.lanes.build(
        Lane.BULK,
        lambda room, number: waiting.pop() if waiting else None,
        None,
        halves.now,
        10**6,
    )
    assert envelope is not None
    halves.two.receive(envelope, halves.now)
    batch = halves.two.take_batch()
    assert batch is not None
    assert batch.moves[-1][0] is Move.FAILED


def test_frames_of_a_stream_that_is_over_are_nobodys() -> None:
    """Late ones change nothing; of an unknown one the Session is told its kind."""
    halves = Halves()
    out, _ = halves.stream()
    out.finish()
    halves.run()
    told = len(halves.told[halves.two])
    freight = halves.one.freight
    assert freight is not None
    late: list[bytes | Data] = [
        data(IN, 0, b"late"),
        reset(FrameKind.RESET, IN, "late"),
        reset(FrameKind.STOP, IN, "late"),
        b"\x82\x18\x63\x00",
    ]
    envelope = freight.lanes.build(
        Lane.BULK,
        lambda room, number: late.pop() if late else None,
        None,
        halves.now,
        10**6,
    )
    assert envelope is not None
    halves.two.receive(envelope, halves.now)
    halves.run()
    assert halves.told[halves.two][told:] == [(Move.UNKNOWN, 0x63)]


# -- standby: beats, and folding --


def test_a_beat_is_answered_and_reported() -> None:
    """By the bulk half alone: no Session has a part in it."""
    halves = Halves()
    halves.number(halves.one, Number.PROBE, halves.now)
    halves.run(0.05)
    assert halves.numbers[halves.one][Number.HEARD, 0] == pytest.approx(100.0, abs=0.02)
    assert halves.one.freight is None
    assert halves.two.freight is None


def test_a_beat_that_comes_again_is_not_answered() -> None:
    """Nor one that was forged, or is of another session's making."""
    halves = Halves()
    halves.number(halves.one, Number.PROBE, halves.now)
    beat = halves.one.next_envelope(halves.now)
    assert beat is not None
    halves.two.receive(beat, halves.now)
    assert halves.two.next_envelope(halves.now) is not None
    forged = bytearray(beat)
    forged[-5] ^= 1
    forged[28] += 1
    stranger = Standby(Opening(b"s" * 16, "peer", Terms(), b"another"))
    stranger._probe = halves.now
    other = stranger.next_envelope(halves.now)
    assert other is not None
    for body in (beat, bytes(forged), other, b"", b"RB"):
        halves.two.receive(body, halves.now)
        assert halves.two.next_envelope(halves.now) is None


def test_an_answer_to_an_older_beat_says_nothing() -> None:
    """Only the newest question's answer shows that the peer is there now."""
    halves = Halves()
    halves.number(halves.one, Number.PROBE, halves.now)
    first = halves.one.next_envelope(halves.now)
    assert first is not None
    halves.two.receive(first, halves.now)
    answer = halves.two.next_envelope(halves.now)
    assert answer is not None
    halves.number(halves.one, Number.PROBE, halves.now)
    halves.one.next_envelope(halves.now)
    halves.one.receive(answer, halves.now)
    assert halves.one.take_batch() is None


def test_an_idle_half_folds_and_unfolds() -> None:
    """After a minute only numbers are left; the next stream goes on from them."""
    halves = Halves()
    out, inlet = halves.stream()
    out.write_nowait(b"first")
    out.finish()
    old: list[bytes] = []
    pull = halves.one.next_envelope
    while (envelope := pull(halves.now)) is not None:
        old.append(envelope)
        halves.two.receive(envelope, halves.now)
    halves.run(FOLD_AFTER + 2)
    assert halves.one.freight is halves.two.freight is None
    assert halves.one.wake_at(halves.now) is None
    for envelope in old:
        halves.two.receive(envelope, halves.now)
    again, there = halves.stream(number=2)
    again.write_nowait(b"second")
    halves.run()
    assert inlet.read_nowait() == b"first"
    assert there.read_nowait() == b"second"
    assert not any(move[0] is Move.FAILED for move in halves.told[halves.two])


def test_an_idle_session_costs_no_freight() -> None:
    """Phases and numbers of nothing make none."""
    halves = Halves()
    halves.tell(halves.one, Move.PHASE, True)
    halves.tell(halves.one, Move.PHASE, False)
    halves.number(halves.one, Number.FLIGHT, 10**6)
    assert halves.one.freight is None
    assert halves.one.wake_at(halves.now) is None
    assert halves.one.statistics() == {}


def test_what_is_not_of_bulk_is_passed_over() -> None:
    """A handshake has no place on this connection."""
    halves = Halves()
    halves.one.receive(pack(EnvelopeKind.UNKNOWN, b"s" * 16, 1, {}), halves.now)
    assert halves.one.freight is None


@pytest.mark.parametrize(("use", "move"), [(1, Move.STOP), (0, Move.RESET)])
def test_a_carried_end_breaks_when_the_session_gives_it_up(
    use: int, move: Move
) -> None:
    """A job that waits at its end is told, whichever end it holds."""
    freight = Freight(Opening(b"x" * 16, "peer", Terms()))
    batch = Batch()
    batch.move(Move.INTRODUCE, 512, use, True, 7)
    freight.cross(batch, 1.0)
    end = freight.events[0].end
    batch = Batch()
    batch.move(move, 512, "the call was given up")
    freight.cross(batch, 1.0)
    assert str(end.error) == "the call was given up"
