"""The envelope: one bus message, a header in clear and sealed frames of one lane.

Owns the header's layout, the kinds of envelope, and the seam where each is sealed and
opened. The header is authenticated with the body, so it can be read first and trusted
after. It must not know what stands inside.
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum
from typing import NamedTuple, Protocol, TypeVar

from remoting_bus.names import Lane

__all__ = [
    "HEADER_BYTES",
    "OVERHEAD",
    "EnvelopeKind",
    "Header",
    "PlainSeal",
    "Seal",
    "SealBroken",
    "cut_trailer",
    "pack_header",
    "pack_trailer",
    "read_header",
    "read_session",
    "read_trailer",
]

_MAGIC = 0x5242  # "RB"
_LAYOUT = struct.Struct(">HBBB16sQ")
HEADER_BYTES = _LAYOUT.size

OVERHEAD = HEADER_BYTES + 16 + 64 + 2000
"""Header, seal, trailer and the state that may stand beside the frames, at most: what is taken
off the bus's limit before frames are chosen."""


class EnvelopeKind(IntEnum):
    """What an envelope is; stands in the header."""

    SEALED = 0
    HELLO = 1
    WELCOME = 2
    REFUSED = 3
    UNKNOWN = 4
    LOOKUP = 5
    FOUND = 6
    FENCED = 7
    FENCED_TOO = 8
    BEAT = 9
    BEAT_ANSWER = 10


# By look-up: calling an enumeration takes four times as long.
_KINDS = {int(kind): kind for kind in EnvelopeKind}
_LANES = {int(lane): lane for lane in Lane}


class Header(NamedTuple):
    """A header, read.

    Attributes:
        epoch: Of the key that sealed it (law 27).
        session: 16 bytes.
        number: Of the envelope, per direction and lane: strictly rising (law 1).
    """

    kind: EnvelopeKind
    lane: Lane
    epoch: int
    session: bytes
    number: int


def pack_header(
    kind: EnvelopeKind, lane: Lane, session: bytes, number: int, epoch: int = 0
) -> bytes:
    """Return the header's bytes."""
    return _LAYOUT.pack(_MAGIC, kind, lane, epoch, session, number)


def read_header(envelope: bytes) -> Header | None:
    """Return the header, or None where this is not an envelope of ours."""
    if len(envelope) < HEADER_BYTES:
        return None
    magic, kind, lane, epoch, session, number = _LAYOUT.unpack_from(envelope)
    if magic != _MAGIC:
        return None
    known, on = _KINDS.get(kind), _LANES.get(lane)
    if known is None or on is None:
        return None
    return Header(known, on, epoch, session, number)


def read_session(envelope: bytes) -> bytes:
    """Return the session's id, for routing; any 16 bytes where there is none."""
    return envelope[5:21]


def pack_trailer(sender: str) -> bytes:
    """Return who sends: it ends each sealed CONTROL envelope, in clear and unproved.

    It tells whom to answer "unknown session"; nothing else may be made of it.
    """
    name = sender.encode("ascii")
    return name + bytes((len(name),))


def read_trailer(envelope: bytes) -> str:
    """Return who says to have sent a CONTROL envelope; empty where it is garbage."""
    name = envelope[-1 - envelope[-1] : -1]
    return name.decode("ascii", errors="replace")


def cut_trailer(envelope: bytes) -> bytes:
    """Return a CONTROL envelope without its trailer."""
    return envelope[: -1 - envelope[-1]]


class SealBroken(Exception):
    """The body is not what the peer sealed."""


Body = TypeVar("Body", bytes, memoryview)


class Seal(Protocol):
    """Seals and opens the bodies of one direction of one lane."""

    def seal(self, header: bytes, number: int, *body: bytes | memoryview) -> bytes:
        """Return the whole envelope: the header and the sealed body, from its parts."""

    def open(self, header: bytes, number: int, envelope: Body) -> Body:
        """Return the body; of a view, a view.

        Raises:
            SealBroken: It was changed, cut, or made by somebody else.
        """


class PlainSeal:
    """No secrecy: a checksum over header and body, against accidents only.

    Until sessions have keys the broker is trusted, which `SECURITY.md` says.

    Args:
        secret: What both sides know of their handshake; envelopes made under another
            one do not open.
    """

    __slots__ = ("_start",)

    def __init__(self, secret: bytes = b"") -> None:
        self._start = zlib.crc32(secret)

    def seal(self, header: bytes, number: int, *body: bytes | memoryview) -> bytes:
        """Append the checksum."""
        check = zlib.crc32(header, self._start)
        for part in body:
            check = zlib.crc32(part, check)
        return b"".join((header, *body, check.to_bytes(4, "big")))

    def open(self, header: bytes, number: int, envelope: Body) -> Body:
        """Check and cut it off."""
        body = envelope[HEADER_BYTES:-4]
        check = zlib.crc32(body, zlib.crc32(header, self._start))
        if len(envelope) < HEADER_BYTES + 4 or envelope[-4:] != check.to_bytes(
            4, "big"
        ):
            raise SealBroken("the checksum does not fit")
        return body
