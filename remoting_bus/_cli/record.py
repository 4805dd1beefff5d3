"""How the masters of this user on this machine are found: a private file for each.

A file is written and locked by a master, and is good while the lock is held, however the
master ends; the kernel lets go of locks. It holds what agents need, credentials too, so
the folder and the file are for this user only. It must not know how a bus is opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import stat
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs

from .failures import Failure

__all__ = ["Record", "folder", "latest", "published"]

MAX_BYTES = 65_536
"""Of a file that is read; a token is at most 8 KiB."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a master tells those who look for it here."""

    urls: tuple[str, ...]
    namespace: str
    name: str
    pid: int


def folder() -> Path:
    """Return where the files are; it need not exist."""
    with warnings.catch_warnings():
        # Where there is no runtime folder (a container) it says so, and takes /tmp.
        warnings.simplefilter("ignore")
        return platformdirs.user_runtime_path("remoting-bus", appauthor=False)


@contextlib.contextmanager
def published(record: Record) -> Iterator[Path]:
    """Let other commands of this user find a master while entered.

    Raises:
        Failure: The folder is not this user's alone.
    """
    place = folder()
    # One by one: `mkdir` gives parents that it makes the usual mode.
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    place.mkdir(mode=0o700, exist_ok=True)
    _check(place)
    name = f"{record.pid}-{secrets.token_hex(4)}"
    hidden, path = place / f".{name}.new", place / f"master-{name}.json"
    descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        # Locked before it can be found: who sees it unlocked may remove it.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, json.dumps(asdict(record)).encode())
        hidden.rename(path)
        yield path
    finally:
        hidden.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        os.close(descriptor)


def latest() -> Record | None:
    """Return the master that was started last and still runs; None if none does."""
    place = folder()
    if not place.is_dir():
        return None
    _check(place)
    for path in sorted(place.glob("master-*.json"), key=_age, reverse=True):
        record = _read(path)
        if record is not None:
            return record
    return None


def _age(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime_ns
    return 0


def _read(path: Path) -> Record | None:
    """Return what stands there; remove it if its master is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _parsed(os.read(descriptor, MAX_BYTES))
        path.unlink(missing_ok=True)
        return None
    finally:
        os.close(descriptor)


def _parsed(text: bytes) -> Record | None:
    try:
        said = json.loads(text)
        return Record(
            tuple(map(str, said["urls"])),
            str(said["namespace"]),
            str(said["name"]),
            int(said["pid"]),
        )
    except (ValueError, LookupError, TypeError):
        return None  # of another release


def _check(place: Path) -> None:
    """Refuse a folder that others can write to: they could send us to a bus of theirs.

    The one that it is in, too, as who can write there can put another in its place.
    """
    if not (_is_ours(place, 0o077) and _is_ours(place.parent, 0o022)):
        raise Failure(
            f"{place} is not this user's alone: remove it, or make it so "
            f"(chown {os.getuid()}, chmod 700)"
        )


def _is_ours(place: Path, forbidden: int) -> bool:
    status = place.lstat()
    private = stat.S_ISDIR(status.st_mode) and not status.st_mode & forbidden
    return private and status.st_uid == os.getuid()
