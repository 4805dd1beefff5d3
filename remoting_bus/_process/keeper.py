"""The keeper: a small program that starts an agent's processes, and ends them.

Run by its path with `python -I -S`, so it imports nothing but the standard library. It
is the parent of every process that the agent runs, so it knows each from its birth, and
there is no moment in which the agent could die and leave one behind. The agent holds one
socket for each process: when it closes, however the agent went, kill -9 included, the
process ends with all that it started: SIGTERM, then SIGKILL.

What a process starts stays in its session or leaves it (a daemon does). Both are found:
orphans become the keeper's children (PR_SET_CHILD_SUBREAPER), and they inherit a variable
of their environment, MARK, that says whose they are. One that is to outlive its call
takes the variable away, as with Jenkins's BUILD_ID. Where there is no /proc and no prctl
(not Linux) only the session is ended.

    standard input   a socket; each byte brings the ends of a process: its control
                     socket, standard input, output and error
    control, in      length (4 bytes), items joined by NUL: mark, grace, folder, how many
                     arguments, arguments, environment; then lines: "signal N", "end"
    control, out     lines: "pid N" or "error ERRNO WHAT"; "exit STATUS"; "gone"
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import socket
import struct
import sys
import time

MARK = "REMOTING_BUS_PROCESS"

LINGER = 2.0
"""Seconds that the keeper stays without a process: starting it takes some 20 ms."""

LOOK = 0.05
"""Seconds between looks whether all of a process has gone: nobody tells that."""

GIVE_UP = 10.0
"""Seconds after SIGKILL: what hangs in the kernel (a dead disk) cannot be waited out."""

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

_DEFAULTS = ("SIGPIPE", "SIGXFSZ", "SIGINT", "SIGTERM", "SIGHUP", "SIGCHLD")


class Kept:
    """One process, with all that it started.

    Attributes:
        control: To the agent.
        fds: What it will have as its first three files, until it is started.
        pid: Its own, and its session's; 0 before it is started.
        running: It was not reaped yet.
        end_at: When SIGKILL is due; None while it is not to end.
        killed_at: When that was sent first.
    """

    def __init__(self, control: socket.socket, fds: list[int]) -> None:
        self.control = control
        self.fds = fds
        self.data = b""
        self.mark = b""
        self.grace = 0.0
        self.pid = 0
        self.running = False
        self.end_at: float | None = None
        self.killed_at: float | None = None

    def say(self, line: str) -> None:
        """Tell the agent, if it is still there."""
        with contextlib.suppress(OSError):
            self.control.send(f"{line}\n".encode())


class Keeper:
    """The loop: what the agent says, what children do, and time."""

    def __init__(self, door: socket.socket) -> None:
        self.door: socket.socket | None = door
        self.kept: dict[int, Kept] = {}  # by control; bounded by the agent's calls
        self.found: dict[bytes, set[int]] | None = None  # of this turn
        self.idle_at = time.monotonic() + LINGER
        self.selector = selectors.DefaultSelector()
        self.woken, wake = os.pipe()
        os.set_blocking(self.woken, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.selector.register(self.woken, selectors.EVENT_READ)
        door.setblocking(False)
        self.selector.register(door, selectors.EVENT_READ)

    def run(self) -> None:
        """Serve until the agent is gone and nothing of it is left, or nobody asks."""
        while self.door is not None or self.kept:
            for key, _ in self.selector.select(self.patience()):
                if key.fd == self.woken:
                    os.read(self.woken, 4096)
                elif self.door is not None and key.fd == self.door.fileno():
                    self.open_door()
                elif key.fd in self.kept:
                    self.listen(self.kept[key.fd])
            self.reap()
            self.found = None
            for kept in list(self.kept.values()):
                if kept.end_at is not None:
                    self.end_further(kept)
            self.rest()

    def patience(self) -> float | None:
        if any(kept.end_at is not None for kept in self.kept.values()):
            return LOOK
        return None if self.kept else max(0.0, self.idle_at - time.monotonic())

    def rest(self) -> None:
        """Close the door after a while without a process; whoever came in is served."""
        if self.kept:
            self.idle_at = time.monotonic() + LINGER
        elif self.door is not None and time.monotonic() >= self.idle_at:
            self.door.shutdown(socket.SHUT_RD)  # from now on the agent is told
            while self.door is not None:
                self.open_door()

    def open_door(self) -> None:
        """Take in one process, or learn that the agent is gone."""
        assert self.door is not None
        try:
            data, fds, _, _ = socket.recv_fds(self.door, 1, 4)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data or len(fds) != 4:
            for fd in fds:
                os.close(fd)
            self.selector.unregister(self.door)
            self.door.close()
            self.door = None
            return
        control = socket.socket(fileno=fds[0])
        control.setblocking(False)
        for fd in fds:
            os.set_inheritable(fd, False)
        self.kept[control.fileno()] = Kept(control, fds[1:])
        self.selector.register(control, selectors.EVENT_READ)

    def listen(self, kept: Kept) -> None:
        """Act on what the agent says of one process."""
        try:
            data = kept.control.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.selector.unregister(kept.control)
            if kept.pid:
                self.end(kept)
            else:
                self.forget(kept)
            return
        kept.data += data
        if not kept.pid:
            length = (
                struct.unpack_from(">I", kept.data)[0] if len(kept.data) > 3 else -1
            )
            if length < 0 or len(kept.data) < 4 + length:
                return
            items, kept.data = kept.data[4 : 4 + length], kept.data[4 + length :]
            if not self.start(kept, items.split(b"\0")):
                return
        *lines, kept.data = kept.data.split(b"\n")
        for line in lines:
            if line == b"end":
                self.end(kept)
            elif kept.running:
                with contextlib.suppress(OSError, ValueError):
                    os.killpg(kept.pid, int(line.split()[1]))

    def start(self, kept: Kept, items: list[bytes]) -> bool:
        """Start the process and say so, or say why not."""
        kept.mark, grace, folder, count, *rest = items
        kept.grace = float(grace)
        arguments, environment = rest[: int(count)], rest[int(count) :]
        env = dict(each.split(b"=", 1) for each in environment)
        env[MARK.encode()] = kept.mark
        try:
            kept.pid = spawn(arguments, env, folder, kept.fds)
        except OSError as error:
            kept.say(f"error {error.errno} {error.filename}")
            self.selector.unregister(kept.control)
            self.forget(kept)
            return False
        kept.running = True
        close_all(kept)
        kept.say(f"pid {kept.pid}")
        return True

    def reap(self) -> None:
        """Take the status of whatever has ended: processes, and orphans of theirs."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for kept in self.kept.values():
                if kept.pid == pid and kept.running:
                    kept.running = False
                    kept.say(f"exit {os.waitstatus_to_exitcode(status)}")

    def end(self, kept: Kept) -> None:
        """Begin to end a process with all that it started."""
        if kept.end_at is None:
            kept.end_at = time.monotonic() + kept.grace
            self.send(kept, signal.SIGTERM)
            self.send(kept, signal.SIGCONT)  # a stopped one would not notice

    def end_further(self, kept: Kept) -> None:
        """Look what is left, and insist when it is time to."""
        now = time.monotonic()
        assert kept.end_at is not None
        given_up = kept.killed_at is not None and now > kept.killed_at + GIVE_UP
        if given_up or not (kept.running or self.left(kept)):
            kept.say("gone")
            with contextlib.suppress(KeyError):
                self.selector.unregister(kept.control)
            self.forget(kept)
        elif now >= kept.end_at:
            kept.killed_at = kept.killed_at or now
            self.send(kept, signal.SIGKILL)

    def send(self, kept: Kept, number: int) -> None:
        """Signal a process, its session's group, and what has left that."""
        with contextlib.suppress(OSError):
            if kept.running or not LINUX:
                os.killpg(kept.pid, number)
        for pid in self.left(kept):
            with contextlib.suppress(OSError):
                os.kill(pid, number)

    def left(self, kept: Kept) -> set[int]:
        """Return what lives of a process, itself not counted."""
        if LINUX:
            if self.found is None:
                self.found = self.survey()
            return self.found.get(kept.mark, set())
        with contextlib.suppress(OSError):
            os.killpg(kept.pid, 0)
            return {kept.pid}
        return set()

    def survey(self) -> dict[bytes, set[int]]:
        """Look once at all that descends from here: what lives, by its mark."""
        groups = {kept.pid: kept.mark for kept in self.kept.values() if kept.pid}
        found: dict[bytes, set[int]] = {}
        for pid in descendants(os.getpid()):
            with contextlib.suppress(OSError):
                state, group = state_and_group(pid)
                if pid not in groups and state not in "ZX":
                    mark = groups.get(group) or mark_of(pid)
                    found.setdefault(mark, set()).add(pid)
        return found

    def forget(self, kept: Kept) -> None:
        self.kept.pop(kept.control.fileno(), None)
        close_all(kept)
        kept.control.close()


