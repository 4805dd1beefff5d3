"""The side that writes: the bytes of a transfer become a file or a tree, or nothing.

What arrives is hostile until shown otherwise: a name is one component, everything is
made new in a folder of our own that nobody else may enter, so a link that the tree made
leads nobody, and what comes twice is refused. Blocking, and called from one thread at a
time. It must not know how the bytes travel. Next: `staging`, `publish`.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Generator
from typing import Any

from .disk import CHUNK
from .publish import publish_file, publish_tree, target_of
from .records import (
    MAX_DEPTH,
    NOTHING_YET,
    Accept,
    BadTransfer,
    Claim,
    Frames,
    Header,
    check_record,
    link_chain,
)
from .staging import Staging

__all__ = ["Sink"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_DIGEST = hashlib.sha256().digest_size


class Sink:
    """What a transfer becomes.

    Args:
        path: What will appear.
        header: What will come.

    Attributes:
        done: Bytes of files that are here.
        current: The path being written, from the top of the tree; "" for a file.
        ended: The end has come; `finish` is next.
        digest: SHA-256 of the file; of a tree, of all its records.
        counts: Files, folders and links written, by the letter of their records.
        resumed_at: Bytes that need not be sent again.
    """

    def __init__(self, path: str | bytes, header: Header) -> None:
        self.path = os.fsencode(path)
        self.header = header
        self.done = 0
        self.ended = False
        self.digest = b""
        self.counts = {"f": 0, "d": 0, "l": 0}
        self.resumed_at = 0
        self._staging: Staging | None = None
        self._target = b""
        self._records = 0
        self._chain = NOTHING_YET
        self._folders: list[bytes] = []
        self._here = -1  # the folder that the next record is in, open
        self._again = False  # the next record may have been done before
        self._record: list[Any] | None = None  # of the file that is arriving
        self._file = -1
        self._left = 0
        self._summed = hashlib.sha256()
        self._offset = 0

    @property
    def current(self) -> str:
        """The path being written, from the top of the tree; "" for a file."""
        parts = list(self._folders)
        if self._record is not None:
            parts.append(self._record[1])
        return b"/".join(parts).decode("utf-8", "replace")

    # -- before the first record --

    def prepare(self) -> Generator[None, None, Claim]:
        """Make room, and say what is here of an earlier attempt.

        Raises:
            OSError: It cannot go there, or there is no room.
        """
        tree = self.header.kind == "tree"
        self._target = target_of(self.path, tree=tree)
        self._check_room()
        staging = self._staging = Staging(self._target, self.header.identity)
        if tree:
            staging.make_tree()
            self._here = os.open("tree", _FOLDER, dir_fd=staging.fd)
        if not self.header.resumable:
            self._new_part(staging)
            return Claim()
        records, chain = staging.records, staging.chain
        offset = yield from self._read_part(staging)
        return Claim(records, chain, offset, self._summed.digest() if offset else b"")

    def _check_room(self) -> None:
        """Say early what would only be found when the disk is full."""
        found = os.statvfs(os.path.dirname(self._target))
        free, size = found.f_bavail * found.f_frsize, self.header.size
        if size > free and not self.header.resumable:
            raise self._full(size, free)

    def _full(self, size: int, free: int) -> OSError:
        reason = (
            f"{os.strerror(errno.ENOSPC)}: {size} bytes are needed, {free} are free"
        )
        return OSError(errno.ENOSPC, reason, self._target)

    def _read_part(self, staging: Staging) -> Generator[None, None, int]:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        self._file = os.open("part", flags, 0o600, dir_fd=staging.fd)
        size = 0
        while piece := os.read(self._file, CHUNK):
            self._summed.update(piece)
            size += len(piece)
            yield
        return size

    def accept(self, answer: Accept) -> None:
        """Go to where the sender goes on.

        Raises:
            BadTransfer: That is not where anybody was.
            OSError: There is no room for what is still to come.
        """
        staging = self._opened()
        if answer.records not in (0, staging.records):
            raise BadTransfer("the sender goes on where nobody was")
        if answer.records == 0:
            self._start_over(staging)
        size = os.fstat(self._file).st_size
        if answer.offset not in (0, size):
            raise BadTransfer("the sender goes on inside a file where nobody was")
        if answer.offset == 0:
            self._new_part(staging)
        self._offset = answer.offset
        self._records, self._chain = staging.records, staging.chain
        self._again = self._records > 0
        for name in answer.folders:
            self._enter(name)
        self.done = self.resumed_at = answer.done
        found = os.fstatvfs(staging.fd)
        free, size = found.f_bavail * found.f_frsize, self.header.size - self.done
        if size > free:
            raise self._full(size, free)

    def _start_over(self, staging: Staging) -> None:
        """Take nothing over but, perhaps, bytes of the first file."""
        staging.start_over()
        if self.header.kind == "tree":
            if self._here >= 0:
                os.close(self._here)
                self._here = -1
            staging.make_tree()
            self._here = os.open("tree", _FOLDER, dir_fd=staging.fd)

    def _new_part(self, staging: Staging) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        self._file = os.open("part", flags, 0o600, dir_fd=staging.fd)
        self._summed = hashlib.sha256()

    def _opened(self) -> Staging:
        assert self._staging is not None, "prepare comes first"
        return self._staging

    # -- records and bytes --

    def feed(self, frames: Frames) -> None:
        """Write all that is there; what is incomplete stays in `frames`.

        Raises:
            BadTransfer: It is refused; the message says why.
            OSError: It could not be written.
        """
        while not self.ended:
            if self._record is not None:
                if not self._take(frames):
                    return
                continue
            value = frames.next_frame()
            if value is None:
                return
            root = self.header.kind == "file"
            self._begin(check_record(value, root=root))
        if len(frames):
            raise BadTransfer("more came after the end of the transfer")

    def _begin(self, record: list[Any]) -> None:
        root = self.header.kind == "file"
        if root and (record[0] not in "fe" or (record[0] == "f" and self._records)):
            raise BadTransfer("a transfer of one file has other things in it")
        match record[0]:
            case "f":
                self._start_file(record)
                return
            case "d":
                self._enter(record[1], new=True)
            case "u":
                self._leave(record[1], record[2])
            case "l":
                self._make_link(record[1], record[2])
            case _:
                self._end(record[1], record[2])
                return
        self._complete(record)

    def _start_file(self, record: list[Any]) -> None:
        staging = self._opened()
        if self._file < 0:
            self._new_part(staging)
        if self._offset > record[4]:
            raise BadTransfer("a file goes on behind its end")
        if record[1]:
            self._check_new(record[1])
        self._record = record
        self._left = record[4] - self._offset
        self._offset = 0

    def _take(self, frames: Frames) -> bool:
        """Write bytes of the file that arrives; False if more are needed for it."""
        while self._left:
            piece = frames.take(self._left)
            if not piece:
                return False
            self._summed.update(piece)
            _write_all(self._file, piece)
            self._left -= len(piece)
            self.done += len(piece)
        if len(frames) < _DIGEST:
            return False
        digest = self._summed.digest()
        if bytes(frames.take(_DIGEST)) != digest:
            self._new_part(self._opened())
            raise BadTransfer(
                f"{self.current or self.path!r}: what arrived has another SHA-256 than "
                "what was sent"
            )
        self._finish_file(digest)
        return True

    def _finish_file(self, digest: bytes) -> None:
        record, self._record = self._record, None
        assert record is not None
        _, name, mode, mtime, _ = record
        os.utime(self._file, ns=(mtime, mtime))
        os.fchmod(self._file, mode)
        if name:
            os.rename("part", name, src_dir_fd=self._opened().fd, dst_dir_fd=self._here)
            os.close(self._file)
            self._file = -1
        else:
            self.digest = digest
        self._complete(record)

    def _complete(self, record: list[Any]) -> None:
        self._records += 1
        self._chain = link_chain(self._chain, record)
        if record[0] in self.counts:
            self.counts[record[0]] += 1
        self._again = False
        if self.header.kind == "tree" and self.header.resumable:
            self._opened().note(self._records, self._chain)

    # -- folders and links --

    def _check_new(self, name: bytes) -> None:
        if self._again:
            return  # whoever did it may have died before noting it
        try:
            os.lstat(name, dir_fd=self._here)
        except FileNotFoundError:
            return
        path = b"/".join([*self._folders, name])
        raise BadTransfer(f"{path[:200]!r} comes twice in the tree")

    def _enter(self, name: bytes, *, new: bool = False) -> None:
        if len(self._folders) >= MAX_DEPTH:
            raise BadTransfer(f"folders in folders, more than {MAX_DEPTH} deep")
        if new:
            self._check_new(name)
            try:
                os.mkdir(name, 0o700, dir_fd=self._here)
            except FileExistsError:
                if not self._again:
                    raise
        inner = os.open(name, _FOLDER, dir_fd=self._here)
        os.close(self._here)
        self._here = inner
        self._folders.append(name)

    def _leave(self, mode: int, mtime: int) -> None:
        if not self._folders:
            raise BadTransfer("the tree leaves its own top")
        # Nobody else can move what is in our own folder, so this is where we came from.
        outer = os.open("..", _FOLDER, dir_fd=self._here)
        os.utime(self._here, ns=(mtime, mtime))
        os.fchmod(self._here, mode)
        os.close(self._here)
        self._here = outer
        self._folders.pop()

    def _make_link(self, name: bytes, target: bytes) -> None:
        self._check_new(name)
        try:
            os.symlink(target, name, dir_fd=self._here)
        except FileExistsError:
            if not self._again:
                raise
            os.unlink(name, dir_fd=self._here)
            os.symlink(target, name, dir_fd=self._here)

    # -- the end --

    def _end(self, records: int, chain: bytes) -> None:
        if (records, chain) != (self._records, self._chain) or self._folders:
            raise BadTransfer("the end of the transfer does not fit what came")
        if self.header.kind == "file" and records != 1:
            raise BadTransfer("the transfer of a file has no file in it")
        if self.header.kind == "tree":
            self.digest = self._chain
        self.ended = True

    def finish(self) -> Generator[None, None, None]:
        """Let it appear under its name; all of it is on the disk then.

        Raises:
            OSError: The disk failed, or something else has come there meanwhile.
        """
        assert self.ended, "the end has not come"
        staging, header = self._opened(), self.header
        if header.kind == "file":
            publish_file(self._file, staging.fd, "part", self._target)
        else:
            yield from publish_tree(staging.fd, self._target, header.mode, header.mtime)
        self.close(keep=False)

    def close(self, *, keep: bool) -> None:
        """Close what is open. Again, it does nothing.

        Args:
            keep: What has come, for another attempt.
        """
        for fd in (self._file, self._here):
            if fd >= 0:
                os.close(fd)
        self._file = self._here = -1
        if self._staging is not None:
            self._staging.close(keep=keep and self.header.resumable)


def _write_all(fd: int, data: memoryview) -> None:
    while len(data):
        data = data[os.write(fd, data) :]
