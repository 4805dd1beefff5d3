"""A stream takes no more bytes than its reader has granted."""

from __future__ import annotations

import pytest

from remoting_bus.protocol.ends import BUFFER
from remoting_bus.protocol.flows import MAX_WINDOW, WINDOW, Incoming, Outgoing

KIB = 1024


def outgoing(*pieces: bytes) -> Outgoing:
    out = Outgoing(2, log=False, end=None)
    for piece in pieces:
        out.write(piece)
    return out


def test_pieces_are_cut_to_what_may_go() -> None:
    """Not more than asked for, and no byte is lost between two cuts."""
    out = outgoing(b"abcdef", b"gh")
    assert [out.cut(4), out.cut(4), out.cut(4)] == [b"abcd", b"ef", b"gh"]
    assert (out.sent, out.queued) == (8, 0)
    assert not out.ready()


def test_credit_stops_the_writer() -> None:
    """At the limit it is blocked; a byte more of credit lets one more go."""
    out = outgoing(bytes(WINDOW), b"xyz")
    out.cut(WINDOW)
    assert out.blocked()
    assert not out.ready()
    out.credit += 2
    assert out.ready()
    assert out.cut(100) == b"xy"
    assert out.blocked()


def test_the_end_needs_no_credit() -> None:
    """FINISH and RESET go even where no byte may."""
    out = outgoing()
    out.sent = out.credit
    assert not out.ready()
    out.closing = "finish"
    assert out.ready()


def test_the_end_waits_for_the_bytes() -> None:
    """A stream that is finished is finished after what was written."""
    out = outgoing(b"abc")
    out.closing = "finish"
    assert out.cut(10) == b"abc"
    assert out.ready()


def test_giving_up_drops_what_waits() -> None:
    """And says why."""
    out = outgoing(b"abc")
    out.give_up("enough")
    assert (out.queued, out.closing, out.reason) == (0, "reset", "enough")
    assert out.ready()


def test_room_follows_the_wire() -> None:
    """A writer is at most a buffer ahead."""
    out = outgoing(b"abc")
    assert out.room == BUFFER
    out.cut(3)
    assert out.room == BUFFER + 3


def incoming() -> Incoming:
    return Incoming(3, log=False, end=None)


@pytest.mark.parametrize("offset", [1, 5])
def test_bytes_out_of_order_break_the_protocol(offset: int) -> None:
    """The lane keeps order: a hole can only be the peer's doing."""
    stream = incoming()
    with pytest.raises(ValueError, match="out of order"):
        stream.accept(offset, b"abc")


def test_bytes_past_the_credit_break_the_protocol() -> None:
    """The peer was told the limit; the last byte of it is allowed."""
    stream = incoming()
    stream.accept(0, bytes(WINDOW))
    with pytest.raises(ValueError, match="credit"):
        stream.accept(WINDOW, b"x")


def test_credit_rises_as_the_program_reads() -> None:
    """Not with each byte: once a quarter of the window is worth telling."""
    stream = incoming()
    stream.accept(0, bytes(WINDOW))
    assert stream.read(WINDOW // 4 - 1, 100.0, 0.1, MAX_WINDOW) is None
    assert stream.read(WINDOW // 4, 100.0, 0.1, MAX_WINDOW) == WINDOW + WINDOW // 4


def test_credit_never_falls() -> None:
    """An old offset changes nothing."""
    stream = incoming()
    high = stream.read(WINDOW, 100.0, 0.1, MAX_WINDOW)
    assert high is not None
    assert stream.read(5, 101.0, 0.1, MAX_WINDOW) is None
    assert stream.limit == high


def fast_reader(spare: int, seconds: float) -> int:
    """Read as fast as credit is given; return the window at the end."""
    stream, now, limit = incoming(), 100.0, WINDOW
    for _ in range(50):
        now += seconds
        limit = stream.read(limit, now, 0.1, spare) or limit
    return stream.window


def test_the_window_grows_to_what_the_path_needs() -> None:
    """A whole one used up within two round trips doubles it, up to the maximum."""
    assert fast_reader(MAX_WINDOW, 0.1) == MAX_WINDOW
    assert fast_reader(MAX_WINDOW, 1.0) == WINDOW


def test_all_windows_together_are_bounded() -> None:
    """Where the session has no more to give, a window stays as it is."""
    assert fast_reader(WINDOW - 1, 0.1) == WINDOW
