"""How a command reaches agents: beside their master, under a name of its own.

Owns the fresh name for each process (so that two commands never fence each other) and
the time that the bus has. It must not know what is done then.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from remoting_bus._master import Master

from .places import Common

__all__ = ["reach"]


@asynccontextmanager
async def reach(common: Common) -> AsyncGenerator[Master, None]:
    """Open the bus; agents are called through what is given, and keep their master.

    Raises:
        ConnectionFailed: The bus could not be reached in time.
    """
    place = common.place()
    async with Master(
        place.urls, namespace=place.namespace, adopt=False, timeout=common.patience
    ) as master:
        yield master
