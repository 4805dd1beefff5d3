"""The driver: the bus contract on NATS, core subjects or JetStream mailboxes.

What is published goes from the caller's own turn into the socket, and what arrives goes
from the socket's reader to `deliver`, with no queue or task between. `link` keeps the
connection, `topology` knows the names, `mailbox` the streams.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager

from nats import errors as nats_errors
from nats.aio.subscription import Subscription
from nats.protocol.command import pub_cmd

from remoting_bus.bus.backend import Backend, Bus, BusLimits, Deliver, LinkEvent
from remoting_bus.errors import ChannelBroken, LimitExceeded, SecurityError
from remoting_bus.names import Address, Lane
from remoting_bus_nats import topology
from remoting_bus_nats.link import Connection, Link
from remoting_bus_nats.settings import Settings, parse

__all__ = ["NatsBackend", "NatsBus"]

SUBJECTS_KEPT = 16_384
"""Subjects kept as text, so that they are not put together for each message."""


class NatsBackend(Backend):
    """Opens `nats://` and `tls://` URLs; `settings.parse` says what they may hold."""

    def open(self, url: str) -> AbstractAsyncContextManager[Bus]:
        """Open one connection, to whichever host answers first."""
        return _opened(parse(url))


@contextlib.asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Bus]:
    bus = NatsBus(settings)
    await bus.start()
    try:
        yield bus
    finally:
        await bus.aclose()


class NatsBus(Bus):
    """One connection to NATS, kept up. Made by `NatsBackend.open`.

    Core NATS has no acknowledgement: "taken" means that the message is in the socket, or
    at most 256 KiB before it. A reader that stands still stops the socket and, when the
    server's patience is over (10 s, 64 MiB), loses the connection: that is a "down"
    event with the server's reason, and a new connection.
    """

    def __init__(self, settings: Settings) -> None:
        self.limits = BusLimits(max_bytes=0)
        self._settings = settings
        self._routes: dict[str, list[tuple[Deliver, Lane]]] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._subjects: dict[tuple[Address, Lane], str] = {}
        self._denied: set[str] = set()
        self._link = Link(settings, self._take, self._restore, self._on_error)

    async def start(self) -> None:
        """Connect; see `Link.start`."""
        await self._link.start()

    async def aclose(self) -> None:
        """Send what is unsent, and close, within a second."""
        await self._link.close()

    async def publish(
        self,
        to: Address,
        lane: Lane,
        body: bytes,
        *,
        expires_in: float | None = None,
    ) -> None:
        """See `Bus.publish`. While the link is down it raises at once."""
        self._check_size(body)
        connection = self._link.connection()
        if not connection.wire.room:
            await connection.wire.wait_room()
            if connection.lost.done():
                words, error = connection.cause()
                raise ChannelBroken(f"the NATS link was lost: {words}") from error
        connection.wire.send(pub_cmd(self._subject(to, lane), "", body))

    def try_publish(
        self,
        to: Address,
        lane: Lane,
        body: bytes,
        *,
        expires_in: float | None = None,
    ) -> bool:
        """See `Bus.try_publish`."""
        self._check_size(body)
        connection = self._link.current
        if connection is None or not connection.wire.room:
            return False
        connection.wire.send(pub_cmd(self._subject(to, lane), "", body))
        return True

    @contextlib.asynccontextmanager
    async def consume(
        self,
        at: Address,
        lanes: Collection[Lane],
        *,
        prefetch: int,
        deliver: Deliver,
    ) -> AsyncIterator[None]:
        """See `Bus.consume`. Core NATS has no `prefetch`: TCP slows the server.

        Raises:
            SecurityError: The server does not let us read there.
            ChannelBroken: The link is over for good.
        """
        entries = [(topology.route_of(at, lane), (deliver, lane)) for lane in lanes]
        for route, entry in entries:
            self._routes.setdefault(route, []).append(entry)
        try:
            while True:
                connection = await self._link.wait_up()
                if await self._attach(connection, [route for route, _ in entries]):
                    break
            yield
        finally:
            for route, entry in entries:
                self._routes[route].remove(entry)
                if not self._routes[route]:
                    del self._routes[route]
                    await self._detach(route)

    def link_events(self) -> AbstractAsyncContextManager[AsyncIterator[LinkEvent]]:
        """See `Bus.link_events`."""
        return self._link.board.events()

    def _check_size(self, body: bytes) -> None:
        if len(body) > self.limits.max_bytes:
            raise LimitExceeded(
                f"a message of {len(body)} bytes is larger than the server's "
                f"max_payload of {self.limits.max_bytes}",
                limit="max_payload",
                value=self.limits.max_bytes,
                asked=len(body),
            )

    def _subject(self, to: Address, lane: Lane) -> str:
        subject = self._subjects.get((to, lane))
        if subject is None:
            if len(self._subjects) >= SUBJECTS_KEPT:
                self._subjects.clear()
            subject = topology.publish_subject(to, lane)
            self._subjects[to, lane] = subject
        return subject

    def _take(self, subject: str, reply: str, data: bytes) -> bool:
        """Deliver a message where it was parsed; False if it is none of ours."""
        entries = self._routes.get(subject.rpartition(".")[0])
        if entries is None:
            return subject.startswith("rb.")
        for deliver, lane in entries:
            try:
                deliver(data, lane)
            except Exception as error:  # noqa: BLE001 - it would end the client's reader
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "a consumer of the bus raised", "exception": error}
                )
        return True

    async def _restore(self, connection: Connection) -> None:
        """A new connection: learn its limits, and read again what is being read."""
        self.limits = BusLimits(max_bytes=connection.client.max_payload)
        self._subscriptions = {}
        await self._attach(connection, list(self._routes))

    async def _attach(self, connection: Connection, routes: list[str]) -> bool:
        """Read these routes on this connection; False if it was lost meanwhile."""
        try:
            for route in routes:
                if route not in self._subscriptions:
                    pattern = topology.read_pattern(route)
                    self._denied.discard(pattern.lower())
                    subscription = await connection.client.subscribe(pattern)
                    self._subscriptions[route] = subscription
        except nats_errors.Error:
            return False
        if not await connection.settle():
            return False
        for route in routes:
            if topology.read_pattern(route).lower() in self._denied:
                raise SecurityError(f"the NATS server does not let us read at {route}")
        return True

    async def _detach(self, route: str) -> None:
        subscription = self._subscriptions.pop(route, None)
        if subscription is not None:
            with contextlib.suppress(nats_errors.Error):
                await subscription.unsubscribe()

    def _on_error(self, connection: Connection, error: Exception) -> None:
        """What the client reports of a connection that stands."""
        words = str(error)
        if "permissions violation" in words:
            for route in self._routes:
                pattern = topology.read_pattern(route).lower()
                if f'"{pattern}"' in words:
                    self._denied.add(pattern)
            self._link.board.tell(
                LinkEvent("lost", words.removeprefix("nats: "), error)
            )
