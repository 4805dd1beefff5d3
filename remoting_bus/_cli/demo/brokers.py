"""Private brokers that the demo starts by name, where it is given no URL.

Owns the table of them. They are those that the library's tests start, so they are only
there where their broker is installed; what is missing says how to bring it. It must not
know the steps.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from remoting_bus.errors import ConnectionFailed

if TYPE_CHECKING:
    from remoting_bus.testing.brokers import LocalBroker

__all__ = ["PRIVATE", "Private", "opened_private"]


@dataclass(frozen=True)
class Private:
    """A broker that runs for the demo alone.

    Attributes:
        url: Where clients find it.
        pid: Its process.
    """

    url: str
    pid: int


def _amqp() -> LocalBroker:
    from remoting_bus.testing.brokers import LocalRabbitMQ

    return LocalRabbitMQ()


def _kafka() -> LocalBroker:
    from remoting_bus.testing.brokers import LocalKafka

    return LocalKafka()


PRIVATE: dict[str, Callable[[], LocalBroker]] = {"amqp": _amqp, "kafka": _kafka}
"""What starts a broker, by the word that stands in the place of a URL."""


@asynccontextmanager
async def opened_private(name: str) -> AsyncGenerator[Private, None]:
    """A broker of this kind while entered; it takes seconds to start.

    Raises:
        ConnectionFailed: It is not installed, or could not be started.
    """
    broker = PRIVATE[name]()
    try:
        await anyio.to_thread.run_sync(broker.__enter__)
    except (OSError, RuntimeError) as error:  # FileNotFoundError says what to bring
        raise ConnectionFailed(f"no private {name}: {error}") from error
    try:
        yield Private(broker.urls[0], broker.pid())
    finally:
        with anyio.CancelScope(shield=True):  # it kills what is not ended by its grace
            await anyio.to_thread.run_sync(broker.__exit__, None, None, None)
