"""Single files, open: to read, to replace, to append to.

Blocking. A file to be replaced is written out of sight and appears when it is committed.
It must not know who reads or writes.
"""

from __future__ import annotations

import os
import secrets
import stat
from typing import IO

from .disk import CHUNK
from .publish import publish_file, target_of
from .staging import Staging
from .walk import refuse_kind

__all__ = ["Appending", "Reading", "Replacing", "open_reader"]

_NEW_FILE = 0o644
"""The mode of a file that was not there, whatever the umask of this program is: it is
the one of its caller that would count, and that is elsewhere."""


class Reading:
    """A file that is read to its end, wherever that is when it is reached."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self) -> bytes:
        """Return up to a MiB; b"" at the end."""
        return self._file.read(CHUNK)

    def close(self) -> None:
        """Close it."""
        self._file.close()


def open_reader(path: bytes) -> Reading:
    """Open a file to read.

    Raises:
        OSError: It is not there, may not be read, or is no file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file = open(fd, "rb", buffering=0)  # noqa: SIM115
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode) or not stat.S_ISREG(mode):
        file.close()
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(21, os.strerror(21), path)
        raise refuse_kind(path)
    return Reading(file)


class Replacing:
    """A file that appears when it is committed, in place of what was there."""

    def __init__(self, path: bytes) -> None:
        self.path = path
        self._target = b""
        self._mode = _NEW_FILE
        self._staging: Staging | None = None
        self._fd = -1

    def open(self) -> None:
        """Begin, out of sight.

        Raises:
            OSError: It could not appear there.
        """
        self._target = target_of(self.path, tree=False)
        try:
            self._mode = stat.S_IMODE(os.stat(self._target).st_mode)
        except FileNotFoundError:
            self._mode = _NEW_FILE
        self._staging = Staging(self._target, secrets.token_bytes(32))
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        self._fd = os.open("part", flags, 0o600, dir_fd=self._staging.fd)

    def write(self, data: bytes) -> None:
        """Write all of `data`."""
        _write_all(self._fd, data, self.path)

    def commit(self) -> None:
        """Let it appear."""
        assert self._staging is not None
        os.fchmod(self._fd, self._mode)
        publish_file(self._fd, self._staging.fd, "part", self._target)

    def close(self) -> None:
        """Let go; what was not committed is gone."""
        _close(self)
        if self._staging is not None:
            self._staging.close(keep=False)


class Appending:
    """A file that grows as it is written; made where it is not there."""

    def __init__(self, path: bytes) -> None:
        self.path = path
        self._fd = -1

    def open(self) -> None:
        """Open it.

        Raises:
            OSError: It may not be written, or is no file.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK
        self._fd = os.open(self.path, flags, _NEW_FILE)
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            raise refuse_kind(self.path)

    def write(self, data: bytes) -> None:
        """Write all of `data`."""
        _write_all(self._fd, data, self.path)

    def commit(self) -> None:
        """See to it that it is on the disk."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Close it."""
        _close(self)


def _close(file: Replacing | Appending) -> None:
    fd, file._fd = file._fd, -1
    if fd >= 0:
        os.close(fd)


def _write_all(fd: int, data: bytes, path: bytes) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
