"""What the pytest plugin's fixtures hold: a master and an agent on a bus of memory.

Owns how they are made: the real programs and the real protocol, over `memory://` with
switches for faults. Nothing here knows pytest, so it can be used in any runner.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from remoting_bus._agent import Agent
from remoting_bus._loop import Supervisor
from remoting_bus._master import Master
from remoting_bus.bus.memory import MemoryBackend
from remoting_bus.channel.pair import Pair

from .faults import RemotingFaults

__all__ = ["TestBus", "agent_on", "master_on"]

_numbers = itertools.count(1)


class TestBus:
    """One bus of memory for one test; each program opens it for itself.

    Attributes:
        faults: Switches of every program's connection.
        url: Programs that open it themselves have no faults.
    """

    __test__ = False  # for pytest: this is no class of tests

    def __init__(self) -> None:
        self.faults = RemotingFaults()
        self.url = f"memory://pytest-{os.getpid()}-{next(_numbers)}"

    def open(self) -> AbstractAsyncContextManager[Pair]:
        """Open it, with faults."""
        pair = Pair(self.faults.wrap(MemoryBackend()), self.url, None)
        return Supervisor(pair.life, "the bus", pair.ended)


@asynccontextmanager
async def master_on(bus: TestBus) -> AsyncGenerator[Master, None]:
    """A master on the bus of a test."""
    async with bus.open() as pair, Master(pair, name="master") as master:
        yield master


@asynccontextmanager
async def agent_on(bus: TestBus) -> AsyncGenerator[Agent, None]:
    """An agent on the bus of a test, joined to the master there."""
    async with bus.open() as pair, Agent(pair, name="agent") as agent:
        yield agent
