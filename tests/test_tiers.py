"""The three sizes of a suite: what each holds, and what a seed repeats."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from deep_parts import PARTS, list_by_part
from tiers import SEED, Share, deep, examples, mostly_deep, seed_of, shares, spread, third_slow

TESTS = Path(__file__).parent


def marks(parameter: object) -> set[str]:
    return {mark.name for mark in parameter.marks}  # type: ignore[attr-defined]


def test_a_share_is_the_same_for_the_same_seed() -> None:
    cases = range(1000)
    first = Share("drawn", 10, 1).of(cases)
    assert first == Share("drawn", 10, 1).of(cases)
    assert first != Share("drawn", 10, 2).of(cases)
    assert first == sorted(set(first))
    assert len(first) == 10
    assert Share("whole", None, 1).of(cases) == list(cases)
    assert Share("fixed", 2000, 0).of(cases) == list(cases)


def test_a_suite_has_three_shares_that_are_marked() -> None:
    fixed, drawn, whole = shares("log", "some_test", {"fixed": 1, "drawn": 2, "whole": None})
    assert (marks(fixed), marks(drawn), marks(whole)) == (set(), {"slow"}, {"deep"})
    assert [p.values[0].size for p in (fixed, drawn, whole)] == [1, 2, None]
    (only,) = shares("log", "some_test", {"fixed": 0, "drawn": 0, "whole": 5})
    assert only.values[0].is_whole
    split = shares("log", "some_test", {"drawn": 2, "whole": 9}, n_tests=4)
    assert [p.values[0].size for p in split] == [2, 3, 3, 3, 3]
    assert len({p.values[0].seed for p in split}) == 5


def test_the_parts_of_all_cases_have_each_once() -> None:
    split = shares("log", "some_test", {"whole": None}, n_tests=4)
    parts = [p.values[0].of(range(10)) for p in split]
    assert [len(part) for part in parts] == [3, 3, 2, 2]
    assert sorted(case for part in parts for case in part) == list(range(10))


def test_a_spread_leaves_every_case_in_a_tier() -> None:
    parameters = spread("log", list(range(10)), fixed=[0], drawn=3)
    assert [p.values for p in parameters] == [(k,) for k in range(10)]
    assert marks(parameters[0]) == set()
    assert all("deep" in marks(p) for p in parameters[1:])
    assert sum("slow" in marks(p) for p in parameters) == 3


def test_a_costly_case_is_never_drawn() -> None:
    parameters = spread("log", list(range(5)), drawn=5, costly=[2])
    assert ["slow" in marks(p) for p in parameters] == [True, True, False, True, True]
    assert all("deep" in marks(p) for p in parameters)


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ValueError, match=r"part must be one of log, .*, got 'lgo'"):
        deep("lgo")
    with pytest.raises(ValueError, match=r"part must be one of log, .*, got 'lgo'"):
        mostly_deep("lgo", drawn=1)
    with pytest.raises(ValueError, match=r"part must be one of log, .*, got 'lgo'"):
        third_slow("lgo")


def test_examples_are_those_of_the_seed() -> None:
    from hypothesis import strategies as st

    seen: list[int] = []

    @examples("log", st.integers(), fixed=20, drawn=20, whole=20)
    def look(number: int) -> None:
        seen.append(number)

    runs = []
    for seed in (1, 1, 2):
        seen.clear()
        look(Share("drawn", 20, seed))
        runs.append(list(seen))
    assert runs[0] == runs[1] != runs[2]
    assert len(runs[0]) == 20


def collected(*words: str) -> list[str]:
    """Return the ids of the tests that pytest would run."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    # The plugins of other packages take seconds to import.
    settings = {"TRAJREC_SEED": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [*command, *words],
        capture_output=True,
        text=True,
        cwd=TESTS.parent,
        env={**os.environ, **settings},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if "::" in line]


@pytest.mark.slow
def test_deep_tests_run_only_if_they_are_asked_for() -> None:
    listed = list_by_part(TESTS)
    assert set(PARTS) == {*listed, "newest"}
    expected = set().union(*listed.values())
    all_modules = sorted({name.partition("::")[0] for name in expected})
    assert len(all_modules) > 20
    # To collect all of them takes as long as many tests do.
    some = [f"tests/{name}" for name in Share("drawn", 6, seed_of("collected")).of(all_modules)]
    some += ["tests/test_codec.py", "tests/test_crash.py", "tests/test_forks.py"]
    deep_tests = collected("-m", "deep", *some)
    names = {re.sub(r"^tests/|\[.*", "", line) for line in deep_tests}
    # Nothing of a module is collected if a package that all of its tests need is not installed.
    modules = {name.partition("::")[0] for name in names}
    assert names == {name for name in expected if name.partition("::")[0] in modules}
    # What leaves them out does not look at the module.
    unmarked = collected(*some)
    assert len(unmarked) > 50
    assert not set(unmarked) & set(deep_tests)
    # Named by its id, a deep test is collected without -m.
    one = min(deep_tests)
    assert collected(one) == [one]


@pytest.mark.slow
def test_slow_cases_of_one_test_are_drawn() -> None:
    name = "test_sql_counts_failures_retries_and_recoveries_as_scripted"
    slow, whole = (
        {line for line in collected("-m", tier, "tests/test_scripted.py") if name in line}
        for tier in ("slow", "deep")
    )
    assert slow < whole
    assert (len(slow), len(whole)) == (5, 18)


@pytest.mark.slow
def test_each_test_that_is_third_slow_has_its_draw() -> None:
    # The whole file is slow, and those tests of it that take seconds are drawn.
    tests = ("an_episode_becomes_a_test", "an_agent_that_fails_at_a_miss_is_ended_at_once")
    slow = collected("-m", "slow", "tests/test_capture_command.py")
    deep_tests = collected("-m", "deep(part='agents')", "tests/test_capture_command.py")
    for test in tests:
        # Each case of it has its own.
        whole = {line for line in deep_tests if test in line}
        assert whole
        assert {line for line in slow if test in line} <= whole
    not_drawn = {line for line in deep_tests if line not in slow}
    assert not_drawn
    assert set(deep_tests) - not_drawn
    # None is left to the unmarked tier.
    assert not set(collected("tests/test_capture_command.py", "tests/test_batch.py")) & set(
        deep_tests
    )


def test_the_seed_of_the_session_is_left_to_its_workers() -> None:
    assert os.environ["TRAJREC_SEED"] == str(SEED)
