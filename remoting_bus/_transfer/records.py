"""What two sides of a transfer say to each other: the format, and what is refused.

A file and a tree are one format: a header; where it may be resumed, a claim of what is
there already and an answer to it; then records, each file's bytes and their SHA-256
behind its record, and an end. Names are single components, so there is no path in it to
be absolute, to climb or to lead through a link. Pure; `source` writes it, `sink` reads.

    frame    length (4 bytes, big-endian), CBOR
    header   [version, kind, mode, mtime, bytes, entries, identity, resumable]
    claim    [records, chain, offset, digest]      receiver: this much I have
    accept   [records, offset, folders, bytes]     sender: go on from here
    record   ["f", name, mode, mtime, size] + bytes from the offset on + SHA-256 of all
             ["d", name]  ["u", mode, mtime]  ["l", name, target]
             ["e", records, chain]
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Any, Literal

from remoting_bus.errors import RemotingError
from remoting_bus.protocol.codec import DecodeError, decode, encode
from remoting_bus.protocol.pieces import Piece

__all__ = [
    "MAX_DEPTH",
    "NOTHING_YET",
    "RESUME_FROM",
    "Accept",
    "BadTransfer",
    "Claim",
    "Frames",
    "Header",
    "check_name",
    "check_record",
    "frame",
    "link_chain",
]

VERSION = 1

MAX_FRAME = 64 * 1024
"""Bytes of a frame: a name of 255 and a link's target of 4,095 fit many times, and so
do the names of `MAX_DEPTH` folders of an `Accept`, of 255 bytes each."""

MAX_DEPTH = 240
"""Folders in folders. Each is an open file on the side that reads, of 1,024 that a
process has; and Linux takes no path beyond 4,096 bytes anyway."""

MAX_NAME = 255
"""Bytes of a name: what Linux's file systems take."""

MAX_TARGET = 4095
"""Bytes of a link's target: Linux's PATH_MAX, without the end."""

RESUME_FROM = 1024 * 1024
"""Bytes below which a transfer is not resumed but made again: not worth a round trip."""

NOTHING_YET = bytes(32)
"""The chain before the first record."""

_LATEST = 2**62
"""Of times in nanoseconds: 146 years from 1970; beyond it file systems differ."""

Kind = Literal["file", "tree"]


class BadTransfer(RemotingError, ValueError):
    """The other side sent what no transfer has in it; the message says what."""


@dataclass(frozen=True, slots=True)
class Header:
    """What will come.

    Attributes:
        kind: One file, or a folder with all that is in it.
        mode: Of the file or the folder.
        mtime: Its time of change, in nanoseconds since 1970.
        size: Bytes of all files.
        entries: How many files, folders and links there are; for people.
        identity: Tells this source from others, and from itself before it changed.
        resumable: A claim is waited for.
    """

    kind: Kind
    mode: int
    mtime: int
    size: int
    entries: int
    identity: bytes
    resumable: bool

    def encode(self) -> bytes:
        """Return it as a frame."""
        kind, mode, mtime, size = self.kind, self.mode, self.mtime, self.size
        rest = [self.entries, self.identity, self.resumable]
        return frame([VERSION, kind, mode, mtime, size, *rest])

    @classmethod
    def decode(cls, value: Any) -> Header:
        """Check what came.

        Raises:
            BadTransfer: It is no header, or of a version that is not known here.
        """
        if type(value) is list and value and value[0] != VERSION:
            raise BadTransfer(
                f"the peer sends files in version {str(value[0])[:20]} of the format; "
                f"known here: {VERSION}. Update the older side"
            )
        match value:
            case [
                _,
                "file" | "tree" as kind,
                mode,
                mtime,
                size,
                entries,
                identity,
                more,
            ]:
                _numbers(mode, size, entries)
                _time(mtime)
                if not isinstance(identity, bytes) or len(identity) != 32:
                    raise BadTransfer("an identity has 32 bytes")
                made = (kind, mode & 0o777, mtime, size, entries, identity)
                return cls(*made, resumable=bool(more))
            case _:
                raise BadTransfer("the transfer begins without a header")


@dataclass(frozen=True, slots=True)
class Claim:
    """What the receiver has of an earlier attempt.

    Attributes:
        records: That were completed.
        chain: Over those.
        offset: Bytes that it has of the next record's file.
        digest: Of those.
    """

    records: int = 0
    chain: bytes = NOTHING_YET
    offset: int = 0
    digest: bytes = b""

    def encode(self) -> bytes:
        """Return it as a frame."""
        return frame([self.records, self.chain, self.offset, self.digest])

    @classmethod
    def decode(cls, value: Any) -> Claim:
        """Check what came."""
        match value:
            case [records, bytes() as chain, offset, bytes() as digest]:
                _numbers(records, offset)
                return cls(records, chain, offset, digest)
            case _:
                raise BadTransfer("no claim came where one was due")


