"""One connection to one node, from its first connect to its loss.

Owns aiormq's client on a `Wire`, the two channels that carry messages, and those on which
queues are set up; it notices that the broker is silent. What is set up is the owner's
affair. It must not know addresses.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, Protocol

import aiormq
from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.connection import TransportFactory

from remoting_bus.errors import ConnectionFailed, RemotingError
from remoting_bus_amqp.deliveries import Deliveries
from remoting_bus_amqp.publishing import Publisher
from remoting_bus_amqp.settings import Host, Settings
from remoting_bus_amqp.wire import Wire

__all__ = ["Connection", "Owner", "Refused", "words_of"]

GOODBYE = 1.0
"""Seconds that closing waits for what is unsent or unconfirmed and for the broker."""

LOOK = 0.5
"""Seconds between looks whether the broker is silent."""

SILENT = 1.25
"""Heartbeats without a byte after which a broker counts as gone. It sends one each half
heartbeat, a full one after its last word at the latest."""

ANSWER_LIMIT = 5.0
"""Seconds for the broker to set up one queue. A node that comes back may never answer
about a mailbox that has no leader yet (RabbitMQ 3.10); asked again, it does."""

_NOT_ALLOWED = 530
_ACCESS_REFUSED = 403
"""Replies to a login, or to a virtual host, that trying again does not change."""

_PASSING = ("limit", "is down")
"""What the broker says with them where it does."""

# Whoever does not configure logging is not to see aiormq's words: all is told by events.
logging.getLogger("aiormq").addHandler(logging.NullHandler())


class Refused(ConnectionFailed):
    """The broker does not take who we are; trying again is of no use."""

    def __init__(self, message: str) -> None:
        super().__init__(message, final=True)


class Owner(Protocol):
    """Who a connection tells what happens on it."""

    def take(self, consumer: bytes, key: bytes, body: bytes | None) -> bool:
        """A message came; see `deliveries.Take`."""

    def cancelled(self, connection: Connection, consumer: bytes) -> None:
        """The broker has ended a consumer."""

    def changed(self, connection: Connection) -> None:
        """It is blocked or full, or is no longer."""

    def publisher_closed(self, connection: Connection, publisher: Publisher) -> None:
        """The broker has closed the channel of publishing."""

    def message_lost(self, words: str) -> None:
        """A message is known not to have arrived."""


class _Client(aiormq.Connection):
    """aiormq's connection, without its own opinion on silence: it hears few frames."""

    HEARTBEAT_GRACE_MULTIPLIER = 100_000


