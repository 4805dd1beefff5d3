"""Storms under pytest: plain seeds for breadth, a rule-based machine for shrinking."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

_SPEC = importlib.util.spec_from_file_location(
    "remoting_bus_storm", Path(__file__).with_name("storm.py")
)
assert _SPEC is not None
assert _SPEC.loader is not None
storm: Any = importlib.util.module_from_spec(_SPEC)
sys.modules["remoting_bus_storm"] = storm
_SPEC.loader.exec_module(storm)


@pytest.mark.parametrize("first", range(0, 400, 50))
def test_plain_seeds_keep_every_law(first: int) -> None:
    """Fifty histories at a time: nothing lost, nothing twice, all tables empty."""
    for seed in range(first, first + 50):
        storm.run(seed)


class Machine(RuleBasedStateMachine):
    """Hypothesis chooses the steps; every check runs after each of them."""

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.storm = storm.Storm(seed)

    @rule(
        step=st.sampled_from(
            [
                "do_call",
                "do_stream",
                "do_cancel",
                "do_forget",
                "do_answer",
                "do_pass_time",
                "do_weather",
                "do_cut",
                "do_heal",
                "do_restart",
                "do_close",
            ]
        )
    )
    def step(self, step: str) -> None:
        getattr(self.storm, step)()
        self.storm._move_parts()
        self.storm.world.run(0)
        self.storm.check()

    def teardown(self) -> None:
        if hasattr(self, "storm"):
            self.storm.finish()


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=40,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
