"""Private RabbitMQ: faults do what they say, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
import pytest

from remoting_bus.testing.brokers import LocalRabbitMQ
from remoting_bus.testing.brokers.rabbitmq import GREETING

pytestmark = pytest.mark.broker("amqp")

LIMIT = 20.0


@pytest.fixture(scope="module")
def broker() -> Iterator[LocalRabbitMQ]:
    with LocalRabbitMQ() as running:
        yield running


def greeting(broker: LocalRabbitMQ) -> bytes:
    """What the server says to a client that comes; raises if it says nothing."""
    port = int(broker.urls[0].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=0.5) as client:
        client.sendall(GREETING)
        said = client.recv(1)
    if not said:
        raise ConnectionAbortedError
    return said


def wait_gone(processes: Iterable[psutil.Process]) -> None:
    """Wait until they have ended; pid 1 may not have reaped Erlang's helpers yet."""
    for one in processes:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            one.wait(LIMIT)
        with contextlib.suppress(psutil.NoSuchProcess):
            assert not one.is_running() or one.status() == psutil.STATUS_ZOMBIE


def test_a_node_is_killed_and_started_again(broker: LocalRabbitMQ) -> None:
    """On the same URL and the same data, as another process."""
    urls, pid = broker.urls, broker.pid()
    broker.ctl("eval", 'rabbit_vhost:add(<<"kept">>, <<"test">>).')
    broker.kill()
    assert not psutil.pid_exists(pid)
    with pytest.raises(ConnectionError):
        greeting(broker)
    broker.start()
    assert (broker.urls, greeting(broker)) == (urls, b"\x01")
    assert broker.pid() != pid
    assert "kept" in broker.ctl("list_vhosts")


@pytest.mark.parametrize("fault", [("pause", "resume"), ("cut", "heal")])
def test_a_silent_node_accepts_and_says_nothing(
    broker: LocalRabbitMQ, fault: tuple[str, str]
) -> None:
    """Paused or cut off: connects succeed and nothing comes; then all goes on."""
    getattr(broker, fault[0])()
    with pytest.raises(TimeoutError):
        greeting(broker)
    getattr(broker, fault[1])()
    assert greeting(broker) == b"\x01"


def test_a_command_that_is_wrong_says_so(broker: LocalRabbitMQ) -> None:
    """The words of rabbitmqctl are in the error."""
    with pytest.raises(RuntimeError, match=r"(?s)delete_user.*nobody"):
        broker.ctl("delete_user", "nobody")


def test_nothing_is_left_when_it_is_left() -> None:
    """Not the port mapper either, with a paused node, and when the block raises."""
    before = set(psutil.Process().children(recursive=True))
    broker = LocalRabbitMQ()
    with contextlib.suppress(ZeroDivisionError), broker:
        ours = set(psutil.Process().children(recursive=True)) - before
        assert {"beam.smp", "epmd"} <= {one.name() for one in ours}
        broker.pause()
        raise ZeroDivisionError
    wait_gone(ours)
    assert not broker.folder.exists()


def test_a_configuration_that_is_wrong_says_so() -> None:
    """The server's own words are in the error."""
    with (
        pytest.raises(RuntimeError, match="nonsense"),
        LocalRabbitMQ(config="nonsense = 1"),
    ):
        pass


KILLED = """
import time
import psutil
from remoting_bus.testing.brokers import LocalRabbitMQ
with LocalRabbitMQ(nodes=3) as broker:
    print(broker.ctl("eval", "length(nodes())."), flush=True)
    print(*(one.pid for one in psutil.Process().children(recursive=True)), flush=True)
    time.sleep(600)
"""


def test_no_process_is_left_when_the_test_process_is_killed(tmp_path: Path) -> None:
    """kill -9 of the process that started a cluster of three."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TMPDIR": str(tmp_path),
    }
    with subprocess.Popen(
        [sys.executable, "-c", KILLED], stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"2"
        process.stdout.readline()
        started = [
            psutil.Process(int(pid)) for pid in process.stdout.readline().split()
        ]
        names = [one.name() for one in started]
        assert (names.count("beam.smp"), names.count("epmd")) == (3, 1)
        process.send_signal(signal.SIGKILL)
    wait_gone(started)