class _Ready(TransportFactory):
    """Hands over streams that are connected already."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def create(
        self, url: object, **kwargs: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return self._wire.reader, self._wire.writer()


class Connection:
    """A client on a wire.

    Attributes:
        host: Where it leads.
        lost: Done when it is gone.
        publisher: The channel of publishing; None while it is opened again.
        log_publisher: The channel of appending to logs; None until it is needed.
        exchanges: Namespaces whose exchange is known to be right.
    """

    publisher: Publisher | None
    deliveries: Deliveries

    def __init__(
        self, settings: Settings, host: Host, owner: Owner, max_body: int
    ) -> None:
        self._settings = settings
        self._owner = owner
        self._max_body = max_body
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._idle: list[AbstractChannel] = []
        self._consuming: AbstractChannel | None = None
        self._consume_lock = asyncio.Lock()
        self._prefetch = 0
        self._why = ""
        self._timer: asyncio.TimerHandle | None = None
        self._looked = 0.0
        self._asked: dict[object, tuple[str, float]] = {}
        self.host = host
        self.wire = Wire()
        self.client = _Client(
            settings.client_url(host), transport_factory=_Ready(self.wire)
        )
        self.client.vhost = settings.vhost
        self.publisher = None
        self.log_publisher: Publisher | None = None
        self.exchanges: set[str] = set()
        self.lost = self.wire.lost

    # -- life --

    async def connect(self) -> None:
        """Connect, log in, and open the channels that carry messages.

        Raises:
            Refused: The credentials or the virtual host are wrong.
            ConnectionFailed: Anything else; the cause is in the message.
        """
        settings, host = self._settings, self.host
        context = None
        if settings.tls:
            context = await asyncio.to_thread(settings.tls_context)
        try:
            async with asyncio.timeout(settings.connect_timeout):
                await self._loop.create_connection(
                    lambda: self.wire,
                    host.name,
                    host.port,
                    ssl=context,
                    server_hostname=settings.tls_hostname if context else None,
                )
            async with asyncio.timeout(settings.connect_timeout):
                await self.client.connect()
            self.wire.established = True
            async with asyncio.timeout(settings.connect_timeout):
                await self._open_channels()
        except (OSError, TimeoutError, aiormq.exceptions.AMQPError) as error:
            failure = self._failure(error)
            await self.close()
            raise failure from error
        except BaseException:
            await self.close()
            raise
        self.wire.on_change = lambda: self._owner.changed(self)
        self._look()

    async def _open_channels(self) -> None:
        await self.open_publisher()
        consuming = await self.client.channel(publisher_confirms=False)
        self._consuming = consuming
        self.deliveries = Deliveries(
            self.wire,
            consuming.number,
            self._max_body,
            self._owner.take,
            lambda consumer: self._owner.cancelled(self, consumer),
            lambda text: self.give_up(f"closed the channel of reading: {text}"),
        )

    async def open_publisher(self) -> None:
        """Open the channel of publishing, or another one."""
        self.publisher = None
        channel = await self.client.channel(publisher_confirms=True)
        self.publisher = Publisher(
            self.wire,
            channel.number,
            self.client.connection_tune.frame_max,
            lambda publisher: self._owner.publisher_closed(self, publisher),
            self._owner.message_lost,
        )

    @property
    def publishers(self) -> list[Publisher]:
        """The channels on which something may wait."""
        both = (self.publisher, self.log_publisher)
        return [publisher for publisher in both if publisher is not None]

    def cause(self) -> tuple[str, BaseException | None]:
        """Why it was lost, in words and as an exception."""
        error = self.lost.result() if self.lost.done() else None
        if self._why:
            words = self._why
        elif self.wire.closed_by is not None:
            words = f"closed the connection: {self.wire.closed_by[1]}"
        elif error is None:
            words = "closed the connection"
        else:
            return f"{self.host}: {words_of(error)}", error
        return f"{self.host} {words}", error

    def give_up(self, why: str) -> None:
        """Count it as lost; `why` goes on "HOST …"."""
        self._why = self._why or why
        self.wire.abort()

    async def close(self, *, kindly: bool = False) -> None:
        """Close within `GOODBYE`; what is unsent or unconfirmed by then may be gone."""
        if self._timer is not None:
            self._timer.cancel()
        if kindly and not self.lost.done():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE):
                    await self._finish()
        words, _ = self.cause()
        for publisher in self.publishers:
            publisher.close(f"the AMQP link was lost: {words}")
        self.wire.abort()
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(Exception):  # it only ends its tasks; they have no say
            async with asyncio.timeout(GOODBYE):
                await self.client.close(ConnectionResetError("the connection is lost"))
        self.wire.let_go()

    async def _finish(self) -> None:
        """Wait for what is under way, and part from the broker."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        self.deliveries.acknowledge()
        while not self.lost.done() and self.publisher is not None:
            if not self.publisher.unconfirmed or self.wire.blocked:
                break
            await asyncio.wait([self.lost], timeout=0.002)
        self.wire.say_goodbye()
        await asyncio.wait([self.lost])

    # -- work that needs answers of the broker --

    async def until_lost(self, work: Coroutine[Any, Any, Any]) -> bool:
        """Do what needs an answer of the broker; False if the connection was lost.

        The work is never cancelled, as a method without its answer costs its channel: it
        ends with the connection.
        """
        task = self.in_background(work)
        await asyncio.wait({task, self.lost}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done() or self.lost.done():
            return False
        task.result()
        return True

    def in_background(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Do it without being waited for; it ends with the connection at the latest."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody waits after a loss

    @contextlib.contextmanager
    def asking(self, about: str) -> Iterator[None]:
        """Count the connection as lost if what is asked meanwhile is not answered.

        While an alarm blocks us nothing is, and the time does not count.
        """
        question = object()
        self._asked[question] = (about, self._loop.time())
        try:
            yield
        finally:
            del self._asked[question]

    @contextlib.asynccontextmanager
    async def channel(self) -> AsyncIterator[AbstractChannel]:
        """A channel to set up queues on, which an error of the broker closes."""
        if self._idle:
            channel = self._idle.pop()
        else:
            channel = await self.client.channel(publisher_confirms=True)
        yield channel
        if not channel.is_closed:
            self._idle.append(channel)

    async def consume(self, queue: str, consumer: str, prefetch: int) -> None:
        """Let a queue's messages come."""
        channel = self._consuming
        assert channel is not None
        prefetch = min(max(1, prefetch), 0xFFFF)
        async with self._consume_lock:
            if prefetch != self._prefetch:
                await channel.basic_qos(prefetch_count=prefetch)
                self._prefetch = prefetch
            await channel.basic_consume(queue, _unused, consumer_tag=consumer)

    async def stop_consuming(self, consumer: str) -> None:
        """Let no more messages come to a consumer."""
        assert self._consuming is not None
        await self._consuming.basic_cancel(consumer)

    # -- watching --

    def _look(self) -> None:
        """See whether the broker has been silent, or owes confirms, for too long."""
        now = self._loop.time()
        # A loop that stood still has not read what came meanwhile: look again.
        on_time = now - self._looked < 2 * LOOK
        self._looked = now
        silence = now - self.wire.heard
        if on_time and silence > SILENT * self._settings.heartbeat:
            self.give_up(f"said nothing for {silence:.1f} s")
            return
        if self.wire.blocked:
            self._asked = {key: (about, now) for key, (about, _) in self._asked.items()}
        for about, since in self._asked.values():
            if now - since > ANSWER_LIMIT:
                self.give_up(f"did not answer for {ANSWER_LIMIT:g} s about {about}")
                return
        for publisher in self.publishers:
            publisher.look(now)
        self._timer = self._loop.call_later(LOOK, self._look)

    def _failure(self, error: BaseException) -> ConnectionFailed:
        if isinstance(error, RemotingError) and isinstance(error, ConnectionFailed):
            return error
        closed = self.wire.closed_by
        if closed is None:
            return ConnectionFailed(f"{self.host}: {words_of(error)}")
        code, text = closed
        if code in (_ACCESS_REFUSED, _NOT_ALLOWED) and not any(
            sign in text for sign in _PASSING
        ):
            what = "credentials" if code == _ACCESS_REFUSED else "virtual host"
            return Refused(f"{self.host} refuses the {what}: {text}")
        return ConnectionFailed(f"{self.host}: {text}")


async def _unused(message: DeliveredMessage) -> None:
    """Messages never come this way: `deliveries` takes them."""


def words_of(error: BaseException) -> str:
    """An error as an operator would read it."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiormq.exceptions.AMQPError) and error.args:
        return str(error.args[-1])  # the others are codes
    return str(error).strip("'") or type(error).__name__
