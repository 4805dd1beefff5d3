"""Bringing brokers: nothing for one that is there, one line for one that cannot be had."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "bring_brokers.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bring_brokers", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "bring_brokers", module)
    spec.loader.exec_module(module)
    return module


class Broker:
    def __init__(self, *, there: bool, can: bool = True) -> None:
        self.there = there
        self.can = can
        self.brought = 0

    def find(self) -> None:
        if not self.there:
            raise FileNotFoundError("nowhere")

    def bring(self) -> None:
        self.brought += 1
        if not self.can:
            raise RuntimeError("no way")
        self.there = True


@pytest.mark.parametrize(
    ("there", "can", "before_tests", "ci", "status", "said"),
    [
        (True, False, False, True, 0, ""),
        (False, True, True, True, 0, "It is here now\n"),
        (False, False, True, False, 0, "It: tests on it do not run (no way)"),
        (False, False, True, True, 1, "to bring it: by hand\n"),
        (False, False, False, False, 1, "It: it is not here (no way)"),
    ],
)
def test_what_is_done_and_said(
    script: ModuleType,
    capsys: pytest.CaptureFixture[str],
    there: bool,
    can: bool,
    before_tests: bool,
    ci: bool,
    status: int,
    said: str,
) -> None:
    broker = Broker(there=there, can=can)
    bringer = script.Bringer("It", broker.find, broker.bring, "by hand")
    assert script.bring_all([bringer], before_tests=before_tests, ci=ci) == status
    out = capsys.readouterr().out
    assert said in out
    assert out.count("\n") <= 1
    assert broker.brought == (0 if there else 1)


def test_packages_start_nothing_while_one_is_installed(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian asks this file; one that is there already is left alone."""
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(script, "POLICY", policy)
    with script._nothing_starts():
        assert policy.read_text().endswith("exit 101\n")
        assert policy.stat().st_mode & 0o111
    assert not policy.exists()
    policy.write_text("another's")
    with script._nothing_starts():
        pass
    assert policy.read_text() == "another's"
