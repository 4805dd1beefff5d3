"""Private Kafka brokers: faults do what they say, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from remoting_bus.testing.brokers import LocalKafka, kafka_files

pytestmark = pytest.mark.broker("kafka")

LIMIT = 20.0


def metadata(broker: LocalKafka, i: int = 0, limit: float = 5.0) -> bytes:
    """What a node answers a client that asks for the cluster; raises if nothing."""
    port = int(broker.urls[i].rpartition(":")[2])
    body = struct.pack(">hhih", 3, 1, 7, -1) + struct.pack(">i", 0)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=limit) as client,
        client.makefile("rb") as reader,
    ):
        try:
            client.sendall(struct.pack(">i", len(body)) + body)
            head = reader.read(4)
        except ConnectionError:
            return b""
        return reader.read(struct.unpack(">i", head)[0]) if head else b""


def test_one_node_and_its_faults() -> None:
    """Silent when paused or cut, gone when killed, back on its port and data."""
    with LocalKafka() as broker:
        port = int(broker.urls[0].rpartition(":")[2])
        # Clients are told the proxy's address, so that all of them go through it.
        assert struct.pack(">i", port) in metadata(broker)
        for fault, cure in (("pause", "resume"), ("cut", "heal")):
            getattr(broker, fault)()
            with pytest.raises(TimeoutError):
                metadata(broker, limit=0.5)
            getattr(broker, cure)()
            assert metadata(broker)
        data = next((broker.folder / "n0" / "data").glob("meta.properties"))
        before, pid = data.read_text(), broker.pid()
        broker.kill()
        assert not psutil.pid_exists(pid)
        assert metadata(broker) == b""
        broker.start()
        assert metadata(broker)
        assert data.read_text() == before


KILLED = """
import time
from remoting_bus.testing.brokers import LocalKafka
with LocalKafka() as broker:
    print(broker.pid(), flush=True)
    time.sleep(600)
"""


def test_no_process_is_left_when_the_test_process_is_killed(tmp_path: Path) -> None:
    """kill -9 of the process that started it; its folder stays, for its logs."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TMPDIR": str(tmp_path),
    }
    with subprocess.Popen(
        [sys.executable, "-c", KILLED], stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(LIMIT)


def test_a_configuration_that_is_wrong_says_so() -> None:
    """The broker's own words are in the error, and no process stays."""
    with (
        pytest.raises(RuntimeError, match=r"num\.io\.threads"),
        LocalKafka(config="num.io.threads=none"),
    ):
        pass


def test_jars_that_are_not_the_pinned_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A jar that was changed, one too many, one too few: named, and nothing is run."""
    monkeypatch.delenv("KAFKA_HOME", raising=False)
    libs = kafka_files.find_jars()[0].parent
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    copy = cache / "remoting-bus" / f"kafka-{kafka_files.KAFKA_VERSION}" / "libs"
    with pytest.raises(FileNotFoundError, match="make brokers"):
        kafka_files.find_jars()
    shutil.copytree(libs, copy, copy_function=os.link)
    assert kafka_files.bring_kafka() == copy
    changed, absent = sorted(copy.glob("*.jar"))[:2]
    changed.unlink()
    changed.write_bytes(b"not a jar")
    absent.unlink()
    (copy / "more.jar").write_bytes(b"")
    with pytest.raises(RuntimeError) as caught:
        kafka_files.bring_kafka()
    assert all(n in str(caught.value) for n in (changed.name, absent.name, "more.jar"))
