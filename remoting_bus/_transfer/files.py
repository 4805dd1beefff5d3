"""The near side of files: `RemoteFiles`, what programs hold.

Owns trying again: a session that ends in the middle is followed by another, and what is
there already is not sent twice. It must not know sessions: a `Caller` finds them.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Literal, TypeVar, overload

import anyio
import anyio.abc

from remoting_bus._loop import clock
from remoting_bus._remote.call import Call
from remoting_bus._remote.caller import Caller
from remoting_bus._remote.context import Progress
from remoting_bus._remote.links import link_of, link_to
from remoting_bus.channel.streams import ReceiveStream, SendStream
from remoting_bus.errors import (
    CallCancelled,
    CallRefused,
    ChannelBroken,
    NotGranted,
    Overloaded,
    PeerLost,
    Revoked,
)
from remoting_bus.protocol import ends
from remoting_bus.protocol.ends import Carried

from .bulk import Report, Work, carry
from .exchange import Transfer, receive, send
from .opened import RemoteReader, RemoteWriter, wait_opened
from .records import BadTransfer
from .source import Source

__all__ = ["RemoteFiles"]

RETRY_PATIENCE = 60.0
"""Seconds without any progress after which a transfer to a peer that was lost is given
up. An agent that was restarted is back in a few (its lookups are at most 5 s apart)."""

RETRY_PAUSE = 0.2
"""Seconds before trying again: the peer's new session may be a moment away."""

TELL_PATIENCE = 2.0
"""Seconds that a failure on this side waits for the far side to have heard of it: its
operator is to find the reason in the log, and not just that the call was cancelled."""

StrPath = str | os.PathLike[str]

R = TypeVar("R")


