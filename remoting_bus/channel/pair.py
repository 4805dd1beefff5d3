"""A `Pair`: an open bus, with a connection for calls and one for bulk.

Owns both connections, their lines and what crosses between them. CONTROL and CALL live
on the caller's loop; BULK and LOG on an I/O thread with a loop of its own, or on the
same loop: that is this module's only question. It also is a plain `Bus` (the connection
of calls). It must not know sessions or streams. Next: `line`, `node`.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Literal, TypeVar

import anyio
import anyio.to_thread

from remoting_bus import observe
from remoting_bus._loop import (
    Crossing,
    Errand,
    IoThread,
    Supervisor,
    Tasks,
    WorkerThreads,
    current_loop,
)
from remoting_bus.bus.backend import Backend, Bus, BusLimits, Deliver, LinkEvent
from remoting_bus.bus.log import LogReader, LogStart
from remoting_bus.bus.opening import backend_for, normalise, split_option
from remoting_bus.errors import (
    ChannelBroken,
    ChannelClosed,
    ConnectionFailed,
    LocalProtocolError,
)
from remoting_bus.names import Address, Lane, LogName, check_timeout
from remoting_bus.protocol.crossing import Batch

from .entry import Entry
from .line import Line
from .logs import AcrossLoops
from .port import TAG_BYTES, BulkPort

__all__ = ["BULK_LANES", "CALL_LANES", "Pair", "open_bus"]

CALL_LANES = (Lane.CONTROL, Lane.CALL)
BULK_LANES = (Lane.BULK, Lane.LOG)

CALL_PREFETCH = 256
BULK_PREFETCH = 64
"""Messages that a broker may send ahead: a few windows' worth of envelopes."""

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 10.0
"""Seconds between attempts to reach a bus, doubled each time, with jitter."""

_logger = logging.getLogger("remoting_bus")

T = TypeVar("T")


class _Bulk:
    """The side of BULK and LOG; all but `ports`' making on its own loop."""

    def __init__(self, tasks: Tasks, bus: Bus, line: Line) -> None:
        self.tasks = tasks
        self.bus = bus
        self.line = line
        self.ports: dict[bytes, BulkPort] = {}
        line.unknown = self._unknown

    def _unknown(self, key: bytes, batch: Batch) -> Entry | None:
        port = self.ports.get(key[:TAG_BYTES])
        return None if port is None else port.opened(key, batch)

    @asynccontextmanager
    async def port(
        self, tag: bytes, address: Address
    ) -> AsyncGenerator[BulkPort, None]:
        """Read at an address while entered; on this side's loop."""
        port = BulkPort(self.line, tag, address)
        self.ports[tag] = port
        try:
            async with self.bus.consume(
                address, BULK_LANES, prefetch=BULK_PREFETCH, deliver=port.deliver
            ):
                yield port
        finally:
            del self.ports[tag]
            port.close()


