"""Names, labels and offers: one rule, checked before anything is opened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from remoting_bus._agent import Agent
from remoting_bus._master import Master
from remoting_bus._remote.program import name_of_this_process
from remoting_bus.names import check_name

BAD_NAMES = [
    "",
    "a.b",
    "a/b",
    "a b",
    "*",
    "a>",
    "web-*",
    "-a",
    "ä",
    "x" * 64,
    "x" * 300,
    "a\n",
    "名前",
    "..",
]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize(
    "make",
    [
        lambda name: Agent("memory://x", name=name, offers={"commands"}),
        lambda name: Master("memory://x", name=name),
        lambda name: Master("memory://x", namespace=name),
        lambda name: Master("memory://x").agent(name),
    ],
    ids=["agent", "master", "namespace", "handle"],
)
def test_a_bad_name_is_refused_with_the_rule(
    make: Callable[[str], Any], name: str
) -> None:
    with pytest.raises(ValueError, match=r"is not allowed: .*1 to 63 ASCII"):
        make(name)


def test_a_name_is_a_string() -> None:
    with pytest.raises(TypeError, match="agent name must be a str"):
        Agent("memory://x", name=7, offers={"commands"})  # type: ignore[arg-type]


def test_the_longest_name_is_allowed() -> None:
    assert Agent("memory://x", name="x" * 63, offers={"commands"}).name == "x" * 63


@pytest.mark.parametrize("host", ["web-1.example.org", "-", "ä", "x" * 300, ""])
def test_a_made_up_name_is_allowed_and_new_each_time(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    names = {name_of_this_process() for _ in range(20)}
    assert len(names) == 20
    for name in names:
        check_name(name)


@pytest.mark.parametrize(
    "labels", [[""], ["x" * 129], ["a\nb"], [str(n) for n in range(65)]]
)
def test_labels_are_bounded(labels: list[str]) -> None:
    with pytest.raises(ValueError, match=r"label"):
        Agent("memory://x", name="a", labels=labels, offers={"commands"})


def test_one_label_is_not_a_set_of_letters() -> None:
    with pytest.raises(TypeError, match=r"\{'web'\}"):
        Agent("memory://x", name="a", labels="web", offers={"commands"})
    with pytest.raises(TypeError, match=r"\{'web'\}"):
        Master("memory://x").agents(labels="web")


def test_an_unknown_offer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cannot offer 'shell'; it can: commands"):
        Agent("memory://x", name="a", offers={"shell"})


def test_shipped_code_is_not_promised() -> None:
    with pytest.raises(ValueError, match="accept_code=True is not available yet"):
        Agent("memory://x", name="a", accept_code=True, offers={"commands"})


@pytest.mark.parametrize("options", [{"limit": 0}, {"timeout": -1.0}])
def test_bad_options_of_many_calls_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"limit|timeout"):
        Master("memory://x").using(**options)
