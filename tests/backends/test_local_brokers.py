"""Private brokers: faults do what they say, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from remoting_bus.testing.brokers import LocalNats

pytestmark = pytest.mark.broker("nats")

LIMIT = 20.0


def greeting(broker: LocalNats) -> bytes:
    """What the server says to a client that comes; raises if it says nothing."""
    port = int(broker.urls[0].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=0.5) as client:
        return client.recv(4)


def test_a_node_is_killed_and_started_again() -> None:
    """On the same URL, as another process."""
    with LocalNats() as broker:
        urls, pid = broker.urls, broker.pid()
        broker.kill()
        assert not psutil.pid_exists(pid)
        assert greeting(broker) == b""
        with pytest.raises(RuntimeError, match="does not run"):
            broker.pause()
        broker.start()
        assert (broker.urls, greeting(broker)) == (urls, b"INFO")
        assert broker.pid() != pid


@pytest.mark.parametrize("fault", [("pause", "resume"), ("cut", "heal")])
def test_a_silent_node_accepts_and_says_nothing(fault: tuple[str, str]) -> None:
    """Paused or cut off: connections stay, nothing comes; then everything goes on."""
    with LocalNats() as broker:
        port = int(broker.urls[0].rpartition(":")[2])
        with (
            socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as client,
            client.makefile("rb") as reader,
        ):
            assert reader.readline().startswith(b"INFO")
            getattr(broker, fault[0])()
            client.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
            with pytest.raises(TimeoutError):
                greeting(broker)
            getattr(broker, fault[1])()
            assert reader.readline() == b"PONG\r\n"
        assert greeting(broker) == b"INFO"


def test_nothing_is_left_when_it_is_left() -> None:
    """Also with a paused node, and when the block raises."""
    pids: list[int] = []
    broker = LocalNats(nodes=3)
    with contextlib.suppress(ZeroDivisionError), broker:
        pids += [broker.pid(i) for i in range(3)]
        broker.pause(1)
        raise ZeroDivisionError
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    assert not broker.folder.exists()


def test_a_configuration_that_is_wrong_says_so() -> None:
    """The server's own words are in the error."""
    with (
        pytest.raises(RuntimeError, match="Parse error"),
        LocalNats(config="nonsense: {"),
    ):
        pass


def test_only_one_or_three_nodes() -> None:
    """Two would make no majority."""
    with pytest.raises(ValueError, match="1 or 3"):
        LocalNats(nodes=2)


KILLED = """
import time
from remoting_bus.testing.brokers import LocalNats
with LocalNats(nodes=3) as broker:
    print(*(broker.pid(i) for i in range(3)), flush=True)
    time.sleep(600)
"""


def test_no_process_is_left_when_the_test_process_is_killed(tmp_path: Path) -> None:
    """kill -9 of the process that started them; their folder stays, for its logs."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TMPDIR": str(tmp_path),
    }
    with subprocess.Popen(
        [sys.executable, "-c", KILLED],
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 3
        process.send_signal(signal.SIGKILL)
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait(LIMIT)