@dataclass(frozen=True, slots=True)
class Accept:
    """Where the sender goes on.

    Attributes:
        records: That are not sent again: as claimed, or none.
        offset: Of the next record's file, from where its bytes come.
        folders: The names of the folders, from the top, that the next record is in.
        done: Bytes of files that are not sent again.
    """

    records: int = 0
    offset: int = 0
    folders: tuple[bytes, ...] = ()
    done: int = 0

    def encode(self) -> bytes:
        """Return it as a frame."""
        return frame([self.records, self.offset, list(self.folders), self.done])

    @classmethod
    def decode(cls, value: Any) -> Accept:
        """Check what came."""
        match value:
            case [records, offset, [*folders], done]:
                _numbers(records, offset, done)
                if len(folders) > MAX_DEPTH:
                    raise BadTransfer(_TOO_DEEP)
                return cls(records, offset, tuple(map(check_name, folders)), done)
            case _:
                raise BadTransfer("no answer to a claim came where one was due")


_TOO_DEEP = f"folders in folders, more than {MAX_DEPTH} deep"


def _numbers(*values: Any) -> None:
    for value in values:
        if type(value) is not int or not 0 <= value < 2**63:
            raise BadTransfer(f"{str(value)[:40]!r} is no count of anything")


def _time(value: Any) -> None:
    if type(value) is not int or not -_LATEST < value < _LATEST:
        raise BadTransfer(f"{str(value)[:40]!r} is no time")


def check_name(name: Any) -> bytes:
    """Return `name` if it is one component of a path.

    Raises:
        BadTransfer: It is absolute, climbs, leads through another folder, or is none.
    """
    if type(name) is not bytes:
        raise BadTransfer(f"a name is bytes, not {type(name).__name__}")
    bad = not name or name in (b".", b"..") or b"/" in name or b"\0" in name
    if bad or len(name) > MAX_NAME:
        raise BadTransfer(
            f"the name {name[:80]!r} in a tree is refused: a name is one component of "
            f"1 to {MAX_NAME} bytes, and not . or .."
        )
    return name


def check_record(value: Any, *, root: bool) -> list[Any]:
    """Return `value` if it is a record.

    Args:
        value: What came.
        root: The transfer is of a file by itself, which has no name.

    Raises:
        BadTransfer: It is none; the message names what is wrong.
    """
    match value:
        case ["f", name, mode, mtime, size]:
            if not root or name != b"":
                check_name(name)
            _numbers(mode, size)
            _time(mtime)
            return ["f", name, mode & 0o777, mtime, size]
        case ["d", name]:
            check_name(name)
            return ["d", name]
        case ["u", mode, mtime]:
            _numbers(mode)
            _time(mtime)
            return ["u", mode & 0o777, mtime]
        case ["l", name, bytes() as target]:
            check_name(name)
            if not 0 < len(target) <= MAX_TARGET or b"\0" in target:
                raise BadTransfer(f"the link {name[:80]!r} leads to no possible path")
            return ["l", name, target]
        case ["e", records, bytes() as chain]:
            _numbers(records)
            return ["e", records, chain]
        case _:
            raise BadTransfer(f"{str(value)[:80]} is no record of a transfer")


def frame(value: Any) -> bytes:
    """Return `value` as a frame."""
    body = encode(value)
    return struct.pack(">I", len(body)) + body


def link_chain(chain: bytes, record: list[Any]) -> bytes:
    """Return the chain with one record more: equal chains, equal records."""
    return hashlib.sha256(chain + encode(record)).digest()


class Frames:
    """Bytes as they come, taken as frames or as they are."""

    __slots__ = ("_at", "_data")

    def __init__(self) -> None:
        self._data: Piece = b""  # bounded by one chunk and one frame
        self._at = 0

    def add(self, data: Piece) -> None:
        """Take in what came."""
        if len(self):  # a frame or a digest that is incomplete
            data = b"".join((self._data[self._at :], data))
        self._data = data
        self._at = 0

    def next_frame(self) -> Any:
        """Return the next frame's value, or None while it is not all here.

        Raises:
            BadTransfer: It is too long, or cannot be decoded.
        """
        start = self._at + 4
        if len(self._data) < start:
            return None
        (length,) = struct.unpack_from(">I", self._data, self._at)
        if length > MAX_FRAME:
            raise BadTransfer(
                f"a frame of {length} bytes; at most {MAX_FRAME} are taken"
            )
        if len(self._data) < start + length:
            return None
        self._at = start + length
        try:
            return decode(self._data[start : self._at])
        except DecodeError as error:
            raise BadTransfer(f"a frame that cannot be decoded: {error}") from error

    def take(self, limit: int) -> memoryview:
        """Return up to `limit` bytes as they are."""
        start = self._at
        self._at = min(len(self._data), start + limit)
        return memoryview(self._data)[start : self._at]

    def __len__(self) -> int:
        return len(self._data) - self._at
