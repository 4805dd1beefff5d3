"""The far side of files: what a program that offers "files" lets its peers call.

Owns the functions `rb:files.*`. A transfer is one call with two streams; an open file is
one call, too, that says when the file is open and ends when it is closed. It must not
know who calls. Next: `exchange`, `handles`.
"""

from __future__ import annotations

import logging
from typing import Any, TypeVar

import anyio
import anyio.abc

from remoting_bus._remote.context import Progress, current
from remoting_bus._remote.links import link_of
from remoting_bus._remote.registry import Registry
from remoting_bus.protocol.ends import Carried

from .bulk import Report, Work, carry
from .disk import in_thread
from .exchange import CLOSE_PATIENCE, Transfer, receive, send
from .handles import Appending, Replacing, open_reader
from .source import Source

__all__ = ["CARRIED", "OFFER", "register"]

OFFER = "files"

CARRIED = frozenset({"rb:files.put", "rb:files.get"})
"""Functions whose streams may live at the bulk side, for `Node(carried=...)`."""

OPENED = b"\n"
"""What says that a file is open; an error comes in place of it."""

R = TypeVar("R")

_logger = logging.getLogger("remoting_bus.files")


def register(registry: Registry) -> None:
    """Let peers put, get and open files; they are `remoting_bus`'s own functions."""
    registry.add(_put, "rb:files.put", OFFER)
    registry.add(_get, "rb:files.get", OFFER)
    registry.add(_read, "rb:files.read", OFFER)
    registry.add(_write, "rb:files.write", OFFER)
    registry.add(_append, "rb:files.append", OFFER)


async def _put(
    path: bytes,
    tree: bool,
    incoming: anyio.abc.ByteReceiveStream,
    outgoing: anyio.abc.ByteSendStream,
) -> None:
    async def work(
        reader: anyio.abc.ByteReceiveStream,
        writer: anyio.abc.ByteSendStream,
        report: Report,
    ) -> None:
        await receive(path, tree, reader, writer)

    try:
        await _where_they_live(incoming, outgoing, work)
    except Exception as error:
        _tell("to", path, error)
        raise


async def _get(
    path: bytes,
    tree: bool,
    incoming: anyio.abc.ByteReceiveStream,
    outgoing: anyio.abc.ByteSendStream,
) -> dict[str, Any]:
    async def work(
        reader: anyio.abc.ByteReceiveStream,
        writer: anyio.abc.ByteSendStream,
        report: Report,
    ) -> Transfer:
        return await send(Source(path, tree=tree), writer, reader)

    try:
        made = await _where_they_live(incoming, outgoing, work)
    except Exception as error:
        _tell("from", path, error)
        raise
    return {name: getattr(made, name) for name in Transfer.__slots__}


async def _where_they_live(
    incoming: anyio.abc.ByteReceiveStream | Carried,
    outgoing: anyio.abc.ByteSendStream | Carried,
    work: Work[R],
) -> R:
    """Run a transfer here, or where the program has its bulk side: see `CARRIED`."""
    if isinstance(incoming, Carried) and isinstance(outgoing, Carried):
        return await carry(link_of(current()), incoming, outgoing, work, _unheard)
    assert not isinstance(incoming, Carried)
    assert not isinstance(outgoing, Carried)
    return await work(incoming, outgoing, _unheard)


def _unheard(progress: Progress) -> None:
    """Whoever called counts by himself."""


def _tell(way: str, path: bytes, error: Exception) -> None:
    """Tell this side's operator, too: a full disk is as much his."""
    name = path.decode("utf-8", "replace")
    peer = current().peer
    _logger.warning("transfer %s %s, with %s, failed: %s", way, name, peer, error)


async def _read(path: bytes, content: anyio.abc.ByteSendStream) -> None:
    file = await in_thread(open_reader, path)
    try:
        await content.send(OPENED)
        while piece := await in_thread(file.read):
            await content.send(piece)
    finally:
        with anyio.move_on_after(CLOSE_PATIENCE, shield=True):
            await in_thread(file.close)


async def _write(
    path: bytes,
    content: anyio.abc.ByteReceiveStream,
    opened: anyio.abc.ByteSendStream,
) -> None:
    await _fill(Replacing(path), content, opened)


async def _append(
    path: bytes,
    content: anyio.abc.ByteReceiveStream,
    opened: anyio.abc.ByteSendStream,
) -> None:
    await _fill(Appending(path), content, opened)


async def _fill(
    file: Replacing | Appending,
    content: anyio.abc.ByteReceiveStream,
    opened: anyio.abc.ByteSendStream,
) -> None:
    try:
        await in_thread(file.open)
        await opened.send(OPENED)
        async for piece in content:
            await in_thread(file.write, piece)
        await in_thread(file.commit)
    except Exception as error:
        _tell("to", file.path, error)
        raise
    finally:
        with anyio.move_on_after(CLOSE_PATIENCE, shield=True):
            await in_thread(file.close)
