"""Keeps one child process, and ends it when whoever started the keeper is gone.

A program by itself, run by its path with `python -I -S`: it must import nothing but the
standard library, and little of that. It knows nothing of brokers; `child` starts it.

The parent holds the write end of the keeper's standard input. However the parent ends,
kill -9 included, the kernel closes that end, and the keeper ends the child's process
group: SIGTERM, then SIGKILL after the grace. (A parent-death signal would not do: on
Linux it follows the thread that forked, and other systems have none. The keeper asks for
one itself, so that the child does not outlive a keeper that was killed.)

    keeper.py GRACE LOG COMMAND…      GRACE in seconds, LOG a file that is appended to

It writes one line to standard output, `pid NUMBER` or `error TEXT`, and exits as the child
did: its status, or 128 + the signal.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Callable

LOOK = 1.0
"""Seconds between looks at the parent's pid. It matters only where another process has
inherited the parent's end of the pipe, so that the pipe does not close."""

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a process gets when the thread that forked it ends."""

STOPPED_BY_PARENT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals at which the keeper ends the child, and itself."""


def main(arguments: list[str]) -> int:
    """Run the command until it or the parent ends; return the exit status."""
    grace, log, *command = arguments
    parent = os.getppid()
    wake_reader, wake_writer = os.pipe()
    os.set_blocking(wake_writer, False)
    signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
    stopped: list[int] = []
    for number in STOPPED_BY_PARENT:
        signal.signal(number, lambda got, _frame: stopped.append(got))
    signal.signal(signal.SIGCHLD, lambda _got, _frame: None)
    try:
        pid = start(command, log)
    except OSError as error:
        say(f"error {error}")
        return 127
    say(f"pid {pid}")
    status = watch(pid, parent, wake_reader, stopped)
    if status is None:
        status = end(pid, float(grace), wake_reader)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def start(command: list[str], log: str) -> int:
    """Start the child in a process group of its own; return its pid.

    Raises:
        OSError: The log cannot be opened, or the command not run.
    """
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    failed_reader, failed_writer = os.pipe()  # closes by itself when exec succeeds
    ask_for_death = death_signal()
    keeper = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            ask_for_death()
            if os.getppid() != keeper:
                os._exit(1)
            for number in (*STOPPED_BY_PARENT, signal.SIGCHLD, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            os.dup2(nothing, 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.execvp(command[0], command)  # noqa: S606 - that is what it is for
        except OSError as error:
            os.write(failed_writer, f"{error.errno} {command[0]}".encode())
        finally:
            os._exit(127)
    for fd in (output, nothing, failed_writer):
        os.close(fd)
    failure = os.read(failed_reader, 4096).decode()
    os.close(failed_reader)
    if failure:
        os.waitpid(pid, 0)
        code, _, name = failure.partition(" ")
        raise OSError(int(code), f"{os.strerror(int(code))}: {name}")
    return pid


def death_signal() -> Callable[[], object]:
    """What the child calls to die with the keeper; nothing where there is no such thing."""
    if sys.platform != "linux":
        return lambda: None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def watch(pid: int, parent: int, wake: int, stopped: list[int]) -> int | None:
    """Wait for the child, the parent or a signal; the child's status if it ended."""
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        if stopped or os.getppid() != parent:
            return None
        ready, _, _ = select.select([0, wake], [], [], LOOK)
        if wake in ready:
            os.read(wake, 4096)
        if 0 in ready and not os.read(0, 4096):
            return None


def end(pid: int, grace: float, wake: int) -> int:
    """End the child and its group: continue it, ask, and after the grace kill."""
    deadline = time.monotonic() + grace
    send(pid, signal.SIGCONT)
    send(pid, signal.SIGTERM)
    while (left := deadline - time.monotonic()) > 0:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            send(pid, signal.SIGKILL)  # what of its group has stayed behind
            return status
        if select.select([wake], [], [], left)[0]:
            os.read(wake, 4096)
    send(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def send(pid: int, number: int) -> None:
    """Send a signal to the child's group, if there is one still."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):  # macOS: EPERM for a dead group
        return


def say(line: str) -> None:
    """Write one line to whoever started the keeper, if it still listens."""
    try:
        os.write(1, f"{line}\n".encode())
    except OSError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
