"""JetStream mailboxes: what was sent to a peer while it was away waits for it.

A namespace has one stream that takes up all its subjects, and in it each peer a durable
push consumer per lane. Both are made by whoever reads first, and the first decides how
large the stream is. What was acknowledged is deleted at once; what was not is kept up to
the stream's size, an age, and a number for each sender, the oldest given up first. A
consumer that nobody reads is forgotten by the server after that age, so nothing of a name
that never comes back stays.

`backend` reads and delivers; this file makes mailboxes, acknowledges, and publishes with
the server's acknowledgement.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from nats import errors as nats_errors
from nats.js import api
from nats.js.errors import APIError, BadRequestError, NotFoundError, ServerError
from nats.protocol.command import pub_cmd

from remoting_bus.errors import ChannelBroken, ConnectionFailed, SecurityError
from remoting_bus_nats import topology
from remoting_bus_nats.answers import Answers
from remoting_bus_nats.link import Connection
from remoting_bus_nats.settings import Settings

__all__ = ["PUBLISHES_UNDER_WAY", "Mailboxes"]

PUBLISHES_UNDER_WAY = 16
"""Publishes that may wait for their acknowledgement at once: 0.4 ms each, some 40,000 a
second together, which is what a stream takes."""

MAKE_LIMIT = 10.0
"""Seconds in which a mailbox must come to be; a cluster elects a leader in 4 to 9."""

MAKE_PAUSE = 0.25
"""Seconds between attempts to make it."""

ACK_WAIT = 5.0
"""Seconds until the server sends again what was not acknowledged. Acknowledgements leave
in the turn of the delivery, so this is met when one was lost, or a reader with them."""

GIVE_BACK = b'-NAK {"delay": 50000000}'
"""To send again what came after its reader had left, 50 ms later (JetStream: in ns), by
when the server has heard that it left."""

KEPT_PER_SENDER = 1024
"""Messages kept of one sender to one lane of one peer, so that a flood to a peer that is
away does not push out everybody else's: a session's window is smaller."""

INSUFFICIENT = 10047
"""JetStream's error code of a stream that there is no room for."""

NAME_IN_USE = 10058
"""JetStream's error code of a stream that exists with another configuration."""


class Mailboxes:
    """What a bus of the topology `jetstream` does beyond one of `core`."""

    def __init__(self, settings: Settings, answers: Answers) -> None:
        self._settings = settings
        self._answers = answers
        self._connection: Connection | None = None
        self._taken: list[str] = []

    async def use(self, connection: Connection) -> None:
        """Publish and acknowledge on a new connection from now on."""
        self._connection = connection
        self._taken.clear()
        await self._answers.use(connection)

    async def make(self, connection: Connection, route: str, prefetch: int) -> None:
        """Make sure that a route has its mailbox, and that it hands on what it has.

        Raises:
            ConnectionFailed: The server has no JetStream, or does not let us.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + MAKE_LIMIT
        while not connection.lost.done():
            try:
                await self._make_stream(connection, route)
                await self._make_consumer(connection, route, prefetch)
            except (ServerError, NotFoundError, TimeoutError) as error:
                # No leader yet, or not known everywhere yet.
                code = getattr(error, "err_code", None)
                if loop.time() > deadline or code == INSUFFICIENT:
                    raise self._failure(route, error) from error
                await asyncio.sleep(MAKE_PAUSE)
            except APIError as error:
                raise self._failure(route, error) from error
            except nats_errors.Error:
                return  # lost: the caller sees that
            else:
                return

    def took(self, reply: str) -> None:
        """A message was delivered: acknowledge it, with all others of this turn."""
        if not self._taken:
            asyncio.get_running_loop().call_soon(self._acknowledge)
        self._taken.append(reply)

    def give_back(self, reply: str) -> None:
        """A message came that nobody reads any more: the mailbox has to keep it."""
        if self._connection is not None:
            self._connection.wire.send(pub_cmd(reply, "", GIVE_BACK))

    async def publish(self, connection: Connection, subject: str, body: bytes) -> None:
        """Send, and wait until the mailbox has it.

        Where there is no mailbox nobody has ever read, and the message is gone as it
        would be on core NATS.

        Raises:
            ChannelBroken: It is not known to be kept; it may be.
        """
        try:
            answer = await self._answers.ask(connection, subject, body)
        except SecurityError as error:
            raise ChannelBroken(str(error)) from error
        words = _error_in(answer)
        if words:
            raise ChannelBroken(f"the mailbox of {subject} refuses: {words}")

    def _acknowledge(self) -> None:
        connection = self._connection
        if connection is not None and not connection.lost.done():
            acks = [pub_cmd(reply, "", b"") for reply in self._taken]
            if acks:
                connection.wire.send(b"".join(acks))
        self._taken.clear()

    async def _make_stream(self, connection: Connection, route: str) -> None:
        settings = self._settings
        manager = connection.client.jsm()
        config = api.StreamConfig(
            name=topology.stream_name(route),
            subjects=topology.stream_subjects(route),
            retention=api.RetentionPolicy.WORK_QUEUE,
            discard=api.DiscardPolicy.OLD,
            max_bytes=settings.mailbox_bytes,
            max_age=settings.mailbox_age,
            max_msgs_per_subject=KEPT_PER_SENDER,
            storage=api.StorageType(settings.storage),
            num_replicas=settings.replicas,
            # Ours are told apart by the session; the server need not remember ids.
            duplicate_window=min(settings.mailbox_age, 1.0),
        )
        try:
            await manager.add_stream(config)
        except BadRequestError as error:
            if error.err_code != NAME_IN_USE:
                raise

    async def _make_consumer(
        self, connection: Connection, route: str, prefetch: int
    ) -> None:
        config = api.ConsumerConfig(
            durable_name=topology.mailbox_name(route),
            filter_subject=topology.read_pattern(route),
            deliver_subject=topology.mail_subject(route),
            deliver_policy=api.DeliverPolicy.ALL,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT,
            max_ack_pending=max(1, prefetch),
            inactive_threshold=self._settings.mailbox_age,
        )
        manager = connection.client.jsm()
        await manager.add_consumer(topology.stream_name(route), config)

    def _failure(self, route: str, error: BaseException) -> ConnectionFailed:
        words = error.description if isinstance(error, APIError) else str(error)
        return ConnectionFailed(
            f"no mailbox can be had for {route}: {words or type(error).__name__} "
            "(topology=jetstream needs a server with JetStream, and room in it)"
        )


def _error_in(answer: bytes) -> str:
    """What a stream's answer says is wrong; empty if it has the message, or is none."""
    if not answer:
        return ""
    try:
        found: Any = json.loads(answer)
        return str(found["error"]["description"]) if "error" in found else ""
    except (ValueError, LookupError, TypeError):
        return "an answer that is not understood"
