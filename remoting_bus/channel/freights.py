"""Jobs with streams that live at the bulk half: a file's bytes never cross to the caller.

Owns which stream belongs to which job: a token that was given when the end was handed
over, or when the call came. It must not know what a job does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from remoting_bus._loop import Signal, current_loop
from remoting_bus.errors import ChannelBroken
from remoting_bus.protocol.ends import Inlet, Outlet
from remoting_bus.protocol.freight import Introduced

from .streams import ReceiveStream, SendStream

__all__ = ["Jobs", "run_job"]

R = TypeVar("R")

_UNCLAIMED = 256
"""Ends without a job after which those that are broken are looked for: calls that were
refused leave theirs."""


class Jobs:
    """Ends by token, and who waits for them; on the bulk loop only.

    Args:
        alive: Tells whether a session is known on this side.
    """

    def __init__(self, alive: Callable[[bytes], bool]) -> None:
        self._alive = alive
        self._arrived: dict[int, tuple[bytes, Inlet | Outlet]] = {}
        self._awaited: dict[int, tuple[bytes, Signal]] = {}
        self._over: set[int] = set()

    def introduced(self, key: bytes, introduced: Introduced) -> None:
        """A stream with a token has its end here."""
        if len(self._arrived) >= _UNCLAIMED:
            for token, (_, end) in list(self._arrived.items()):
                if end.error is not None or end.home is None:
                    del self._arrived[token]
        self._arrived[introduced.token] = (key, introduced.end)
        awaited = self._awaited.get(introduced.token)
        if awaited is not None:
            awaited[1].set()

    def session_over(self, key: bytes) -> None:
        """Nothing more comes of this session."""
        for token, (of, _) in list(self._arrived.items()):
            if of == key and token not in self._awaited:
                del self._arrived[token]
        for token, (of, signal) in self._awaited.items():
            if of == key:
                self._over.add(token)
                signal.set()

    async def claim(self, key: bytes, token: int) -> Inlet | Outlet:
        """Wait until the end of this token is here, and take it.

        Raises:
            ChannelBroken: The session ended before it came.
        """
        if token not in self._arrived and not self._alive(key):
            raise ChannelBroken("the session ended before the stream began")
        signal = current_loop().signal()
        self._awaited[token] = (key, signal)
        try:
            while token not in self._arrived:
                if token in self._over:
                    raise ChannelBroken("the session ended before the stream began")
                await signal.wait()
            return self._arrived.pop(token)[1]
        finally:
            del self._awaited[token]
            self._over.discard(token)


async def run_job(
    end: Inlet | Outlet, job: Callable[[ReceiveStream | SendStream], Awaitable[R]]
) -> R:
    """Run a job with its end as a stream; what it raises resets the stream."""
    if isinstance(end, Inlet):
        async with ReceiveStream(end) as source:
            return await job(source)
    async with SendStream(end) as sink:
        return await job(sink)
