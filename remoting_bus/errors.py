"""The tree of errors: what went wrong, by who is at fault and what to do about it.

Owns every exception that the library raises on purpose. It knows nothing else; each
error is raised where its rule is known. `docs/concepts.md` has the tree as a picture.
"""

from __future__ import annotations

from typing import Literal

__all__ = [
    "CallCancelled",
    "CallError",
    "CallRefused",
    "CallTimeout",
    "ChannelBroken",
    "ChannelClosed",
    "ConnectionFailed",
    "Executed",
    "LimitExceeded",
    "LocalProtocolError",
    "NameTaken",
    "NotGranted",
    "Overloaded",
    "PeerLost",
    "ProtocolError",
    "RemoteError",
    "RemoteProtocolError",
    "RemotingError",
    "Revoked",
    "SecurityError",
    "Unsupported",
]

Executed = Literal["no", "unknown"]
"""Whether a call that did not end normally may have run: surely not, or perhaps."""


class RemotingError(Exception):
    """The root: `except rb.RemotingError` catches all that this library raises."""


class ConnectionFailed(RemotingError):
    """The bus cannot be reached. Try again, or look at the cause in the message.

    Attributes:
        final: Trying again does not help: the credentials were refused, or a driver is
            not installed.
    """

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


class ChannelClosed(RemotingError):
    """The channel, bus or program was closed by this side: a bug in the caller."""


class ChannelBroken(RemotingError):
    """The bus or the peer is gone for good; `__cause__` says why, where it is known."""


class PeerLost(ChannelBroken):
    """The peer did not come back within the grace, or came back as a new process.

    Attributes:
        executed: "no" if the call surely did not run, "unknown" if it may have.
    """

    def __init__(self, message: str, *, executed: Executed = "unknown") -> None:
        super().__init__(message)
        self.executed: Executed = executed


class NameTaken(ChannelBroken):
    """Another program runs under this name: this one has stopped, and must stay so.

    Restarting it would only end the other one in turn; give one of them another name.
    The command line ends with an exit status of its own for it, 3, which a supervisor
    can be told not to restart on (systemd: `RestartPreventExitStatus=3`).

    Attributes:
        name: The name that both want.
        by: What the other one said of itself: its host, process id and version.
    """

    def __init__(self, message: str, *, name: str, by: str = "") -> None:
        super().__init__(message)
        self.name = name
        self.by = by


class CallError(RemotingError):
    """One call failed; the channel is fine."""


class CallTimeout(CallError, TimeoutError):
    """The deadline passed. The far side was told to stop the work.

    Attributes:
        executed: "no" if the call surely did not run, "unknown" if it may have.
    """

    def __init__(self, message: str, *, executed: Executed = "unknown") -> None:
        super().__init__(message)
        self.executed: Executed = executed


class CallCancelled(CallError):
    """The call was cancelled; the message says what became of the work."""


class CallRefused(CallError):
    """The call never ran: unknown, undecodable, too large, or not wanted."""


class Overloaded(CallRefused):
    """The peer has as many calls running and waiting as it takes. Try again later."""


class NotGranted(CallRefused):
    """The peer does not offer this to us."""


class Revoked(CallRefused):
    """The remote object is no longer exported."""


class RemoteError(CallError):
    """The remote code raised an exception that has no class here.

    Attributes:
        type_name: The exception's class as the far side names it, `module.qualname`.
        traceback: The remote traceback as text.
    """

    def __init__(
        self, message: str, *, type_name: str = "", traceback: str = ""
    ) -> None:
        super().__init__(message)
        self.type_name = type_name
        self.traceback = traceback


class LimitExceeded(RemotingError):
    """Something is larger than a limit allows; nothing was sent.

    Attributes:
        limit: The limit's name.
        value: What the limit is.
        asked: What was asked for.
    """

    def __init__(self, message: str, *, limit: str, value: int, asked: int) -> None:
        super().__init__(message)
        self.limit = limit
        self.value = value
        self.asked = asked


class Unsupported(RemotingError):
    """This bus cannot do that; the message says what it would need.

    Attributes:
        limit: The field of `Bus.limits` that says so beforehand.
    """

    def __init__(self, message: str, *, limit: str) -> None:
        super().__init__(message)
        self.limit = limit


class SecurityError(RemotingError):
    """An unknown or wrong identity, or a seal that does not open."""


class ProtocolError(RemotingError):
    """The rules of the protocol were broken."""


class LocalProtocolError(ProtocolError):
    """This side broke them: a bug in remoting_bus or in the program using its core."""


class RemoteProtocolError(ProtocolError):
    """The peer broke them; the channel is closed."""
