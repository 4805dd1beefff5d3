"""The format refuses what no transfer has in it."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from remoting_bus._transfer.records import (
    MAX_DEPTH,
    MAX_FRAME,
    NOTHING_YET,
    Accept,
    BadTransfer,
    Claim,
    Frames,
    Header,
    check_name,
    check_record,
    frame,
)

HOSTILE = [b"", b".", b"..", b"/etc/passwd", b"../x", b"a/b", b"a\0b", b"x" * 256]


@pytest.mark.parametrize("name", [*HOSTILE, "text", None, 5])
def test_a_name_is_one_component(name: Any) -> None:
    """Absolute, climbing, nested, empty, too long, with NUL: each refused."""
    with pytest.raises(BadTransfer):
        check_name(name)
    for record in (["d", name], ["l", name, b"x"], ["f", name, 0o644, 0, 1]):
        with pytest.raises(BadTransfer):
            check_record(record, root=False)


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        ["x"],
        ["f", b"n", 0o644, 0],
        ["f", b"n", -1, 0, 0],
        ["f", b"n", 0o644, 2**63, 0],
        ["f", b"n", 0o644, 0, 2**64],
        ["f", b"n", 0o644, 0, True],
        ["u", "mode", 0],
        ["l", b"n", b""],
        ["l", b"n", b"a\0b"],
        ["l", b"n", b"x" * 4096],
        ["e", -1, NOTHING_YET],
    ],
)
def test_what_is_no_record_is_refused(record: Any) -> None:
    with pytest.raises(BadTransfer):
        check_record(record, root=False)


def test_bits_beyond_permissions_are_dropped() -> None:
    """Nothing that arrives becomes setuid."""
    assert check_record(["f", b"n", 0o104755, 0, 1], root=False)[2] == 0o755
    assert check_record(["u", 0o41777, 0], root=False)[1] == 0o777


def test_header_claim_and_answer_come_back_as_they_went() -> None:
    frames = Frames()
    header = Header("tree", 0o755, -5, 10**12, 7, bytes(range(32)), resumable=True)
    claim = Claim(5, b"c" * 32, 77, b"d" * 32)
    answer = Accept(5, 77, (b"a", b"b"), 1000)
    frames.add(header.encode() + claim.encode() + answer.encode())
    assert Header.decode(frames.next_frame()) == header
    assert Claim.decode(frames.next_frame()) == claim
    assert Accept.decode(frames.next_frame()) == answer
    assert frames.next_frame() is None


def test_an_answer_with_a_hostile_folder_is_refused() -> None:
    for folders in ([b".."], [b"a"] * (MAX_DEPTH + 1)):
        with pytest.raises(BadTransfer):
            Accept.decode([1, 0, folders, 0])


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        [],
        [1, "socket", 0, 0, 0, 0, bytes(32), False],
        [1, "file", 0, 0, 0, 0, bytes(31), False],
        [1, "file", 0, "then", 0, 0, bytes(32), False],
        [1, "file", 0, 0, 0.5, 0, bytes(32), False],
    ],
)
def test_what_is_no_header_is_refused(value: Any) -> None:
    with pytest.raises(BadTransfer):
        Header.decode(value)
    with pytest.raises(BadTransfer):
        Claim.decode(value)
    with pytest.raises(BadTransfer):
        Accept.decode(value)


def test_another_version_is_named() -> None:
    with pytest.raises(BadTransfer, match="version 9"):
        Header.decode([9, "file", 0, 0, 0, 0, bytes(32), False])


def test_frames_come_in_any_pieces() -> None:
    """One byte at a time, and what is not a frame as it is."""
    data = frame(["d", b"name"]) + b"raw" + frame(["u", 0, 0])
    frames = Frames()
    got: list[Any] = []
    raw = b""
    for index in range(len(data)):
        frames.add(data[index : index + 1])
        if len(got) == 1 and len(raw) < 3:
            raw += frames.take(3 - len(raw))
        elif (value := frames.next_frame()) is not None:
            got.append(value)
    assert got == [["d", b"name"], ["u", 0, 0]]
    assert raw == b"raw"
    assert len(frames) == 0


def test_a_frame_too_long_or_not_decodable_is_refused() -> None:
    frames = Frames()
    frames.add(struct.pack(">I", MAX_FRAME + 1))
    with pytest.raises(BadTransfer, match=str(MAX_FRAME)):
        frames.next_frame()
    frames = Frames()
    frames.add(struct.pack(">I", 2) + b"\xff\xff")
    with pytest.raises(BadTransfer):
        frames.next_frame()
