"""What every command shares: words that are not understood, statuses, help, imports."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys

import pytest

import remoting_bus as rb
from remoting_bus._cli.call_command import as_argument
from remoting_bus._cli.cp_command import understood
from remoting_bus._cli.failures import Wrong, describe
from remoting_bus._cli.main import main
from remoting_bus._cli.output import as_data, as_text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == rb.__version__


@pytest.mark.parametrize(
    "command", ["master", "agent", "ps", "run", "call", "cp", "doctor", "demo"]
)
def test_help_of_each_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "remoting-bus" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["no-such-command"], ["ps", "--nonsense"], ["agent"], ["call", "a"]]
)
def test_words_that_are_not_understood(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert main([*words, "--json"]) == 2
    assert "error" in json.loads(capsys.readouterr().out)


def test_an_agent_needs_a_module_that_exists(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["agent", "memory://x", "--name", "a", "--commands", "no_such_module"]
    assert main(words) == 2
    assert "no_such_module" in capsys.readouterr().err


def test_the_library_does_not_import_the_command_line() -> None:
    script = (
        "import sys, remoting_bus as rb; rb.Agent, rb.Master; "
        "print([m for m in sys.modules "
        "if m.startswith(('remoting_bus._cli', 'cyclopts', 'rich'))])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[]\n"


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (rb.NameTaken("gone", name="a"), 3, "gone"),
        (rb.ConnectionFailed("no bus"), 1, "no bus"),
        (ValueError("no name"), 2, "no name"),
        (rb.PeerLost("lost", executed="unknown"), 1, "may have run"),
        (rb.PeerLost("lost", executed="no"), 1, "did not run"),
        (FileNotFoundError(2, "No such file", "/x"), 1, "/x: No such file"),
        (ExceptionGroup("g", [rb.ConnectionFailed("two\nlines")]), 1, "two lines"),
        (rb.RemoteError("oh", type_name="app:Bad"), 1, "app:Bad: oh"),
    ],
)
def test_errors_have_a_line_and_a_status(
    error: Exception, status: int, says: str
) -> None:
    failure = describe(error)
    assert failure.status == status
    assert says in str(failure)


def test_an_error_of_the_far_side_is_no_wrong_word_here() -> None:
    error = ValueError("bad")
    error.add_note("remote traceback")
    assert describe(error).status == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ('"1"', "1"), ("[1, 2]", [1, 2]), ("null", None), ("a b", "a b")],
)
def test_arguments(text: str, value: object) -> None:
    assert as_argument(text) == value


def test_values_as_json() -> None:
    day = datetime.date(2024, 2, 29)
    value = {1: b"ab", "set": {3}, "day": day, "deep": [None, (1.5,)]}
    expected = {"1": "YWI=", "set": [3], "day": "2024-02-29", "deep": [None, [1.5]]}
    assert as_data(value) == expected
    assert as_text("words") == "words"
    assert as_text(["ü"]) == '["ü"]'


def test_the_two_ends_of_a_copy() -> None:
    copy = understood("web-1:/var/log/x.log", "/tmp/", tree=False)
    assert (copy.agent, copy.there, copy.put) == ("web-1", "/var/log/x.log", False)
    assert str(copy.here) == "/tmp/x.log"
    assert understood(__file__, "web-1:in/", tree=False).there == "in/test_main.py"
    for source, target in [("a", "b"), ("a:b", "c:d"), ("./a:b", "c")]:
        with pytest.raises(Wrong, match="one of the two"):
            understood(source, target, tree=False)
