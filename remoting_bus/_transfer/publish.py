"""The last step of a transfer: what was gathered appears under its name.

A file, and a tree where nothing was, appear at once (rename). A tree joins a folder that
is there: its files replace those of the same name, each at once, and the others stay.
Links of the folder are replaced, never followed. Blocking; it must not know how things
arrived.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator

from .disk import sync_file_system, sync_folder

__all__ = ["check_target", "publish_file", "publish_tree", "target_of"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def target_of(path: str | bytes, *, tree: bool) -> bytes:
    """Return the absolute path of what is to appear.

    Raises:
        OSError: Something else is there, or the folder for it is not.
    """
    target = os.path.realpath(os.fsencode(path))
    check_target(target, tree=tree)
    where = os.path.dirname(target)
    if not os.path.isdir(where):
        code = errno.ENOTDIR if os.path.lexists(where) else errno.ENOENT
        raise OSError(code, os.strerror(code), where)
    return target


def check_target(target: bytes, *, tree: bool) -> None:
    """Raise OSError where what is there is of another kind."""
    try:
        mode = os.lstat(target).st_mode
    except FileNotFoundError:
        return
    if tree and not stat.S_ISDIR(mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), target)
    if not tree and stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), target)
    if not tree and not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "what is there is not a file", target)


def publish_file(fd: int, folder: int, name: str, target: bytes) -> None:
    """Let the file appear, once all of it is on the disk.

    Args:
        fd: The file, open.
        folder: What it is in now, open.
        name: Its name there.
        target: What it will be.
    """
    os.fsync(fd)
    check_target(target, tree=False)
    os.rename(name, target, src_dir_fd=folder)
    sync_folder(os.path.dirname(target))


def publish_tree(
    folder: int, target: bytes, mode: int, mtime: int
) -> Generator[None, None, None]:
    """Let the tree `tree` in `folder` appear, once all of it is on the disk.

    Raises:
        OSError: Something in the target is of another kind; nothing was changed then.
    """
    sync_file_system(folder)
    yield
    check_target(target, tree=True)
    try:
        os.rename("tree", target, src_dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        yield from _merge(folder, target)
    top = os.open(target, _FOLDER)
    try:
        os.utime(top, ns=(mtime, mtime))
        os.fchmod(top, mode)
    finally:
        os.close(top)
    sync_folder(os.path.dirname(target))


def _merge(folder: int, target: bytes) -> Generator[None, None, None]:
    source = os.open("tree", _FOLDER, dir_fd=folder)
    try:
        into = os.open(target, _FOLDER)
        try:
            yield from _compare(source, into, target)
            yield from _move(source, into)
            sync_file_system(into)
        finally:
            os.close(into)
    finally:
        os.close(source)


def _kind_of(name: str, folder: int) -> int:
    """Return the kind of what is there, 0 where nothing is."""
    try:
        return stat.S_IFMT(os.lstat(name, dir_fd=folder).st_mode)
    except FileNotFoundError:
        return 0


def _compare(source: int, into: int, path: bytes) -> Generator[None, None, None]:
    """See that no folder stands where a file is to go, nor the other way round."""
    for name in os.listdir(source):
        yield
        new, old = _kind_of(name, source), _kind_of(name, into)
        where = os.path.join(path, os.fsencode(name))
        if stat.S_ISDIR(new) and stat.S_ISDIR(old):
            inner = os.open(name, _FOLDER, dir_fd=source)
            try:
                below = os.open(name, _FOLDER, dir_fd=into)
                try:
                    yield from _compare(inner, below, where)
                finally:
                    os.close(below)
            finally:
                os.close(inner)
        elif stat.S_ISDIR(old):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), where)
        elif stat.S_ISDIR(new) and stat.S_ISREG(old):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), where)


def _move(source: int, into: int) -> Generator[None, None, None]:
    for name in os.listdir(source):
        yield
        status = os.lstat(name, dir_fd=source)
        old = _kind_of(name, into)
        if not stat.S_ISDIR(status.st_mode):
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=into)
            continue
        if old and not stat.S_ISDIR(old):  # a link that was there
            os.unlink(name, dir_fd=into)
        # A folder that nobody may write in cannot be moved.
        os.chmod(name, 0o700, dir_fd=source)  # its own mode follows
        if stat.S_ISDIR(old):
            yield from _join(name, source, into)
        else:
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=into)
        times = (status.st_mtime_ns, status.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=into, follow_symlinks=False)
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=into)


def _join(name: str, source: int, into: int) -> Generator[None, None, None]:
    inner = os.open(name, _FOLDER, dir_fd=source)
    try:
        below = os.open(name, _FOLDER, dir_fd=into)
        try:
            yield from _move(inner, below)
        finally:
            os.close(below)
    finally:
        os.close(inner)
