"""Where a transfer gathers what arrives: a hidden folder beside its target.

Owns its name (which tells the source and the target, so that the next attempt finds it),
its lock, its journal and its end. Nothing shows under the target's name before all of it
is there. Blocking; it must not know the format. Next: `sink`, `publish`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import stat
import struct

from .records import NOTHING_YET

__all__ = ["SUFFIX", "Staging"]

SUFFIX = b".rb-part"

_SHOWN = 80
"""Bytes of the target's name in the hidden one: it stays below 255."""

_YOUNG = 60.0
"""Seconds within which a folder without a lock is left alone: it may be in the making."""

_JOURNAL = struct.Struct(">Q32s16s")

_LOCKED = (errno.EAGAIN, errno.EACCES)


class Staging:
    """The hidden folder of one transfer, locked while it runs.

    Args:
        target: What will appear. The folder that it is in must be there.
        identity: Of the source.

    Attributes:
        path: The folder: `part` is the file that arrives, `tree` what has arrived.
        fd: It, open.
        records: Complete, of an earlier attempt, as far as the journal says.
        chain: Over those.
    """

    def __init__(self, target: bytes, identity: bytes) -> None:
        self.target = target
        self.records = 0
        self.chain = NOTHING_YET
        where, name = os.path.split(target)
        base = b"." + name[:_SHOWN] + b"." + _short(name)
        self._siblings = base + b"."
        self._where = where
        self._boot = _boot()
        self.fd, self._journal = -1, -1
        self.path = os.path.join(where, self._siblings + _short(identity) + SUFFIX)
        if not self._lock():
            # Another transfer of the same is under way: this one is by itself.
            own = secrets.token_hex(6).encode()
            self.path = os.path.join(where, self._siblings + own + SUFFIX)
            if not self._lock():
                raise FileExistsError(errno.EEXIST, "a folder of ours", self.path)
        self._remove_older()

    def _lock(self) -> bool:
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.path, 0o700)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        fd = os.open(self.path, flags)
        try:
            if os.fstat(fd).st_uid != os.geteuid():
                reason = "it is in the way of a transfer, and somebody else's"
                raise PermissionError(errno.EPERM, reason, self.path)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            journal = os.open("journal", flags, 0o600, dir_fd=fd)
        except BaseException:
            os.close(fd)
            raise
        if not _try_lock(journal):
            os.close(journal)
            os.close(fd)
            return False
        self.fd, self._journal = fd, journal
        self._read()
        return True

    def _read(self) -> None:
        data = os.pread(self._journal, _JOURNAL.size, 0)
        if len(data) == _JOURNAL.size:
            records, chain, boot = _JOURNAL.unpack(data)
            # After a crash of the machine the disk may have less than it says.
            if boot == self._boot:
                self.records, self.chain = records, chain

    def note(self, records: int, chain: bytes) -> None:
        """Keep how far this is. It survives the end of the process, not the machine's."""
        os.pwrite(self._journal, _JOURNAL.pack(records, chain, self._boot), 0)

    def start_over(self) -> None:
        """Throw away what an earlier attempt completed; its `part` stays."""
        self.note(0, NOTHING_YET)
        self.records, self.chain = 0, NOTHING_YET
        _remove(os.path.join(self.path, b"tree"))

    def make_tree(self) -> None:
        """Make the top of the tree, unless it is there."""
        with contextlib.suppress(FileExistsError):
            os.mkdir("tree", 0o700, dir_fd=self.fd)

    def _remove_older(self) -> None:
        """Remove what transfers to the same target left that nobody will go on with."""
        now = os.fstat(self.fd).st_mtime
        with os.scandir(self._where or b".") as entries:
            found = [
                each.path
                for each in entries
                if each.name.startswith(self._siblings)
                and each.name.endswith(SUFFIX)
                and os.path.join(self._where, each.name) != self.path
            ]
        for path in found:
            with contextlib.suppress(OSError):
                _remove_if_left(path, now)

    def close(self, *, keep: bool) -> None:
        """Let go of it. Again, it does nothing.

        Args:
            keep: For another attempt.
        """
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        if not keep:
            with contextlib.suppress(OSError):
                _remove(self.path)
        os.close(fd)
        os.close(self._journal)


def _short(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest()[:12].encode()


def _boot() -> bytes:
    """Return what tells this start of the machine from others; zeros if not known."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return hashlib.sha256(file.read()).digest()[:16]
    except OSError:
        return bytes(16)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _LOCKED:
            return False
        raise
    return True


def _remove_if_left(path: bytes, now: float) -> None:
    status = os.lstat(path)
    mine = status.st_uid == os.geteuid() and stat.S_ISDIR(status.st_mode)
    if not mine or now - status.st_mtime < _YOUNG:
        return
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    journal = os.open(os.path.join(path, b"journal"), flags, 0o600)
    try:
        if _try_lock(journal):
            _remove(path)
    finally:
        os.close(journal)


def _remove(path: bytes) -> None:
    """Remove a folder of ours, and in it folders that nobody may write in, too."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags)
    except FileNotFoundError:
        return
    try:
        _clear(fd)
    finally:
        os.close(fd)
    os.rmdir(path)


def _clear(fd: int) -> None:
    """Empty a folder; its depth is bounded by `records.MAX_DEPTH`."""
    os.fchmod(fd, 0o700)
    with os.scandir(fd) as entries:
        found = [(each.name, each.is_dir(follow_symlinks=False)) for each in entries]
    for name, is_folder in found:
        if not is_folder:
            os.unlink(name, dir_fd=fd)
            continue
        os.chmod(name, 0o700, dir_fd=fd)  # ours, and about to go
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        inner = os.open(name, flags, dir_fd=fd)
        try:
            _clear(inner)
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=fd)
