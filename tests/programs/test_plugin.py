"""The pytest plugin, as its users use it: in test suites of their own."""

from __future__ import annotations

import textwrap

import pytest

pytest_plugins = ["pytester"]

BODY = """
import anyio
import pytest
import remoting_bus as rb

async def hello(name: str) -> str:
    return f"hello {name}"
"""

USE = """
async def {name}(remoting_master, remoting_agent):
    remoting_agent.command(hello)
    web = remoting_master.agent(remoting_agent.name)
    assert web.state == "joined"
    assert await web.call(hello, "you") == "hello you"
"""

FAULTS = """
async def {name}(remoting_master, remoting_agent, remoting_faults):
    runs = []

    @remoting_agent.command("count")
    async def count() -> int:
        runs.append(1)
        return len(runs)

    web = remoting_master.agent(remoting_agent.name).using(timeout=20)
    remoting_faults.drop("returned", times=1)
    remoting_faults.duplicate("call")
    assert await web.call("count") == 1
    assert remoting_faults.counts["dropped"] == 1
    assert remoting_faults.counts["duplicated"] >= 1
    remoting_faults.calm()
    remoting_faults.delay(0.05, "call")
    remoting_faults.reorder(chance=0.5)
    assert await web.call("count") == 2
    assert remoting_faults.counts["delayed"] >= 1
    remoting_faults.calm()
    remoting_faults.cut()
    async with anyio.create_task_group() as tasks:
        async def heal():
            await anyio.sleep(0.1)
            remoting_faults.heal()
        tasks.start_soon(heal)
        assert await web.call("count") == 3
    with pytest.raises(ValueError, match="no frame is called 'nonsense'; there are: "):
        remoting_faults.drop("nonsense")
"""


def run(
    pytester: pytest.Pytester, text: str, *options: str, ini: str = ""
) -> pytest.RunResult:
    pytester.makepyfile(textwrap.dedent(text))
    pytester.makeini(
        "[pytest]\nasyncio_default_fixture_loop_scope = function\n"
        "filterwarnings =\n    error\n"
        "    ignore:Module already imported:pytest.PytestAssertRewriteWarning\n" + ini
    )
    return pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider", *options)


@pytest.mark.parametrize("use", [USE, FAULTS], ids=["use", "faults"])
def test_for_anyio_on_both_loops(pytester: pytest.Pytester, use: str) -> None:
    text = BODY + "pytestmark = pytest.mark.anyio\n" + use.format(name="test_it")
    result = run(pytester, text)
    result.assert_outcomes(passed=2)


@pytest.mark.parametrize("use", [USE, FAULTS], ids=["use", "faults"])
def test_for_pytest_asyncio(pytester: pytest.Pytester, use: str) -> None:
    text = BODY + "pytestmark = pytest.mark.asyncio\n" + use.format(name="test_it")
    result = run(pytester, text)
    result.assert_outcomes(passed=1)


def test_for_pytest_asyncio_in_auto_mode(pytester: pytest.Pytester) -> None:
    result = run(pytester, BODY + USE.format(name="test_it"), "--asyncio-mode=auto")
    result.assert_outcomes(passed=1)


def test_for_loops_of_other_scopes(pytester: pytest.Pytester) -> None:
    mark = '@pytest.mark.asyncio(loop_scope="module")'
    text = BODY + "".join(mark + USE.format(name=f"test_{n}") for n in range(2))
    result = run(pytester, text)
    result.assert_outcomes(passed=2)


def test_both_plugins_in_one_file(pytester: pytest.Pytester) -> None:
    text = (
        BODY
        + "@pytest.mark.asyncio"
        + USE.format(name="test_one")
        + "@pytest.mark.anyio"
        + USE.format(name="test_other")
    )
    result = run(pytester, text)
    result.assert_outcomes(passed=3)


def test_a_test_without_a_loop_is_told(pytester: pytest.Pytester) -> None:
    result = run(pytester, "def test_it(remoting_master): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*remoting_master needs a running event loop; mark*"])


def test_a_test_that_fails_leaves_in_order(pytester: pytest.Pytester) -> None:
    text = (
        BODY
        + "pytestmark = pytest.mark.anyio\n"
        + "async def test_it(remoting_master, remoting_agent):\n    assert 1 == 2\n"
    )
    result = run(pytester, text)
    result.assert_outcomes(failed=2)
    result.stdout.no_fnmatch_line("*unraisable*")


def test_the_plugin_imports_nothing_before_it_is_used(
    pytester: pytest.Pytester,
) -> None:
    text = """
    import sys

    def test_it():
        heavy = {"remoting_bus._master", "remoting_bus._agent", "msgspec", "nats"}
        assert not heavy & set(sys.modules)
    """
    result = run(pytester, text)
    result.assert_outcomes(passed=1)
