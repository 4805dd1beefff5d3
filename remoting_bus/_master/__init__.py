"""The program that runs work on agents: `Master`, and its handles, `RemoteAgent`.

`master` is the program, `roster` what it knows of its agents, `remote_agent` the handle
on one, `events` what happens to them, `gather` one function on many. It must not know
`_agent`: the two meet on the bus only. Start with `master`.
"""

from __future__ import annotations

from .events import (
    AgentEvent,
    AgentJoined,
    AgentLeft,
    AgentLost,
    AgentResumed,
    AgentSuspended,
)
from .gather import Many
from .master import Master
from .remote_agent import AgentState, RemoteAgent
from .roster import AgentRecord

__all__ = [
    "AgentEvent",
    "AgentJoined",
    "AgentLeft",
    "AgentLost",
    "AgentRecord",
    "AgentResumed",
    "AgentState",
    "AgentSuspended",
    "Many",
    "Master",
    "RemoteAgent",
]
