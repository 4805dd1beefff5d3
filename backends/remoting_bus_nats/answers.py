"""Messages that the server answers: what stores them, and JetStream's own interface.

nats-py's requests cannot be cancelled safely, wait out their time where the connection is
lost, and do not learn that the server has refused to take them. Here an answer is waited
for as long as the connection stands. It must not know what is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from typing import Any

from nats import errors as nats_errors
from nats.protocol.command import pub_cmd

from remoting_bus.errors import ChannelBroken, SecurityError
from remoting_bus_nats.link import Connection

__all__ = ["ANSWER_LIMIT", "Answers", "Headers"]

ANSWER_LIMIT = 5.0
"""Seconds to wait for an answer before the message counts as lost: a stream whose server
is gone answers nothing while the connection stands."""

Headers = dict[str, str]
"""Of a message; a status of the server's stands in "Status" and "Description"."""

Listener = Callable[[bytes, Headers], None]
"""Takes a message that came without being an answer."""


class Answers:
    """One inbox for each connection, and who waits for what arrives there."""

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._inbox = ""
        self._numbers = itertools.count()
        self._ready: asyncio.Future[None] | None = None
        # Bounded by the tasks that wait, and by those that listen.
        self._waiting: dict[str, tuple[str, asyncio.Future[bytes]]] = {}
        self._listeners: dict[str, Listener] = {}

    async def use(self, connection: Connection) -> None:
        """Be ready on a connection; returns at once where that is so."""
        if self._connection is not connection:
            self._connection = connection
            self._inbox = connection.client.new_inbox()
            self._ready = asyncio.get_running_loop().create_future()
            ready = self._ready
            try:
                with contextlib.suppress(
                    nats_errors.Error
                ):  # lost: its owner sees that
                    await connection.client.subscribe(f"{self._inbox}.*")
                # The client gathers what it sends; what we send would overtake it.
                await connection.settle()
            finally:
                ready.set_result(None)
        elif self._ready is not None and not self._ready.done():
            await asyncio.wait([self._ready])

    def take(self, subject: str, data: bytes, headers: Headers | None) -> bool:
        """Take a message if it came to the inbox."""
        if not self._inbox or not subject.startswith(self._inbox):
            return False
        waiting = self._waiting.get(subject)
        if waiting is not None:
            if not waiting[1].done():
                waiting[1].set_result(data)
            return True
        listener = self._listeners.get(subject)
        if listener is not None:
            listener(data, headers or {})
        return True

    def refused(self, words: str) -> None:
        """The server has refused something: whoever asked it hears of that."""
        for subject, answer in self._waiting.values():
            if f'publish to "{subject.lower()}"' in words and not answer.done():
                answer.set_exception(
                    SecurityError(
                        f"the NATS server does not let us publish to {subject}"
                    )
                )

    async def ask(self, connection: Connection, subject: str, body: bytes) -> bytes:
        """Send, and wait for the answer; see `send` and `answer`."""
        return await self.answer(connection, self.send(connection, subject, body))

    def send(self, connection: Connection, subject: str, body: bytes) -> str:
        """Send at once; `answer` has to be called with what this returns.

        Args:
            connection: One that `use` was called for, and that is not lost.
            subject: Where somebody answers; if nobody does, the answer is empty.
            body: What is sent.
        """
        assert connection is self._connection
        reply = f"{self._inbox}.{next(self._numbers)}"
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[reply] = (subject, answer)
        connection.wire.send(pub_cmd(subject, reply, body))
        return reply

    async def answer(self, connection: Connection, reply: str) -> bytes:
        """Wait for the answer to what was sent.

        Raises:
            ChannelBroken: There was no answer; the message may have arrived.
            SecurityError: The server does not let us send there.
        """
        subject, answer = self._waiting[reply]
        either: set[asyncio.Future[Any]] = {answer, connection.lost}
        try:
            await asyncio.wait(
                either, timeout=ANSWER_LIMIT, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            del self._waiting[reply]
        if answer.done():
            return answer.result()
        if connection.lost.done():
            words, error = connection.cause()
            raise ChannelBroken(f"the NATS link was lost: {words}") from error
        raise ChannelBroken(f"{subject} did not answer within {ANSWER_LIMIT:g} s")

    def listen(self, listener: Listener) -> str:
        """Return a subject of the inbox whose messages go to a listener."""
        subject = f"{self._inbox}.{next(self._numbers)}"
        self._listeners[subject] = listener
        return subject

    def ignore(self, subject: str) -> None:
        """Listen there no more."""
        self._listeners.pop(subject, None)
