"""Exceptions on the wire: which arrive as themselves, and what is kept of all."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest

from remoting_bus._remote import faults
from remoting_bus._remote.faults import encode_error, encode_unsendable, rebuild
from remoting_bus.errors import CallRefused, RemoteError
from remoting_bus.protocol.codec import EncodeError, decode

runs: list[str] = []


class OwnError(Exception):
    def __init__(self, a: int, *, b: str) -> None:
        runs.append("init")
        super().__init__(f"{a} {b}")
        self.b = b


class OwnOSError(OSError):
    pass


class OwnGroup(ExceptionGroup[Exception]):
    pass


class Outer:
    class InnerError(Exception):
        pass


class UnsendableError(Exception):
    pass


class BrokenTextError(Exception):
    def __str__(self) -> str:
        raise ValueError("no")


def function() -> None: ...


def raised(make: Callable[[], BaseException]) -> BaseException:
    try:
        raise make()
    except BaseException as error:  # noqa: BLE001 - given back
        return error


def there_and_back(error: BaseException, *, by_name: bool = False) -> Exception:
    described = decode(encode_error(raised(lambda: error)))
    return rebuild(described, peer="web-1", module=None if by_name else __name__)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad", 3),
        KeyError("k"),
        ZeroDivisionError(),
        FileNotFoundError(2, "No such file", "/x"),
        OSError(18, "Invalid link", "/a", None, "/b"),
        OSError("only words"),
        ConnectionRefusedError(111, "refused"),
        TimeoutError("late"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad byte"),
        ModuleNotFoundError("no x", name="x"),
        AttributeError("no y", name="y"),
        NotImplementedError("z"),
    ],
    ids=repr,
)
def test_builtins_arrive_as_themselves(error: Exception) -> None:
    for by_name in (False, True):
        made = there_and_back(error, by_name=by_name)
        assert type(made) is type(error)
        assert made.args == error.args
        assert str(made) == str(error)
        for name in ("errno", "strerror", "filename", "filename2", "name"):
            assert getattr(made, name, None) == getattr(error, name, None)


def test_a_class_of_the_functions_module_arrives_without_its_init() -> None:
    error = OwnError(1, b="x")
    runs.clear()
    made = there_and_back(error)
    assert type(made) is OwnError
    assert (made.args, made.b, runs) == (("1 x",), "x", [])
    nested = there_and_back(Outer.InnerError("y"))
    assert type(nested) is Outer.InnerError
    own = there_and_back(OwnOSError(2, "gone", "/x"))
    assert type(own) is OwnOSError
    assert (own.errno, own.filename) == (2, "/x")


def test_in_a_call_by_name_only_builtins_arrive_as_themselves() -> None:
    made = there_and_back(OwnError(1, b="x"), by_name=True)
    assert type(made) is RemoteError
    assert made.type_name == f"{__name__}.OwnError"
    assert str(made) == f"{__name__}.OwnError: 1 x"


@pytest.mark.parametrize(
    "error",
    [
        EncodeError("p", "r"),
        RemoteError("x"),
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
        StopIteration(1),
        UnsendableError(object()),
    ],
    ids=repr,
)
def test_all_others_arrive_as_remote_error(error: BaseException) -> None:
    made = there_and_back(error)
    assert type(made) is RemoteError
    assert type(error).__qualname__ in made.type_name
    assert "Traceback (most recent call last)" in made.traceback


def test_what_cannot_be_sent_of_an_error_is_shown_instead() -> None:
    made = there_and_back(UnsendableError(object()))
    assert "<object object" in str(made)


def test_the_remote_traceback_prints_below_the_local_one() -> None:
    error = there_and_back(ValueError("bad"))
    error.add_note("seen here")
    text = "".join(traceback.format_exception(raised(lambda: error)))
    local, remote = text.split("On 'web-1':")
    assert "ValueError: bad" in local
    assert __file__ in remote
    assert "raise make()" in remote
    assert "seen here" in remote


def test_notes_and_causes_are_kept_as_text() -> None:
    def make() -> Exception:
        try:
            try:
                raise KeyError("first")
            except KeyError as error:
                raise ValueError("second") from error
        except ValueError as error:
            error.add_note("a note")
            return error

    made = there_and_back(make())
    assert "a note" in made.__notes__
    assert "KeyError: 'first'" in made.__notes__[-1]
    assert "direct cause" in made.__notes__[-1]


def test_a_group_arrives_with_what_is_in_it() -> None:
    inner = ExceptionGroup("inner", [OSError(2, "gone", "/x"), OwnError(1, b="x")])
    inner.exceptions[0].add_note("look")
    made = there_and_back(ExceptionGroup("outer", [ValueError("a"), inner]))
    assert type(made) is ExceptionGroup
    assert made.message == "outer"
    first, second = made.exceptions
    assert type(first) is ValueError
    assert isinstance(second, ExceptionGroup)
    assert type(second.exceptions[0]) is FileNotFoundError
    assert second.exceptions[0].__notes__ == ["look"]
    assert type(second.exceptions[1]) is OwnError


def test_a_group_with_an_exit_in_it_does_not_exit_the_caller() -> None:
    made = there_and_back(BaseExceptionGroup("g", [SystemExit(1), ValueError()]))
    assert type(made) is RemoteError
    assert "SystemExit" in made.traceback


def test_a_huge_group_is_cut() -> None:
    made = there_and_back(ExceptionGroup("g", [ValueError(i) for i in range(5000)]))
    assert isinstance(made, ExceptionGroup)
    assert 0 < len(made.exceptions) <= faults.MAX_GROUP


def test_everything_is_bounded() -> None:
    error = ValueError("x" * 1_000_000)
    error.big = "y" * 1_000_000  # type: ignore[attr-defined]
    for _ in range(100):
        error.add_note("z" * 100_000)
    data = encode_error(raised(lambda: error))
    assert len(data) < 1_000_000
    made = rebuild(decode(data), peer="p", module=__name__)
    assert type(made) is RemoteError
    assert "characters left out" in made.traceback


def test_an_error_without_text_is_told_all_the_same() -> None:
    made = there_and_back(BrokenTextError())
    assert type(made) is BrokenTextError
    assert any("Traceback" in note for note in made.__notes__)


def test_text_that_is_no_unicode_is_told_all_the_same() -> None:
    made = there_and_back(ValueError("\ud800"))
    assert type(made) is RemoteError
    assert "\\ud800" in str(made)


def test_a_recursion_is_told() -> None:
    def deep() -> None:
        deep()

    with pytest.raises(RecursionError) as caught:
        deep()
    made = rebuild(decode(encode_error(caught.value)), peer="p")
    assert type(made) is RecursionError


@pytest.mark.parametrize(
    "described",
    [
        None,
        {},
        {"type": 3},
        {"type": "ValueError"},
        {"type": "ValueError", "args": 3, "dict": {}},
        {"type": "ValueError", "args": [], "dict": [], "extra": 3},
        {"type": "UnicodeDecodeError", "args": [1], "dict": {}},
        {"type": "os:system", "args": ["x"], "dict": {}},
        {"type": "print", "args": [], "dict": {}},
        {"type": "SystemExit", "args": [], "dict": {}},
        {"type": "ExceptionGroup", "errors": []},
        {"type": "ExceptionGroup", "errors": [3]},
        {"type": f"{__name__}:pytest.fail", "args": [], "dict": {}},
        {"type": f"{__name__}:RemoteError", "args": [], "dict": {}},
        {"type": f"{__name__}:function", "args": [], "dict": {}},
        {"type": "x", "notes": [3] * 100, "traceback": 5},
    ],
    ids=repr,
)
def test_whatever_a_peer_describes_becomes_some_error(described: Any) -> None:
    made = rebuild(described, peer="p", module=__name__)
    assert isinstance(made, RemoteError)


def test_a_described_attribute_runs_nothing() -> None:
    described = {
        "type": "ValueError",
        "args": ["x"],
        "dict": {"__class__": "y", "ok": 1, "__notes__": 3},
        "extra": {},
    }
    made = rebuild(described, peer="p")
    assert type(made) is ValueError
    assert made.ok == 1  # type: ignore[attr-defined]


def test_a_result_that_cannot_be_sent_is_refused_and_not_an_error_of_the_code() -> None:
    made = rebuild(decode(encode_unsendable("result[3]: no. The call ran")), peer="p")
    assert type(made) is CallRefused
    assert "The call ran" in str(made)
