"""Calls as the two sides hold them, and how one ends.

Plain records; what may happen to them is `session`'s law.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any, Literal

from remoting_bus.errors import Executed
from remoting_bus.names import Priority

from .ends import StreamEnd

__all__ = [
    "CancelReason",
    "IncomingCall",
    "Outcome",
    "OutcomeKind",
    "OutgoingCall",
    "RefusalCode",
]

CancelReason = Literal["cancelled", "timed out", "lost"]


class OutcomeKind(Enum):
    """How a call ended."""

    RETURNED = "returned"
    RAISED = "raised"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed out"
    REFUSED = "refused"
    LOST = "lost"


class RefusalCode(IntEnum):
    """Why a call never ran; stands on the wire."""

    OTHER = 0
    UNKNOWN = 1
    NOT_GRANTED = 2
    UNDECODABLE = 3
    TOO_LARGE = 4
    OVERLOADED = 5
    REVOKED = 6
    CONFLICT = 7
    ENDING = 8


@dataclass(slots=True)
class Outcome:
    """How a call ended, as its caller sees it.

    Attributes:
        value: The decoded result of RETURNED, the decoded error of RAISED.
        streams: Ends that the result carries, by index.
        references: Ids that the result carries, by index; below zero are our own
            objects come home (minus one, minus id).
        message: In words, for all but RETURNED and RAISED.
        executed: Whether it may have run, for all but RETURNED and RAISED.
        cause: What ended the session, for LOST.
    """

    kind: OutcomeKind
    value: Any = None
    streams: Sequence[StreamEnd] = ()
    references: Sequence[int] = ()
    code: RefusalCode = RefusalCode.OTHER
    message: str = ""
    executed: Executed = "unknown"
    cause: BaseException | None = None


def _nothing() -> None:
    pass


class OutgoingCall:
    """A call as its caller holds it.

    Attributes:
        args: Encoded `[positional, by name]`.
        streams: Ends handed over with it; StreamMark(i) in `args` stands for one.
        references: Ids that travel with it; ReferenceMark(i) stands for one.
        deadline: On the session's clock, in seconds.
        key: Makes it durable.
        on_behalf: It is made while a call of the peer runs, and counts apart (law 20).
        number: Its frame number, once pulled.
        outcome: Set exactly once.
        progress: The newest report that has come.
        wake: Called when `progress` or `outcome` is set.
    """

    __slots__ = (
        "args",
        "cancelling",
        "deadline",
        "forgotten",
        "key",
        "name",
        "number",
        "on_behalf",
        "outcome",
        "own_ends",
        "priority",
        "progress",
        "references",
        "streams",
        "wake",
    )

    def __init__(
        self,
        name: str,
        args: bytes,
        *,
        streams: Sequence[StreamEnd] = (),
        references: Sequence[int] = (),
        priority: Priority = Priority.NORMAL,
        deadline: float | None = None,
        key: str | None = None,
        on_behalf: bool = False,
    ) -> None:
        self.name = name
        self.args = args
        self.streams = streams
        self.references = references
        self.priority = priority
        self.deadline = deadline
        self.key = key
        self.on_behalf = on_behalf
        self.number: int | None = None
        self.outcome: Outcome | None = None
        self.progress: Any = None
        self.wake: Callable[[], None] = _nothing
        self.cancelling = False
        self.forgotten = False
        self.own_ends: Sequence[StreamEnd] = ()


class IncomingCall:
    """A call as the side that runs it holds it.

    Attributes:
        args: Decoded `[positional, by name]`, plain values and marks.
        streams: Our ends of what travelled with it, by index.
        references: Ids that travelled with it, by index.
        deadline: On our own clock, in seconds.
        on_cancel: Set by whoever runs it. Called once, when the caller cancels, the
            deadline passes, or the session is over; `cancelled` says which.
        keep_streams: The program keeps the ends when the call returns.
        ended: It was answered.
    """

    __slots__ = (
        "args",
        "cancelled",
        "deadline",
        "ended",
        "keep_streams",
        "key",
        "name",
        "number",
        "on_behalf",
        "on_cancel",
        "priority",
        "references",
        "started",
        "streams",
    )

    def __init__(
        self,
        number: int,
        name: str,
        args: Any,
        streams: Sequence[StreamEnd],
        references: Sequence[int],
        priority: Priority,
        deadline: float | None,
        key: str | None,
        on_behalf: bool,
    ) -> None:
        self.number = number
        self.name = name
        self.args = args
        self.streams = streams
        self.references = references
        self.priority = priority
        self.deadline = deadline
        self.key = key
        self.on_behalf = on_behalf
        self.cancelled: CancelReason | None = None
        self.on_cancel: Callable[[], None] | None = None
        self.started = False
        self.keep_streams = False
        self.ended = False

    def cancel(self, reason: CancelReason) -> None:
        """Tell whoever runs it, once."""
        if self.cancelled is None and not self.ended:
            self.cancelled = reason
            if self.on_cancel is not None:
                self.on_cancel()
