"""An agent as a process of its own, for tests that harm it.

    python victim.py URL NAMESPACE NAME

It prints a line once it has joined. When its name is taken it ends with status 3.
"""

from __future__ import annotations

import os
import sys
import time

import anyio

from remoting_bus._agent import Agent
from remoting_bus._loop import run
from remoting_bus._remote.registry import inline
from remoting_bus.errors import NameTaken

NAME_TAKEN = 3


def getpid() -> int:
    """Return the process's id."""
    return os.getpid()


async def sleep(seconds: float) -> str:
    """Return after so long."""
    await anyio.sleep(seconds)
    return "slept"


async def exit_hard(status: int) -> None:
    """End the process where it stands."""
    os._exit(status)


@inline
def block(seconds: float) -> str:
    """Block the event loop."""
    time.sleep(seconds)
    return "blocked"


async def main(url: str, namespace: str, name: str) -> int:
    """Serve until it is ended."""
    agent = Agent(
        url,
        name=name,
        namespace=namespace,
        offers={"commands"},
        heartbeat=0.2,
        grace=3.0,
    )
    for function in (getpid, sleep, exit_hard, block):
        agent.command(function.__name__)(function)
    try:
        async with agent:
            print("joined", flush=True)  # noqa: T201 - what the test waits for
            await agent.wait_ended()
    except NameTaken as error:
        print(error, file=sys.stderr, flush=True)  # noqa: T201 - for people
        return NAME_TAKEN
    return 0


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1], sys.argv[2], sys.argv[3]))
