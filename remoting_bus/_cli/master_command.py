"""`remoting-bus master`: a master that agents join and other commands find."""

from __future__ import annotations

import os
from typing import Annotated

import anyio
from cyclopts import Parameter

from remoting_bus._loop import run
from remoting_bus._master import (
    AgentEvent,
    AgentJoined,
    AgentLeft,
    AgentLost,
    AgentResumed,
    AgentSuspended,
    Master,
)

from .output import Output
from .places import DEFAULT_NAMESPACE, Common, Place, find, nearest
from .record import Record, published
from .settings import Said, as_said

__all__ = ["master"]


def master(
    url: Annotated[str | None, Parameter(converter=as_said)] = None,
    /,
    *,
    name: str | None = None,
    common: Common | None = None,
) -> None:
    """Be a master, until interrupted. Prints the one line that an agent needs.

    Args:
        url: The bus; without one a broker is started, for this machine only.
        name: Its name; made up from the host's without.
        common: Where the bus is. --timeout counts for reaching it; for ever without.
    """
    common = common or Common()
    output = Output(as_json=common.as_json)
    said = nearest(url, common.url)
    if said is None:
        place = Place(("embedded://",), common.namespace or DEFAULT_NAMESPACE, "")
    else:
        place = find(said, common.namespace)
        if isinstance(said, Said) and said.rank:
            output.note(f"the bus is the one that {said.source} names")
    made = Master(
        place.urls, name=name, namespace=place.namespace, timeout=common.timeout
    )
    run(_serve, made, output)


async def _serve(made: Master, output: Output) -> None:
    async with made:
        record = Record(tuple(made.urls), made.namespace, made.name, os.getpid())
        with published(record):
            _greet(made, output)
            async with made.watch() as events:
                async for event in events:
                    _tell(event, output)
            await anyio.sleep_forever()


def _greet(made: Master, output: Output) -> None:
    token = made.join_token
    if output.as_json:
        output.data({"master": made.name, "urls": made.urls, "join": token})
        return
    output.note(f"master {made.name} runs; an agent joins with this line:")
    output.line(f"remoting-bus agent --join {token} --name NAME")


def _tell(event: AgentEvent, output: Output) -> None:
    what, reason = _words(event)
    if output.as_json:
        output.data({"agent": event.agent.name, "event": what, "reason": reason})
    else:
        output.note(f"{event.agent.name}: {what}{f': {reason}' if reason else ''}")


def _words(event: AgentEvent) -> tuple[str, str]:
    match event:
        case AgentJoined():
            return "joined", ""
        case AgentResumed():
            return "resumed", ""
        case AgentSuspended():
            return "suspended", event.reason
        case AgentLost():
            return "lost", event.reason
        case AgentLeft():
            return "left", event.reason
