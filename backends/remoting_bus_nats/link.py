"""A connection that comes back: one client after the other, on the hosts of one URL.

nats-py's own reconnecting is not used: it waits a fixed time, retries refused credentials
for ever, ends for good on many errors of the server, and cannot be asked to put things
back before it reports. Here each connection is a `Client` of its own; when its wire is
lost the next host is tried at once, then with growing, jittered pauses, and the owner
puts its subscriptions back before anybody hears "up".

It must not know what is published or read.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from nats import errors as nats_errors

from remoting_bus.bus.backend import LinkEvent
from remoting_bus.bus.links import LinkBoard
from remoting_bus.bus.rounds import rounds
from remoting_bus.errors import ChannelBroken, ConnectionFailed, RemotingError
from remoting_bus_nats.settings import Host, Settings
from remoting_bus_nats.wire import Client, Take, Wire

__all__ = ["Connection", "Link"]

BLOCKED_AFTER = 1.0
"""Seconds without room before the link is told to be blocked; bulk fills it all the time."""

GOODBYE = 1.0
"""Seconds that closing waits for unsent messages and for the client's tasks to end."""

_REFUSED = (
    "authorization violation",
    "authentication revoked",
    "authentication expired",
)
"""What a server says of credentials that will not get better by trying again."""


class Refused(ConnectionFailed):
    """The server does not take the credentials; trying again is of no use."""

    def __init__(self, message: str) -> None:
        super().__init__(message, final=True)


