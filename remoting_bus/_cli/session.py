"""How a command reaches agents: beside their master, under a name of its own.

Owns the fresh name for each process (so that two commands never fence each other) and
the time that the bus has. It must not know what is done then.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from remoting_bus._master import Master

from .places import Common

__all__ = ["REACH_TIMEOUT", "reach"]

REACH_TIMEOUT = 10.0
"""Seconds to reach the bus, where no --timeout is given: people wait no longer."""


@asynccontextmanager
async def reach(common: Common) -> AsyncGenerator[Master, None]:
    """Open the bus; agents are called through what is given, and keep their master.

    Raises:
        ConnectionFailed: The bus could not be reached in time.
    """
    place = common.place()
    limit = REACH_TIMEOUT if common.timeout is None else common.timeout
    async with Master(
        place.urls, namespace=place.namespace, adopt=False, timeout=limit
    ) as master:
        yield master