LINUX = sys.platform == "linux"


def close_all(kept: Kept) -> None:
    """Close what the process has, here."""
    while kept.fds:
        os.close(kept.fds.pop())


def spawn(
    arguments: list[bytes], env: dict[bytes, bytes], folder: bytes, fds: list[int]
) -> int:
    """Start a program in a session of its own; return its pid.

    Raises:
        OSError: The folder or the program cannot be had; its filename tells which.
    """
    keeper = os.getpid()
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            become(arguments, env, folder, fds, keeper)
        except OSError as error:
            os.write(tell, f"{error.errno} {error.filename}".encode())
        finally:
            os._exit(127)
    os.close(tell)
    failure = b""
    while data := os.read(told, 4096):  # exec closes it
        failure += data
    os.close(told)
    if failure:
        os.waitpid(pid, 0)
        code, _, what = failure.decode().partition(" ")
        raise OSError(int(code), os.strerror(int(code)), what)
    return pid


def become(
    arguments: list[bytes],
    env: dict[bytes, bytes],
    folder: bytes,
    fds: list[int],
    keeper: int,
) -> None:
    """Be the program; in the child."""
    os.setsid()
    for name in _DEFAULTS:
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    if LINUX:  # if the keeper itself is killed; not for what the program starts
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:
            os._exit(127)
    spare = [os.dup(fd) for fd in fds]  # above 2, whatever they were
    for target, fd in enumerate(spare):
        os.dup2(fd, target)
    try:
        if folder:
            os.chdir(folder)
    except OSError as error:
        raise OSError(error.errno, error.strerror, "folder") from error
    try:
        os.execvpe(arguments[0], arguments, env)  # noqa: S606 - what it is for
    except OSError as error:
        raise OSError(error.errno, error.strerror, "program") from error


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process."""
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def descendants(pid: int) -> list[int]:
    """Return the pids of all that descends from a process."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        where = f"/proc/{waiting.pop()}/task"
        with contextlib.suppress(OSError):
            for task in os.listdir(where):  # noqa: PTH208
                with open(f"{where}/{task}/children", "rb") as file:  # noqa: PTH123
                    children = [int(each) for each in file.read().split()]
                found += children
                waiting += children
    return found


def state_and_group(pid: int) -> tuple[str, int]:
    """Return the state of a process, and its group."""
    with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
        fields = file.read().rpartition(b")")[2].split()
    return fields[0].decode(), int(fields[2])


def mark_of(pid: int) -> bytes:
    """Return whose a process is, by the environment that it was started with."""
    with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
        for item in file.read().split(b"\0"):
            name, _, value = item.partition(b"=")
            if name == MARK.encode():
                return value
    return b""


def main() -> int:
    """Keep the processes of whoever holds the other end of standard input."""
    # Ctrl-C and the like are the agent's to act on.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    if LINUX:
        prctl(PR_SET_CHILD_SUBREAPER, 1)
    door = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    Keeper(door).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
