"""An echo on each raw client, with a reconnect loop as one would write it by hand.

A server and a client on connections of their own; the client asks until it is answered,
half a second each time. What it shows is how soon the broker and its client are back
after a fault.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aio_pika
import aiokafka
import nats
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from nats.aio.client import Client
from nats.aio.msg import Msg

PATIENCE = 0.5
"""Seconds until the client asks again."""

PAUSE = 0.05
"""Seconds between two attempts to connect."""


class Echo(ABC):
    """A server that answers, and a client that asks."""

    def __init__(self, urls: list[str]) -> None:
        self.urls = urls
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def ask_for_ever(self, answered: Callable[[], None]) -> None:
        """Ask, one at a time, and tell each answer."""
        number = 0
        while True:
            number += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await self.ask(number)
                    answered()
            await asyncio.sleep(0.02)

    @abstractmethod
    async def open(self) -> None:
        """Start both sides."""

    @abstractmethod
    async def ask(self, number: int) -> None:
        """Ask once and wait for the answer to it, or raise TimeoutError."""


class NatsEcho(Echo):
    """nats-py, whose own reconnecting is as good as a loop by hand once it is set."""

    async def _connect(self) -> Client:
        client = await nats.connect(
            [url.partition("?")[0] for url in self.urls],
            reconnect_time_wait=0.1,
            max_reconnect_attempts=-1,
            ping_interval=2,
            max_outstanding_pings=2,
            connect_timeout=1,
            error_cb=_ignore,
        )
        self._stack.push_async_callback(client.close)
        return client

    async def open(self) -> None:
        """Start both sides."""
        server, self._client = await self._connect(), await self._connect()

        async def reply(message: Msg) -> None:
            await message.respond(message.data)

        await server.subscribe("raw.echo", cb=reply)
        await server.flush()

    async def ask(self, number: int) -> None:
        """Ask once."""
        try:
            await self._client.request("raw.echo", b"%d" % number, timeout=PATIENCE)
        except nats.errors.Error as error:
            raise TimeoutError from error


async def _ignore(error: Exception) -> None:
    """Connections are lost here all the time."""


class AmqpEcho(Echo):
    """aio-pika, by turns on all hosts."""

    async def open(self) -> None:
        """Start both sides."""
        self._waiting: dict[bytes, asyncio.Future[None]] = {}
        self._out: aio_pika.abc.AbstractExchange | None = None
        for side in (self._serve, self._listen):
            task = asyncio.create_task(self._keep(side))
            self._stack.push_async_callback(_ended, task)

    async def _keep(
        self, side: Callable[[aio_pika.abc.AbstractConnection], object]
    ) -> None:
        turn = 0
        while True:
            url = self.urls[turn % len(self.urls)].partition("?")[0]
            turn += 1
            try:
                async with asyncio.timeout(2):
                    connection = await aio_pika.connect(url + "?heartbeat=2")
            except (OSError, TimeoutError, aio_pika.exceptions.AMQPError):
                await asyncio.sleep(PAUSE)
                continue
            closed = asyncio.Event()
            connection.close_callbacks.add(lambda *_, closed=closed: closed.set())
            try:
                async with asyncio.timeout(5):
                    await side(connection)  # type: ignore[misc]
                await closed.wait()
            except (OSError, TimeoutError, aio_pika.exceptions.AMQPError):
                await asyncio.sleep(PAUSE)
            finally:
                with contextlib.suppress(Exception):
                    async with asyncio.timeout(1):
                        await connection.close()

    async def _serve(self, connection: aio_pika.abc.AbstractConnection) -> None:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        exchange = await channel.declare_exchange("raw", "direct", auto_delete=False)
        await queue.bind(exchange, "echo")

        async def reply(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            with contextlib.suppress(aio_pika.exceptions.AMQPError, OSError):
                await exchange.publish(aio_pika.Message(message.body), "answer")

        await queue.consume(reply, no_ack=True)

    async def _listen(self, connection: aio_pika.abc.AbstractConnection) -> None:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        exchange = await channel.declare_exchange("raw", "direct", auto_delete=False)
        await queue.bind(exchange, "answer")

        async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            waiting = self._waiting.pop(message.body, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(None)

        await queue.consume(take, no_ack=True)
        self._out = exchange

    async def ask(self, number: int) -> None:
        """Ask once."""
        if self._out is None:
            raise TimeoutError
        body = b"%d" % number
        answer = self._waiting[body] = asyncio.get_running_loop().create_future()
        try:
            await self._out.publish(aio_pika.Message(body), "echo")
            await answer
        except (aio_pika.exceptions.AMQPError, OSError, RuntimeError) as error:
            raise TimeoutError from error
        finally:
            self._waiting.pop(body, None)


def _seen(done: asyncio.Future[Any]) -> None:
    """Whether it was sent is seen by its answer."""
    if not done.cancelled():
        done.exception()


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


class KafkaEcho(Echo):
    """aiokafka, which reconnects by itself."""

    QUESTIONS, ANSWERS = "raw-questions", "raw-answers"

    async def open(self) -> None:
        """Start both sides."""
        hosts = [urlsplit(url).netloc for url in self.urls]
        admin = AIOKafkaAdminClient(bootstrap_servers=hosts)
        await admin.start()
        made = await admin.create_topics(
            [NewTopic(each, 1, 3) for each in (self.QUESTIONS, self.ANSWERS)]
        )
        assert all(code in (0, 36) for _, code, *_ in made.topic_errors), made
        await admin.close()
        self._waiting: dict[bytes, asyncio.Future[None]] = {}
        self._server = await self._producer(hosts)
        self._client = await self._producer(hosts)
        for topic, take in (
            (self.QUESTIONS, self._reply),
            (self.ANSWERS, self._answered),
        ):
            consumer = aiokafka.AIOKafkaConsumer(
                bootstrap_servers=hosts,
                request_timeout_ms=2000,
                retry_backoff_ms=50,
                metadata_max_age_ms=2000,
                auto_offset_reset="latest",
            )
            await consumer.start()
            self._stack.push_async_callback(consumer.stop)
            partition = aiokafka.TopicPartition(topic, 0)
            consumer.assign([partition])
            await consumer.seek_to_end(partition)
            task = asyncio.create_task(self._read(consumer, take))
            self._stack.push_async_callback(_ended, task)

    async def _producer(self, hosts: list[str]) -> aiokafka.AIOKafkaProducer:
        producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=hosts,
            acks=1,
            linger_ms=0,
            request_timeout_ms=2000,
            retry_backoff_ms=50,
            metadata_max_age_ms=2000,
        )
        await producer.start()
        self._stack.push_async_callback(producer.stop)
        return producer

    async def _read(
        self, consumer: aiokafka.AIOKafkaConsumer, take: Callable[[bytes], object]
    ) -> None:
        while True:
            with contextlib.suppress(aiokafka.errors.KafkaError):
                take((await consumer.getone()).value)

    def _reply(self, body: bytes) -> None:
        asyncio.ensure_future(self._send_answer(body)).add_done_callback(_seen)

    async def _send_answer(self, body: bytes) -> None:
        (await self._server.send(self.ANSWERS, body)).add_done_callback(_seen)

    def _answered(self, body: bytes) -> None:
        waiting = self._waiting.pop(body, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def ask(self, number: int) -> None:
        """Ask once."""
        body = b"%d" % number
        answer = self._waiting[body] = asyncio.get_running_loop().create_future()
        try:
            sent = await self._client.send(self.QUESTIONS, body)
            sent.add_done_callback(_seen)
            await answer
        except aiokafka.errors.KafkaError as error:
            raise TimeoutError from error
        finally:
            self._waiting.pop(body, None)


ECHOES: dict[str, type[Echo]] = {
    "nats": NatsEcho,
    "amqp": AmqpEcho,
    "kafka": KafkaEcho,
}
