"""What two peers say before they have a session: the bodies, checked.

The messages have the shape of a Noise handshake, one each way, and are the place where
keys will travel. Nothing here is trusted until the peer has proved itself. It must not
know what follows from a message; that is `endpoint`'s.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from cbor2 import dumps

from remoting_bus.errors import CallRefused
from remoting_bus.names import Lane, check_name

from .codec import DecodeError, decode
from .envelope import (
    HEADER_BYTES,
    EnvelopeKind,
    Header,
    PlainSeal,
    SealBroken,
    pack_header,
)
from .terms import FLOOR, VERSION, Terms

__all__ = [
    "MAX_INFO",
    "Greeting",
    "HelloRefused",
    "Refusal",
    "RefusalReason",
    "pack",
    "unpack",
]

MAX_INFO = 16 * 1024
"""Bytes of what a peer says of itself: labels, versions; it is read unproved."""

_SEAL = PlainSeal()


@dataclass(frozen=True, slots=True)
class Greeting:
    """A hello, or the answer to one.

    Attributes:
        name: Of who says it.
        incarnation: 16 random bytes, per start of its process.
        info: What it says of itself.
        floor, version: The oldest and newest version it speaks; in an answer both are
            the one agreed on.
        asks: In a hello: a session of which it wants to know whether the other side
            still has it.
        knows: In an answer: it does.
    """

    name: str
    incarnation: bytes
    terms: Terms
    info: dict[str, Any] = field(default_factory=dict)
    floor: int = FLOOR
    version: int = VERSION
    asks: bytes = b""
    knows: bool = False


class RefusalReason(StrEnum):
    """Why a hello is not answered with a session, on the wire.

    A newer peer may have others; they are refusals all the same.
    """

    VERSION = "version"
    FENCED = "fenced"
    NAME_IN_USE = "name in use"
    LEAVING = "leaving"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a hello is not answered with a session; `code` is a `RefusalReason`."""

    name: str
    code: str
    message: str


class HelloRefused(CallRefused):
    """A peer does not want a session with this side.

    Attributes:
        code: Why; a `RefusalReason`, or what a newer peer said.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def about_our_name(self) -> bool:
        """Another program has the name of this side."""
        return self.code in (RefusalReason.FENCED, RefusalReason.NAME_IN_USE)


def pack(
    kind: EnvelopeKind, session: bytes, number: int, body: Greeting | Refusal | Any
) -> bytes:
    """Return an envelope of the handshake."""
    if isinstance(body, Greeting):
        content: Any = {
            "name": body.name,
            "incarnation": body.incarnation,
            "terms": asdict(body.terms),
            "info": body.info,
            "versions": [body.floor, body.version],
            "asks": body.asks,
            "knows": body.knows,
        }
    elif isinstance(body, Refusal):
        code = str(body.code)
        content = {"name": body.name, "code": code, "message": body.message}
    else:
        content = body
    header = pack_header(kind, Lane.CONTROL, session, number)
    return _SEAL.seal(header, number, dumps(content))


def unpack(header: Header, envelope: bytes) -> Any:
    """Return the body: a Greeting, a Refusal, or a mapping.

    Raises:
        ValueError: It is not what this kind of envelope holds.
    """
    if len(envelope) > MAX_INFO + 4096:
        raise ValueError("larger than a handshake may be")
    try:
        opened = _SEAL.open(envelope[:HEADER_BYTES], header.number, envelope)
        body = decode(opened)
        if header.kind in (EnvelopeKind.HELLO, EnvelopeKind.WELCOME):
            return _greeting(body)
        if header.kind is EnvelopeKind.REFUSED:
            return Refusal(
                check_name(body["name"]), str(body["code"]), str(body["message"])[:2000]
            )
        if type(body) is not dict:
            raise ValueError("not a mapping")
    except (SealBroken, DecodeError, KeyError, TypeError) as error:
        raise ValueError(f"not a handshake: {error}") from error
    return body


def _greeting(body: Any) -> Greeting:
    terms = body["terms"]
    # What a newer peer says beyond our fields is not ours to judge.
    known = {name: terms[name] for name in Terms.__dataclass_fields__}
    for name, value in known.items():
        if type(value) not in (int, float) or not 0 < value < 2**40:
            raise ValueError(f"{name} is {value!r}")
    floor, version = body["versions"]
    incarnation, asks = body["incarnation"], body["asks"]
    if type(incarnation) is not bytes or len(incarnation) != 16:
        raise ValueError("an incarnation has 16 bytes")
    if type(body["info"]) is not dict or type(asks) is not bytes:
        raise ValueError("what it says of itself is not a mapping")
    return Greeting(
        name=check_name(body["name"]),
        incarnation=incarnation,
        terms=Terms(**known),
        info=body["info"],
        floor=int(floor),
        version=int(version),
        asks=asks,
        knows=bool(body["knows"]),
    )
