"""The shape of the house: what is public, what is installed, what an import costs."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = sorted(path.name for path in (ROOT / "backends").iterdir() if path.is_dir())
PUBLIC = ["remoting_bus", "remoting_bus.bus", "remoting_bus.errors"]
PUBLIC += ["remoting_bus.names", "remoting_bus.testing"]

IMPORT_SECONDS = 0.15
"""CPU time of a whole process that imports the library and ends."""

PROMISED = {
    "Agent",
    "AgentJoined",
    "AgentLeft",
    "AgentLost",
    "AgentResumed",
    "AgentSuspended",
    "Call",
    "CallCancelled",
    "CallContext",
    "CallError",
    "CallRefused",
    "CallTimeout",
    "Channel",
    "ChannelBroken",
    "ChannelClosed",
    "ConnectionFailed",
    "LimitExceeded",
    "LocalProtocolError",
    "Master",
    "NameTaken",
    "NotGranted",
    "Outcome",
    "Overloaded",
    "PeerLost",
    "Priority",
    "Progress",
    "ProtocolError",
    "RemoteAgent",
    "RemoteError",
    "RemoteProtocolError",
    "RemotingError",
    "Revoked",
    "SecurityError",
    "Unsupported",
    "as_file",
    "checkpoint",
    "command",
    "current",
    "inline",
    "one_way",
    "open_bus",
    "pipe",
    "run",
}
"""Names that programs find directly in `remoting_bus`."""


def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def outside(code: str, at: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that sees what is installed, and no checkout."""
    return subprocess.run(
        [sys.executable, "-I", "-c", code],
        cwd=at,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("name", PUBLIC)
def test_all_is_what_the_module_defines(name: str) -> None:
    """A public module's `__all__` is sorted, free of doubles, and every name is there."""
    module = importlib.import_module(name)
    names = list(module.__all__)
    assert len(names) == len(set(names)), "a name stands there twice"
    assert [n for n in names if not hasattr(module, n)] == []
    assert set(names) <= set(dir(module))


@pytest.mark.parametrize("name", PUBLIC)
def test_all_leaves_nothing_out(name: str) -> None:
    """What a public module defines itself without an underscore stands in `__all__`."""
    module = importlib.import_module(name)
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    defined: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign):
            defined |= {n.id for n in node.targets if isinstance(n, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            defined.add(node.target.id)
    public = {n for n in defined if not n.startswith("_")}
    assert public - set(module.__all__) == set()


def test_the_promised_names_are_there() -> None:
    """Programs find every name of the public API directly in `remoting_bus`."""
    import remoting_bus

    assert PROMISED - set(remoting_bus.__all__) == set()


def test_every_error_is_public() -> None:
    """No error of the tree has to be imported from elsewhere to be caught."""
    import remoting_bus
    from remoting_bus import errors

    classes = {n for n in errors.__all__ if isinstance(getattr(errors, n), type)}
    assert classes - set(remoting_bus.__all__) == set()


@pytest.mark.parametrize(
    "entry", sorted(entry_points(group="remoting_bus.backends")), ids=lambda e: e.name
)
def test_each_scheme_has_a_driver(entry: Any) -> None:
    """The driver that a scheme names is there, and is one."""
    from remoting_bus.bus import Backend

    assert issubclass(entry.load(), Backend)


def test_each_driver_has_a_scheme() -> None:
    """Every folder of `backends` is built into the wheel and reached by a URL."""
    values = [entry.value for entry in entry_points(group="remoting_bus.backends")]
    for name in BACKENDS:
        assert any(value.startswith(name) for value in values), name
    wheel = project()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {f"backends/{name}" for name in BACKENDS} <= set(wheel)


def test_the_command_is_there() -> None:
    """`remoting-bus` starts a function of ours."""
    (entry,) = entry_points(group="console_scripts", name="remoting-bus")
    assert callable(entry.load())


def test_the_plugin_is_there() -> None:
    """pytest finds the fixtures by itself."""
    (entry,) = entry_points(group="pytest11", name="remoting-bus")
    assert entry.value == "remoting_bus.testing.plugin"
    assert entry.load()


def test_the_wheel_holds_the_import_packages_only(tmp_path: Path) -> None:
    """No top-level name is taken but ours, and the types are said to be there."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel"]
    subprocess.run(
        [*command, "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {
        "remoting_bus",
        *BACKENDS,
    }
    for package in ("remoting_bus", *BACKENDS):
        assert f"{package}/__init__.py" in names
        assert f"{package}/py.typed" in names, f"{package} does not say it has types"
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.parametrize("name", ["backends", "tests", "benchmarks", "examples"])
def test_what_is_not_shipped_is_not_importable(name: str, tmp_path: Path) -> None:
    """In an installed environment the checkout's other folders are no packages."""
    done = outside(f"import {name}", tmp_path)
    assert done.returncode == 1
    assert f"No module named '{name}'" in done.stderr


def test_the_import_loads_two_libraries_at_most(tmp_path: Path) -> None:
    """`import remoting_bus` brings anyio, cbor2 and what these two need; no more."""
    code = (
        "import sys; before = set(sys.modules); import remoting_bus\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(new - set(sys.stdlib_module_names)))"
    )
    done = outside(code, tmp_path)
    assert done.returncode == 0, done.stderr
    allowed = {"remoting_bus", "anyio", "cbor2", "_cbor2", "idna", "typing_extensions"}
    assert set(done.stdout.split()) <= allowed


def test_the_import_is_quick(tmp_path: Path) -> None:
    """The whole process takes at most 150 ms; CPU time, so that neighbours don't count."""
    seconds = []
    for _ in range(5):
        child = subprocess.Popen(
            [sys.executable, "-I", "-c", "import remoting_bus"], cwd=tmp_path
        )
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        seconds.append(used.ru_utime + used.ru_stime)
    assert min(seconds) <= IMPORT_SECONDS, [f"{s:.3f}" for s in seconds]


def test_the_layers_hold(tmp_path: Path) -> None:
    """No package imports what is above it; drivers come in by the bus door only."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_dependency_is_pinned() -> None:
    """constraints.txt pins, with hashes, what pyproject.toml asks for."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, equals, rest = line.partition("==")
        if equals and not line.startswith((" ", "#")):
            pins.setdefault(canonicalize_name(name), []).append(rest.split()[0])
    assert "--hash=sha256:" in text
    assert "://" not in text, "a pin names versions and hashes, never a place"
    asked = list(project()["project"]["dependencies"])
    for extra in project()["project"]["optional-dependencies"].values():
        asked += extra
    for group in project()["dependency-groups"].values():
        asked += [line for line in group if isinstance(line, str)]
    for line in asked:
        need = Requirement(line)
        if canonicalize_name(need.name) == "remoting-bus":
            continue
        versions = pins.get(canonicalize_name(need.name), [])
        assert any(need.specifier.contains(v) for v in versions), line
