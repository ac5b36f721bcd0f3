"""The step that lost an agent's episode, found by runs from some of its steps."""

from __future__ import annotations

import json
import random
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tiers import third_slow

from trajrec.replay.whatif.lost_step import LostStep, Share, Wanted, find_lost_step
from trajrec.replay.whatif.result import RunResult, WhatIfResult

STEPS = [1, 2, 4, 5, 7, 9, 10, 13]


class Chances:
    """Experiments with known chances of a win from each step on."""

    def __init__(self, chances: list[float], n: int, seed: int) -> None:
        self.chances = dict(zip(STEPS, chances, strict=True))
        self.n = n
        self.drawn = random.Random(seed)
        self.asked: list[int] = []
        self.refuses: int | None = None

    def __call__(self, step: int) -> WhatIfResult:
        self.asked.append(step)
        runs = [
            RunResult(
                arm=arm,
                number=number,
                status="done",
                won=self.drawn.random() < self.chances[step],
                n_tokens=10,
            )
            for number in range(self.n // 2)
            for arm in ("unchanged", "changed")
        ]
        refused = "no number: a control differs" if step == self.refuses else ""
        return WhatIfResult(
            experiment=f"e{len(self.asked)}",
            episode_id="e",
            at=step,
            what="nothing changed",
            success="",
            runs=runs,
            refused=refused,
        )

    def find(self, wanted: Wanted) -> LostStep:
        return find_lost_step(self, STEPS, wanted)


def test_decisive_step_is_where_the_share_of_wins_falls() -> None:
    n_right = 0
    for seed in range(200):
        run = Chances([0.9, 0.9, 0.85, 0.1, 0.1, 0.1, 0.1, 0.05], n=16, seed=seed)
        found = run.find("decisive")
        n_right += found.step == 4
        # Undecided is no mistake; another step is.
        assert found.step in (4, None)
        assert len(run.asked) == 1 + 3 + 2
        assert found.n_tokens == 6 * 160
    assert n_right > 190


def test_no_step_is_named_where_nothing_decided() -> None:
    named = 0
    for seed in range(400):
        named += Chances([0.3] * 8, n=16, seed=seed).find("decisive").step not in (None, 13)
    # The interval of 95 % errs on each side; the search cannot add to that, as runs are fresh.
    assert named / 400 < 0.05


def test_point_of_no_return_lies_behind_a_step_that_could_be_mended() -> None:
    run = Chances([1.0, 1.0, 0.3, 0.3, 0.3, 0.0, 0.0, 0.0], n=32, seed=1)
    assert run.find("no-return").step == 7
    assert Chances(list(run.chances.values()), n=32, seed=1).find("decisive").step == 2


def test_last_step_loses_if_the_agent_wins_from_it() -> None:
    found = Chances([1.0] * 8, n=4, seed=1).find("decisive")
    assert (found.step, found.is_last, found.after) == (13, True, None)
    assert "the episode ends with it" in str(found)
    json.dumps(found.to_json())


def test_last_step_decides_only_if_fresh_runs_win_often_enough() -> None:
    class Unlucky(Chances):
        """Wins from the last step once in six fresh runs, and half of the time before."""

        def __call__(self, step: int) -> WhatIfResult:
            self.chances[13] = 1.0 if self.asked.count(13) == 0 else 0.0
            result = super().__call__(step)
            if self.asked.count(13) != 2:
                return result
            return replace(result, runs=[replace(result.runs[0], won=True), *result.runs[1:]])

    run = Unlucky([1.0] * 8, n=6, seed=1)
    found = run.find("decisive")
    assert (found.step, found.before) == (None, Share(1, 5, 0))
    assert "step 13 is the most likely, and fresh runs do not confirm it" in found.reason
    # It could still be won from there, though.
    assert Unlucky([1.0] * 8, n=6, seed=1).find("no-return").step == 13


def test_search_ends_without_a_step_if_nothing_wins_or_a_control_differs() -> None:
    never = Chances([0.0] * 8, n=4, seed=1)
    assert never.find("no-return").reason == "it was not won from the start on either"
    assert never.asked == [1]
    differs = Chances([1.0] * 8, n=4, seed=1)
    differs.refuses = 7
    found = differs.find("decisive")
    assert found.step is None
    assert found.reason == "from step 7: no number: a control differs"
    assert found.is_refused


@pytest.mark.slow
@third_slow("whatif")
def test_command_names_the_decisive_step_with_its_cost(tmp_path: Path) -> None:
    pytest.importorskip("httpx", reason="httpx is not installed")
    from model_server import ModelServer
    from test_whatif_command import only_id, program, trajrec_command
    from whatif_agents import Script

    with ModelServer(Script()) as server:
        command = program(tmp_path, server.url)
        subprocess.run(command, check=True)
        runs = tmp_path / "runs"
        own = only_id(runs)
        given = ("whatif", runs, own, "--find", "no-return", "-n", 2)
        dry = trajrec_command(*given, "--dry-run")
        assert "at most 5 experiments of 2 runs and 2 controls" in dry.stderr
        ended = trajrec_command(*given, "--json", "--", *command)
    assert ended.returncode == 0, ended.stderr
    assert "at most" in ended.stderr
    found = json.loads(ended.stdout)
    # The script asks for the wrong amount each time.
    assert (found["step"], found["searched"]) == (None, {"0": {"won": 0, "lost": 2, "unknown": 0}})
    assert found["tokens"] > 0
    wrong = trajrec_command(*given, "--at", 1, "--", *command)
    assert wrong.returncode == 2
    assert "--find takes no --at" in wrong.stderr
