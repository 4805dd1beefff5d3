"""The commands as a user runs them: a master, an agent, and what is done with it."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from .conftest import COMMAND, WAIT, Fleet, User, line_with, start_fleet

pytestmark = pytest.mark.broker("nats")


def wait_for(path: Path) -> str:
    """Wait for a file that another process writes, and read it."""
    until = time.monotonic() + WAIT
    while not path.exists() or not path.read_text():
        assert time.monotonic() < until, f"{path} did not appear"
        time.sleep(0.01)
    return path.read_text()


def test_ps_lists_agents_with_tabs_when_piped(fleet: Fleet) -> None:
    done = fleet.user.run("ps")
    assert (done.returncode, done.stderr) == (0, "")
    name, state, labels, *_ = done.stdout.rstrip("\n").split("\t")
    assert (name, state, labels) == ("web-1", "joined", "linux,web")


def test_ps_gives_json(fleet: Fleet) -> None:
    (agent,) = json.loads(fleet.user.run("ps", "--json").stdout)
    assert (agent["name"], agent["state"]) == ("web-1", "joined")
    assert agent["pid"] == fleet.agent.pid


def test_arguments_are_json_and_else_strings(fleet: Fleet) -> None:
    done = fleet.user.run("call", "web-1", "functions:add", "3", "-4")
    assert (done.returncode, done.stdout) == (0, "-1\n")
    done = fleet.user.run("call", "web-1", "functions:shout", "loud words")
    assert (done.returncode, done.stdout) == (0, "LOUD WORDS\n")
    done = fleet.user.run("call", "web-1", "functions:shout", "x", "--json")
    assert (done.returncode, done.stdout) == (0, '"X"\n')


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["call", "web-1", "functions:fail"], 1, "ValueError: no good"),
        (["call", "web-1", "functions:add", "x", "1"], 1, "argument 'a'"),
        (["call", "web-1", "functions:none"], 1, "is not known here"),
        (["call", "web-9", "functions:add", "--timeout", "1"], 1, "web-9"),
        (["call", "a/b", "functions:add"], 2, "is not allowed"),
        (["call", "web-1"], 2, "--help"),
        (["run", "web-1", "--", "no-such-program"], 255, "no-such-program"),
        (["run", "web-1"], 255, "no command"),
        (["run", "web-9", "--timeout", "1", "--", "true"], 255, "web-9"),
        (["cp", "a", "b"], 2, "AGENT:DST"),
        (["cp", "absent", "web-1:/tmp/x"], 2, "no such file"),
        (["cp", "web-1:/no/such/file", "here"], 1, "/no/such/file"),
    ],
)
def test_a_failure_is_one_line_and_a_status(
    fleet: Fleet, words: list[str], status: int, says: str
) -> None:
    done = fleet.user.run(*words)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("remoting-bus: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


def test_a_failure_is_an_object_for_programs(fleet: Fleet) -> None:
    done = fleet.user.run("call", "web-1", "functions:fail", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout) == {
        "error": {"type": "ValueError", "message": "ValueError: no good"}
    }


def test_the_remote_traceback_is_shown_when_asked_for(fleet: Fleet) -> None:
    done = fleet.user.run("call", "web-1", "functions:fail", "--traceback")
    assert done.returncode == 1
    assert 'raise ValueError("no good")' in done.stderr
    assert done.stderr.splitlines()[-1] == "remoting-bus: ValueError: no good"


def test_people_on_a_terminal_see_a_table(fleet: Fleet) -> None:
    ours, theirs = os.openpty()
    try:
        subprocess.run(
            [*COMMAND, "ps"],
            stdout=theirs,
            timeout=WAIT,
            check=True,
            cwd=fleet.user.work,
            env=fleet.user.environment | {"TERM": "dumb"},  # no bold
        )
        shown = os.read(ours, 10_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    title, row = shown.splitlines()[:2]
    assert title.index("STATE") == row.index("joined")


def test_run_passes_streams_and_status_through(fleet: Fleet) -> None:
    script = "read line; echo out $line; echo err >&2; exit 7"
    done = fleet.user.run("run", "web-1", "--", "sh", "-c", script, text="hello\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out hello\n", "err\n")


def test_run_shows_a_signal_as_a_shell_does(fleet: Fleet) -> None:
    done = fleet.user.run("run", "web-1", "--", "sh", "-c", "kill -9 $$")
    assert done.returncode == 128 + signal.SIGKILL


def test_run_gives_json(fleet: Fleet) -> None:
    line = ["--json", "--", "sh", "-c", "echo out; echo err >&2; exit 3"]
    done = fleet.user.run("run", "web-1", *line)
    said = {"status": 3, "stdout": "out\n", "stderr": "err\n"}
    assert (done.returncode, json.loads(done.stdout)) == (3, said)


def test_interrupting_run_ends_the_far_side(fleet: Fleet) -> None:
    script = "echo $$; exec sleep 600"
    with fleet.user.started("run", "web-1", "--", "sh", "-c", script) as process:
        pid = int(line_with("", process.stdout))
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT) == 130
    until = time.monotonic() + WAIT
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < until, f"process {pid} still runs"
        time.sleep(0.01)


def test_interrupting_call_cancels_the_far_side(fleet: Fleet, tmp_path: Path) -> None:
    begun, go_on = tmp_path / "begun", tmp_path / "go"
    words = ["call", "web-1", "functions:pause", str(begun), str(go_on)]
    with fleet.user.started(*words) as process:
        wait_for(begun)
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT) == 130
    cancelled = Path(f"{go_on}.cancelled")
    until = time.monotonic() + WAIT
    while not cancelled.exists():
        assert time.monotonic() < until, "the function was not cancelled"
        time.sleep(0.01)


def test_cp_goes_both_ways(fleet: Fleet, tmp_path: Path) -> None:
    source, there, back = (tmp_path / name for name in ("source", "there", "back"))
    source.write_bytes(os.urandom(300_000))
    done = fleet.user.run("cp", str(source), f"web-1:{there}")
    assert (done.returncode, done.stdout) == (0, "")
    done = fleet.user.run("cp", "--json", f"web-1:{there}", str(back))
    assert json.loads(done.stdout)["size"] == 300_000
    assert there.read_bytes() == back.read_bytes() == source.read_bytes()


def test_cp_copies_folders_into_folders(fleet: Fleet, tmp_path: Path) -> None:
    source, there, back = (tmp_path / name for name in ("source", "there", "back"))
    (source / "empty").mkdir(parents=True)
    (source / "file").write_text("content")
    there.mkdir()
    back.mkdir()
    refused = fleet.user.run("cp", str(source), f"web-1:{there}/")
    assert (refused.returncode, "use -r" in refused.stderr) == (2, True)
    assert fleet.user.run("cp", "-r", f"{source}", f"web-1:{there}/").returncode == 0
    done = fleet.user.run("cp", "-r", f"web-1:{there}/source", str(back))
    assert done.returncode == 0
    assert (back / "source" / "file").read_text() == "content"
    assert (back / "source" / "empty").is_dir()


def test_the_record_of_a_master_is_private(fleet: Fleet) -> None:
    folder = fleet.user.home / "runtime" / "remoting-bus"
    (path,) = folder.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_bus_is_found_by_each_way(fleet: Fleet, tmp_path: Path) -> None:
    stranger = User.at(tmp_path)
    assert stranger.run("ps").returncode == 2
    assert "web-1" in stranger.run("ps", "--url", fleet.token).stdout
    assert "web-1" in stranger.run("ps", REMOTING_BUS_URL=fleet.token).stdout
    config = tmp_path / "config" / "remoting-bus"
    config.mkdir()
    (config / "config.toml").write_text(f'url = "{fleet.token}"\n')
    assert "web-1" in stranger.run("ps").stdout


def test_doctor_says_limits_and_round_trip(fleet: Fleet) -> None:
    done = fleet.user.run("doctor")
    assert done.returncode == 0
    assert "largest message\t1048576 bytes" in done.stdout
    report = json.loads(fleet.user.run("doctor", "--json").stdout)
    assert report["limits"]["max_bytes"] == report["largest"] == 1048576
    assert 0 < report["round_trip"] <= report["round_trip_worst"]


def test_doctor_says_that_a_bus_is_not_there(user: User) -> None:
    done = user.run("doctor", "nats://127.0.0.1:1", "--timeout", "0.5")
    assert (done.returncode, done.stdout) == (1, "")
    assert "127.0.0.1:1" in done.stderr


def test_sigterm_lets_an_agents_calls_finish(user: User, tmp_path: Path) -> None:
    begun, go_on = tmp_path / "begun", tmp_path / "go"
    with ExitStack() as stack:
        fleet = start_fleet(user, stack)
        words = ["call", "web-1", "functions:pause", str(begun), str(go_on)]
        call = stack.enter_context(user.started(*words))
        wait_for(begun)
        fleet.agent.send_signal(signal.SIGTERM)
        late = user.run("call", "web-1", "functions:add", "1", "2", "--timeout", "5")
        assert late.returncode == 1
        go_on.touch()
        assert line_with("done", call.stdout)
        assert fleet.agent.wait(WAIT) == 0
        assert "left" in line_with("web-1: left", fleet.master.stdout)
        fleet.master.send_signal(signal.SIGTERM)
        assert fleet.master.wait(WAIT) == 143
    assert list((user.home / "runtime" / "remoting-bus").iterdir()) == []


def test_an_agent_whose_name_is_taken_ends_with_3(user: User) -> None:
    with ExitStack() as stack:
        fleet = start_fleet(user, stack)
        words = ["agent", "--join", fleet.token, "--name", "web-1"]
        newcomer = stack.enter_context(user.started(*words))
        line_with("has joined", newcomer.stdout)
        assert fleet.agent.wait(WAIT) == 3
        assert "another program has taken its name" in fleet.agent.communicate()[0]
        newcomer.send_signal(signal.SIGTERM)
        assert newcomer.wait(WAIT) == 0
        fleet.master.send_signal(signal.SIGINT)
        assert fleet.master.wait(WAIT) == 130
