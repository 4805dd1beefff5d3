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

import anyio
from nats import errors as nats_errors
from nats.aio.subscription import Subscription
from nats.protocol.command import pub_cmd

from remoting_bus.bus.backend import Backend, Bus, BusLimits, Deliver, LinkEvent
from remoting_bus.bus.log import LogReader, LogStart
from remoting_bus.errors import ChannelBroken, LimitExceeded, SecurityError
from remoting_bus.names import Address, Lane, LogName
from remoting_bus_nats import topology
from remoting_bus_nats.answers import Answers, Headers
from remoting_bus_nats.link import Connection, Link
from remoting_bus_nats.log import Logs
from remoting_bus_nats.mailbox import PUBLISHES_UNDER_WAY, Mailboxes
from remoting_bus_nats.settings import Settings, parse
from remoting_bus_nats.wire import LARGE, Wire

__all__ = ["NatsBackend", "NatsBus"]

CLOSE_LIMIT = 3.0
"""Seconds for closing at most: one for what is unsent (`link.GOODBYE`), and slack."""

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
    event that says so, and a new connection.
    """

    def __init__(self, settings: Settings) -> None:
        self.limits = BusLimits(max_bytes=0)
        self._settings = settings
        self._routes: dict[str, list[tuple[Deliver, Lane]]] = {}
        self._prefetch: dict[str, int] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._subjects: dict[tuple[Address, Lane], str] = {}
        self._denied: set[str] = set()
        self._answers = Answers()
        self._mailboxes = (
            Mailboxes(settings, self._answers)
            if settings.topology == "jetstream"
            else None
        )
        self._link = Link(settings, self._take, self._restore, self._on_error)
        self._logs = Logs(settings, self._link, self._answers)

    async def start(self) -> None:
        """Connect; see `Link.start`."""
        await self._link.start()

    async def aclose(self) -> None:
        """Send what is unsent, and close, within a second; also where it is cancelled."""
        self._logs.close()
        with anyio.move_on_after(CLOSE_LIMIT, shield=True):
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
        if self._mailboxes is not None:
            await self._mailboxes.publish(connection, self._subject(to, lane), body)
            return
        _send(connection.wire, self._subject(to, lane), body)

    def try_publish(
        self,
        to: Address,
        lane: Lane,
        body: bytes,
        *,
        expires_in: float | None = None,
    ) -> bool:
        """See `Bus.try_publish`. A mailbox has to answer: with them always False."""
        self._check_size(body)
        connection = self._link.current
        if connection is None or not connection.wire.room or self._mailboxes:
            return False
        _send(connection.wire, self._subject(to, lane), body)
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

        Several readers of one address share a mailbox: each gets all that comes while it
        reads, and what was kept goes to those who are there first.

        Raises:
            SecurityError: The server does not let us read there.
            ConnectionFailed: The server cannot give us a mailbox.
            ChannelBroken: The link is over for good.
        """
        entries = [(topology.route_of(at, lane), (deliver, lane)) for lane in lanes]
        for route, entry in entries:
            self._routes.setdefault(route, []).append(entry)
            self._prefetch[route] = max(prefetch, self._prefetch.get(route, 0))
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
                    del self._routes[route], self._prefetch[route]
                    await self._detach(route)

    async def append(self, log: LogName, key: str, body: bytes) -> None:
        """See `Bus.append`. While the link is down it raises at once."""
        self._check_size(body)
        await self._logs.append(log, key, body)

    def read(
        self, log: LogName, start: LogStart
    ) -> AbstractAsyncContextManager[LogReader]:
        """See `Bus.read`."""
        return self._logs.read(log, start)

    async def delete_log(self, log: LogName) -> None:
        """See `Bus.delete_log`."""
        await self._logs.delete(log)

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

    def _take(
        self, subject: str, reply: str, data: bytes, headers: Headers | None
    ) -> bool:
        """Deliver a message where it was parsed; False if it is none of ours."""
        if subject.startswith("rbl."):
            self._logs.take(subject, reply, data)
            return True
        route = subject.rpartition(".")[0]
        entries = self._routes.get(route)
        if entries is None:
            ours = subject.startswith("rb.")
            if ours and reply and self._mailboxes is not None:
                self._mailboxes.give_back(reply)
            return ours or self._answers.take(subject, data, headers)
        for deliver, lane in entries:
            try:
                deliver(data, lane)
            except Exception as error:  # noqa: BLE001 - it would end the client's reader
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "a consumer of the bus raised", "exception": error}
                )
        if self._mailboxes is not None and reply:
            self._mailboxes.took(reply)
        return True

    async def _restore(self, connection: Connection) -> None:
        """A new connection: learn its limits, and read again what is being read."""
        size = connection.client.max_payload
        self._subscriptions = {}
        logs = connection.has_jetstream
        if self._mailboxes is None:
            self.limits = BusLimits(max_bytes=size, durable_log=logs)
        else:
            self.limits = BusLimits(
                max_bytes=size,
                keeps_while_away=True,
                publishes_under_way=PUBLISHES_UNDER_WAY,
                durable_log=logs,
            )
            await self._mailboxes.use(connection)
        await self._attach(connection, list(self._routes), restoring=True)

    async def _attach(
        self, connection: Connection, routes: list[str], *, restoring: bool = False
    ) -> bool:
        """Read these routes on this connection; False if it was lost meanwhile."""
        try:
            for route in routes:
                if route not in self._subscriptions:
                    pattern = self._pattern(route)
                    self._denied.discard(pattern.lower())
                    subscription = await connection.client.subscribe(pattern)
                    self._subscriptions[route] = subscription
        except nats_errors.Error:
            return False
        if not await connection.settle():
            return False
        for route in routes:
            if self._pattern(route).lower() in self._denied:
                if restoring:  # the others go on; "lost" has told of it
                    continue
                raise SecurityError(f"the NATS server does not let us read at {route}")
            if self._mailboxes is not None:
                work = self._mailboxes.make(connection, route, self._prefetch[route])
                if not await connection.until_lost(work):
                    return False
        return True

    def _pattern(self, route: str) -> str:
        if self._mailboxes is not None:
            return topology.mail_subject(route)
        return topology.read_pattern(route)

    async def _detach(self, route: str) -> None:
        subscription = self._subscriptions.pop(route, None)
        connection = self._link.current
        if subscription is None or connection is None:
            return
        if self._mailboxes is not None:
            # Until the server has heard of it, mail comes that has to be given back.
            connection.in_background(_leave(subscription))
            return
        with contextlib.suppress(nats_errors.Error):
            await subscription.unsubscribe()

    def _on_error(self, connection: Connection, error: Exception) -> None:
        """What the client reports of a connection that stands."""
        words = str(error)
        if "permissions violation" in words:
            self._answers.refused(words)
            for route in self._routes:
                pattern = self._pattern(route).lower()
                if f'"{pattern}"' in words:
                    self._denied.add(pattern)
            self._link.board.tell(
                LinkEvent("lost", words.removeprefix("nats: "), error)
            )


def _send(wire: Wire, subject: str, body: bytes) -> None:
    if len(body) < LARGE:
        wire.send(pub_cmd(subject, "", body))
    else:  # the client's way would copy it twice
        wire.send_large(f"PUB {subject} {len(body)}\r\n".encode(), body, b"\r\n")


async def _leave(subscription: Subscription) -> None:
    """Read no more, once the server has heard of it."""
    with contextlib.suppress(nats_errors.Error):
        await subscription.drain()  # type: ignore[no-untyped-call]
