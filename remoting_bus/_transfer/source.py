"""The side that reads: a file or a tree as the bytes of a transfer.

Blocking, and to be called from one thread at a time, in steps of about a MiB; memory is
the same at any size. It must not know how the bytes travel. Next: `sink`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Generator, Iterator
from typing import IO, Any

from .disk import CHUNK
from .records import (
    NOTHING_YET,
    RESUME_FROM,
    Accept,
    Claim,
    Header,
    frame,
    link_chain,
)
from .walk import Item, Walk, described, refuse_kind

__all__ = ["Source"]


class Source:
    """A file, or a folder with all that is in it, to be sent.

    Attributes:
        done: Bytes of files that were read or need not be.
        current: The path being read, from the top of the tree; "" for a file.
        digest: SHA-256 of the file; of a tree, of all its records.
        counts: Files, folders and links read, in this order.
        resumed_at: Bytes that need not be sent again.
    """

    def __init__(self, path: str | bytes, *, tree: bool) -> None:
        self.path = os.fsencode(path)
        self.tree = tree
        self.done = 0
        self.current = ""
        self.digest = b""
        self.counts = {"f": 0, "d": 0, "l": 0}
        self.resumed_at = 0
        self.total = 0
        self._walk: Walk | None = None
        self._items: Iterator[Item] = iter(())
        self._first: Item | None = None  # met already, as it is resumed inside a file
        self._offset = 0
        self._summed = hashlib.sha256()  # of the file being read
        self._records = 0
        self._chain = NOTHING_YET
        self._file: IO[bytes] | None = None
        self._pieces: Generator[bytes, None, None] | None = None

    # -- before the first byte --

    def open(self) -> Generator[None, None, Header]:
        """Look at what there is to send.

        Raises:
            OSError: It is not there, cannot be read, or is of the wrong kind.
        """
        self.path = os.path.abspath(self.path)
        status = os.stat(self.path)
        size, entries = status.st_size, 1
        if self.tree:
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(
                    errno.ENOTDIR, os.strerror(errno.ENOTDIR), self.path
                )
            size, entries = yield from self._measure()
        else:
            _check_file(status, self.path)
        self.total = size
        self._begin()
        return Header(
            kind="tree" if self.tree else "file",
            mode=stat.S_IMODE(status.st_mode) & 0o777,
            mtime=status.st_mtime_ns,
            size=size,
            entries=entries,
            identity=self._identity(status),
            resumable=size >= RESUME_FROM,
        )

    def _measure(self) -> Generator[None, None, tuple[int, int]]:
        size = entries = 0
        walk = Walk(self.path)
        try:
            for item in walk.items():
                if item.record[0] != "u":
                    entries += 1
                if item.record[0] == "f":
                    size += item.status.st_size
                yield
        finally:
            walk.close()
        return size, entries

    def _identity(self, status: os.stat_result) -> bytes:
        parts = [
            self.tree,
            self.path,
            os.uname().nodename,
            status.st_dev,
            status.st_ino,
        ]
        if not self.tree:  # of a tree the chain of records tells
            parts += [status.st_size, status.st_mtime_ns]
        return hashlib.sha256(repr(parts).encode()).digest()

    def _begin(self) -> None:
        if self.tree:
            if self._walk is not None:
                self._walk.close()
            self._walk = Walk(self.path)
            self._items = self._walk.items()
            return
        status = os.stat(self.path)
        _check_file(status, self.path)
        self._items = iter([Item(described(status, b""), status, -1, self.path)])

    def seek(self, claim: Claim) -> Generator[None, None, Accept]:
        """Go to where the receiver says that it is, if what it has is what is here."""
        done = 0
        for _ in range(claim.records):
            item = next(self._items, None)
            if item is None:
                break
            self._note(item.record)
            done += item.status.st_size if item.record[0] == "f" else 0
            yield
        if (self._records, self._chain) != (claim.records, claim.chain):
            self._records, self._chain = 0, NOTHING_YET
            self.counts = dict.fromkeys(self.counts, 0)
            self._begin()
            return Accept()
        folders = self._walk.folders if self._walk is not None else ()
        offset = yield from self._same_bytes(claim)
        self.done = self.resumed_at = done + offset
        return Accept(claim.records, offset, folders, self.done)

    def _same_bytes(self, claim: Claim) -> Generator[None, None, int]:
        """Return from where the next file's bytes are to be sent."""
        if claim.offset == 0:
            return 0
        item = next(self._items, None)
        if item is None:
            return 0
        self._first = item
        if item.record[0] != "f":
            return 0
        self._open_file(item)
        assert self._file is not None
        left = claim.offset
        while left > 0 and (piece := self._file.read(min(left, CHUNK))):
            self._summed.update(piece)
            left -= len(piece)
            yield
        if left or self._summed.digest() != claim.digest:
            self._close_file()
            return 0
        self._offset = claim.offset
        return claim.offset

    # -- the bytes --

    def read(self) -> bytes:
        """Return about a MiB of the transfer; b"" after its end.

        Raises:
            OSError: Something cannot be read, or became shorter while it was read.
        """
        if self._pieces is None:
            self._pieces = self._produce()
        parts: list[bytes] = []
        size = 0
        while size < CHUNK:
            piece = next(self._pieces, b"")
            if not piece:
                break
            parts.append(piece)
            size += len(piece)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _produce(self) -> Generator[bytes, None, None]:
        if self._first is not None:
            yield from self._send(self._first)
        for item in self._items:
            yield from self._send(item)
        if self.tree:
            self.digest = self._chain
        yield frame(["e", self._records, self._chain])

    def _send(self, item: Item) -> Generator[bytes, None, None]:
        self.current = _shown(item.path, self.path)
        record = item.record
        if record[0] == "f":
            record = self._open_file(item)
            yield frame(record)
            yield from self._contents(record[4] - self._offset, item.path)
            self._offset = 0
        else:
            yield frame(record)
        self._note(record)

    def _contents(self, left: int, path: bytes) -> Generator[bytes, None, None]:
        file = self._file
        assert file is not None
        while left > 0:
            piece = file.read(min(left, CHUNK))
            if not piece:
                reason = "it became shorter while it was read"
                raise OSError(errno.EIO, reason, path)
            self._summed.update(piece)
            left -= len(piece)
            self.done += len(piece)
            yield piece
        digest = self._summed.digest()
        self._close_file()
        if not self.tree:
            self.digest = digest
        yield digest

    def _open_file(self, item: Item) -> list[Any]:
        """Open a file, unless it is; return its record as it is now."""
        if self._file is not None:
            return described(os.fstat(self._file.fileno()), item.record[1])
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        if item.folder >= 0:
            name = item.record[1]
            fd = os.open(name, flags | os.O_NOFOLLOW, dir_fd=item.folder)
        else:
            fd = os.open(self.path, flags)
        self._file = open(fd, "rb", buffering=0)  # noqa: SIM115
        status = os.fstat(fd)
        _check_file(status, item.path)
        return described(status, item.record[1])

    def _note(self, record: list[Any]) -> None:
        self._records += 1
        self._chain = link_chain(self._chain, record)
        if record[0] in self.counts:
            self.counts[record[0]] += 1

    def _close_file(self) -> None:
        file, self._file = self._file, None
        self._summed = hashlib.sha256()
        if file is not None:
            file.close()

    def close(self) -> None:
        """Close what is open. Again, it does nothing."""
        if self._pieces is not None:
            self._pieces.close()
        self._close_file()
        if self._walk is not None:
            self._walk.close()


def _check_file(status: os.stat_result, path: bytes) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(status.st_mode):
        raise refuse_kind(path)


def _shown(path: bytes, top: bytes) -> str:
    return path[len(top) :].lstrip(b"/").decode("utf-8", "replace")
