"""The processes of the demo: the bus, three agents, and the master in this one.

Owns their start and their end, and every file: all are in one folder that goes with
them. However this process ends, keepers end the others. It must not know the steps.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from remoting_bus._cli.settings import CONFIG_VARIABLE, PREFIX
from remoting_bus._master import Master, RemoteAgent
from remoting_bus.bus.child import Child, open_child
from remoting_bus.errors import CallTimeout

from .brokers import PRIVATE, opened_private
from .show import Unexpected

if TYPE_CHECKING:
    from remoting_bus_nats.server import EmbeddedServer

__all__ = ["HEARTBEAT", "PATIENCE", "Stage", "opened"]

NAMES = ("demo-1", "demo-2", "demo-3")

HEARTBEAT = 0.5
"""Seconds; ten times as often as usual, so that the demo is over soon."""

PATIENCE = 6.0
"""Seconds that the bus or an agent may be away; 300 by default."""

READY = 30.0
"""Seconds for three Pythons to start, on a machine that has other things to do."""

LEAVE = 1.0
"""Seconds that calls have when an agent is told to end."""


class OurBus(Protocol):
    """A bus that can be stopped and continued here."""

    @property
    def pid(self) -> int | None:
        """Its process."""


@dataclass(frozen=True)
class Stage:
    """What the steps play on.

    Attributes:
        folder: For files here; `there` for those of agents. Removed in the end.
        broker: The bus, if it is ours.
    """

    master: Master
    agents: list[RemoteAgent]
    processes: dict[str, Child]
    folder: Path
    there: Path
    broker: OurBus | None


@asynccontextmanager
async def opened(url: str | None) -> AsyncGenerator[Stage, None]:
    """Start everything; end it, and remove its files, when left.

    Args:
        url: A bus that is there, the name of a private broker, or None: a NATS of ours.
    """
    with _folder() as folder:
        async with AsyncExitStack() as stack:
            broker: OurBus | None = None
            if url is None:
                embedded = await stack.enter_async_context(_embedded())
                broker, url = embedded, embedded.url
            elif url in PRIVATE:
                private = await stack.enter_async_context(opened_private(url))
                broker, url = private, private.url
            made = Master(
                url,
                namespace=f"demo-{secrets.token_hex(4)}",
                timeout=READY,
                grace=PATIENCE,
                heartbeat=HEARTBEAT,
            )
            master = await stack.enter_async_context(made)
            processes = {}
            for name in NAMES:
                child = open_child(
                    _command(name, master.join_token),
                    log=folder / f"{name}.log",
                    grace=LEAVE + 2.0,
                )
                processes[name] = await stack.enter_async_context(child)
            agents = [await _ready(master, name, folder) for name in NAMES]
            there = folder / "agents"
            there.mkdir()
            yield Stage(master, agents, processes, folder, there, broker)


def _embedded() -> EmbeddedServer:
    # Here and in `brokers` the command line knows drivers: what is to be stopped and
    # continued has to be ours.
    from remoting_bus_nats.server import EmbeddedServer

    return EmbeddedServer()


def _command(name: str, token: str) -> list[str]:
    python = [sys.executable, "-m", "remoting_bus._cli", "agent"]
    options = {
        "--join": token,
        "--name": name,
        "--commands": "remoting_bus._cli.demo.work",
        "--patience": str(LEAVE),
        "--grace": str(PATIENCE),
        "--heartbeat": str(HEARTBEAT),
    }
    return python + [word for option in options.items() for word in option]


async def _ready(master: Master, name: str, folder: Path) -> RemoteAgent:
    agent = master.agent(name)
    try:
        await agent.ready(timeout=READY)
    except CallTimeout as error:
        said = (folder / f"{name}.log").read_text(errors="replace").strip()
        raise Unexpected(f"agent {name} did not start: {said or error}") from error
    return agent


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder for all files, those that an embedded server keeps included.

    Meanwhile the environment is that of the demo: what it starts is told all it needs,
    and the user's own settings are for his commands.
    """
    folder = Path(tempfile.mkdtemp(prefix="remoting-bus-demo-"))
    before = dict(os.environ)
    for name in before:
        if name.startswith(PREFIX):
            del os.environ[name]
    os.environ[CONFIG_VARIABLE] = os.devnull
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    try:
        yield folder
    finally:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder)
