"""Master/agent remoting over a message bus.

    import remoting_bus as rb

Everything public is here. Errors and names are loaded at once, the rest when it is first
used: importing this is cheap, and loads no broker's client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .errors import (
    CallCancelled,
    CallError,
    CallRefused,
    CallTimeout,
    ChannelBroken,
    ChannelClosed,
    ConnectionFailed,
    LimitExceeded,
    LocalProtocolError,
    NameTaken,
    NotGranted,
    Overloaded,
    PeerLost,
    ProtocolError,
    RemoteError,
    RemoteProtocolError,
    RemotingError,
    Revoked,
    SecurityError,
    Unsupported,
)
from .names import Priority

if TYPE_CHECKING:
    from ._agent import Agent as Agent
    from ._loop import run as run
    from ._master import (
        AgentEvent as AgentEvent,
        AgentJoined as AgentJoined,
        AgentLeft as AgentLeft,
        AgentLost as AgentLost,
        AgentResumed as AgentResumed,
        AgentSuspended as AgentSuspended,
        Master as Master,
        RemoteAgent as RemoteAgent,
    )
    from ._process import RemoteProcess as RemoteProcess
    from ._remote.blocking import as_file as as_file
    from ._remote.call import Call as Call
    from ._remote.channel import Channel as Channel
    from ._remote.context import (
        CallContext as CallContext,
        Progress as Progress,
        checkpoint as checkpoint,
        current as current,
    )
    from ._remote.outcome import Outcome as Outcome
    from ._remote.registry import (
        command as command,
        inline as inline,
        one_way as one_way,
    )
    from .channel.pair import open_bus as open_bus
    from .channel.streams import pipe as pipe

    __version__: str

__all__ = [
    "Agent",
    "AgentEvent",
    "AgentJoined",
    "AgentLeft",
    "AgentLost",
    "AgentResumed",
    "AgentSuspended",
    "Call",
    "CallCancelled",
    "CallContext",
    "CallError",
    "CallRefused",
    "CallTimeout",
    "Channel",
    "ChannelBroken",
    "ChannelClosed",
    "ConnectionFailed",
    "LimitExceeded",
    "LocalProtocolError",
    "Master",
    "NameTaken",
    "NotGranted",
    "Outcome",
    "Overloaded",
    "PeerLost",
    "Priority",
    "Progress",
    "ProtocolError",
    "RemoteAgent",
    "RemoteError",
    "RemoteProcess",
    "RemoteProtocolError",
    "RemotingError",
    "Revoked",
    "SecurityError",
    "Unsupported",
    "as_file",
    "checkpoint",
    "command",
    "current",
    "inline",
    "one_way",
    "open_bus",
    "pipe",
    "run",
]

_WHERE = {
    "Agent": "_agent",
    "AgentEvent": "_master",
    "AgentJoined": "_master",
    "AgentLeft": "_master",
    "AgentLost": "_master",
    "AgentResumed": "_master",
    "AgentSuspended": "_master",
    "Call": "_remote.call",
    "CallContext": "_remote.context",
    "Channel": "_remote.channel",
    "Master": "_master",
    "Outcome": "_remote.outcome",
    "Progress": "_remote.context",
    "RemoteAgent": "_master",
    "RemoteProcess": "_process",
    "as_file": "_remote.blocking",
    "checkpoint": "_remote.context",
    "command": "_remote.registry",
    "current": "_remote.context",
    "inline": "_remote.registry",
    "one_way": "_remote.registry",
    "open_bus": "channel.pair",
    "pipe": "channel.streams",
    "run": "_loop",
}


def __getattr__(name: str) -> Any:
    """Load what is asked for the first time (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("remoting-bus")
    elif name in _WHERE:
        module = importlib.import_module(f"{__name__}.{_WHERE[name]}")
        value = getattr(module, name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
