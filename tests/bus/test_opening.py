"""`opening`: drivers come in by the entry-point group, and a missing one is explained."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from remoting_bus.bus.memory import MemoryBackend
from remoting_bus.bus.opening import backend_for, schemes
from remoting_bus.errors import ConnectionFailed

Install = Callable[..., None]

DRIVER = """
from remoting_bus.bus import Backend

class Mine(Backend):
    def open(self, url):
        raise NotImplementedError
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a distribution that claims schemes."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(
        name: str, entries: dict[str, str], extras: tuple[str, ...] = ()
    ) -> None:
        info = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0"]
        lines += [f"Provides-Extra: {extra}" for extra in extras]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        points = [f"{scheme} = {where}" for scheme, where in entries.items()]
        text = "\n".join(["[remoting_bus.backends]", *points])
        (info / "entry_points.txt").write_text(text + "\n")
        (tmp_path / "driver_of_a_test.py").write_text(DRIVER)
        (tmp_path / "driver_that_lacks.py").write_text("import no_such_client\n")

    yield_modules = ("driver_of_a_test", "driver_that_lacks")
    for module in yield_modules:
        monkeypatch.delitem(sys.modules, module, raising=False)
    return install


def test_the_memory_driver_comes_in_by_the_same_door() -> None:
    assert isinstance(backend_for("memory://x"), MemoryBackend)
    assert "memory" in schemes()


def test_a_driver_of_somebody_else_is_found(install: Install) -> None:
    install("bus-of-mine", {"mine": "driver_of_a_test:Mine"})
    assert type(backend_for("mine://host")).__name__ == "Mine"
    assert "mine" in schemes()


def test_an_unknown_scheme_lists_those_that_are_known(install: Install) -> None:
    install("bus-of-mine", {"mine": "driver_of_a_test:Mine"})
    with pytest.raises(
        ValueError, match=r"no driver for redis:// is installed"
    ) as refused:
        backend_for("redis://host")
    assert "memory://" in str(refused.value)
    assert "mine://" in str(refused.value)


def test_a_missing_extra_says_what_to_install(install: Install) -> None:
    install("bus-of-mine", {"mine": "driver_that_lacks:X"}, extras=("mine",))
    with pytest.raises(ConnectionFailed) as refused:
        backend_for("mine://host")
    assert 'pip install "bus-of-mine[mine]"' in str(refused.value)
    assert "no_such_client" in str(refused.value)
    assert isinstance(refused.value.__cause__, ImportError)


def test_a_missing_extra_of_ours_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [*sys.modules]:
        if name.partition(".")[0] in {"nats", "remoting_bus_nats"}:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nats", None)
    with pytest.raises(ConnectionFailed, match=r'pip install "remoting-bus\[nats\]"'):
        backend_for("nats://localhost")


def test_tls_of_a_scheme_comes_with_the_same_extra(install: Install) -> None:
    install("bus-of-mine", {"mines": "driver_that_lacks:X"}, extras=("mine",))
    with pytest.raises(ConnectionFailed, match=r"bus-of-mine\[mine\]"):
        backend_for("mines://host")


def test_a_driver_that_is_not_there_says_whose_it_is(install: Install) -> None:
    install("bus-of-mine", {"mine": "driver_of_a_test:Gone"})
    with pytest.raises(ConnectionFailed, match="Reinstall bus-of-mine"):
        backend_for("mine://host")


def test_what_is_no_backend_is_refused(install: Install) -> None:
    install("bus-of-mine", {"mine": "pathlib:Path"})
    with pytest.raises(TypeError, match="pathlib:Path, the driver for mine://"):
        backend_for("mine://host")


def test_two_drivers_of_one_scheme_are_refused(install: Install) -> None:
    install("bus-of-mine", {"mine": "driver_of_a_test:Mine"})
    install("bus-of-yours", {"mine": "driver_that_lacks:X"})
    with pytest.raises(ValueError, match="several drivers claim mine://") as refused:
        backend_for("mine://host")
    assert "bus-of-mine" in str(refused.value)
    assert "bus-of-yours" in str(refused.value)


def test_what_is_no_url_has_no_driver() -> None:
    with pytest.raises(ValueError, match="SCHEME://"):
        backend_for("localhost")
