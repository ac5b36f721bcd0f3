"""Scripted agents in our worlds: SQL returns their faults as scripted, and they replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiers import mostly_deep, third_slow

import trajrec
from trajrec.envs import Office, Shop, Workspace, office
from trajrec.envs.scripted import AGENTS, LOOPS
from trajrec.envs.shop_tasks import TASKS as SHOP_TASKS
from trajrec.envs.workspace import grade
from trajrec.envs.workspace_tasks import TASKS as WORKSPACE_TASKS
from trajrec.replay import replay_episode

WORLDS = {"shop": Shop, "office": Office, "workspace": Workspace}


@trajrec.verifier(id="solved", version="1", family="environmental")
def solved(world: Any) -> bool:
    return bool(world.task_solved())


def play(folder: Path, world: str, task: int, agent: str, **options: Any) -> None:
    """Record an episode of a scripted agent."""
    with trajrec.episode(
        folder,
        task=f"{world}-{task}",
        world=WORLDS[world](seed=3),
        options={"task": task},
        checks=[solved],
        metadata={"agent": agent},
        **options,
    ) as ep:
        AGENTS[agent](ep, ep.world.ground_truth_calls())


SUMMARY = """
SELECT any_value(outcome), any_value(ending), any_value(stop_reason), any_value(claimed_done),
  count(tool), count(*) FILTER (attempt_outcome <> 'ok'), count(*) FILTER (retry_by = 'agent'),
  (SELECT count(recovered_at) FROM failures)
FROM episodes JOIN (SELECT * RENAME (outcome AS attempt_outcome) FROM attempts) USING (episode_id)
"""

# World, task, agent -> the columns of SUMMARY: outcome, ending, stop reason, claimed done, and the
# numbers of calls, failures, retries by the agent, and failures that it recovered from.
SCRIPTED: dict[tuple[str, int, str], tuple[Any, ...]] = {
    ("shop", 0, "solver"): ("success", "terminated", "done", True, 4, 0, 0, 0),
    ("shop", 0, "wrong_argument"): ("failure", "terminated", "done", True, 4, 1, 0, 0),
    ("shop", 0, "skipped_step"): ("failure", "terminated", "done", True, 3, 0, 0, 0),
    ("shop", 0, "gives_up"): ("failure", "terminated", "gave up", False, 1, 0, 0, 0),
    ("shop", 0, "loops"): (
        "failure",
        "truncated",
        "max_steps",
        False,
        1 + LOOPS,
        LOOPS,
        LOOPS - 1,
        0,
    ),
    ("shop", 0, "recovers"): ("success", "terminated", "done", True, 5, 1, 1, 1),
    # The payment provider does not answer twice, so the ground truth has two retries.
    ("shop", 5, "solver"): ("success", "terminated", "done", True, 6, 2, 2, 2),
    ("shop", 5, "recovers"): ("success", "terminated", "done", True, 7, 3, 3, 3),
    ("shop", 21, "solver"): ("success", "terminated", "done", True, 13, 0, 0, 0),
    ("shop", 21, "skipped_step"): ("failure", "terminated", "done", True, 12, 0, 0, 0),
    ("office", 4, "solver"): ("success", "terminated", "done", True, 2, 0, 0, 0),
    ("office", 4, "wrong_argument"): ("failure", "terminated", "done", True, 2, 1, 0, 0),
    # The wrong argument is the one that says what the call is about: the next call only follows.
    ("office", 4, "recovers"): ("success", "terminated", "done", True, 3, 1, 0, 0),
    ("workspace", 0, "solver"): ("success", "terminated", "done", True, 5, 0, 0, 0),
    ("workspace", 0, "wrong_argument"): ("failure", "terminated", "done", True, 5, 1, 0, 0),
    ("workspace", 0, "gives_up"): ("failure", "terminated", "gave up", False, 3, 0, 0, 0),
    ("workspace", 0, "loops"): (
        "failure",
        "truncated",
        "max_steps",
        False,
        3 + LOOPS,
        LOOPS,
        LOOPS - 1,
        0,
    ),
    ("workspace", 0, "recovers"): ("success", "terminated", "done", True, 6, 1, 0, 0),
}


@mostly_deep("agents", drawn=5)
@pytest.mark.slow
@pytest.mark.parametrize("case", SCRIPTED, ids=lambda case: "-".join(map(str, case)))
def test_sql_counts_failures_retries_and_recoveries_as_scripted(
    tmp_path: Path, case: tuple[str, int, str]
) -> None:
    play(tmp_path, *case)
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql(SUMMARY).fetchall() == [SCRIPTED[case]]
        (episode,) = corpus.episodes()
        report = replay_episode(episode, checks=[solved], allow=["trajrec"])
        assert (report.grade, report.divergence) == ("exact", None)


@pytest.mark.slow
@third_slow("agents")
@pytest.mark.parametrize("task", range(len(WORKSPACE_TASKS)))
def test_only_the_ground_truth_solves_a_task_of_the_workspace(task: int) -> None:
    world = Workspace()
    world.reset(options={"task": task})
    assert not world.task_solved()
    results = [world.call(name, arguments) for name, arguments in world.ground_truth_calls()]
    assert [result["exit_status"] for result in results if isinstance(result, dict)] == [1, 0]
    assert world.task_solved()


def test_changed_tests_do_not_solve_a_task_of_the_workspace() -> None:
    world = Workspace()
    world.reset(options={"task": 1})
    world.call("write_file", {"path": "test_roman.py", "text": "import unittest\n"})
    world.call("write_file", {"path": "unittest.py", "text": "raise SystemExit(0)\n"})
    assert not world.task_solved()
    world.call("write_file", {"path": "roman.py", "text": "import os\nos._exit(0)\n"})
    assert not world.task_solved()


def test_a_workspace_returns_and_restores_its_state() -> None:
    world = Workspace(seed=2)
    world.reset()
    state = world.get_state()
    world.call("write_file", {"path": "deep/new.py", "text": "x = 1\n"})
    assert world.call("search", {"text": "x = 1"}) == ["deep/new.py:1: x = 1"]
    assert world.get_state() != state
    world.set_state(state)
    assert world.get_state() == state
    assert "chunks" not in grade(world).evidence["output"]


def test_the_ground_truths_use_every_tool_of_the_shop() -> None:
    shop = Shop(seed=0)
    used = set()
    for task in range(len(SHOP_TASKS)):
        shop.reset(options={"task": task})
        used |= {name for name, _ in shop.ground_truth_calls()}
    assert used == {tool.name for tool in shop.tools()}
    assert len(office.TASKS) == 5
