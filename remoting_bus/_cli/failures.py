"""From what went wrong to one line and an exit status.

Owns the words. Errors of the library say themselves what to do; here only what a shell's
user needs beyond that is added. It must not print.
"""

from __future__ import annotations

import os

from remoting_bus.errors import NameTaken, PeerLost, RemoteError, RemotingError

__all__ = ["FENCED", "Failure", "Finished", "Wrong", "describe"]

FENCED = 3
"""Another program runs under an agent's name: a supervisor must not start it again."""

MAX_LINE = 2_000
"""Characters of an error: what a far side says may be of any length."""


class Failure(Exception):
    """A command failed, and knows how to say it.

    Attributes:
        status: The exit status.
        kind: The name of the error, for programs.
    """

    status = 1

    def __init__(self, message: str, *, kind: str = "", status: int = 1) -> None:
        super().__init__(message)
        self.kind = kind or type(self).__name__
        self.status = status


class Wrong(Failure):
    """It was asked wrongly: exit status 2."""

    def __init__(self, message: str) -> None:
        super().__init__(message, kind="UsageError", status=2)


class Finished(Exception):
    """Ends a command with a status of its own; whatever there was to say was said."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def describe(error: BaseException) -> Failure:
    """Return what to say of an error, and the status to end with."""
    if isinstance(error, Failure):
        return error
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return Failure(_line(error), kind=type(error).__name__, status=_status(error))


def _status(error: BaseException) -> int:
    if isinstance(error, NameTaken):
        return FENCED
    # A URL, a name, a token or an option that cannot be: told before anything was done.
    asked_wrongly = isinstance(error, ValueError) and not _is_remote(error)
    return 2 if asked_wrongly else 1


def _line(error: BaseException) -> str:
    said = " ".join(str(error).split())[:MAX_LINE]
    match error:
        case PeerLost(executed="no"):
            return f"{said} (it did not run)"
        case PeerLost():
            return f"{said} (it may have run)"
        case RemoteError(type_name=str(name)) if name:
            return f"{name}: {said}"
        case RemotingError():
            return said
        case OSError(filename=str(path), strerror=str(why)):
            return f"{os.fspath(path)}: {why}"
        case _:
            return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _is_remote(error: BaseException) -> bool:
    """Whether the far side raised it: it comes with the remote traceback as a note."""
    return bool(getattr(error, "__notes__", None))
