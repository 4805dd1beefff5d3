"""`remoting-bus ps`: the agents that the masters of the fleet know."""

from __future__ import annotations

from dataclasses import asdict

from remoting_bus._loop import run
from remoting_bus._master.roster import AgentRecord

from .output import Output
from .places import Common
from .session import reach

__all__ = ["ps"]

ANSWER_TIME = 2.0
"""Seconds that masters have to answer: half of it to be found."""

TITLES = ("NAME", "STATE", "LABELS", "MASTER", "HOST", "PID", "VERSION")


def ps(*, common: Common | None = None) -> None:
    """List the agents of the fleet, as its masters know them."""
    common = common or Common()
    output = Output(as_json=common.as_json)
    agents = run(_survey, common)
    if output.as_json:
        output.data([asdict(each) for each in agents])
        return
    output.rows(TITLES, [_row(each) for each in agents])
    if not agents:
        output.note("no master of this namespace knows any agent")


async def _survey(common: Common) -> list[AgentRecord]:
    async with reach(common) as master:
        return await master.survey(ANSWER_TIME)


def _row(each: AgentRecord) -> tuple[str, ...]:
    labels = ",".join(each.labels) or "-"
    return (
        each.name,
        each.state,
        labels,
        each.master,
        each.host or "-",
        str(each.pid or "-"),
        each.version or "-",
    )
