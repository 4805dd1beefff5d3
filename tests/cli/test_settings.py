"""Options from variables and from the file: which counts, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cyclopts import CycloptsError

from remoting_bus._cli.app import make_app
from remoting_bus._cli.failures import Wrong
from remoting_bus._cli.main import main
from remoting_bus._cli.places import Common

from .conftest import Fleet, User


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file, empty."""
    path = tmp_path / "config.toml"
    path.touch()
    monkeypatch.setenv("REMOTING_BUS_CONFIG", str(path))
    return path


def asked(*words: str) -> dict[str, Any]:
    """What a command would be called with."""
    _, bound, _ = make_app().parse_args(words, exit_on_error=False, print_error=False)
    return bound.arguments


def common_of(*words: str) -> Common:
    common = asked(*words).get("common", Common())
    assert isinstance(common, Common)
    return common


def test_the_nearest_that_says_something_counts(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each place is asked only if the ones before it say nothing."""
    assert common_of("ps").timeout is None
    config.write_text("timeout = 1")
    assert common_of("ps").timeout == 1
    config.write_text("timeout = 1\n[ps]\ntimeout = 2")
    assert common_of("ps").timeout == 2
    monkeypatch.setenv("REMOTING_BUS_TIMEOUT", "3")
    assert common_of("ps").timeout == 3
    monkeypatch.setenv("REMOTING_BUS_PS_TIMEOUT", "4")
    assert common_of("ps").timeout == 4
    assert common_of("ps", "--timeout", "5").timeout == 5
    monkeypatch.delenv("REMOTING_BUS_TIMEOUT")
    assert common_of("call", "a", "f").timeout == 1, "those are for ps"


def test_each_option_can_come_from_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in [
        ("NAME", "web-1"),
        ("JOIN", "rb1.token"),
        ("AGENT_HEARTBEAT", "2.5"),
        ("LABELS", "web,linux"),
        ("JSON", "1"),
        ("NAMESPACE", "fleet"),
    ]:
        monkeypatch.setenv(f"REMOTING_BUS_{name}", value)
    arguments = asked("agent")
    assert arguments["name"] == "web-1"
    assert arguments["join"] == "rb1.token"
    assert arguments["heartbeat"] == 2.5
    assert arguments["labels"] == ("web,linux",)
    assert arguments["common"] == Common(namespace="fleet", as_json=True)
    assert common_of("agent", "--json=false").as_json is False


def test_each_option_can_come_from_the_file(config: Path) -> None:
    """A list is what may be given more than once; underscores are as hyphens."""
    config.write_text(
        'url = ["nats://a:1", "nats://b:1"]\njson = true\nlabels = ["web", "linux"]\n'
        '[agent]\nname = "web-1"\ngrace = 60\n'
        "[cp]\nrecursive = true\n"
    )
    arguments = asked("agent")
    assert (arguments["name"], arguments["grace"]) == ("web-1", 60.0)
    assert arguments["labels"] == ("web", "linux")
    common = Common(url="nats://a:1,nats://b:1", as_json=True)
    assert arguments["common"] == common
    assert common_of("ps") == common, "what it does not have, others do"
    assert asked("cp", "a", "b")["recursive"] is True


def test_words_without_a_name_come_from_the_command_line_only(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody runs a command that he did not write."""
    monkeypatch.setenv("REMOTING_BUS_AGENT", "web-1")
    monkeypatch.setenv("REMOTING_BUS_CMD", "reboot")
    with pytest.raises(CycloptsError, match="AGENT"):
        asked("run")
    assert asked("run", "web-2").get("cmd", ()) == ()
    config.write_text('[run]\ncmd = "reboot"')
    with pytest.raises(CycloptsError, match=r"cmd.*\[?run|Unknown option"):
        asked("run", "web-2")


def test_an_empty_variable_says_nothing(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text('url = "nats://file:1"\ntimeout = 7')
    for name in ("URL", "PS_URL", "TIMEOUT", "NAMESPACE", "JSON"):
        monkeypatch.setenv(f"REMOTING_BUS_{name}", "")
    assert common_of("ps") == Common(url="nats://file:1", timeout=7)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("url = ", "cannot be read"),
        ("url = 7", "url must be a string or a list of strings"),
        ("timeuot = 7", "no command has an option 'timeuot'"),
        ("ps = 7", "no command has an option 'ps'"),
        ("[pss]\ntimeout = 7", r"\[pss\] is no command: master, agent, ps"),
        ("[ps]\ntimeuot = 7", "timeuot.*config.toml"),
        ("[ps]\nlabels = 'web'", "labels.*config.toml"),
        ("[ps.timeout]\na = 7", "timeout must be a plain value"),
        ("timeout = 'soon'", "timeout.*config.toml.*soon"),
        ("json = 'perhaps'", "json.*config.toml.*perhaps"),
    ],
)
def test_a_file_that_is_wrong_is_named(config: Path, text: str, says: str) -> None:
    config.write_text(text)
    with pytest.raises((Wrong, CycloptsError), match=says):
        asked("ps")


def test_a_variable_that_is_wrong_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, as JSON if any place asks for it."""
    monkeypatch.setenv("REMOTING_BUS_TIMEOUT", "soon")
    monkeypatch.setenv("REMOTING_BUS_JSON", "true")
    assert main(["ps"]) == 2
    said = capsys.readouterr()
    assert "REMOTING_BUS_TIMEOUT" in said.err
    assert said.err.count("\n") == 1
    assert "soon" in json.loads(said.out)["error"]["message"]


def test_a_file_that_was_named_has_to_be_there(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.unlink()
    assert main(["ps"]) == 2
    assert "no such file (REMOTING_BUS_CONFIG names it)" in capsys.readouterr().err


def test_help_tells_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["agent", "--help"]):
        assert main(words) == 0
        said = capsys.readouterr().out
        assert "REMOTING_BUS_TIMEOUT" in said
        assert "config.toml" in said


@pytest.mark.broker("nats")
def test_commands_obey_them(fleet: Fleet, user: User) -> None:
    """The whole way: an agent that is not there is given up in time, as JSON."""
    folder = user.home / "config" / "remoting-bus"
    folder.mkdir()
    (folder / "config.toml").write_text("[call]\ntimeout = 0.5\n")
    environment = {"REMOTING_BUS_JSON": "1", "REMOTING_BUS_URL": fleet.token}
    done = user.run("call", "web-9", "functions:add", **environment)
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["type"] == "CallTimeout"


@pytest.mark.broker("nats")
def test_a_master_takes_its_bus_from_them(fleet: Fleet, user: User) -> None:
    """And says so; without any it starts one."""
    with user.started("master", REMOTING_BUS_URL=fleet.token) as process:
        assert process.stdout is not None
        assert "REMOTING_BUS_URL" in process.stdout.readline()
        for line in process.stdout:
            if "--join" in line:
                break
        assert line.split()[3] == fleet.token
        process.terminate()
