"""What a function may know of the call that it answers: `current`, `checkpoint`.

A context lives as long as its call runs, and belongs to the loop that serves it; its
methods may be used from the function's thread too. It must not know how functions are
found or run.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from remoting_bus._loop import clock, current_loop
from remoting_bus.errors import CallCancelled, CallTimeout
from remoting_bus.names import Priority
from remoting_bus.protocol.codec import encode

if TYPE_CHECKING:
    from remoting_bus._loop import Loop
    from remoting_bus.channel.link import Link
    from remoting_bus.protocol.calls import IncomingCall

__all__ = ["CallContext", "Progress", "checkpoint", "current", "current_or_none"]

_MAX_TEXT = 1024
"""Characters of a report's message: one line for a person, kept until it is sent."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far something is.

    Attributes:
        done: Units that are finished.
        total: Units there are; None where that is not known.
        message: A word for people.
    """

    done: float
    total: float | None = None
    message: str = ""


class CallContext:
    """The call that the running function answers."""

    __slots__ = (
        "_call",
        "_deadline_offset",
        "_link",
        "_loop",
        "_report",
        "_thread",
        "raised",
    )

    def __init__(self, link: Link, call: IncomingCall) -> None:
        self._link = link
        self._call = call
        self._thread = 0
        self._loop: Loop | None = None
        self._report: bytes | None = None
        self.raised: CallTimeout | None = None  # by our checkpoint, for the dispatcher
        self._deadline_offset = (
            0.0 if call.deadline is None else anyio.current_time() - clock()
        )

    def runs_beside(self) -> None:
        """Note that the function runs in a thread. For the dispatcher, on the loop."""
        self._loop = current_loop()
        self._thread = threading.get_ident()

    @property
    def peer(self) -> str:
        """The name of the peer that called."""
        return self._link.peer

    @property
    def name(self) -> str:
        """The name by which the function was called."""
        return self._call.name

    @property
    def deadline(self) -> float | None:
        """When the call must be over, as `anyio.current_time()` counts; None: never."""
        deadline = self._call.deadline
        return None if deadline is None else deadline + self._deadline_offset

    @property
    def priority(self) -> Priority:
        """The call's priority."""
        return self._call.priority

    @property
    def cancelled(self) -> bool:
        """The caller has gone, or the deadline has passed."""
        return self._call.cancelled is not None or self._late

    @property
    def _late(self) -> bool:
        deadline = self._call.deadline
        return deadline is not None and clock() >= deadline

    def progress(
        self, done: float, total: float | None = None, message: str = ""
    ) -> None:
        """Tell the caller how far this is; never blocks.

        Only the newest report is kept until it can be sent. After the end of the call it
        does nothing.
        """
        report = encode([done, total, message[:_MAX_TEXT]])
        if self._loop is None or threading.get_ident() == self._thread:
            self._link.progress(self._call, report)
            return
        waiting, self._report = self._report, report
        if waiting is None:
            self._loop.post(self._send_report)

    def _send_report(self) -> None:
        report, self._report = self._report, None
        if report is not None:
            self._link.progress(self._call, report)

    def checkpoint(self) -> None:
        """Raise if the call is to be over; see `remoting_bus.checkpoint`."""
        if self._call.cancelled == "timed out" or (
            self._call.cancelled is None and self._late
        ):
            self.raised = CallTimeout("the deadline of this call has passed")
            raise self.raised
        if self._call.cancelled is not None:
            raise CallCancelled(f"the caller of this call: {self._call.cancelled}")

    def keep_streams(self) -> None:
        """Let the streams of this call live on when the function returns.

        They are the program's to close then.
        """
        self._call.keep_streams = True


CURRENT: ContextVar[CallContext | None] = ContextVar("remoting_bus.call", default=None)


def current() -> CallContext:
    """Return the context of the call that the running function answers.

    Raises:
        RuntimeError: No call is answered here.
    """
    context = CURRENT.get()
    if context is None:
        raise RuntimeError(
            "no call is answered here: current() works in a function that a peer "
            "called, and in what it calls"
        )
    return context


def current_or_none() -> CallContext | None:
    """Return the context of the call that is answered here, or None."""
    return CURRENT.get()


def checkpoint() -> None:
    """Raise if the call that is answered here was cancelled, or its deadline passed.

    For sync functions, which cannot be interrupted: call it in their loops. It costs
    next to nothing. Where no call is answered it does nothing, so that the function can
    be used locally.

    Raises:
        CallCancelled: The caller has gone.
        CallTimeout: The deadline has passed.
    """
    context = CURRENT.get()
    if context is not None:
        context.checkpoint()
