"""Ends at the Session: what a program does becomes a move, what it is told an end's state."""

from __future__ import annotations

import itertools

import pytest

from remoting_bus.errors import ChannelBroken
from remoting_bus.protocol.crossing import Batch, Move, Number
from remoting_bus.protocol.ends import (
    Carried,
    Inlet,
    Outlet,
    StreamEnd,
    StreamReset,
    pipe,
)
from remoting_bus.protocol.streams import Streams, stream_id, uses_of


class Table:
    def __init__(self) -> None:
        self.batch = Batch()
        tokens = itertools.count(1)
        self.streams = Streams(lambda: self.batch, lambda: next(tokens))

    def moves(self) -> list[tuple[object, ...]]:
        moves, self.batch.moves = self.batch.moves, []
        return moves

    def told(self, *move: object) -> None:
        batch = Batch()
        batch.moves.append(move)
        self.streams.apply(batch)


def test_ids_are_made_of_numbers_both_know() -> None:
    """No two streams share one, and the peer's is ours with the last bit turned over."""
    ids = {
        stream_id(number, index, ours=ours)
        for number in range(1, 20)
        for index in (0, 1, 255)
        for ours in (True, False)
    }
    assert len(ids) == 19 * 3 * 2
    assert stream_id(7, 3, ours=True) ^ 1 == stream_id(7, 3, ours=False)


def test_what_is_handed_over_says_what_we_do_with_the_rest() -> None:
    """Handing over the reading end means writing; logs say so."""
    inlet, outlet = pipe()
    log, _ = pipe()
    log.log = True
    handed: list[StreamEnd] = [
        inlet,
        outlet,
        log,
        Carried("send", 1),
        Carried("receive", 2),
    ]
    assert uses_of(handed) == [0, 1, 2, 0, 1]


def test_moves_say_what_a_program_did() -> None:
    """Introduced, written, finished; then the end is forgotten here."""
    table = Table()
    inlet, outlet = pipe()
    assert table.streams.introduce_ours(5, [inlet]) == [outlet]
    stream = stream_id(5, 0, ours=True)
    outlet.write_nowait(b"abc")
    assert len(table.streams) == 1
    outlet.finish()
    assert table.moves() == [
        (Move.INTRODUCE, stream, 0, True, None),
        (Move.PIECE, stream, b"abc"),
        (Move.FINISH, stream),
    ]
    assert len(table.streams) == 0


def test_reading_is_told_in_quarters_of_a_window() -> None:
    """Not with every piece."""
    table = Table()
    (inlet,) = table.streams.introduce_theirs(5, [0], carried=False)
    assert isinstance(inlet, Inlet)
    stream = stream_id(5, 0, ours=False)
    for _ in range(3):
        table.told(Move.PIECE, stream, bytes(30_000))
    inlet.read_nowait()
    inlet.read_nowait()
    assert not table.batch.numbers
    inlet.read_nowait()
    assert table.batch.numbers == {(Number.CONSUMED, stream): 90_000}


def test_resets_say_which_end_gave_up() -> None:
    """STOP of a reader, RESET of a writer; a second time says nothing."""
    table = Table()
    ends = table.streams.introduce_theirs(5, [0, 1], carried=False)
    table.moves()
    for end in ends:
        table.streams.give_up(end, "enough")
        table.streams.give_up(end, "again")
    assert [move[0] for move in table.moves()] == [Move.STOP, Move.RESET]


def test_carried_ends_are_known_by_their_tokens() -> None:
    """The shell starts a job for each; given up, the other half is told once."""
    table = Table()
    reads, writes = table.streams.introduce_theirs(5, [0, 1], carried=True)
    assert isinstance(reads, Carried)
    assert isinstance(writes, Carried)
    assert (reads.direction, writes.direction) == ("receive", "send")
    assert [move[4] for move in table.moves()] == [reads.token, writes.token]
    for end in (reads, writes):
        table.streams.give_up(end, "enough")
        table.streams.give_up(end, "again")
    assert [move[0] for move in table.moves()] == [Move.STOP, Move.RESET]


def test_a_carried_end_learns_what_became_of_it() -> None:
    """How much has arrived, that it ended, or what broke it."""
    table = Table()
    ended, broken = table.streams.introduce_ours(
        5, [Carried("receive", 1), Carried("send", 2)]
    )
    assert isinstance(ended, Carried)
    assert isinstance(broken, Carried)
    assert ended.stream is not None
    batch = Batch()
    batch.number(Number.ARRIVED, 10, ended.stream)
    table.streams.apply(batch)
    assert ended.arrived == 10
    table.told(Move.FINISH, ended.stream)
    assert ended.ended
    table.told(Move.STOP, broken.stream, "enough")
    assert isinstance(broken.error, StreamReset)
    assert len(table.streams) == 0


def test_a_refused_frame_gives_its_streams_up() -> None:
    """Whoever holds the other ends is told why."""
    table = Table()
    table.streams.refuse_theirs(5, [0, 1], "overloaded")
    kinds = [move[0] for move in table.moves()]
    assert kinds == [Move.INTRODUCE, Move.INTRODUCE, Move.STOP, Move.RESET]
    assert len(table.streams) == 0


@pytest.mark.parametrize("uses", [[4], [-1], [0] * 256])
def test_streams_that_cannot_be_are_refused(uses: list[int]) -> None:
    """Of no known use, or too many."""
    with pytest.raises(ValueError, match=r".+"):
        Table().streams.introduce_theirs(5, uses, carried=False)


def test_the_end_of_the_session_breaks_every_end() -> None:
    """Carried ones, too."""
    table = Table()
    inlet, outlet = table.streams.introduce_theirs(5, [0, 1], carried=False)
    (carried,) = table.streams.introduce_theirs(6, [0], carried=True)
    assert isinstance(outlet, Outlet)
    table.streams.fail_all(ChannelBroken("gone"))
    for end in (inlet, outlet, carried):
        assert isinstance(end.error, ChannelBroken)
    assert len(table.streams) == 0