class Pair(Bus):
    """An open bus. Made by `open_bus`; belongs to the loop that opened it.

    Attributes:
        limits: Of the connection of calls, `max_bytes` of the smaller one.
        loops: How many it lives on.
        broken: What ended it, if something did.
        threads: For blocking functions.
    """

    threads: WorkerThreads
    line: Line

    def __init__(self, backend: Backend, url: str, loops: int | None) -> None:
        self._backend = backend
        self._url = url
        self._wanted = loops
        self._loop = current_loop()
        self._tokens = itertools.count(1)
        self._watchers: list[Callable[[BaseException], None]] = []
        self._up: Crossing[Batch] = Crossing(self._wake_calls)
        self._down: Crossing[Batch] = Crossing(self._wake_bulk)
        self._tasks: Tasks | None = None
        self._bus: Bus | None = None
        self._bulk: _Bulk | None = None
        self.loops = 1
        self.broken: BaseException | None = None
        self.last_failure: ConnectionFailed | None = None

    # -- life --

    @asynccontextmanager
    async def life(self, tasks: Tasks) -> AsyncGenerator[Pair, None]:
        """Both connections, from open to closed."""
        self._tasks = tasks
        tasks.on_crash = self._break
        async with AsyncExitStack() as stack:
            bus = await stack.enter_async_context(self._connected())
            self.loops = self._how_many_loops(bus.limits)
            self.line = Line(
                tasks, bus, inbound=self._up, outbound=self._down, one_each=True
            )
            self._bus = bus
            stack.callback(self.line.close)
            self.threads = WorkerThreads(tasks)
            stack.callback(self.threads.close)
            bulk: AbstractAsyncContextManager[_Bulk]
            if self.loops == 2:
                bulk = IoThread(
                    self._bulk_life, "remoting_bus I/O", on_end=self._bulk_ended
                )
            else:
                bulk = self._bulk_life(tasks)
            self._bulk = await stack.enter_async_context(bulk)
            smaller = min(bus.limits.max_bytes, self._bulk.bus.limits.max_bytes)
            self.limits = replace(bus.limits, max_bytes=smaller)
            tasks.start_soon(
                _watch_link, bus, self.line, tasks, "calls", name="link of calls"
            )
            try:
                yield self
            finally:
                self._break(ChannelClosed("the bus was closed"))

    def _how_many_loops(self, limits: BusLimits) -> int:
        one = self._loop.kind == "trio" or limits.one_loop
        if self._wanted == 2 and one:
            why = "trio runs" if self._loop.kind == "trio" else "this bus has one loop"
            raise ValueError(f"loops=2 is not possible here: {why}. Leave it out")
        return self._wanted or (1 if one else 2)

    @asynccontextmanager
    async def _bulk_life(self, tasks: Tasks) -> AsyncGenerator[_Bulk, None]:
        """The connection of BULK and LOG, on whichever loop this runs."""
        async with AsyncExitStack() as stack:
            assert self._bus is not None
            bus = self._bus
            if not bus.limits.one_loop:
                bus = await stack.enter_async_context(self._connected())
            line = Line(
                tasks, bus, inbound=self._down, outbound=self._up, one_each=False
            )
            stack.callback(line.close)
            bulk = _Bulk(tasks, bus, line)
            # What crosses before this has been put by nobody: no node is entered yet.
            self._bulk = bulk
            tasks.start_soon(_watch_link, bus, line, tasks, "bulk", name="link of bulk")
            yield bulk

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[Bus, None]:
        """Open one connection; tries again for ever, unless that is of no use."""
        pause = _FIRST_PAUSE
        while True:
            async with AsyncExitStack() as stack:
                try:
                    opening = self._backend.open(self._url)
                    bus = await stack.enter_async_context(opening)
                except ConnectionFailed as error:
                    if error.final:
                        raise
                    self.last_failure = error
                    _logger.warning("%s; trying again in about %.1f s", error, pause)
                else:
                    yield bus
                    return
            await anyio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _bulk_ended(self, error: BaseException | None) -> None:
        """The I/O thread has said its last word."""
        if self.broken is None:
            broken = ChannelBroken(f"the I/O thread has ended: {error or 'unasked'}")
            broken.__cause__ = error
            self._break(broken)

    def ended(self, error: BaseException | None) -> None:
        """Its last task has ended."""
        self._break(error or ChannelClosed("the bus was closed"))

    def _break(self, cause: BaseException) -> None:
        """It is over: tell every node, once."""
        if self.broken is not None:
            return
        self.broken = cause
        self._down.close(cause)
        self._up.close(cause)
        for watcher in list(self._watchers):
            watcher(cause)

    def _wake_calls(self) -> None:
        """Something stands for the line of calls; from any thread."""
        if self._bus is None:
            return  # it ended before it was open
        if self.loops == 2:
            self._loop.post(self.line.crossed)
        else:
            self.line.crossed()

    def _wake_bulk(self) -> None:
        bulk = self._bulk
        if bulk is None:
            return
        if self.loops == 2:
            bulk.tasks.loop.post(bulk.line.crossed)
        else:
            bulk.line.crossed()

    # -- for nodes --

    def check(self) -> None:
        """Raise unless it can be used, here and now.

        Raises:
            ChannelClosed: It was closed.
            ChannelBroken: It broke; the cause says why.
            LocalProtocolError: Another loop runs than the one that opened it.
        """
        if self.broken is not None:
            if isinstance(self.broken, ChannelClosed):
                raise ChannelClosed("the bus was closed")
            raise ChannelBroken(f"the bus broke: {self.broken}") from self.broken
        if not self._loop.here:
            raise LocalProtocolError(
                "a bus belongs to the event loop that opened it; open another one here"
            )

    def new_token(self) -> int:
        """Return the name of a stream that lives at the bulk side, never used again."""
        return next(self._tokens)

    def watch(self, callback: Callable[[BaseException], None]) -> Callable[[], None]:
        """Call `callback` when it breaks or is closed; returns what undoes this."""
        self._watchers.append(callback)
        return lambda: self._watchers.remove(callback)

    def bulk_port(
        self, tag: bytes, address: Address
    ) -> AbstractAsyncContextManager[BulkPort]:
        """Read BULK and LOG at an address, on the bulk side's loop."""
        bulk = self._bulk
        assert bulk is not None
        if self.loops == 1:
            return bulk.port(tag, address)
        return Errand(
            bulk.tasks, lambda tasks: bulk.port(tag, address), f"port of {address.name}"
        )

    def on_bulk_side(
        self, life: Callable[[Tasks], AbstractAsyncContextManager[T]], name: str
    ) -> AbstractAsyncContextManager[T]:
        """Run a life in a task of its own on the bulk side's loop."""
        assert self._bulk is not None
        if self.loops == 1:
            return Supervisor(life, name)
        return Errand(self._bulk.tasks, life, name)

    def statistics(self) -> dict[str, dict[str, int]]:
        """Return counts of both connections."""
        lines = {"calls": self.line.statistics()}
        if self._bulk is not None:
            lines["bulk"] = self._bulk.line.statistics()
        return lines

    @property
    def urls(self) -> list[str]:
        """Where other programs find this bus: its URL, or what an own broker says."""
        own: list[str] | None = getattr(self._bus, "urls", None)
        return list(own) if own else [self._url]

    # -- as a plain bus --

    async def publish(
        self,
        to: Address,
        lane: Lane,
        body: bytes,
        *,
        expires_in: float | None = None,
    ) -> None:
        """Publish on the connection of calls; see `Bus.publish`."""
        await self._plain().publish(to, lane, body, expires_in=expires_in)

    def try_publish(
        self,
        to: Address,
        lane: Lane,
        body: bytes,
        *,
        expires_in: float | None = None,
    ) -> bool:
        """Publish on the connection of calls; see `Bus.try_publish`."""
        return self._plain().try_publish(to, lane, body, expires_in=expires_in)

    def consume(
        self,
        at: Address,
        lanes: Collection[Lane],
        *,
        prefetch: int,
        deliver: Deliver,
    ) -> AbstractAsyncContextManager[None]:
        """Read on the connection of calls; see `Bus.consume`."""
        return self._plain().consume(at, lanes, prefetch=prefetch, deliver=deliver)

    def link_events(self) -> AbstractAsyncContextManager[AsyncIterator[LinkEvent]]:
        """Return the states of the connection of calls."""
        return self._plain().link_events()

    async def append(self, log: LogName, key: str, body: bytes) -> None:
        """Append on the connection of bulk; see `Bus.append`."""
        await self._log_side().append(log, key, body)

    def read(
        self, log: LogName, start: LogStart
    ) -> AbstractAsyncContextManager[LogReader]:
        """Read a log on the connection of bulk; see `Bus.read`."""
        return self._log_side().read(log, start)

    async def delete_log(self, log: LogName) -> None:
        """Delete a log; see `Bus.delete_log`."""
        await self._log_side().delete_log(log)

    def _log_side(self) -> Bus | AcrossLoops:
        self.check()
        bulk = self._bulk
        assert bulk is not None
        if self.loops == 1:
            return bulk.bus
        return AcrossLoops(self._loop, bulk.tasks, bulk.bus, self.watch)

    def _plain(self) -> Bus:
        self.check()
        assert self._bus is not None
        return self._bus


