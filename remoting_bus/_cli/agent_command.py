"""`remoting-bus agent`: an agent as a program of its own.

SIGTERM drains it, as `run` does with agents. A second program that takes its name ends it with exit status 3, so that a supervisor can
be told not to start it again. It must not know how an agent serves.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated

from cyclopts import Parameter

from remoting_bus._agent import Agent
from remoting_bus._agent.agent import OFFERS, PATIENCE
from remoting_bus._loop import run

from .failures import Wrong
from .output import Output
from .places import Common, find, nearest
from .settings import as_said

__all__ = ["agent"]


def agent(
    url: Annotated[str | None, Parameter(converter=as_said)] = None,
    /,
    *,
    name: str,
    join: Annotated[str | None, Parameter(converter=as_said)] = None,
    commands: Annotated[
        tuple[str, ...], Parameter(negative="", show_default=False)
    ] = (),
    labels: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    offers: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    patience: float = PATIENCE,
    grace: float = 300.0,
    heartbeat: float = 5.0,
    common: Common | None = None,
) -> None:
    """Be an agent, until interrupted. SIGTERM lets running calls finish first.

    Args:
        url: The bus; or use --join.
        name: Its name, which no other agent of the fleet has.
        join: The token that a master prints.
        commands: A module with the functions it serves; may be repeated.
        labels: By which masters choose agents; comma-separated, or repeated.
        offers: What masters may use: commands, files, processes. All, without.
        patience: Seconds that running calls have after SIGTERM.
        grace: Seconds that the bus or the master may be away.
        heartbeat: Seconds of silence after which the master is asked.
        common: Where the bus is. --timeout counts for reaching it; for ever without.
    """
    common = common or Common()
    place = find(nearest(url, join, common.url), common.namespace)
    made = Agent(
        place.urls,
        name=name,
        namespace=place.namespace,
        commands=[_module(each) for each in _split(commands)],
        labels=_split(labels),
        offers=_split(offers) or OFFERS,
        timeout=common.timeout,
        grace=grace,
        heartbeat=heartbeat,
        patience=patience,
    )
    run(_serve, made, Output(as_json=common.as_json))


async def _serve(made: Agent, output: Output) -> None:
    async with made:
        _tell("joined", made, output)
        await made.wait_ended()
    _tell("left", made, output)


def _tell(what: str, made: Agent, output: Output) -> None:
    if output.as_json:
        output.data({"agent": made.name, "event": what, "pid": os.getpid()})
    else:
        output.note(f"agent {made.name} has {what}")


def _split(words: tuple[str, ...]) -> list[str]:
    return [part for word in words for part in word.split(",") if part]


def _module(name: str) -> ModuleType:
    """Import a module of commands; the current folder's count, as with `python -m`."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise Wrong(
            f"--commands {name}: there is no such module; give the name of one that "
            "Python finds from here, without .py"
        ) from None
