"""What functions are called on the wire, and what is refused with a cure."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from remoting_bus._remote.naming import module_name, name_of, type_name, unwrap
from remoting_bus._remote.registry import command


def plain_function(a: int = 0, b: int = 0) -> int:
    return a + b


@command("disk.usage")
def named_function() -> None: ...


class Holder:
    def method(self) -> None: ...

    @staticmethod
    def static() -> None: ...


class Callable_:
    def __call__(self) -> None: ...


def test_a_function_is_named_by_module_and_qualname() -> None:
    assert name_of(plain_function) == f"{__name__}:plain_function"
    assert name_of(Holder.static) == f"{__name__}:Holder.static"
    assert name_of(os.getpid) == "posix:getpid"
    assert name_of(len) == "builtins:len"


def test_the_decorators_name_comes_first() -> None:
    assert name_of(named_function) == "disk.usage"


@pytest.mark.parametrize(
    ("function", "cure"),
    [
        (lambda: None, "Write it as a function of a module"),
        (Holder().method, "register the method under a name"),
        (Callable_(), "a function or the name of one"),
        (3, "a function or the name of one"),
    ],
)
def test_what_a_peer_cannot_find_is_refused_with_the_cure(
    function: Any, cure: str
) -> None:
    with pytest.raises(TypeError, match=cure):
        name_of(function)


def test_a_function_inside_another_is_refused_but_where_it_is_registered() -> None:
    def inner() -> None: ...

    with pytest.raises(TypeError, match="Move it to the module's level"):
        name_of(inner)
    assert name_of(inner, local=True).endswith(":" + inner.__qualname__)
    assert name_of(command("inner")(inner)) == "inner"


def test_partials_are_taken_apart() -> None:
    made = functools.partial(functools.partial(plain_function, 1), b=2)
    assert unwrap(made, (3,), {"b": 4}) == (plain_function, (1, 3), {"b": 4})
    assert unwrap(plain_function, (), {}) == (plain_function, (), {})


@pytest.mark.parametrize("as_module", [False, True])
def test_a_script_is_called_by_its_stem_and_never_main(
    tmp_path: Path, as_module: bool
) -> None:
    package = tmp_path / "tools"
    package.mkdir()
    (package / "__init__.py").touch()
    script = package / "deploy.py"
    script.write_text(
        "from remoting_bus._remote.naming import name_of, type_name\n"
        "def run(): ...\n"
        "class Error(Exception): ...\n"
        "print(name_of(run), type_name(Error))\n"
    )
    how = ["-m", "tools.deploy"] if as_module else [str(script)]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, *how],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
    )
    module = "tools.deploy" if as_module else "deploy"
    assert done.stdout.split() == [f"{module}:run", f"{module}:Error"]


def test_a_function_typed_at_a_prompt_is_refused_with_the_cure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main = type(sys)("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    with pytest.raises(TypeError, match="typed at a prompt"):
        module_name("__main__")


def test_types_are_named_builtins_without_their_module() -> None:
    assert type_name(ValueError) == "ValueError"
    assert type_name(Holder) == f"{__name__}:Holder"
