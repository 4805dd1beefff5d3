"""The frames: one protocol message each, a CBOR array that begins with its kind.

Owns the kinds, which lane each travels on, and how each is built. A frame is encoded
once, when it is queued; its number stands in the envelope (law 1). `docs/protocol.md`
has the same table in prose, checked against this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

from cbor2 import dumps

from remoting_bus.names import Lane

from .codec import integer

__all__ = ["FRAMES", "Frame", "FrameKind", "StreamUse"]


class FrameKind(IntEnum):
    """What a frame is; the number stands on the wire."""

    CANCEL = 1
    GOODBYE = 2
    UNIMPLEMENTED = 3
    CALL = 10
    RETURNED = 11
    RAISED = 12
    REFUSED = 13
    CANCELLED = 14
    PROGRESS = 15
    RELEASE = 16
    FRAGMENT = 17
    DATA = 20
    FINISH = 21
    RESET = 22
    STOP = 23


@dataclass(frozen=True, slots=True)
class Frame:
    """A row of the table.

    Attributes:
        lanes: Where it travels.
        fields: The array's items after the kind.
        meaning: In a sentence.
    """

    lanes: tuple[Lane, ...]
    fields: tuple[str, ...]
    meaning: str


_CALLS = (Lane.CALL,)
_BYTES = (Lane.BULK, Lane.LOG)

FRAMES: dict[FrameKind, Frame] = {
    FrameKind.CANCEL: Frame(
        (Lane.CONTROL,),
        ("call", "reason"),
        "Stop the call of this number, or never start it; reason 1 is its deadline.",
    ),
    FrameKind.GOODBYE: Frame(
        (Lane.CONTROL,),
        ("call", "bulk", "log", "reason"),
        "The session ends once every frame below these numbers has come.",
    ),
    FrameKind.UNIMPLEMENTED: Frame(
        (Lane.CONTROL,),
        ("kind",),
        "A frame of this kind came and was not understood.",
    ),
    FrameKind.CALL: Frame(
        _CALLS,
        (
            "name",
            "priority",
            "deadline",
            "key",
            "behalf",
            "streams",
            "references",
            "args",
        ),
        "Run the function of this name.",
    ),
    FrameKind.RETURNED: Frame(
        _CALLS,
        ("call", "wrote", "streams", "references", "value"),
        "The call returned; held until the bytes it wrote have come.",
    ),
    FrameKind.RAISED: Frame(
        _CALLS,
        ("call", "wrote", "error"),
        "The call raised; held until the bytes it wrote have come.",
    ),
    FrameKind.REFUSED: Frame(
        _CALLS, ("call", "code", "message"), "The call did not run."
    ),
    FrameKind.CANCELLED: Frame(
        _CALLS,
        ("call", "ran", "reason", "message"),
        "The call was stopped; ran is 0 if it was never started.",
    ),
    FrameKind.PROGRESS: Frame(
        _CALLS, ("call", "value"), "The newest report of a running call."
    ),
    FrameKind.RELEASE: Frame(
        _CALLS, ("reference", "count"), "So many travels of a reference are given back."
    ),
    FrameKind.FRAGMENT: Frame(
        _CALLS,
        ("first", "state", "bytes"),
        "A part of a larger frame; first is 0 in the first part, else its number; "
        "state is 0 for more, 1 for the last, 2 for given up.",
    ),
    FrameKind.DATA: Frame(
        _BYTES, ("stream", "offset", "bytes"), "Bytes of a stream, from this offset."
    ),
    FrameKind.FINISH: Frame(
        _BYTES, ("stream", "offset"), "The writer is done; the stream is so long."
    ),
    FrameKind.RESET: Frame(_BYTES, ("stream", "reason"), "The writer gave it up."),
    FrameKind.STOP: Frame(_BYTES, ("stream", "reason"), "The reader gave it up."),
}


class StreamUse(IntEnum):
    """What the sender of a CALL or RETURNED does with a stream that it introduces."""

    SENDS = 0
    RECEIVES = 1
    SENDS_LOG = 2
    RECEIVES_LOG = 3

    @property
    def sends(self) -> bool:
        """The introducer writes."""
        return self in (StreamUse.SENDS, StreamUse.SENDS_LOG)

    @property
    def lane(self) -> Lane:
        """Where its bytes travel."""
        return Lane.LOG if self >= StreamUse.SENDS_LOG else Lane.BULK


# -- builders: the values inside are encoded already, all else is small; DATA: `pieces` --

# Plain integers: the encoder takes twice as long over an IntEnum.
_CANCEL = int(FrameKind.CANCEL)
_GOODBYE = int(FrameKind.GOODBYE)
_UNIMPLEMENTED = int(FrameKind.UNIMPLEMENTED)
_CALL = int(FrameKind.CALL)
_RETURNED = int(FrameKind.RETURNED)
_RAISED = int(FrameKind.RAISED)
_REFUSED = int(FrameKind.REFUSED)
_CANCELLED = int(FrameKind.CANCELLED)
_PROGRESS = int(FrameKind.PROGRESS)
_RELEASE = int(FrameKind.RELEASE)
_FRAGMENT = int(FrameKind.FRAGMENT)
_CALL_KIND = dumps(_CALL)
_RETURNED_KIND = dumps(_RETURNED)
_EMPTY = b"\x80"
_FINISH = int(FrameKind.FINISH)


@lru_cache(maxsize=1024)
def _name(name: str) -> bytes:
    return dumps(name)


def call(
    name: str,
    priority: int,
    deadline: int | None,
    key: str | None,
    behalf: bool,
    uses: Sequence[int],
    references: Sequence[int],
    args: bytes,
) -> bytes:
    """Build a CALL."""
    # Put together from parts: the encoder takes three times as long over a list.
    return b"".join(
        (
            b"\x89",
            _CALL_KIND,
            _name(name),
            integer(priority),
            b"\xf6" if deadline is None else dumps(deadline),
            b"\xf6" if key is None else dumps(key),
            b"\x01" if behalf else b"\x00",
            dumps(list(uses)) if uses else _EMPTY,
            dumps(list(references)) if references else _EMPTY,
            args,
        )
    )


def returned(
    number: int,
    wrote: Sequence[Sequence[int]],
    uses: Sequence[int],
    references: Sequence[int],
    value: bytes,
) -> bytes:
    """Build a RETURNED."""
    return b"".join(
        (
            b"\x86",
            _RETURNED_KIND,
            integer(number),
            dumps(list(wrote)) if wrote else _EMPTY,
            dumps(list(uses)) if uses else _EMPTY,
            dumps(list(references)) if references else _EMPTY,
            value,
        )
    )


def raised(number: int, wrote: Sequence[Sequence[int]], error: bytes) -> bytes:
    """Build a RAISED."""
    return b"\x84" + dumps([_RAISED, number, wrote])[1:] + error


def refused(number: int, code: int, message: str) -> bytes:
    """Build a REFUSED."""
    return dumps([_REFUSED, number, code, message])


def cancelled(number: int, ran: bool, reason: int, message: str) -> bytes:
    """Build a CANCELLED."""
    return dumps([_CANCELLED, number, int(ran), reason, message])


def progress(number: int, value: bytes) -> bytes:
    """Build a PROGRESS."""
    return b"\x83" + dumps([_PROGRESS, number])[1:] + value


def release(reference: int, count: int) -> bytes:
    """Build a RELEASE."""
    return dumps([_RELEASE, reference, count])


def cancel(number: int, reason: int) -> bytes:
    """Build a CANCEL."""
    return dumps([_CANCEL, number, reason])


def goodbye(call: int, bulk: int, log: int, reason: str) -> bytes:
    """Build a GOODBYE."""
    return dumps([_GOODBYE, call, bulk, log, reason])


def unimplemented(kind: object) -> bytes:
    """Build an UNIMPLEMENTED."""
    return dumps([_UNIMPLEMENTED, kind if type(kind) is int else -1])


def fragment(first: int, state: int, part: bytes) -> bytes:
    """Build a FRAGMENT."""
    return dumps([_FRAGMENT, first, state, part])


def finish(stream: int, offset: int) -> bytes:
    """Build a FINISH."""
    return dumps([_FINISH, stream, offset])


def reset(kind: FrameKind, stream: int, reason: str) -> bytes:
    """Build a RESET or a STOP."""
    return dumps([int(kind), stream, reason])
