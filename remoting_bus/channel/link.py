"""A `Link`: one session with its I/O.

Owns nothing but the way between a session and its line: each act of a program is given
the time and makes the line look; each event of the session reaches the node. It must not
know what calls mean. Next: `protocol/session`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from remoting_bus._loop import Tasks, clock
from remoting_bus.names import Address
from remoting_bus.protocol.calls import (
    IncomingCall,
    Outcome,
    OutgoingCall,
    RefusalCode,
)
from remoting_bus.protocol.ends import Carried, StreamEnd
from remoting_bus.protocol.session import Session
from remoting_bus.protocol.terms import Phase, PhaseChanged, Released, Stays

from .entry import Entry
from .freights import run_job
from .streams import ReceiveStream, SendStream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from .node import Node

__all__ = ["Link"]

R = TypeVar("R")

CLOSE_WAIT = 6.0
"""Seconds that `aclose` waits at most: the session itself ends after five (law 9)."""


class Link:
    """A session with a peer. Made by `Node`.

    Attributes:
        node: Where it belongs.
        session: The state.
    """

    __slots__ = (
        "_changed",
        "_line",
        "_loop",
        "entry",
        "node",
        "session",
        "waiters",
    )

    def __init__(self, node: Node, session: Session, key: bytes) -> None:
        self.node = node
        self.session = session
        self._line = node.pair.line
        self._loop = node.loop
        self._changed: anyio.Event | None = None
        self.waiters = 0  # for it to open
        address = node.address
        self.entry = Entry(
            session,
            key,
            Address(address.namespace, session.peer, address.name),
            self.take_events,
            self.has_ended,
        )
        session.streams.touched = self.touch

    def __repr__(self) -> str:
        return f"<Link {self.node.name} to {self.peer}: {self.phase.value}>"

    @property
    def peer(self) -> str:
        """The peer's name."""
        return self.session.peer

    @property
    def info(self) -> dict[str, Any]:
        """What the peer said of itself; empty until it is open."""
        return self.session.peer_info

    @property
    def phase(self) -> Phase:
        """Where the session stands."""
        return self.session.phase

    @property
    def session_id(self) -> bytes:
        """The session's id."""
        return self.session.id

    @property
    def cause(self) -> BaseException | None:
        """What ended it."""
        return self.session.cause

    # -- our calls --

    def start(self, call: OutgoingCall) -> None:
        """Start a call; it goes out in this turn of the loop, or in the next.

        Raises:
            LimitExceeded: Its arguments are larger than `max_message`.
            ChannelBroken: The session is over.
            ChannelClosed: This side is leaving.
        """
        self.session.start(call, clock())
        self._line.touch_now(self.entry)

    def cancel(self, call: OutgoingCall, message: str = "") -> None:
        """Stop a call; its outcome follows."""
        self.session.cancel(call, clock(), message)
        self._line.touch_now(self.entry)

    def forget(self, call: OutgoingCall, message: str = "") -> None:
        """Stop a call that nobody waits for any more; its outcome is set now."""
        self.session.forget(call, clock(), message)
        self._line.touch_now(self.entry)

    async def wait(self, call: OutgoingCall) -> Outcome:
        """Wait for a call's outcome; one task at a time.

        Cancelling the wait does not cancel the call.
        """
        if call.outcome is None:
            signal = self._loop.signal()
            call.wake = signal.set
            while call.outcome is None:
                await signal.wait()
        return call.outcome

    async def wait_progress(self, call: OutgoingCall) -> bool:
        """Wait until there is news of a call; one task at a time.

        Returns:
            True if `call.progress` is new; False if the call has ended.
        """
        if call.outcome is None:
            seen = call.progress
            signal = self._loop.signal()
            call.wake = signal.set
            while call.progress is seen:
                await signal.wait()
                if call.outcome is not None:
                    break
        return call.outcome is None

    def release(self, reference: int) -> None:
        """We use this object of the peer's no more."""
        self.session.release(reference, clock())
        self._line.touch(self.entry)

    # -- the peer's calls --

    def returned(
        self,
        call: IncomingCall,
        value: bytes,
        *,
        streams: Sequence[StreamEnd] = (),
        references: Sequence[int] = (),
    ) -> None:
        """Answer with a result, encoded; a second answer does nothing."""
        self.session.returned(
            call, value, clock(), streams=streams, references=references
        )
        self._line.touch_now(self.entry)

    def raised(
        self, call: IncomingCall, error: bytes, reason: str = "it raised"
    ) -> None:
        """Answer with an error, encoded; the call's streams are reset."""
        self.session.raised(call, error, clock(), reason)
        self._line.touch_now(self.entry)

    def refused(self, call: IncomingCall, code: RefusalCode, message: str) -> None:
        """Answer that it did not run."""
        self.session.refused(call, code, message, clock())
        self._line.touch(self.entry)

    def cancelled_done(
        self, call: IncomingCall, *, ran: bool, message: str = ""
    ) -> None:
        """Answer that it was stopped; `ran` says whether it had started."""
        self.session.cancelled_done(call, clock(), ran=ran, message=message)
        self._line.touch(self.entry)

    def progress(self, call: IncomingCall, value: bytes) -> None:
        """Report, encoded; conflated while there is no room."""
        self.session.progress(call, value, clock())
        self._line.touch(self.entry)

    # -- streams that live at the bulk side --

    def new_carried_token(self) -> int:
        """Return a token for a `Carried` end that is to be handed to the peer."""
        return self.node.pair.new_token()

    async def carry(
        self,
        end: Carried,
        job: Callable[..., Awaitable[R]],
        *,
        progress: Callable[[Any], None] | None = None,
    ) -> R:
        """Run a job on the bulk side's loop, with the stream attached there.

        Args:
            end: From `IncomingCall.streams`, or one handed over in a call of ours.
            job: Gets a `ReceiveStream` or `SendStream`. Where `progress` is given it
                gets a second argument, a function to report with.
            progress: Called on this loop with what was reported, the newest only.

        Returns:
            What the job returned; what it raised is raised, and resets the stream.

        Raises:
            ChannelBroken: The session ended before the stream began.

        Cancelling cancels the job, and waits until it has ended.
        """
        await self.wait_open()
        self._line.cross(self.entry)
        key = self.entry.key
        port = self.node.bulk
        report = _Reports(self, progress) if progress is not None else None
        result: list[R] = []

        async def work(stream: ReceiveStream | SendStream) -> R:
            if report is None:
                return await job(stream)
            return await job(stream, report.put)

        @asynccontextmanager
        async def life(tasks: Tasks) -> AsyncGenerator[None, None]:
            source = await port.jobs.claim(key, end.token)
            result.append(await run_job(source, work))
            yield

        with self.used():
            async with self.node.pair.on_bulk_side(life, f"job for {self.peer}"):
                pass
        return result[0]

    # -- life --

    async def wait_open(self) -> None:
        """Wait until the session is open, or was.

        Raises:
            RemotingError: It ended first; see `cause`.
        """
        while self.phase is Phase.OPENING:
            if self._changed is None:
                self._changed = anyio.Event()
            await self._changed.wait()
        if self.phase is Phase.OVER and self.cause is not None:
            raise self.cause

    @property
    def parting(self) -> bool:
        """It is about to end, or asks whether it may: new calls are to wait."""
        phase = self.phase
        return phase is Phase.CLOSING or (
            self.session.rest.asking and phase is not Phase.OVER
        )

    async def wait_parted(self) -> None:
        """Wait until it is over, or goes on after all."""
        while self.parting:
            if self._changed is None:
                self._changed = anyio.Event()
            await self._changed.wait()

    def keep(self) -> None:
        """Do not end it for want of use; see `let_go`."""
        self.session.rest.kept += 1

    def let_go(self) -> None:
        """Take a `keep` back."""
        self.session.rest.kept -= 1

    @contextmanager
    def used(self) -> Generator[None, None, None]:
        """Keep it for the length of a block."""
        self.keep()
        try:
            yield
        finally:
            self.let_go()

    async def wait_over(self) -> None:
        """Wait until the session is over and its last word was said."""
        while not self.session.over:
            if self._changed is None:
                self._changed = anyio.Event()
            await self._changed.wait()

    def close(self, reason: str = "closed") -> None:
        """Say goodbye, without waiting; calls that run are cancelled."""
        self.session.close(reason, clock())
        self._line.touch(self.entry)

    async def aclose(self, reason: str = "closed") -> None:
        """Say goodbye, and wait until the peer has heard it, five seconds at most."""
        self.close(reason)
        with anyio.move_on_after(CLOSE_WAIT):
            await self.wait_over()

    def end(self, cause: BaseException) -> None:
        """Be over, here and now."""
        self.session.end(cause, clock())
        self._line.touch(self.entry)

    def drain(self) -> None:
        """Take no new calls from now on; what runs goes on."""
        self.session.drain()

    def statistics(self) -> dict[str, Any]:
        """Return counts and sizes, for people and tests."""
        return self.session.statistics()

    # -- for the line --

    def touch(self) -> None:
        """Something outside the link changed the session."""
        self._line.touch(self.entry)

    def take_events(self) -> None:
        """Hand the session's events to the node."""
        session = self.session
        node = self.node
        while session.events:
            events, session.events = session.events, []
            for event in events:
                if type(event) is IncomingCall:
                    node.pool.submit(self, event)
                elif type(event) is PhaseChanged:
                    self._notify()
                    node.phase_changed(self, event)
                elif type(event) is Stays:
                    self._notify()
                else:
                    assert type(event) is Released
                    node.references_released(self, event.references)

    def has_ended(self) -> None:
        """The session has said its last word."""
        self._notify()
        self.node.link_over(self)

    def _notify(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()


class _Reports:
    """Progress from the bulk loop to this one: the newest counts."""

    def __init__(self, link: Link, callback: Callable[[Any], None]) -> None:
        self._loop = link.node.loop
        self._callback = callback
        self._value: list[Any] = []

    def put(self, value: Any) -> None:
        """Report; on the bulk loop."""
        waiting = self._value
        self._value = [value]
        if not waiting:
            self._loop.post(self._tell)

    def _tell(self) -> None:
        value, self._value = self._value, []
        if value:
            self._callback(value[-1])