class RemoteFiles:
    """The files of a peer. `files` of a `RemoteAgent` is one; it holds nothing open.

    Paths of the peer are as it takes them; relative ones begin where its program runs.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def put(
        self, source: StrPath, target: StrPath, *, progress: Report | None = None
    ) -> Transfer:
        """Send a file. It appears under its name when all of it is there and verified.

        It replaces a file of that name, and has the mode and time of the source. A lost
        session is followed by a new one, and by what was not sent yet.

        Args:
            source: A file here.
            target: What it is called there; the folder has to be there.
            progress: Called with a `Progress` in bytes, about once a MiB.

        Raises:
            OSError: It cannot be read here, or not be written there: a note tells
                where. Nothing appears there then.
            PeerLost: The peer did not come back; trying again later goes on from what
                is there.

        Cancelling stops it; the same again goes on from what is there.
        """
        return await self._put(source, target, False, progress)

    async def put_tree(
        self, source: StrPath, target: StrPath, *, progress: Report | None = None
    ) -> Transfer:
        """Send a folder with all that is in it: modes, times, empty folders, links.

        Links are sent as links. Where nothing is called `target` it appears at once. A
        folder that is there keeps what the source has not; what both have is replaced,
        once all is there. Otherwise as `put`.
        """
        return await self._put(source, target, True, progress)

    async def get(
        self, source: StrPath, target: StrPath, *, progress: Report | None = None
    ) -> Transfer:
        """Fetch a file; as `put`, the other way."""
        return await self._get(source, target, False, progress)

    async def get_tree(
        self, source: StrPath, target: StrPath, *, progress: Report | None = None
    ) -> Transfer:
        """Fetch a folder with all that is in it; as `put_tree`, the other way."""
        return await self._get(source, target, True, progress)

    # -- transfers --

    async def _put(
        self, source: StrPath, target: StrPath, tree: bool, progress: Report | None
    ) -> Transfer:
        async def work(
            reader: anyio.abc.ByteReceiveStream,
            writer: anyio.abc.ByteSendStream,
            report: Report,
        ) -> Transfer:
            return await send(
                Source(os.fspath(source), tree=tree), writer, reader, report
            )

        async def once(report: Report) -> Transfer:
            where = os.fsencode(target)
            made, _ = await self._exchange("rb:files.put", where, tree, work, report)
            return made

        return await _persist(once, progress)

    async def _get(
        self, source: StrPath, target: StrPath, tree: bool, progress: Report | None
    ) -> Transfer:
        async def work(
            reader: anyio.abc.ByteReceiveStream,
            writer: anyio.abc.ByteSendStream,
            report: Report,
        ) -> None:
            await receive(os.fspath(target), tree, reader, writer, report)

        async def once(report: Report) -> Transfer:
            where = os.fsencode(source)
            _, said = await self._exchange("rb:files.get", where, tree, work, report)
            return Transfer(**said)

        return await _persist(once, progress)

    async def _exchange(
        self, name: str, path: bytes, tree: bool, work: Work[R], report: Report
    ) -> tuple[R, Any]:
        """Call, work with the streams, and return both results."""
        link = await link_to(self._caller)
        writer = Carried("send", link.new_carried_token())
        reader = Carried("receive", link.new_carried_token())
        async with self._caller.start(name, path, tree, writer, reader) as call:
            try:
                made = await carry(link_of(call), reader, writer, work, report)
            except (anyio.BrokenResourceError, ChannelBroken):
                # The call tells why. If it does not fail, the break is all there is.
                await call.result()
                raise
            except (OSError, BadTransfer):
                # Leaving cancels it; but first the far side is to say that it knows.
                with anyio.move_on_after(TELL_PATIENCE), suppress(Exception):
                    await call.result()
                raise
            return made, await call.result()

    # -- open files --

    @overload
    def open(
        self, path: StrPath, mode: Literal["rb"] = "rb"
    ) -> AbstractAsyncContextManager[anyio.abc.ByteReceiveStream]: ...
    @overload
    def open(
        self, path: StrPath, mode: Literal["wb", "ab"]
    ) -> AbstractAsyncContextManager[anyio.abc.ByteSendStream]: ...
    def open(
        self, path: StrPath, mode: Literal["rb", "wb", "ab"] = "rb"
    ) -> AbstractAsyncContextManager[Any]:
        """Open a file of the peer as a stream, while the block runs.

        Args:
            path: The file.
            mode: "rb" reads it to its end. "wb" writes it anew: it appears under its
                name, in place of what was there, only if the block ends without an
                error. "ab" appends; what is sent is there at once.

        Raises:
            OSError: On entering: it cannot be opened. Later: the disk failed, and a
                "wb" file does not appear.
            PeerLost: The peer is gone. An open file is not resumed.
        """
        if mode == "rb":
            return self._open_reader(path)
        if mode in ("wb", "ab"):
            return self._open_writer(path, mode)
        raise ValueError(f'mode is {mode!r}: "rb", "wb" or "ab"')

    @asynccontextmanager
    async def _open_reader(self, path: StrPath) -> AsyncGenerator[RemoteReader, None]:
        ours, theirs = ends.pipe()
        content = ReceiveStream(ours)
        call: Call[Any]
        async with self._caller.start(
            "rb:files.read", os.fsencode(path), theirs
        ) as call:
            await wait_opened(call, content)
            reader = RemoteReader(call, content)
            yield reader
            reader.check()

    @asynccontextmanager
    async def _open_writer(
        self, path: StrPath, mode: str
    ) -> AsyncGenerator[RemoteWriter, None]:
        theirs, ours = ends.pipe()
        ready, theirs_ready = ends.pipe()
        content = SendStream(ours)
        name = "rb:files.write" if mode == "wb" else "rb:files.append"
        where = os.fsencode(path)
        call: Call[Any]
        async with self._caller.start(name, where, theirs, theirs_ready) as call:
            await wait_opened(call, ReceiveStream(ready))
            writer = RemoteWriter(call, content)
            try:
                yield writer
            except BaseException as error:
                content.reset(f"its writer gave up: {type(error).__name__}")
                raise
            writer.closed = True
            await content.send_eof()
            await call.result()


async def _persist(
    once: Callable[[Report], Awaitable[R]], progress: Report | None
) -> R:
    """Try again where the peer was lost, as long as there is progress now and then."""
    moved_at: list[float] = []

    def report(step: Progress) -> None:
        moved_at[:] = [clock()]
        if progress is not None:
            progress(step)

    while True:
        try:
            return await once(report)
        except (PeerLost, CallCancelled, CallRefused) as error:
            # Nobody cancelled it here, so its program ended. A refusal is one of a
            # program on its way out; before anything moved it is an answer.
            final = isinstance(error, NotGranted | Overloaded | Revoked)
            if final or not moved_at or clock() - moved_at[0] > RETRY_PATIENCE:
                raise
        await anyio.sleep(RETRY_PAUSE)
