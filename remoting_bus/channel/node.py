"""A `Node`: one address on a bus, which accepts and opens links.

Owns the endpoint with its I/O, the links, and the pool that runs the peers' calls. It
must not know what a call means, nor what a program is for. Next: `link`, `pool`,
`protocol/endpoint`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.lowlevel

from remoting_bus import observe
from remoting_bus._loop import Supervisor, Tasks, WorkerThreads, clock, current_loop
from remoting_bus.errors import (
    CallTimeout,
    ChannelBroken,
    ChannelClosed,
    LocalProtocolError,
)
from remoting_bus.names import Address, Lane, check_name
from remoting_bus.protocol.calls import IncomingCall
from remoting_bus.protocol.endpoint import (
    MASTERS,
    Accepted,
    Endpoint,
    FencedOut,
    Found,
    Settings,
)
from remoting_bus.protocol.envelope import read_session
from remoting_bus.protocol.session import Session
from remoting_bus.protocol.terms import Phase, PhaseChanged, Terms

from .greeter import EndpointHalf
from .link import CLOSE_WAIT, Link
from .pair import CALL_LANES, CALL_PREFETCH, Pair
from .pool import Pool
from .port import BulkPort, Port, new_tag

__all__ = ["FencedOut", "Found", "Node"]

LOOKUP_TIMEOUT = 1.0
"""Seconds that a lookup waits for the first answer, where nothing else is said."""

LOOKUP_MORE = 0.1
"""Seconds that it waits for further masters after the first."""

LAST_WORD = 0.2
"""Seconds that refusals have to be handed to the bus, where it takes nothing just now."""

_logger = logging.getLogger("remoting_bus")

Serve = Callable[[Link, IncomingCall], Awaitable[None]]
Watcher = Callable[[Link, PhaseChanged], None]


class Node:
    """One address. Entered and left, from any task of the bus's loop.

    Args:
        pair: The open bus.
        name: The address; every peer calls this node so.
        namespace: The fleet.
        incarnation: 16 random bytes, per start of the program; made if None.
        info: What it says of itself in handshakes.
        serve: Runs a peer's call and answers it, in a task of its own; see `Pool`.
        workers: Calls in execution at once.
        waiting: Calls that may wait for that; past it they are refused as overloaded.
        grace: Seconds that a session without a link is kept.
        heartbeat: Seconds of silence after which a peer is asked.
        idle: Seconds without use after which a link that this node opened ends; None:
            never. A link is used by calls, streams, exports, and who says `Link.keep`.
        max_message: Bytes of one call or result.
        answers_lookup: What lookups are answered with; None where it answers none.
        carried: Tells by a function's name whether its streams live at the bulk side.

    Attributes:
        links: The current link of each peer, by name.
        fenced: Who fenced this node, and what the newcomer said of itself.
        draining: New calls are refused.
    """

    pool: Pool[Link]
    bulk: BulkPort

    def __init__(
        self,
        pair: Pair,
        name: str,
        *,
        serve: Serve,
        namespace: str = "default",
        incarnation: bytes | None = None,
        info: Mapping[str, Any] | None = None,
        workers: int = 64,
        waiting: int = 1000,
        grace: float = 300.0,
        heartbeat: float = 5.0,
        idle: float | None = None,
        max_message: int = 16 * 1024 * 1024,
        answers_lookup: Mapping[str, Any] | None = None,
        carried: Callable[[str], bool] = lambda name: False,
    ) -> None:
        self.pair = pair
        self.name = check_name(name)
        self.address = Address(check_name(namespace, "namespace"), name, name)
        self.links: dict[str, Link] = {}
        self.fenced: FencedOut | None = None
        self.draining = False
        self.loop = current_loop()
        self._incarnation = incarnation or os.urandom(16)
        self._info = dict(info or {})
        self._serve = serve
        self._limits = (workers, waiting)
        self._terms = (max_message, grace, heartbeat)
        self._idle = idle
        self._answers = None if answers_lookup is None else dict(answers_lookup)
        self._carried = carried
        self._tag = new_tag()
        self._owner: Supervisor[None] | None = None
        self._open = False
        self._of: dict[int, Link] = {}  # by the identity of its session, until over
        self._unsettled: dict[Link, None] = {}  # opening or closing
        self._found: list[Found] = []
        self._looking = 0
        self._changed = anyio.Event()
        self._watchers: list[Watcher] = []
        self.on_released: Callable[[Link, list[int]], None] | None = None

    def __repr__(self) -> str:
        return f"<Node {self.name}>"

    # -- life --

    async def __aenter__(self) -> Self:
        """Read at the address from now on.

        Raises:
            ChannelBroken: The bus broke, or is closed.
        """
        if self._owner is not None:
            raise LocalProtocolError(f"{self!r} was entered before; make another one")
        self.pair.check()
        self._owner = Supervisor(self._life, f"node {self.name}")
        await self._owner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Say goodbye to every peer, and stop what runs."""
        if self._owner is None:
            return
        try:
            await self._owner.__aexit__(exc_type, exc, traceback)
        except ChannelBroken:
            if isinstance(self.pair.broken, ChannelBroken):
                raise self.pair.broken from None  # the cause, not its consequence
            raise

    async def aclose(self) -> None:
        """Leave; the same as the end of its `async with`."""
        await self.__aexit__(None, None, None)

    @asynccontextmanager
    async def _life(self, tasks: Tasks) -> AsyncGenerator[None, None]:
        pair, address = self.pair, self.address
        workers, waiting = self._limits
        self.pool = Pool(tasks, self._serve, workers=workers, waiting=waiting)
        self.endpoint = Endpoint(self._settings())
        half = EndpointHalf(self.endpoint, self._tag, address, self.endpoint_ticked)
        self._entry = half.entry
        self._port = Port(pair.line, self._tag, self._take_other)
        tasks.on_crash = self._broken
        async with AsyncExitStack() as stack:
            stack.callback(pair.watch(self._broken))
            self.bulk = await stack.enter_async_context(
                pair.bulk_port(self._tag, address)
            )
            pair.line.add(self._entry)
            stack.callback(pair.line.drop, self._entry)
            await stack.enter_async_context(self._read(address, CALL_LANES))
            if self._answers is not None:
                everyone = Address(address.namespace, MASTERS)
                await stack.enter_async_context(self._read(everyone, (Lane.CONTROL,)))
            self._open = True
            try:
                yield
            finally:
                self._open = False
                await self._leave()

    def _read(self, address: Address, lanes: tuple[Lane, ...]) -> Any:
        bus: Any = self.pair
        return bus.consume(
            address, lanes, prefetch=CALL_PREFETCH, deliver=self._port.deliver
        )

    def _settings(self) -> Settings:
        max_message, grace, heartbeat = self._terms
        return Settings(
            name=self.name,
            incarnation=self._incarnation,
            terms=Terms(
                max_envelope=self.pair.limits.max_bytes,
                max_message=max_message,
                grace=grace,
                heartbeat=heartbeat,
            ),
            info=self._info,
            random=os.urandom,
            new_token=self.pair.new_token,
            answers=self._answers,
            idle=self._idle,
            is_carried=self._carried,
        )

    async def _leave(self) -> None:
        """Say goodbye to all, and wait until they have heard it, or for six seconds."""
        links = list(self._of.values())
        for link in links:
            link.close("it was closed")
        self.endpoint.leave(clock())
        self.pair.line.touch_now(self._entry)
        with anyio.move_on_after(CLOSE_WAIT, shield=True):
            for link in links:
                await link.wait_over()
        with anyio.move_on_after(LAST_WORD, shield=True):
            while self.endpoint.unsaid and self.pair.line.up:
                await anyio.lowlevel.checkpoint()
        for link in list(self._of.values()):
            link.end(ChannelClosed("the node was closed"))
            self.pair.line.drop(link.entry)

    def _broken(self, cause: BaseException) -> None:
        """The bus is gone, or this node: every call ends here and now."""
        if not isinstance(cause, ChannelBroken | ChannelClosed):
            broken = ChannelBroken(f"the bus broke: {cause}")
            broken.__cause__ = cause
            cause = broken
        for link in list(self._of.values()):
            link.end(cause)
            if self.pair.broken is not None:
                link.session.over = True  # its last word reaches nobody
                link.has_ended()
        self._change()

    @property
    def threads(self) -> WorkerThreads:
        """For blocking functions."""
        return self.pair.threads

    # -- links --

    async def connect(
        self,
        peer: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - it raises an error of ours
    ) -> Link:
        """Return the link with a peer, opening one where there is none.

        Raises:
            CallTimeout: Nobody of that name has answered within `timeout` seconds.
            CallRefused: The peer said no; the message says why.
            ChannelBroken: The bus broke meanwhile.
            ChannelClosed: This node is not entered, or was left.

        Cancelling leaves nothing behind, unless others wait for the same peer.
        """
        check_name(peer, "peer name")
        if not self._open:
            raise ChannelClosed(f"{self!r} is not open: use it inside `async with`")
        self.pair.check()
        with anyio.move_on_after(timeout):
            while True:
                link = await self._connected(peer)
                if not link.parting:
                    return link
                await link.wait_parted()  # for want of use: then it is opened anew
        raise CallTimeout(
            f"{peer!r} did not answer within {timeout:g} s: it is not there, or not "
            f"in namespace {self.address.namespace!r}",
            executed="no",
        )

    async def _connected(self, peer: str) -> Link:
        link = self._link_of(self.endpoint.connect(peer, clock()))
        self.pair.line.touch_now(self._entry)
        link.waiters += 1
        try:
            await link.wait_open()
        finally:
            link.waiters -= 1
            if not link.waiters and link.phase is Phase.OPENING:
                self._abandon(link, f"nobody waits for {peer!r} any more")
        return link

    def _abandon(self, link: Link, why: str) -> None:
        if not len(link.session.calling):
            self.endpoint.abandon(link.session, ChannelBroken(why), clock())
            link.touch()

    def _link_of(self, session: Session) -> Link:
        link = self._of.get(id(session))
        if link is None:
            link = Link(self, session, self._tag + session.id)
            self._of[id(session)] = link
            self._unsettled[link] = None
            if session.phase is not Phase.OPENING:
                self._make_current(link)  # before its first events are told
            self.pair.line.add(link.entry)
        return link

    def watch_links(self, callback: Watcher) -> Callable[[], None]:
        """Call `callback` with each change of a link's phase; returns what undoes it."""
        self._watchers.append(callback)
        return lambda: self._watchers.remove(callback)

    async def look_up(
        self,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - its end is no error
    ) -> list[Found]:
        """Ask the namespace who its masters are.

        Returns:
            Those that answered within a tenth of a second of the first; empty if
            nobody did within `timeout` seconds (one, by default). Ask again then: a
            question may be lost.
        """
        if not self._open:
            raise ChannelClosed(f"{self!r} is not open: use it inside `async with`")
        self.pair.check()
        if not self._looking:
            self._found = []
        self._looking += 1
        try:
            self.endpoint.look_up()
            self.pair.line.touch_now(self._entry)
            limit = LOOKUP_TIMEOUT if timeout is None else timeout
            with anyio.move_on_after(limit):
                while not self._found:
                    await self._changed.wait()
                await anyio.sleep(LOOKUP_MORE)
            return list({found.name: found for found in self._found}.values())
        finally:
            self._looking -= 1

    async def wait_fenced(self) -> FencedOut:
        """Wait until another program has taken this node's name."""
        while self.fenced is None:
            await self._changed.wait()
        return self.fenced

    async def drain(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - its end is no error
    ) -> bool:
        """Refuse new calls, and wait until those that came have ended.

        Returns:
            False if some still run after `timeout` seconds.
        """
        self.draining = True
        for link in self._of.values():
            link.drain()
        with anyio.move_on_after(timeout):
            await self.pool.wait_idle()
            return True
        return False

    # -- for the endpoint --

    def _take_other(self, body: bytes, now: float) -> None:
        """A message of no session here."""
        self.endpoint.receive(body, now)
        self._settle()
        link = self._of_route(read_session(body))
        if link is not None:
            link.touch()
        self.pair.line.touch(self._entry)

    def _of_route(self, session: bytes) -> Link | None:
        entry = self._port.routes.get(session)
        half: Any = None if entry is None else entry.half
        return None if half is None else self._of.get(id(half))

    def _settle(self) -> None:
        """The endpoint may have changed sessions that are opening or closing."""
        for event in self.take_endpoint_events():
            if isinstance(event, Accepted):
                self._accepted(event.session)
            elif isinstance(event, FencedOut):
                self.fenced = event
                _logger.warning("%s: %s has taken this name", self.name, event.by)
                observe.tell(observe.NameTaken(self.name, event.peer))
                old = self.links.get(event.peer)
                if old is not None:
                    old.touch()
                self._change()
            else:
                self._found.append(event)
                self._change()
        for link in list(self._unsettled):
            if link.session.events or link.session.over:
                link.touch()

    def take_endpoint_events(self) -> list[Any]:
        """Take what happened at the endpoint."""
        events: list[Any] = self.endpoint.events
        self.endpoint.events = []
        return events

    def _accepted(self, session: Session) -> None:
        """A session is open."""
        old = self.links.get(session.peer)
        known = self._of.get(id(session))
        if known is not None:
            self._make_current(known)
        link = known or self._link_of(session)
        if self.draining:
            link.drain()
        link.touch()
        if old is not None and old is not link:
            old.touch()

    def _make_current(self, link: Link) -> None:
        """Envelopes of its session's id go to it from now on."""
        session = link.session
        self.links[session.peer] = link
        self._port.routes[session.id] = link.entry
        self.pair.line.rename(link.entry, self._tag + session.id)

    def endpoint_ticked(self) -> None:
        """Time has passed at the endpoint."""
        self._settle()

    # -- for the links --

    def phase_changed(self, link: Link, change: PhaseChanged) -> None:
        """The phase of a link has changed."""
        if change.phase in (Phase.OPENING, Phase.CLOSING):
            self._unsettled[link] = None
        else:
            self._unsettled.pop(link, None)
        if change.phase is Phase.OVER and self.links.get(link.peer) is link:
            del self.links[link.peer]
        if observe.observed():
            self._tell(link, change)
        for watcher in list(self._watchers):
            watcher(link, change)

    def _tell(self, link: Link, change: PhaseChanged) -> None:
        reason = change.reason or str(change.cause or "")
        observe.tell(
            observe.LinkChanged(
                local=self.name,
                peer=link.peer,
                session=link.session_id.hex(),
                phase=change.phase.value,
                kind=change.kind,
                reason=reason,
            )
        )

    def references_released(self, link: Link, references: list[int]) -> None:
        """The peer of a link can use these objects of ours no more."""
        if self.on_released is not None:
            self.on_released(link, references)

    def link_over(self, link: Link) -> None:
        """A link's session has said its last word."""
        session = link.session
        self._of.pop(id(session), None)
        self._unsettled.pop(link, None)
        if self._port.routes.get(session.id) is link.entry:
            del self._port.routes[session.id]
        self.endpoint.forget(session)

    def _change(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def statistics(self) -> dict[str, Any]:
        """Return counts and sizes, for people and tests."""
        return {
            "links": len(self._of),
            "calls_running": self.pool.running,
            "calls_waiting": self.pool.waiting,
            "calls_lingering": len(self.pool.lingering),
            "workers": self.pool.workers,
            "dropped": self.endpoint.dropped,
        }
