"""One transfer over two streams: the same for put and get, whichever side is called.

Owns the order of header, claim and answer, and what is read ahead. Any byte streams of
anyio do. It must not know calls, nor what the bytes mean. Next: `records`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio.abc

from remoting_bus._remote.context import Progress
from remoting_bus.channel.streams import ReceiveStream
from remoting_bus.protocol.pieces import Piece

from .bulk import Report
from .disk import CHUNK, in_steps, in_thread
from .records import Accept, BadTransfer, Claim, Frames, Header
from .sink import Sink
from .source import Source

__all__ = ["Transfer", "receive", "send"]

CLOSE_PATIENCE = 10.0
"""Seconds that a cancel waits for the disk to let go of what was being written."""


class Transfer:
    """What was transferred.

    Attributes:
        files: How many, and so on; the top of a tree is not counted.
        folders: The folders.
        links: The links.
        size: Bytes of all files.
        sha256: Of the file, in hexadecimal; of a tree, of all that is said of its
            files, folders and links.
        resumed_at: Bytes that were there from an earlier attempt.
    """

    __slots__ = ("files", "folders", "links", "resumed_at", "sha256", "size")

    def __init__(
        self,
        files: int,
        folders: int,
        links: int,
        size: int,
        sha256: str,
        resumed_at: int,
    ) -> None:
        self.files = files
        self.folders = folders
        self.links = links
        self.size = size
        self.sha256 = sha256
        self.resumed_at = resumed_at

    def __repr__(self) -> str:
        counts = f"{self.files} files, {self.folders} folders, {self.links} links"
        return f"<Transfer of {self.size} bytes: {counts}>"


async def send(
    source: Source,
    outgoing: anyio.abc.ByteSendStream,
    incoming: anyio.abc.ByteReceiveStream,
    report: Report | None = None,
) -> Transfer:
    """Send a file or a tree; the receiver alone knows whether all went well.

    Raises:
        OSError: It could not be read.
        BadTransfer: The receiver claims what it cannot have.
        anyio.BrokenResourceError: The receiver gave up, or is lost.

    Cancelling is safe; the receiver keeps what it has for another attempt.
    """
    try:
        header = await in_steps(source.open())
        await outgoing.send(header.encode())
        if header.resumable:
            claim = Claim.decode(await _frame(incoming, Frames()))
            answer = await in_steps(source.seek(claim))
            await outgoing.send(answer.encode())
        await _send_ahead(source, outgoing, report)
        await outgoing.aclose()
        if report is not None:
            report(Progress(source.done, source.total))
        counts = source.counts
        return Transfer(
            files=counts["f"],
            folders=counts["d"],
            links=counts["l"],
            size=source.done,
            sha256=source.digest.hex(),
            resumed_at=source.resumed_at,
        )
    except OSError as error:
        raise _named(error, source.path) from error
    finally:
        await _shut(source.close)


async def _send_ahead(
    source: Source, outgoing: anyio.abc.ByteSendStream, report: Report | None
) -> None:
    """Send all, and read one chunk while the one before it is sent."""
    piece = await in_thread(source.read)
    while piece:
        done, current = source.done, source.current
        following, error = await _both(source.read, outgoing.send, piece)
        if error is not None:
            raise error
        if report is not None:
            report(Progress(done, max(done, source.total), current))
        piece = following


async def _both(
    read: Callable[[], bytes], send_piece: Callable[[bytes], Any], piece: bytes
) -> tuple[bytes, Exception | None]:
    """Run both to their ends; the first error that either raised, unwrapped."""
    found: list[Exception] = []
    following: list[bytes] = []

    async def read_on() -> None:
        try:
            following.append(await in_thread(read))
        except Exception as error:  # noqa: BLE001 - raised by the caller, unwrapped
            found.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(read_on)
        try:
            await send_piece(piece)
        except Exception as error:  # noqa: BLE001 - as above
            found.append(error)
    return following[0] if following else b"", found[0] if found else None


async def receive(
    path: str | bytes,
    tree: bool,
    incoming: anyio.abc.ByteReceiveStream,
    outgoing: anyio.abc.ByteSendStream,
    report: Report | None = None,
) -> None:
    """Receive a file or a tree; it appears under `path` when all of it is here.

    Args:
        path: What will appear.
        tree: What is expected there.
        incoming: From the sender.
        outgoing: To it.
        report: Told how far this is.

    Raises:
        OSError: It could not be written: a full disk, say. Nothing is left then.
        BadTransfer: What came was refused. Nothing is left then.
        anyio.BrokenResourceError: The sender gave up, or is lost. What came is kept,
            out of sight, for another attempt.

    Cancelling is safe: as a sender that is lost.
    """
    frames = Frames()
    header = Header.decode(await _frame(incoming, frames))
    if (header.kind == "tree") != tree:
        raise BadTransfer("a file came in place of a tree, or the other way round")
    sink = Sink(path, header)
    keep = True
    try:
        claim = await in_steps(sink.prepare())
        answer = Accept()
        if header.resumable:
            await outgoing.send(claim.encode())
            answer = Accept.decode(await _frame(incoming, frames))
        await in_thread(sink.accept, answer)
        await _fill(sink, frames, incoming, report)
        await in_steps(sink.finish())
    except (OSError, BadTransfer) as error:
        keep = False
        raise _named(error, path) from error
    finally:
        await _shut(lambda: sink.close(keep=keep))
    if report is not None:
        report(Progress(header.size, header.size))


async def _fill(
    sink: Sink,
    frames: Frames,
    incoming: anyio.abc.ByteReceiveStream,
    report: Report | None,
) -> None:
    """Write what comes, about a MiB at a time, until its end."""
    total = sink.header.size
    at_end = False
    while not at_end:
        parts: list[Piece] = []
        size = 0
        with suppress(anyio.EndOfStream):
            at_end = True
            while size < CHUNK:
                came = await _pieces(incoming)
                parts += came
                size += sum(map(len, came))
            at_end = False
        await in_thread(_write, sink, frames, parts)
        if report is not None:
            report(Progress(sink.done, max(sink.done, total), sink.current))
    if not sink.ended:
        raise anyio.BrokenResourceError("the sender ended in the middle of a transfer")


async def _pieces(incoming: anyio.abc.ByteReceiveStream) -> list[Piece]:
    """Receive; from a stream of ours without a copy."""
    if isinstance(incoming, ReceiveStream):
        return await incoming.receive_pieces(CHUNK)
    return [await incoming.receive(CHUNK)]


def _write(sink: Sink, frames: Frames, parts: list[Piece]) -> None:
    for part in parts:  # joining them would copy a MiB
        frames.add(part)
        sink.feed(frames)


async def _frame(incoming: anyio.abc.ByteReceiveStream, frames: Frames) -> Any:
    while (value := frames.next_frame()) is None:
        try:
            frames.add(await incoming.receive(CHUNK))
        except anyio.EndOfStream:
            reason = "the other side ended before the transfer began"
            raise anyio.BrokenResourceError(reason) from None
    return value


def _named(error: OSError | BadTransfer, path: str | bytes) -> OSError | BadTransfer:
    """Name what was to appear, and not where it was gathered."""
    if isinstance(error, BadTransfer) or error.errno is None:
        return error
    name = error.filename
    hidden = name is None or isinstance(name, int) or b".rb-part" in _bytes(name)
    if hidden or b"/" not in _bytes(name):
        name = path
    text = name.decode(errors="backslashreplace") if isinstance(name, bytes) else name
    return OSError(error.errno, error.strerror, text)


def _bytes(name: object) -> bytes:
    return name if isinstance(name, bytes) else str(name).encode("utf-8", "replace")


async def _shut(close: Callable[[], None]) -> None:
    with anyio.move_on_after(CLOSE_PATIENCE, shield=True):
        await in_thread(close)
