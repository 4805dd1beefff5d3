"""Transfers where their bytes live: on the bulk side's loop, which may be a thread's own.

There a transfer goes on while the caller's loop is busy, and its bytes never cross to it
(two-loops, "Files"). Owns how the two streams of one transfer meet there in one task. It
must not know what is transferred.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import anyio
import anyio.abc

from remoting_bus._remote.context import Progress
from remoting_bus.channel.link import Link
from remoting_bus.channel.streams import ReceiveStream, SendStream
from remoting_bus.protocol.ends import Carried

__all__ = ["Report", "Work", "carry"]

Report = Callable[[Progress], object]
"""Told how far something is."""

R = TypeVar("R")

Work = Callable[
    [anyio.abc.ByteReceiveStream, anyio.abc.ByteSendStream, Report], Awaitable[R]
]
"""Works with a stream in and a stream out; on the loop where they live."""


class _Ended(Exception):
    """The work has failed: the stream that waits for its end is to be reset, too."""


class _Meeting(Generic[R]):
    """Where the stream out waits for the work; on the bulk side's loop only."""

    def __init__(self, work: Work[R]) -> None:
        self._work = work
        self._outgoing: SendStream | None = None
        self._here: anyio.Event | None = None
        self._over: anyio.Event | None = None
        self._failed: str | None = None
        self._ended = False

    async def lend(self, outgoing: SendStream) -> None:
        """Lend the stream out to the work, until that has ended."""
        self._outgoing = outgoing
        if self._here is not None:
            self._here.set()
        if not self._ended:
            self._over = anyio.Event()
            await self._over.wait()
        if self._failed is not None:
            raise _Ended(self._failed)

    async def run(self, incoming: ReceiveStream, report: Report) -> R:
        """Do the work, once the other stream is here, too."""
        try:
            if self._outgoing is None:
                self._here = anyio.Event()
                await self._here.wait()
            assert self._outgoing is not None
            return await self._work(incoming, self._outgoing, report)
        except BaseException as error:
            self._failed = f"{type(error).__name__}: {error}"
            raise
        finally:
            self._ended = True
            if self._over is not None:
                self._over.set()


async def carry(
    link: Link, incoming: Carried, outgoing: Carried, work: Work[R], report: Report
) -> R:
    """Run work on the bulk side's loop, with both streams attached there.

    Args:
        link: Of the call that the streams belong to.
        incoming: From the peer.
        outgoing: To it.
        work: Gets both as streams.
        report: Called here with what the work reports; the newest only.

    Raises:
        Whatever the work raised: both streams are reset then.
        ChannelBroken: The session ended before the streams began.

    Cancelling cancels the work, and waits until it has ended.
    """
    meeting = _Meeting(work)
    result: list[R] = []
    failed: list[Exception] = []

    async def lend(scope: anyio.CancelScope) -> None:
        try:
            await link.carry(outgoing, meeting.lend)
        except _Ended:
            pass  # the work tells why
        except Exception as error:  # noqa: BLE001 - raised below, without a group
            failed.append(error)
            scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(lend, group.cancel_scope)
        tell: Callable[[Any], None] = report  # type: ignore[assignment]
        try:
            result.append(await link.carry(incoming, meeting.run, progress=tell))
        except Exception as error:  # noqa: BLE001 - raised below, without a group
            failed.insert(0, error)
            group.cancel_scope.cancel()
    if failed:
        raise failed[0]
    return result[0]
