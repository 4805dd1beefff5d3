"""DATA frames: their bytes are not copied on the way, and mean what CBOR says."""

from __future__ import annotations

import cbor2
import pytest
from cbor2 import dumps

from remoting_bus.protocol.codec import DecodeError, decode, head
from remoting_bus.protocol.frames import finish
from remoting_bus.protocol.pieces import Data, Piece, data, items_of, parts_of

START = [1_000_000, 0, [[2, 7]], {10: [4, 1 << 20]}, [1, 2]]
SIZES = [1, 23, 24, 255, 256, 65535, 65536, 262144]


def body_of(*frames: bytes | Data) -> bytes:
    start = dumps(START)[1:]
    return b"".join((head(5 + len(frames)), start, *parts_of(frames)))


@pytest.mark.parametrize("size", SIZES)
def test_what_is_built_is_cbor(size: int) -> None:
    """Any decoder reads it, and its length is right: windows count by it."""
    frame = data(5, 2**33, b"x" * size)
    joined = b"".join(parts_of([frame]))
    assert len(joined) == len(frame)
    assert cbor2.loads(joined) == [20, 5, 2**33, b"x" * size]


@pytest.mark.parametrize("size", SIZES)
def test_what_is_read_is_what_the_codec_reads(size: int) -> None:
    """DATA by itself and among others; an envelope without frames, too."""
    frames: list[bytes | Data] = [
        data(300, 70_000, b"a" * size),
        finish(300, 70_000 + size),
    ]
    for body in (body_of(*frames), body_of(frames[1], frames[0]), body_of()):
        assert items_of(body) == decode(body)


def test_a_piece_is_a_view_of_its_envelope() -> None:
    """Until the reader wants bytes of its own."""
    body = body_of(data(2, 0, b"b" * 100_000))
    piece = items_of(body)[5][3]
    assert type(piece) is memoryview
    assert piece.obj is body


def test_a_small_piece_does_not_keep_a_large_envelope() -> None:
    """Nobody may have read it for long, and memory is counted by its bytes."""
    body = body_of(data(2, 0, b"small"), data(4, 0, b"c" * 100_000))
    small, large = (frame[3] for frame in items_of(body)[5:])
    assert type(small) is bytes
    assert type(large) is memoryview


def test_the_writers_bytes_are_not_copied() -> None:
    """A part of what it wrote goes out as a view."""
    piece: Piece = memoryview(b"d" * 1000)[100:]
    assert parts_of([data(2, 0, piece)])[1] is piece


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x80",
        dumps([1, 2, 3]),
        body_of(data(2, 0, b"e" * 300))[:-1],
        body_of(data(2, 0, b"e" * 300)) + b"\x00",
        body_of(b"\x84\x14\x02\x00\x5f\x41\x65\xff"),
        body_of(b"\x84\x14\x02\x00\x5b\xff\xff\xff\xff\xff\xff\xff\xff"),
        body_of(b"\x84\x14\x19"),
        body_of(b"\x82\x17\xd8\x23\x61\x61"),
    ],
)
def test_what_is_malformed_is_as_the_codec_has_it(body: bytes) -> None:
    """Cut, too long, of indefinite or absurd length, with a tag that is not allowed."""
    try:
        expected = decode(body)
    except DecodeError:
        with pytest.raises(DecodeError):
            items_of(body)
    else:
        assert items_of(body) == expected


def test_other_ways_to_write_a_data_are_read_too() -> None:
    """Another implementation may write numbers longer than needed, or no bytes."""
    longer = b"\x84\x14\x19\x00\x02\x1a\x00\x00\x00\x07\x59\x00\x01f"
    for frame in (longer, b"\x84\x18\x14\x02\x07\x41f"):
        assert items_of(body_of(frame))[5] == [20, 2, 7, b"f"]
    assert items_of(body_of(b"\x84\x14\x02\x07\x61f"))[5] == [20, 2, 7, "f"]