async def _watch_link(
    bus: Bus, line: Line, tasks: Tasks, side: Literal["calls", "bulk"]
) -> None:
    """Tell a line what becomes of its connection."""
    async with bus.link_events() as events:
        async for event in events:
            if observe.observed():
                observe.tell(observe.BusChanged(side, event.state, event.cause))
            match event.state:
                case "up":
                    _logger.info("bus: up: %s", event.cause)
                case "failed":
                    error = ChannelBroken(f"the bus is gone for good: {event.cause}")
                    error.__cause__ = event.error
                    tasks.crash(error)
                    return
                case "down" | "blocked" | "lost" | "note":
                    _logger.warning("bus: %s: %s", event.state, event.cause)
            if event.state not in ("lost", "note"):
                line.link_changed(event)


class _OpenBus(AbstractAsyncContextManager[Pair]):
    """See `open_bus`."""

    def __init__(self, url: str, loops: int | None, timeout: float | None) -> None:
        self._url = url
        self._loops = loops
        self._timeout = timeout
        self._owner: Supervisor[Pair] | None = None

    async def __aenter__(self) -> Pair:
        if self._owner is not None:
            raise LocalProtocolError("a bus is opened once; call open_bus() again")
        # It reads files of the environment, and imports the driver.
        backend = await anyio.to_thread.run_sync(backend_for, self._url)
        pair = Pair(backend, self._url, self._loops)
        owner = self._owner = Supervisor(pair.life, "the bus", pair.ended)
        if self._timeout is None:
            return await owner.__aenter__()
        with anyio.move_on_after(self._timeout):
            return await owner.__aenter__()
        raise ConnectionFailed(
            f"the bus could not be reached within {self._timeout:g} s"
            + (f": {pair.last_failure}" if pair.last_failure else "")
        ) from pair.last_failure

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._owner is not None
        await self._owner.__aexit__(exc_type, exc, traceback)


def open_bus(
    url: str | Sequence[str], *, timeout: float | None = None
) -> AbstractAsyncContextManager[Pair]:
    """Open a bus; an async context manager, to be entered once, from any task.

    A bus that cannot be reached is tried again for ever, with growing pauses and a
    warning each time in the log `remoting_bus`.

    Args:
        url: Of one broker; a sequence names several hosts of it. The option `loops=1`
            keeps everything on the caller's event loop, `loops=2` has bulk data on a
            thread of its own, which is the default where the broker allows it.
        timeout: Seconds; give up after that.

    Raises:
        ValueError: The URL is not understood, or no driver has its scheme.
        ConnectionFailed: On entering: the credentials were refused, the driver is not
            installed, or it was not reached within `timeout`.
    """
    plain, loops = split_option(normalise(url), "loops")
    if loops not in (None, "1", "2"):
        raise ValueError(f"loops must be 1 or 2, not {loops!r}")
    return _OpenBus(
        plain, None if loops is None else int(loops), check_timeout(timeout)
    )
