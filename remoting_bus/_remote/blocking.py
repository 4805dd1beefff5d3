"""A stream as a blocking file, for sync functions: `as_file`.

Works in the thread that a sync function of a peer's call runs in, over
`anyio.from_thread`; with `tarfile`, `zipfile`, `shutil.copyfileobj` and whatever else
wants a file that cannot seek. It must not know calls.
"""

from __future__ import annotations

import io
from contextlib import suppress
from types import TracebackType
from typing import IO, Any, cast, overload

import anyio
import anyio.abc
import anyio.from_thread

__all__ = ["as_file"]

_BUFFER = 128 * 1024
"""Bytes that are gathered for one step to the loop and back (0.1 to 0.3 ms)."""


@overload
def as_file(stream: anyio.abc.ByteSendStream) -> IO[bytes]: ...
@overload
def as_file(stream: anyio.abc.ByteReceiveStream) -> IO[bytes]: ...
def as_file(
    stream: anyio.abc.ByteSendStream | anyio.abc.ByteReceiveStream,
) -> IO[bytes]:
    """Return a blocking binary file that reads from, or writes to, a stream.

    For sync functions only: in the event loop it would wait for itself. Closing the
    file closes the stream; leaving its `with` block by an exception resets it, so that
    the other end does not take what there is for the whole.

    Args:
        stream: An end of a pipe, as a function gets it. It belongs to the file now.

    Raises:
        TypeError: It is no byte stream of one direction.
    """
    file: Any
    if isinstance(stream, anyio.abc.ByteReceiveStream):
        if isinstance(stream, anyio.abc.ByteSendStream):
            raise TypeError("a stream of both directions is two files; pass one end")
        file = _Reader(_RawReader(stream), _BUFFER)
    elif isinstance(stream, anyio.abc.ByteSendStream):
        file = _Writer(_RawWriter(stream), _BUFFER)
    else:
        raise TypeError(f"as_file takes a byte stream, not {type(stream).__name__}")
    return cast(IO[bytes], file)


class _RawReader(io.RawIOBase):
    def __init__(self, stream: anyio.abc.ByteReceiveStream) -> None:
        self.stream = stream
        self._at_end = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if self._at_end:
            return 0
        try:
            piece = anyio.from_thread.run(self.stream.receive, len(buffer))
        except anyio.EndOfStream:
            self._at_end = True
            return 0
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            super().close()
            anyio.from_thread.run(self.stream.aclose)


class _RawWriter(io.RawIOBase):
    def __init__(self, stream: anyio.abc.ByteSendStream) -> None:
        self.stream = stream

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        piece = bytes(data)
        if piece:
            anyio.from_thread.run(self.stream.send, piece)
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            super().close()
            anyio.from_thread.run(self.stream.aclose)


def _reset(stream: object, error: BaseException) -> None:
    """Give the stream up, where it can tell the other end so."""
    reset = getattr(stream, "reset", None)
    if reset is not None:
        reason = f"{type(error).__name__}: {error}"
        anyio.from_thread.run_sync(reset, reason)


class _Reader(io.BufferedReader):
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is not None:
            _reset(cast(_RawReader, self.raw).stream, exc)
        self.close()


class _Writer(io.BufferedWriter):
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:
            self.close()
            return
        _reset(cast(_RawWriter, self.raw).stream, exc)
        # What was gathered cannot go any more; the error itself says why.
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            self.close()
