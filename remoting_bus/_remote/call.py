"""A call that is held: `start` and the `Call` it gives.

Owns what its holder sees, and what leaving means. It must not know how a call is sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

import anyio

from remoting_bus.errors import CallCancelled, LocalProtocolError
from remoting_bus.protocol.calls import OutcomeKind, OutgoingCall

from .context import Progress
from .ending import error_of, release_result, value_of
from .targets import Target

if TYPE_CHECKING:
    from remoting_bus.channel.link import Link

__all__ = ["Call", "CallState", "Starting"]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

CallState = Literal[
    "running", "returned", "raised", "cancelled", "timed out", "refused", "lost"
]


class Call(Generic[R_co]):
    """A call under way at a peer. Its methods may be used by several tasks."""

    def __init__(self, target: Target, link: Link, call: OutgoingCall) -> None:
        self._target = target
        self._link = link
        self._call = call
        self._changed: anyio.Event | None = None
        self._asked = False  # its holder knows, or will, how it ended
        self._value: R_co | None = None
        self._error: Exception | None = None
        self._decided = False
        call.wake = self._wake

    def __repr__(self) -> str:
        return f"<Call {self._target.name} on {self._link.peer!r}: {self.state}>"

    def _wake(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()

    async def _wait(self) -> None:
        """Wait until something is new; look before, as what was set is not kept."""
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    @property
    def state(self) -> CallState:
        """How it stands: "running", or how it ended."""
        outcome = self._call.outcome
        return "running" if outcome is None else outcome.kind.value

    @property
    def progress(self) -> AsyncIterator[Progress]:
        """What the function reports, until the call ends; the newest if we are slow."""
        return _Reports(self)

    async def result(self) -> R_co:
        """Wait for the end, and return the result or raise what went wrong.

        Cancelling the wait does not cancel the call; leaving its block does.
        """
        while self._call.outcome is None:
            await self._wait()
        self._asked = True
        self._decide()
        if self._error is not None:
            raise self._error
        return cast(R_co, self._value)

    def cancel(self) -> None:
        """Stop the call, without waiting. `result` then raises CallCancelled.

        That comes once the far side has said what became of the work; it may have been
        done, and then `result` is the result.
        """
        self._asked = True
        self._link.cancel(self._call)

    def _decide(self) -> None:
        outcome = self._call.outcome
        if self._decided or outcome is None:
            return
        self._decided = True
        if outcome.kind is OutcomeKind.RETURNED:
            try:
                self._value = value_of(outcome, self._target)
            except Exception as error:  # noqa: BLE001 - raised to whoever asks
                self._error = error
        else:
            self._error = error_of(outcome, self._target, self._link.peer)

    def _left(self, failed: bool) -> None:
        """Its block is left: see `Caller.start`."""
        outcome = self._call.outcome
        if outcome is None:
            self._asked = True
            self._link.forget(self._call)
            return
        if self._asked:
            return
        if outcome.kind is OutcomeKind.RETURNED:
            release_result(outcome)
            self._decided = True
            self._error = CallCancelled("the block of this call was left")
        elif not failed:
            self._decide()
            assert self._error is not None
            raise self._error


class _Reports:
    """An iterator, not a generator: one that is left early needs no closing."""

    def __init__(self, call: Call[Any]) -> None:
        self._call = call
        self._seen: Any = None

    def __aiter__(self) -> _Reports:
        return self

    async def __anext__(self) -> Progress:
        call, outgoing = self._call, self._call._call
        while True:
            report, ended = outgoing.progress, outgoing.outcome is not None
            if report is not None and report is not self._seen:
                self._seen = report
                made = _progress(report)
                if made is not None:
                    return made
            elif ended:
                raise StopAsyncIteration
            else:
                await call._wait()


def _progress(report: Any) -> Progress | None:
    """Return a report as it came from a peer; None if it is none."""
    if type(report) is not list or len(report) != 3:
        return None
    done, total, message = report
    if not isinstance(done, int | float) or not isinstance(total, int | float | None):
        return None
    return Progress(done, total, str(message))


class Starting(Generic[R]):
    """What `start` returns: entered once, it gives the `Call`."""

    def __init__(
        self,
        target: Target,
        begin: Callable[[], Awaitable[tuple[Link, OutgoingCall]]],
    ) -> None:
        self._target = target
        self._begin = begin
        self._call: Call[R] | None = None

    async def __aenter__(self) -> Call[R]:
        if self._call is not None:
            raise LocalProtocolError("a call is started once; call start() again")
        link, outgoing = await self._begin()
        self._call = Call(self._target, link, outgoing)
        return self._call

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._call is not None
        self._call._left(exc is not None)
