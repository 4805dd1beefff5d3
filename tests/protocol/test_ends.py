"""The ends of a stream never wait, and say what broke them."""

from __future__ import annotations

import pytest

from remoting_bus.errors import LocalProtocolError
from remoting_bus.protocol.ends import (
    BUFFER,
    Carried,
    Inlet,
    Outlet,
    StreamReset,
    attach,
    check_movable,
    pipe,
)
from remoting_bus.protocol.pieces import Piece


class Home:
    """A half that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def write(self, stream: int, piece: Piece) -> None:
        self.told.append(("write", stream, piece))

    def finish(self, stream: int) -> None:
        self.told.append(("finish", stream))

    def reset(self, stream: int, reason: str) -> None:
        self.told.append(("reset", stream, reason))

    def consume(self, stream: int, offset: int) -> None:
        self.told.append(("consume", stream, offset))


# -- a pipe whose ends are both here --


def test_a_pipe_gives_what_was_written() -> None:
    """In order, then the end."""
    inlet, outlet = pipe()
    assert inlet.read_nowait() is None
    assert outlet.write_nowait(b"ab")
    assert outlet.write_nowait(b"c")
    outlet.finish()
    assert [inlet.read_nowait() for _ in range(4)] == [b"ab", b"c", b"", b""]
    assert inlet.complete


def test_a_full_pipe_takes_nothing() -> None:
    """Until something was read; then the writer is woken."""
    inlet, outlet = pipe()
    assert outlet.write_nowait(bytes(BUFFER))
    assert not outlet.write_nowait(b"x")
    assert outlet.written == BUFFER
    woken: list[bool] = []
    outlet.wake = lambda: woken.append(True)
    inlet.read_nowait()
    assert woken
    assert outlet.write_nowait(b"x")


def test_a_reader_is_woken_by_bytes_and_by_the_end() -> None:
    """Each time, and not for what it knows already."""
    inlet, outlet = pipe()
    woken: list[bool] = []
    inlet.wake = lambda: woken.append(True)
    outlet.write_nowait(b"a")
    outlet.finish()
    outlet.finish()
    assert len(woken) == 2


def test_a_reader_that_gives_up_breaks_the_writer() -> None:
    """With its reason."""
    inlet, outlet = pipe()
    outlet.write_nowait(b"abc")
    inlet.reset("enough")
    with pytest.raises(StreamReset, match="enough"):
        outlet.write_nowait(b"more")
    with pytest.raises(StreamReset, match="enough"):
        inlet.read_nowait()


def test_a_writer_that_gives_up_breaks_the_reader_after_its_bytes() -> None:
    """What had arrived can still be read."""
    inlet, outlet = pipe()
    outlet.write_nowait(b"abc")
    outlet.reset("disk full")
    assert inlet.read_nowait() == b"abc"
    with pytest.raises(StreamReset, match="disk full"):
        inlet.read_nowait()


def test_nothing_is_written_after_the_end() -> None:
    """That is a bug of the program."""
    _, outlet = pipe()
    outlet.finish()
    with pytest.raises(LocalProtocolError, match="finished"):
        outlet.write_nowait(b"x")
    outlet.reset("too late")
    assert outlet.error is None


def test_reset_after_the_end_was_read_does_nothing() -> None:
    """Closing a stream that is done is no failure of it."""
    inlet, outlet = pipe()
    outlet.finish()
    inlet.reset("closed")
    assert inlet.error is None
    assert inlet.read_nowait() == b""


def test_a_piece_can_be_put_back() -> None:
    """A reader that wanted less gets the rest next."""
    inlet, outlet = pipe()
    outlet.write_nowait(b"abcdef")
    piece = inlet.read_nowait()
    assert piece is not None
    inlet.unread(piece[2:])
    assert inlet.consumed == 2
    assert inlet.read_nowait() == b"cdef"


# -- an end that moves to a peer --


def test_the_reading_end_moves_with_what_waits_in_it() -> None:
    """The peer reads it all, and the program's writer goes on."""
    inlet, outlet = pipe()
    outlet.write_nowait(b"before")
    home = Home()
    attach(inlet, home, 8)
    outlet.write_nowait(b"after")
    outlet.finish()
    assert home.told == [("write", 8, b"before"), ("write", 8, b"after"), ("finish", 8)]
    assert outlet.written == len(b"beforeafter")


def test_the_writing_end_moves() -> None:
    """The program reads what the peer writes; its own old bytes count for nobody."""
    inlet, outlet = pipe()
    outlet.write_nowait(b"old")
    home = Home()
    attach(outlet, home, 8)
    inlet.push(b"new")
    assert inlet.arrived == 3
    assert [inlet.read_nowait(), inlet.read_nowait()] == [b"old", b"new"]
    assert home.told == [("consume", 8, 3)]


def test_an_end_that_moved_cannot_be_used_here() -> None:
    """Nor be handed over again."""
    inlet, outlet = pipe()
    check_movable(inlet)
    attach(inlet, Home(), 8)
    with pytest.raises(LocalProtocolError):
        inlet.read_nowait()
    for end in (inlet, outlet):
        with pytest.raises(LocalProtocolError):
            check_movable(end)


def test_an_end_of_a_stream_cannot_be_handed_on() -> None:
    """Only a pipe of this program can: its bytes live elsewhere."""
    for end in (Inlet(Home(), 2), Outlet(Home(), 2)):
        with pytest.raises(LocalProtocolError, match="pipe of this program"):
            check_movable(end)


def test_a_pipe_that_ended_before_it_moved_ends_there_too() -> None:
    """Finished or broken, the peer is told."""
    inlet, outlet = pipe()
    outlet.finish()
    home = Home()
    attach(inlet, home, 8)
    assert home.told == [("finish", 8)]
    inlet, outlet = pipe()
    outlet.reset("gone")
    home = Home()
    attach(inlet, home, 8)
    assert home.told == [("reset", 8, "gone")]
    inlet, outlet = pipe()
    inlet.reset("gone")
    home = Home()
    attach(outlet, home, 8)
    assert home.told == [("reset", 8, "gone")]


def test_room_only_rises() -> None:
    """An old number changes nothing, and wakes nobody."""
    outlet = Outlet(Home(), 2)
    woken: list[bool] = []
    outlet.wake = lambda: woken.append(True)
    outlet.give_room(BUFFER + 10)
    outlet.give_room(BUFFER)
    assert outlet.room == BUFFER + 10
    assert len(woken) == 1


def test_what_broke_first_is_kept() -> None:
    """A second failure does not hide the first."""
    inlet, outlet = Inlet(Home(), 2), Outlet(Home(), 4)
    for end in (inlet, outlet):
        end.fail(StreamReset("first"))
        end.fail(StreamReset("second"))
        assert str(end.error) == "first"
    inlet.push(b"late")
    assert not inlet.pieces


def test_a_carried_end_is_handed_over_once() -> None:
    """Its id is set when it is introduced."""
    end = Carried("send", 5)
    check_movable(end)
    end.stream = 8
    with pytest.raises(LocalProtocolError, match="before"):
        check_movable(end)