class Connection:
    """One client on one wire, from its first connect to its loss.

    Attributes:
        lost: Done when it is gone.
    """

    def __init__(self, settings: Settings, host: Host, link: Link) -> None:
        self._settings = settings
        self._link = link
        self._first_error: BaseException | None = None
        self._connected = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self.host = host
        self.wire = Wire(tls_only=settings.tls, take=link.take)
        self.client = Client(self.wire, link.take)
        self.lost = self.wire.lost

    async def connect(self) -> None:
        """Connect and greet.

        Raises:
            Refused: The credentials are wrong.
            ConnectionFailed: Anything else; the cause is in the message.
        """
        options = await self._options()
        limit = 3 * self._settings.connect_timeout
        try:
            async with asyncio.timeout(limit):
                await self.client.connect(error_cb=self._on_error, **options)
        except RemotingError:
            await self.close()
            raise
        except (OSError, nats_errors.Error) as error:
            await self.close()
            raise self._failure(error) from error
        except Exception as error:
            await self.close()
            if self._settings.nkey is None and self._settings.creds is None:
                raise
            # What nkeys raises of a bad seed depends on where the file is bad.
            words = f"the credentials cannot be used: {_words(error)}"
            raise Refused(words) from error
        except BaseException:
            await self.close()
            raise
        self._connected = True

    async def _options(self) -> dict[str, Any]:
        if self._settings.reads_files:
            return await asyncio.to_thread(self._settings.client_options, self.host)
        return self._settings.client_options(self.host)

    @property
    def has_jetstream(self) -> bool:
        """Whether the server keeps streams; it says so when it greets."""
        return bool(self.client._server_info.get("jetstream"))

    def cause(self) -> tuple[str, BaseException | None]:
        """Why it was lost, in words and as an exception."""
        error: BaseException | None = self.client.last_error
        if error is None and self.lost.done():
            error = self.lost.result()
        if isinstance(error, nats_errors.UnexpectedEOF) or error is None:
            words = "closed the connection"
        elif isinstance(error, nats_errors.StaleConnectionError):
            words = "did not answer pings"
        else:
            return f"{self.host}: {_words(error)}", error
        if self.wire.behind:
            # A server gives no reason when its patience with a reader is over, and an
            # answer to a ping stands behind all that we have not read.
            words += " while we were behind in reading: a slow consumer, perhaps"
        return f"{self.host} {words}", error

    async def until_lost(self, work: Coroutine[Any, Any, Any]) -> bool:
        """Do what needs an answer of the server; False if the connection was lost.

        The work is never cancelled, as the client does not bear that in its exchanges
        (an answer to a cancelled ping ends its reader): it ends with the connection.
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

    async def settle(self) -> bool:
        """Wait until the server has acted on all that was sent; False if it was lost."""

        async def round_trip() -> None:
            # The client's ping overtakes what it has not handed to the wire yet.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await self.client.flush(timeout=int(GOODBYE * 3600))

        return await self.until_lost(round_trip())

    async def close(self, *, flush: bool = False) -> None:
        """Close within `GOODBYE`; messages unsent by then are gone."""
        with contextlib.suppress(TimeoutError, OSError, nats_errors.Error):
            async with asyncio.timeout(GOODBYE):
                if flush:
                    await self.wire.flushed()
                if self.wire.opened:  # else it has nothing, and does not bear it
                    await self.client.close()
        self.wire.close()
        for task in self._tasks:
            task.cancel()

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody waits after a loss

    async def _on_error(self, error: Exception) -> None:
        if not self._connected:
            # Raised through the client's connect: one attempt is one attempt.
            raise self._failure(error) from error
        self._link.on_error(self, error)

    def _failure(self, error: BaseException) -> ConnectionFailed:
        words = _words(error)
        if any(sign in words.lower() for sign in _REFUSED):
            return Refused(f"{self.host} refuses the credentials: {words}")
        return ConnectionFailed(f"{self.host}: {words}")


class Link:
    """Keeps a `Connection` up and tells what became of it.

    Attributes:
        current: The connection, once its subscriptions are back; else None.
        board: Where the link's states are told.
    """

    def __init__(
        self,
        settings: Settings,
        take: Take,
        restore: Callable[[Connection], Awaitable[None]],
        on_error: Callable[[Connection, Exception], None],
    ) -> None:
        self.take = take
        self.on_error = on_error
        self.current: Connection | None = None
        self._settings = settings
        self._restore = restore
        self._ended: BaseException | None = None
        self._changed = asyncio.Event()
        self.board = LinkBoard(LinkEvent("down", "not connected yet"))
        self._blocked: asyncio.TimerHandle | None = None
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
                self._task = asyncio.create_task(self._keep(), name="nats link")
                return
        words = "; ".join(str(error) for error in failures)
        raise ConnectionFailed(
            f"no NATS server could be reached: {words}"
        ) from failures[0]

    async def close(self) -> None:
        """Send what is unsent, within a second, and close."""
        self._ended = self._ended or ChannelBroken("the bus was closed")
        connection, self.current = self.current, None
        self._changed.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if connection is not None:
            await connection.close(flush=True)

    def connection(self) -> Connection:
        """The connection that is up now.

        Raises:
            ChannelBroken: There is none; the message says whether there may be again.
        """
        if self.current is not None and not self.current.lost.done():
            return self.current
        if self._ended is not None:
            raise ChannelBroken(
                f"the NATS link is over: {self._ended}"
            ) from self._ended
        raise ChannelBroken(f"the NATS link is down: {self.board.present.cause}")

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

    async def _connect(self, host: Host) -> Connection:
        connection = Connection(self._settings, host, self)
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
        connection.wire.on_full = self._on_full
        connection.wire.on_room = self._on_room
        self.current = connection
        self._changed.set()
        self.board.tell(LinkEvent("up", f"connected to {connection.host}"))

    async def _keep(self) -> None:
        try:
            while True:
                connection = self.current
                assert connection is not None
                await asyncio.wait([connection.lost])
                self._stop_blocked()
                # The client learns of it, and says why, in its next turns.
                await asyncio.sleep(0)
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
            self.board.tell(LinkEvent("failed", _words(error), error))

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

    def _on_full(self) -> None:
        self._stop_blocked()
        loop = asyncio.get_running_loop()
        self._blocked = loop.call_later(BLOCKED_AFTER, self._tell_blocked)

    def _tell_blocked(self) -> None:
        if self.current is not None:
            words = f"{self.current.host} has taken nothing for {BLOCKED_AFTER:.0f} s"
            self.board.tell(LinkEvent("blocked", words))

    def _on_room(self) -> None:
        self._stop_blocked()
        if self.board.present.state == "blocked" and self.current is not None:
            self.board.tell(
                LinkEvent("up", f"{self.current.host} takes messages again")
            )

    def _stop_blocked(self) -> None:
        if self._blocked is not None:
            self._blocked.cancel()
            self._blocked = None


def _words(error: BaseException) -> str:
    """An error as an operator would read it."""
    if isinstance(error, nats_errors.NoServersError | ssl.SSLCertVerificationError):
        return str(error)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error).removeprefix("nats: ").strip("'") or type(error).__name__
