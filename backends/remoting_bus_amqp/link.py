"""A connection that comes back: one after the other, on the hosts of one URL.

aio-pika's own reconnecting is not used: it waits a fixed time, knows one host, retries
refused credentials for ever, and puts things back one method at a time without saying
when it is done. Here each connection is a `Connection` of its own; when it is lost the
next host is tried at once, then with growing, jittered pauses, and the owner puts its
queues back before anybody hears "up".

It must not know what is published or read.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from remoting_bus.bus.backend import LinkEvent
from remoting_bus.bus.links import LinkBoard
from remoting_bus.bus.rounds import rounds
from remoting_bus.errors import ChannelBroken, ConnectionFailed
from remoting_bus_amqp.connection import Connection, Refused, words_of
from remoting_bus_amqp.settings import Host, Settings

__all__ = ["Link"]

BLOCKED_AFTER = 1.0
"""Seconds without room before the link is told to be blocked; bulk fills it all the time."""


class Link:
    """Keeps a `Connection` up and tells what became of it.

    Attributes:
        current: The connection, once its queues are back; else None.
        board: Where the link's states are told.
    """

    def __init__(
        self,
        settings: Settings,
        make: Callable[[Host], Connection],
        restore: Callable[[Connection], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._make = make
        self._restore = restore
        self.current: Connection | None = None
        self._ended: BaseException | None = None
        self._changed = asyncio.Event()
        self.board = LinkBoard(LinkEvent("down", "not connected yet"))
        self._full: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect to the first host that answers, and keep doing so.

        Raises:
            ConnectionFailed: None answered, or one refused the credentials.
        """
        hosts = list(self._settings.hosts)
        random.shuffle(hosts)
        failures = []
        for host in hosts:
            try:
                connection = await self._connect(host)
            except ConnectionFailed as error:
                if error.final:
                    raise
                failures.append(error)
            else:
                self._use(connection)
                self._task = asyncio.create_task(self._keep(), name="amqp link")
                return
        words = "; ".join(str(error) for error in failures)
        raise ConnectionFailed(
            f"no RabbitMQ node could be reached: {words}"
        ) from failures[0]

    async def close(self) -> None:
        """Send what is unsent, within a second, and close."""
        self._ended = self._ended or ChannelBroken("the bus was closed")
        connection, self.current = self.current, None
        self._changed.set()
        self._stop_full()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if connection is not None:
            await connection.close(kindly=True)

    def connection(self) -> Connection:
        """The connection that is up now.

        Raises:
            ChannelBroken: There is none; the message says whether there may be again.
        """
        if self.current is not None and not self.current.lost.done():
            return self.current
        if self._ended is not None:
            raise ChannelBroken(
                f"the AMQP link is over: {self._ended}"
            ) from self._ended
        raise ChannelBroken(f"the AMQP link is down: {self.board.present.cause}")

    async def wait_up(self) -> Connection:
        """The connection, once there is one.

        Raises:
            ChannelBroken: There will be none.
        """
        while True:
            if self._ended is not None or (
                self.current is not None and not self.current.lost.done()
            ):
                return self.connection()
            self._changed.clear()
            await self._changed.wait()

    def lost_some(self, words: str) -> None:
        """Tell that messages were lost while the connection stands."""
        self.board.tell(LinkEvent("lost", words))

    def changed(self, connection: Connection) -> None:
        """A connection is blocked or full, or is no longer."""
        for publisher in connection.publishers:
            publisher.wake()
        if connection is not self.current or connection.lost.done():
            return
        wire = connection.wire
        if wire.blocked:
            self._tell_blocked(f"is blocked by an alarm: {wire.blocked}")
        elif not wire.full:
            self._stop_full()
            if self.board.present.state == "blocked":
                words = f"{connection.host} takes messages again"
                self.board.tell(LinkEvent("up", words))
        elif self._full is None:
            loop = asyncio.get_running_loop()
            words = f"has taken nothing for {BLOCKED_AFTER:.0f} s"
            self._full = loop.call_later(BLOCKED_AFTER, self._tell_blocked, words)

    async def _connect(self, host: Host) -> Connection:
        connection = self._make(host)
        await connection.connect()
        try:
            await self._restore(connection)
        except BaseException:
            await connection.close()
            raise
        if connection.lost.done():
            words, _ = connection.cause()
            await connection.close()
            raise ConnectionFailed(words)
        return connection

    def _use(self, connection: Connection) -> None:
        self.current = connection
        self._changed.set()
        self.board.tell(LinkEvent("up", f"connected to {connection.host}"))
        self.changed(connection)

    async def _keep(self) -> None:
        try:
            while True:
                connection = self.current
                assert connection is not None
                await asyncio.wait([connection.lost])
                self._stop_full()
                words, error = connection.cause()
                self.current = None
                self.board.tell(LinkEvent("down", words, error))
                await connection.close()
                self._use(await self._reconnect(connection.host))
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - the supervisor: nobody else would tell
            self._ended = error
            self._changed.set()
            self.board.tell(LinkEvent("failed", words_of(error), error))

    async def _reconnect(self, last: Host) -> Connection:
        for pause, host in rounds(self._settings.hosts, last):
            await asyncio.sleep(pause)
            try:
                return await self._connect(host)
            except Refused:
                raise
            except ConnectionFailed as error:
                self.board.present = LinkEvent("down", str(error), error)
        raise AssertionError("rounds never end")

    def _tell_blocked(self, words: str) -> None:
        if self.current is not None:
            self.board.tell(LinkEvent("blocked", f"{self.current.host} {words}"))

    def _stop_full(self) -> None:
        if self._full is not None:
            self._full.cancel()
            self._full = None
