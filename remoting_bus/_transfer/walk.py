"""A tree, walked in one order that is the same each time.

Owns how a folder is read: sorted, by open folders and single names, so that nothing is
reached through a link that appears meanwhile. Blocking; it must not know what becomes of
what it finds. Next: `source`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from .records import MAX_DEPTH

__all__ = ["Item", "Walk", "described", "refuse_kind"]


@dataclass(frozen=True, slots=True)
class Item:
    """What the walk met.

    Attributes:
        record: As it goes out; see `records`.
        status: Of a file, folder or link.
        folder: The open folder that it is in; -1 at the end of one.
        path: For people, from the top of the tree.
    """

    record: list[Any]
    status: os.stat_result
    folder: int
    path: bytes


@dataclass(slots=True)
class _Folder:
    fd: int
    name: bytes
    names: list[bytes]  # still to come, the last one first
    status: os.stat_result


def described(status: os.stat_result, name: bytes) -> list[Any]:
    """Return the record of a file."""
    mode, mtime = stat.S_IMODE(status.st_mode) & 0o777, status.st_mtime_ns
    return ["f", name, mode, mtime, status.st_size]


def refuse_kind(path: bytes | str) -> OSError:
    """Return the error for sockets, devices and pipes."""
    reason = "only files, folders and links are transferred, and this is none of them"
    return OSError(errno.EINVAL, reason, path)


@dataclass
class Walk:
    """One walk over a tree.

    Args:
        root: The folder at the top; a link to one is followed, others are not.
    """

    root: bytes
    _open: list[_Folder] = field(default_factory=list)

    def items(self) -> Generator[Item, None, None]:
        """Yield what is in the tree, depth first and by name.

        Memory is that of the names in the folders from the top to the present one.

        Raises:
            OSError: Something could not be read, or is neither file, folder nor link.
        """
        self._enter(os.open(self.root, os.O_RDONLY | os.O_DIRECTORY), b"")
        while self._open:
            here = self._open[-1]
            if here.names:
                yield self._look(here, here.names.pop())
                continue
            self._open.pop()
            os.close(here.fd)
            if self._open:
                status = here.status
                record = ["u", stat.S_IMODE(status.st_mode) & 0o777, status.st_mtime_ns]
                yield Item(record, status, -1, self._path(here.name))

    @property
    def folders(self) -> tuple[bytes, ...]:
        """The names of the folders, from the top, that the walk is in."""
        return tuple(each.name for each in self._open[1:])

    def close(self) -> None:
        """Close the folders that are open."""
        while self._open:
            os.close(self._open.pop().fd)

    def _enter(self, fd: int, name: bytes) -> None:
        try:
            if len(self._open) > MAX_DEPTH:
                reason = f"folders in folders, more than {MAX_DEPTH} deep"
                raise OSError(errno.ELOOP, reason, self._path(name))
            names = sorted(map(os.fsencode, os.listdir(fd)), reverse=True)
            self._open.append(_Folder(fd, name, names, os.fstat(fd)))
        except BaseException:
            os.close(fd)
            raise

    def _look(self, here: _Folder, name: bytes) -> Item:
        path = self._path(name)
        try:
            return self._found(here, name, path)
        except OSError as error:  # the name alone says little
            if error.filename == name:
                raise OSError(error.errno, error.strerror, path) from error
            raise

    def _found(self, here: _Folder, name: bytes, path: bytes) -> Item:
        status = os.stat(name, dir_fd=here.fd, follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG:
            return Item(described(status, name), status, here.fd, path)
        if kind == stat.S_IFLNK:
            target = os.readlink(name, dir_fd=here.fd)
            return Item(["l", name, target], status, here.fd, path)
        if kind != stat.S_IFDIR:
            raise refuse_kind(path)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        self._enter(os.open(name, flags, dir_fd=here.fd), name)
        return Item(["d", name], status, here.fd, path)

    def _path(self, name: bytes) -> bytes:
        return b"/".join([self.root, *self.folders, name])
