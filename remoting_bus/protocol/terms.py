"""What two peers agreed on in their handshake, and what happened, as data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from .calls import IncomingCall

__all__ = [
    "FLOOR",
    "VERSION",
    "Event",
    "Opening",
    "Phase",
    "PhaseChanged",
    "PhaseKind",
    "Released",
    "Stays",
    "Terms",
    "agree",
]

VERSION = 1
"""The newest version of the protocol that this side speaks."""

FLOOR = 1
"""The oldest one."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Limits of a session; each side says its own, both keep what both can.

    Attributes:
        version: Of the protocol.
        max_envelope: Bytes of a bus message: what both buses carry (law 24).
        max_message: Bytes of one call or result, in fragments where it must be.
        max_calls: Calls that the peer may have unanswered at this side.
        grace: Seconds that a suspended session is kept.
        heartbeat: Seconds of silence after which a side asks.
    """

    version: int = VERSION
    max_envelope: int = 1024 * 1024
    max_message: int = 16 * 1024 * 1024
    max_calls: int = 20_000
    grace: float = 300.0
    heartbeat: float = 5.0


def agree(ours: Terms, theirs: Terms, version: int) -> Terms:
    """Return the terms that both can keep."""
    return Terms(
        version=version,
        max_envelope=min(ours.max_envelope, theirs.max_envelope),
        max_message=min(ours.max_message, theirs.max_message),
        max_calls=min(ours.max_calls, theirs.max_calls),
        grace=min(ours.grace, theirs.grace),
        heartbeat=max(ours.heartbeat, theirs.heartbeat),
    )


class Phase(Enum):
    """Where a session stands."""

    OPENING = "opening"
    OPEN = "open"
    SUSPENDED = "suspended"
    CLOSING = "closing"
    OVER = "over"


PhaseKind = Literal[
    "open",
    "link down",
    "peer silent",
    "peer slow",
    "resumed",
    "closing",
    "closed",
    "lost",
    "fenced",
    "refused",
]


@dataclass(frozen=True, slots=True)
class PhaseChanged:
    """The session's phase changed, or the peer is slow (its phase stays OPEN)."""

    phase: Phase
    kind: PhaseKind
    cause: BaseException | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Released:
    """No peer of this session can use these objects of ours any more."""

    references: list[int]


@dataclass(frozen=True, slots=True)
class Stays:
    """The peer still uses the session: it does not end, and calls go on."""


Event = IncomingCall | PhaseChanged | Released | Stays
"""What happened. A call: the peer made it; whoever takes it runs it and answers."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What the bulk half needs to know of a session, once.

    Attributes:
        session: Its id.
        peer: Its name, to which envelopes go.
        secret: What seals are made from: the handshake's incarnations, until it has
            keys.
    """

    session: bytes
    peer: str
    terms: Terms
    secret: bytes = b""
