"""The demo: all of it is as expected, what is not fails it, and nothing stays behind."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import anyio
import platformdirs
import psutil
import pytest

from remoting_bus._cli.demo import script
from remoting_bus._cli.demo.show import Done, Show, Skipped, expect
from remoting_bus._cli.demo.stage import Stage
from remoting_bus._cli.output import Output
from remoting_bus.testing.brokers import LocalNats

from .conftest import COMMAND, WAIT, User, line_with

pytestmark = pytest.mark.broker("nats")

STEPS = ["call", "command", "file", "folder", "cancel", "flood", "outage", "kill"]

NO_STAGE = cast(Stage, None)
"""For steps that play on none."""

MARK = "TEST_MARK_OF_REMOTING_BUS"


def marked(mark: str) -> list[psutil.Process]:
    """All processes that a command started with this mark has left."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(process)
        except psutil.Error:
            continue  # it ended, or is another user's
    return found


def files_left(user: User) -> list[Path]:
    folders = ("temporary", "state", "runtime", "config")
    return [path for name in folders for path in (user.home / name).rglob("*")]


@pytest.fixture
def mark() -> Iterator[str]:
    made = secrets.token_hex(8)
    yield made
    for process in marked(made):
        process.kill()


def test_all_is_as_expected_and_nothing_is_left(user: User, mark: str) -> None:
    """Whatever the user has set for other commands."""
    others = {"REMOTING_BUS_OFFERS": "files", "REMOTING_BUS_NAMESPACE": "other"}
    done = user.run("demo", "--json", **{MARK: mark}, **others)
    result = json.loads(done.stdout)
    failed = [step for step in result["steps"] if not step["ok"]]
    assert (failed, result["ok"], done.returncode) == ([], True, 0)
    assert [step["step"] for step in result["steps"]] == STEPS
    measured = {step["step"]: step["measured"] for step in result["steps"]}
    assert measured["command"]["exit_status"] == 3
    assert measured["file"]["mib"] == 64
    assert measured["outage"]["call_took_s"] >= measured["outage"]["stopped_s"]
    assert measured["kill"]["executed"] == "unknown"
    assert marked(mark) == []
    assert files_left(user) == []


@pytest.mark.parametrize(
    "bus",
    [
        pytest.param("amqp", marks=pytest.mark.broker("amqp")),
        pytest.param("kafka", marks=pytest.mark.broker("kafka")),
    ],
)
def test_it_plays_on_a_private_broker(user: User, mark: str, bus: str) -> None:
    """By its name; each step, with the bus stopped and continued, and nothing is left."""
    cache = str(platformdirs.user_cache_path())  # of whoever runs the tests
    done = subprocess.run(
        [*COMMAND, "demo", "--bus", bus, "--json"],
        capture_output=True,
        text=True,
        timeout=3 * WAIT,  # half a minute where the machine has nothing else to do
        check=False,
        cwd=user.work,
        env=user.environment | {MARK: mark, "XDG_CACHE_HOME": cache},
    )
    result = json.loads(done.stdout)
    assert [step for step in result["steps"] if not step["ok"]] == []
    assert [step["step"] for step in result["steps"]] == STEPS
    assert marked(mark) == []
    assert files_left(user) == []


@pytest.mark.parametrize("during", ["Starting a bus", "Send a file", "Stop the bus"])
def test_interrupted_it_leaves_nothing(user: User, mark: str, during: str) -> None:
    with user.started("demo", **{MARK: mark}) as process:
        line_with(during, process.stdout)
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT) == 130
    assert marked(mark) == []
    assert files_left(user) == []


def test_killed_it_leaves_no_process(user: User, mark: str) -> None:
    with user.started("demo", **{MARK: mark}) as process:
        line_with("Send a file", process.stdout)
        process.kill()
    _, alive = psutil.wait_procs(marked(mark), timeout=WAIT)
    assert alive == []


def test_on_a_bus_of_ones_own_it_does_not_stop_the_bus(user: User) -> None:
    with LocalNats() as nats:
        done = user.run("demo", "--json", "--bus", nats.urls[0])
    result = json.loads(done.stdout)
    assert (result["ok"], done.returncode) == (True, 0)
    steps = {step["step"]: step["ok"] for step in result["steps"]}
    assert steps["outage"] is None
    assert [name for name, ok in steps.items() if ok] == [
        name for name in STEPS if name != "outage"
    ]


def test_a_bus_that_is_not_there_is_one_line(user: User) -> None:
    done = user.run("demo", "--bus", "http://nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("remoting-bus: ")


async def _unexpected(stage: Stage, show: Show) -> Done:
    expect(False, "two is not three")
    return Done("nothing")


async def _broken(stage: Stage, show: Show) -> Done:
    raise LookupError("not there")


async def _skipped(stage: Stage, show: Show) -> Done:
    raise Skipped("not here")


async def _good(stage: Stage, show: Show) -> Done:
    return Done("it went well", {"figure": 1})


@pytest.mark.parametrize("step", [_unexpected, _broken])
def test_a_step_that_is_not_as_expected_fails_it(
    step: script.Step, capsys: pytest.CaptureFixture[str]
) -> None:
    show = Show(Output(as_json=True))
    steps = [("bad", "Bad", step), ("good", "Good", _good)]
    anyio.run(script.play_steps, steps, NO_STAGE, show)
    show.end(1.0)
    result = json.loads(capsys.readouterr().out)
    assert show.failed
    assert [each["ok"] for each in result["steps"]] == [False, True]
    assert result["ok"] is False


def test_a_step_that_cannot_be_done_here_does_not_fail_it() -> None:
    show = Show(Output(as_json=True))
    anyio.run(script.play_steps, [("other", "Other", _skipped)], NO_STAGE, show)
    assert not show.failed
