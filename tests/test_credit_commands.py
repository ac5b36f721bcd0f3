"""The commands of credit, their exports and their plots."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import duckdb
import gymnasium as gym
import numpy as np
import pytest
from chains import chain
from conftest import Scripted, record
from tiers import third_slow

import trajrec
import trajrec.envs
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.main import main
from trajrec.corpus.episode import Episode
from trajrec.envs import Bank
from trajrec.envs.solved import SPOIL, WORK
from trajrec.recording.event_log import close_logs
from trajrec.replay import credit, fork_many
from trajrec.replay.credit.estimators.groups import METHODS
from trajrec.replay.credit.results.estimates import Estimate
from trajrec.replay.credit.results.plot import plot
from trajrec.replay.credit.results.table import CreditTable

assert trajrec.envs

DRIVER = """
import gymnasium as gym
import numpy as np
from trajrec.envs.solved import RepairingPolicy
from trajrec.replay.credit import TabularPolicy

def best(gamma=0.99):
    table = gym.make("Taxi-v4").unwrapped.P
    values = np.zeros(500)
    for _ in range(60):
        q = np.array([[expected(table[state][action], values, gamma) for action in range(6)]
                      for state in range(500)])
        values = q.max(axis=1)
    return q

def expected(outcomes, values, gamma):
    return sum(p * (r + gamma * (not is_over) * values[s]) for p, s, r, is_over in outcomes)

driver = TabularPolicy.greedy(best(), 0.2)
never = RepairingPolicy(0.0)

def traffic(env, rng):
    env.unwrapped.traffic = rng.random()

class Jam(gym.Wrapper):
    def step(self, action):
        if action == 4:
            raise OSError("jammed")
        return self.env.step(action)

def jammed():
    return Jam(gym.make("Taxi-v4"))

number = 3
"""


@pytest.fixture
def lost_taxi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Episode:
    """An episode of Taxi that is truncated after 200 steps without a delivery."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "drivers.py").write_text(DRIVER)
    env = trajrec.record(gym.make("Taxi-v4"), tmp_path / "runs")
    env.reset(seed=4)
    rng = np.random.default_rng(0)
    for _ in range(200):
        env.step(int(rng.integers(4)))
    env.close()
    return next(trajrec.open(tmp_path / "runs").episodes())


@pytest.mark.slow
def test_bisect_prints_a_sentence_with_evidence_and_draws(
    lost_taxi: Episode, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "bisect",
        "runs",
        lost_taxi.id[:6],
        "--policy",
        "drivers:driver",
        "--success",
        "terminated",
        "--plot",
        "lost.png",
    ]
    assert main(command) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["from", "step", "success", "rate", "ci_low", "ci_high", "rollouts"]
    assert "the episode could no longer succeed: the policy succeeds 32 of 32 times" in out[-1]
    assert "0 of 32 times (0% to 11%) from after it" in out[-1]
    lost_after = int(out[-1].split()[2])
    assert 150 < lost_after < 199
    assert Path("lost.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_bisect_tells_an_episode_that_could_never_succeed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "drivers.py").write_text(DRIVER)
    episode = chain(tmp_path / "runs", 8, 3)
    hopeless = credit.point_of_no_return(episode, lambda observation: SPOIL, n_rollouts=4)
    assert hopeless.step is None
    assert str(hopeless).startswith("The episode could not succeed from the start")
    abrupt = credit.point_of_no_return(episode, lambda observation: WORK, n_rollouts=8)
    assert abrupt.step == 4
    assert "The action lost it: with that action the policy succeeds 0 of 8 times" in str(abrupt)
    with pytest.raises(ValueError, match="succeeded"):
        credit.point_of_no_return(
            episode, lambda observation: WORK, n_rollouts=4, success=lambda env: True
        )


def test_bad_luck_is_not_blamed_on_the_action(tmp_path: Path) -> None:
    class Toss(gym.Env[Any, Any]):
        """Three steps; with any action, each loses for good with probability 1/4."""

        observation_space = gym.spaces.Discrete(2)
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self.n_steps = 0
            self.is_lost = 0
            return 0, {}

        def step(self, action: Any) -> Any:
            self.n_steps += 1
            self.is_lost = self.is_lost or int(self.np_random.random() < 0.25)
            is_over = self.n_steps == 3
            return self.is_lost, float(is_over and not self.is_lost), is_over, False, {}

    # The first seed whose second step loses.
    for seed in range(20):
        env = trajrec.record(Toss(), tmp_path / str(seed))
        env.reset(seed=seed)
        lost = [env.step(0)[0] for _ in range(3)]
        env.close()
        if lost == [0, 1, 1]:
            break
    episode = next(trajrec.open(tmp_path / str(seed)).episodes())
    point = credit.point_of_no_return(episode, lambda observation: 0, env=Toss)
    assert point.step == 2
    assert "The outcome of the action lost it, not the action" in str(point)


class Gate(gym.Env[Any, Any]):
    """Three steps, of which the second decides: it keeps a chance of one in six.

    The chance lies in the action, or with `by_luck` in the environment.
    """

    observation_space = gym.spaces.Discrete(4)
    action_space = gym.spaces.Discrete(6)

    def __init__(self, by_luck: bool) -> None:
        self.by_luck = by_luck

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.n_steps = 0
        self.is_lost = False
        return 0, {}

    def step(self, action: Any) -> Any:
        key = self.np_random.integers(6) if self.by_luck else action
        if self.n_steps == 1 and key != 0:
            self.is_lost = True
        self.n_steps += 1
        is_over = self.n_steps == 3
        return self.n_steps, float(is_over and not self.is_lost), is_over, False, {}


def lost_at_gate(folder: Path, by_luck: bool) -> Episode:
    env = trajrec.record(Gate(by_luck), folder)
    env.reset(seed=1)
    for _ in range(3):
        env.step(3)
    env.close()
    (episode,) = trajrec.open(folder).episodes("total_reward = 0")
    return episode


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("by_luck", [False, True])
def test_one_step_can_lose_a_small_chance(tmp_path: Path, by_luck: bool) -> None:
    episode = lost_at_gate(tmp_path, by_luck)
    point = credit.point_of_no_return(
        episode, "random", env=lambda: Gate(by_luck), n_rollouts=200, folder=None
    )
    assert point.step == 2
    assert point.before.ci_low < 0.2
    reason = "The outcome of the action lost it" if by_luck else "The action lost it"
    assert reason in str(point)


def test_few_rollouts_do_not_say_that_no_step_lost_it(tmp_path: Path) -> None:
    episode = lost_at_gate(tmp_path, by_luck=False)
    point = credit.point_of_no_return(
        episode, "random", env=lambda: Gate(False), n_rollouts=16, folder=None
    )
    assert "The rollouts do not tell whether that step lost it" in str(point)


def test_a_chance_lost_little_by_little_blames_no_step(tmp_path: Path) -> None:
    class Wear(gym.Env[Any, Any]):
        """Six steps; each action 1 takes a sixth of the chance at the end."""

        observation_space = gym.spaces.Discrete(1)
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self.actions: list[int] = []
            return 0, {}

        def step(self, action: Any) -> Any:
            self.actions.append(int(action))
            is_over = len(self.actions) == 6
            is_won = is_over and self.np_random.random() < 1 - sum(self.actions) / 6
            return 0, float(is_won), is_over, False, {}

    env = trajrec.record(Wear(), tmp_path)
    env.reset(seed=1)
    for _ in range(6):
        env.step(1)
    env.close()
    episode = next(trajrec.open(tmp_path).episodes())
    point = credit.point_of_no_return(episode, "random", env=Wear, n_rollouts=64, folder=None)
    assert "It was lost little by little: no single step lost it" in str(point)


@pytest.mark.slow
def test_success_must_be_given_if_rewards_do_not_tell_it(
    lost_taxi: Episode, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bisect", "runs", lost_taxi.id, "--policy", "drivers:driver"]) == 2
    assert "give success=" in capsys.readouterr().err


@pytest.mark.slow
@third_slow("credit")
def test_credit_prints_a_table_or_json_and_draws(
    lost_taxi: Episode, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [
        "credit",
        "runs",
        lost_taxi.id,
        "--policy",
        "drivers:driver",
        "--success",
        "terminated",
        "-n",
        "8",
    ]
    assert main([*common, "--plot", "credit.html", "--budget", "100000"]) == 0
    out = capsys.readouterr().out
    assert "R +0.000 = V(s0)" in out
    page = Path("credit.html").read_text()
    assert "<svg" in page
    assert "Q(action) - V" in page
    assert main([*common, "--estimator", "value", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["step"] for row in rows] == list(range(200))
    assert rows[0]["ci_method"] == "wilson"
    assert main(["credit", "runs", "--group", "grpo"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split()[:3] == ["episode_id", "step", "value"]


@pytest.mark.slow
@third_slow("credit")
def test_lost_rollouts_count_as_the_command_says(
    lost_taxi: Episode, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "credit",
        "runs",
        lost_taxi.id,
        "--policy",
        "random",
        "--env",
        "drivers:jammed",
        # The recorded environment never jams.
        "--no-control",
        "--success",
        "terminated",
        "--estimator",
        "value",
        "--steps",
        "0:1",
        "--max-steps",
        "20",
        "-n",
        "8",
        "--json",
    ]
    estimands = []
    for options in ([], ["--on-error", "bounds"], ["--on-error", "lost"]):
        assert main([*command, *options]) == 0
        (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        estimands.append(row["estimand"])
    assert estimands[0] == estimands[1] != estimands[2]


@pytest.mark.slow
def test_a_named_function_resamples_the_hidden_facts(
    lost_taxi: Episode, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "credit",
        "runs",
        lost_taxi.id,
        "--policy",
        "drivers:driver",
        "-n",
        "2",
        "--estimator",
        "value",
        "--json",
    ]
    assert main([*command, "--max-steps", "2", "--resample-hidden", "drivers:traffic"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[0]["estimand"].endswith("given what had been seen")
    assert main([*command, "--noise", "recorded", "--resample-hidden", "drivers:traffic"]) == 2
    assert "repeats the hidden facts" in capsys.readouterr().err


@pytest.mark.slow
def test_wrong_usage_is_reported_without_a_traceback(
    lost_taxi: Episode, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, message in (
        (["credit", "runs"], "give an episode and --policy"),
        (
            ["credit", "runs", lost_taxi.id, "--policy", "drivers:number"],
            "must be a function or have a method act",
        ),
        (
            ["credit", "runs", lost_taxi.id, "--policy", "nothing:there"],
            "No module named 'nothing'",
        ),
        (
            ["credit", "runs", lost_taxi.id, "--policy", "random", "--plot", "x.gif"],
            "must end in .png",
        ),
        (
            ["credit", "runs", lost_taxi.id, "--policy", "random", "--plot", "no/x.png"],
            "no: no such folder",
        ),
        (["export", "runs", "prm", "-o", "no/x.parquet"], "no: no such folder"),
        (["replay", "runs", "--junit", "no/x.xml"], "no/x.xml: No such file or directory"),
        (
            [
                "credit",
                "runs",
                lost_taxi.id,
                "--policy",
                "random",
                "--estimator",
                "pooled",
                "--noise",
                "shared",
            ],
            "noise must be 'fresh' for pooled rollouts",
        ),
    ):
        assert main(command) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_groups_print_a_screen_and_a_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = iter([30, 10, 20])

    def rows(k: int) -> Any:
        nonlocal end
        end = next(ends) if k == 0 else end
        return np.zeros(2), float(k), k == end, False, {}

    end = 0
    record(Scripted(rows), tmp_path, 3, task="walk")
    command = ["credit", str(tmp_path), "--group", "rloo"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 24
    values = [abs(float(line.split()[2])) for line in lines[1:21]]
    assert values == sorted(values, reverse=True)
    assert lines[22].startswith("rloo: 3 episodes, 63 steps, advantages from -282 to +332, 0 of")
    assert lines[23] == "20 are listed, the furthest from 0 (--limit all lists all)"
    assert main([*command, "--limit", "all"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 66
    assert main([*command, "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 63
    assert main([*command, "--json", "--limit", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["credit", str(tmp_path), "3f2a", "--policy", "random", "--limit", "2"]) == 2
    assert "--limit is for --group" in capsys.readouterr().err


def test_an_episode_alone_in_its_group_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(Scripted(lambda k: (np.zeros(2), 1.0, k == 2, False, {})), tmp_path, 1)
    assert main(["credit", str(tmp_path), "--group", "grpo"]) == 0
    assert "1 episode: alone in its group, so that it is compared" in capsys.readouterr().err


def test_episodes_without_a_return_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewards = {"a": 1.0, "b": 2.0}
    record(Scripted(lambda k: (np.zeros(2), rewards, k == 2, False, {})), tmp_path, 2)
    assert main(["credit", str(tmp_path), "--group", "grpo"]) == 0
    assert "2 episodes left out: their return is unknown" in capsys.readouterr().err


def test_a_table_shows_the_actions_of_all_players() -> None:
    def row(step: int, action: Any) -> Estimate:
        return Estimate(
            step=step,
            value=0.0,
            ci_low=0.0,
            ci_high=0.0,
            ci_method="none",
            n=1,
            n_discordant=None,
            estimator="advantage",
            estimand="",
            action=action,
        )

    actions = [{"key": 0, "run": 1}, {"key": 1, "run": 0}, {f"player_{k}": k for k in range(9)}]
    table = CreditTable(
        run_id="",
        episode_id="e",
        policy_id="p",
        estimates=[row(k, action) for k, action in enumerate(actions)],
    )
    first, second, third = str(table).splitlines()[-3:]
    assert str(actions[0]) in first
    assert str(actions[1]) in second
    assert "'player_1': 1, 'player_…" in third
    assert len({line.index("+0.000") for line in (first, second, third)}) == 1


@pytest.mark.slow
def test_gigpo_without_states_says_that_it_is_grpo(tmp_path: Path) -> None:
    record(Scripted(lambda k: (np.zeros(2), float(k), k == 2, False, {})), tmp_path, 2)
    with trajrec.open(tmp_path) as corpus:
        for table in credit.group_advantages(corpus, "gigpo", by="env_id"):
            assert [row.n for row in table] == [0, 0, 0]
            (note,) = table.notes
            assert note.startswith("3 of 3 steps have the advantage of grpo alone")


@pytest.mark.slow
def test_unknown_starts_are_not_taken_for_the_same(tmp_path: Path) -> None:
    record(Scripted(lambda k: (np.zeros(2), float(k), k == 2, False, {})), tmp_path, 2)
    with trajrec.open(tmp_path) as corpus:
        for method in ("grpo", "rloo"):
            for table in credit.group_advantages(corpus, method):
                assert [row.n for row in table] == [1, 1, 1]
                assert "alone in its group" in table.notes[0]
        together = credit.group_advantages(corpus, "grpo", by="env_id")
        assert [row.n for row in together[0]] == [2, 2, 2]
        assert together[0].notes == ()


@pytest.mark.slow
def test_an_empty_result_names_the_missing_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows(k: int) -> Any:
        return np.zeros(2), 1.0, k == 2, False, {}

    record(Scripted(rows), tmp_path, 2)
    assert main(["credit", str(tmp_path), "--group"]) == 0
    printed = capsys.readouterr()
    assert (
        "2 episodes: 3 of 3 steps have no estimate: rtmc compares the visits of a state"
        in printed.err
    )
    # An estimate without an interval shows none.
    assert printed.out.splitlines()[0].split() == ["episode_id", "step", "value", "n", "action"]
    assert "inf" not in printed.out
    for kind, need in (("prm", "trajrec credit"), ("dpo", "trajrec fork")):
        assert main(["export", str(tmp_path), kind, "-o", str(tmp_path / f"{kind}.parquet")]) == 2
        err = capsys.readouterr().err
        assert "no rows" in err
        assert need in err


@pytest.mark.slow
def test_step_labels_come_from_the_rollouts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    episode = chain(tmp_path, 6, 2)
    credit.estimate(episode, lambda observation: WORK, n_rollouts=4)
    target = tmp_path / "labels.parquet"
    assert main(["export", str(tmp_path), "prm", "-o", str(target)]) == 0
    ((prompt, completions, labels, soft, n),) = duckdb.sql(
        f"SELECT prompt, completions, labels, soft_labels, n FROM '{target}'"
    ).fetchall()
    assert prompt == "[0,0]"
    assert completions == ["0", "0", "1", "0", "0", "0"]
    assert labels == [True, True, False, False, False, False]
    assert soft == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert n == [4] * 6


@pytest.mark.slow
def test_a_remark_says_that_a_return_above_0_counts_as_won(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = str(tmp_path / "runs")
    target = str(tmp_path / "labels.jsonl")
    record(gym.make("CartPole-v1"), tmp_path / "runs", 1)
    with trajrec.open(runs) as corpus:
        (episode,) = corpus.episodes()
        credit.estimate(episode, "random", n_rollouts=2)
        assert main(["export", runs, "prm", "-o", target, "--overwrite"]) == 0
        assert (
            "all labels are true: without a check, a rollout counts as won if its return is above 0"
            in capsys.readouterr().err
        )
        credit.estimate(episode, "random", n_rollouts=2, success="truncated")
        assert main(["export", runs, "prm", "-o", target, "--overwrite"]) == 0
        assert "--success" not in capsys.readouterr().err
    assert main(["bisect", runs, episode.id, "--policy", "random"]) == 2
    assert (
        f"succeeded (its return is {episode.n_steps} > 0; redefine it by success=, --success): "
        in capsys.readouterr().err
    )


@pytest.mark.slow
def test_a_counterfactual_gives_a_preference_pair(tmp_path: Path) -> None:
    with trajrec.episode(
        tmp_path, task="t", world=Bank(), checks=[lambda world: world.has_paid]
    ) as ep:
        ep.call("deposit", amount=100)
        ep.call("choose", amount=150)
        ep.call("withdraw")
        ep.stop("done", claimed_done=True)
    close_logs()
    with trajrec.open(tmp_path) as corpus:
        episode = corpus.episode(ep.id)

        def follow(context: Any, rng: np.random.Generator) -> Any:
            plan = [("deposit", {"amount": 100}), ("choose", {"amount": 50}), ("withdraw", {})]
            return plan[context.step] if context.step < len(plan) else None

        credit.counterfactual(episode, follow, 1, action=("choose", {"amount": 50}), n_rollouts=8)
        target = tmp_path / "pairs.jsonl"
        assert credit.export(corpus, "dpo", target) == 1
    row = json.loads(target.read_text())
    assert json.loads(row["rejected"]) == {"tool": "choose", "arguments": {"amount": 150}}
    assert json.loads(row["chosen"]) == {"tool": "choose", "arguments": {"amount": 50}}
    assert row["prompt"].splitlines()[0] == "Pay in 100, choose an amount, take it out."
    assert row["margin"] == 1.0


@pytest.mark.slow
def test_a_fork_with_another_outcome_gives_a_preference_pair(tmp_path: Path) -> None:
    @trajrec.verifier(id="clean", version="1")
    def clean(env: Any) -> bool:
        return bool(env.unwrapped.get_state()[1] == 0)

    env = trajrec.record(gym.make("trajrec/FaultChain-v0", size=4), tmp_path, checks=[clean])
    env.reset(seed=0)
    for action in (WORK, SPOIL, WORK, WORK):
        env.step(action)
    env.close()
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes()
        fork_many(episode, at=[1], actions=[WORK, WORK, WORK], checks=[clean])
        target = tmp_path / "pairs.parquet"
        assert credit.export(corpus, "dpo", target) == 1
        assert credit.export(corpus, "grpo", tmp_path / "groups.parquet") == 1
        with pytest.raises(ValueError, match="must end in"):
            credit.export(corpus, "dpo", "pairs.csv")
        with pytest.raises(ValueError, match="kind must be"):
            credit.export(corpus, "other", target)  # type: ignore[arg-type]
    rows = duckdb.sql(f"SELECT prompt, chosen, rejected, step FROM '{target}'").fetchall()
    assert rows == [("[0,0]\n0\n[1,0]", "0", "1", 1)]


@pytest.mark.slow
@third_slow("credit")
def test_an_export_loads_one_chosen_episode_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    episodes = [chain(tmp_path / str(k), 4, 1) for k in range(8)]
    for episode in episodes:
        credit.estimate(episode, lambda observation: WORK, n_rollouts=2)
        credit.counterfactual(episode, lambda observation: WORK, 1, action=WORK, n_rollouts=4)
    alive: weakref.WeakSet[Episode] = weakref.WeakSet()
    counts = []
    load = trajrec.Corpus._load

    def counting_load(*arguments: Any) -> Episode:
        loaded = load(*arguments)
        alive.add(loaded)
        counts.append(len(alive))
        return loaded

    monkeypatch.setattr(trajrec.Corpus, "_load", counting_load)
    with trajrec.open(tmp_path) as corpus:
        where = f"episode_id <> '{episodes[0].id}'"
        for kind in ("prm", "dpo", "grpo"):
            target = tmp_path / f"{kind}.jsonl"
            assert credit.export(corpus, kind, target, where=where) == 7  # type: ignore[arg-type]
            exported = [json.loads(line)["episode_id"] for line in target.read_text().splitlines()]
            assert set(exported) == {episode.id for episode in episodes[1:]}
    assert max(counts) <= 2


@pytest.mark.slow
@third_slow("credit")
def test_remarks_say_why_forks_and_groups_train_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = str(tmp_path / "runs")
    target = str(tmp_path / "rows.jsonl")
    episode = chain(tmp_path / "runs", 4, 1)
    fork_many(episode, at=[1], actions=[WORK, WORK, WORK])
    assert main(["export", runs, "dpo", "-o", target]) == 2
    err = capsys.readouterr().err
    assert (
        "no rows: 1 of 1 forks make no pair: they and their episodes need an outcome, "
        "fork_many(checks=...)" in err
    )
    assert "run `trajrec fork`" not in err
    command = ["export", runs, "grpo", "-o", target, "--overwrite"]
    for method in METHODS:
        assert main([*command, "--method", method]) == 0
        assert "1 of 1 episodes are alone in their group" in capsys.readouterr().err
    chain(tmp_path / "runs", 4, 2)
    for method in METHODS:
        assert main([*command, "--method", method]) == 0
        assert "alone" not in capsys.readouterr().err


def test_returns_of_abandoned_episodes_are_remarked(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("FrozenLake-v1", is_slippery=False), tmp_path / "runs")
    for actions in ([1, 1, 2, 1, 2, 2], [1, 1], [2, 1], [0]):
        env.reset(seed=1)
        for action in actions:
            env.step(action)
    env.close()
    corpus = trajrec.open(tmp_path / "runs")
    remarks: list[str] = []
    target = tmp_path / "rows.jsonl"
    assert credit.export(corpus, "grpo", target, tell=remarks.append) == 4
    assert [text for text in remarks if text.startswith("2 episodes were abandoned")]
    remarks.clear()
    where = "ending <> 'abandoned'"
    credit.export(corpus, "grpo", target, where=where, tell=remarks.append, overwrite=True)
    assert not [text for text in remarks if "abandoned" in text]


@pytest.mark.sources
def test_the_logs_of_who_and_when_load_with_their_baseline() -> None:
    from benchmarks.credit import who_when

    if who_when.data_folder() is None:
        pytest.skip("TRAJREC_WHO_AND_WHEN does not name the folder of the logs")
    criteria = who_when.p11()
    assert len(criteria) == 4
    assert [str(criterion) for criterion in criteria if not criterion.holds] == []


def broken_policy(cell: int) -> int:
    return (0, 1)[cell + 2]


@pytest.mark.slow
@third_slow("credit")
def test_an_exception_of_a_policy_names_policy_and_observation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(gym.make("FrozenLake-v1"), tmp_path, 1)
    episode = next(trajrec.open(tmp_path).episodes())
    for jobs in ("1", "2"):
        command = [
            "credit",
            str(tmp_path),
            episode.id,
            "--policy",
            f"{__name__}:broken_policy",
            "-n",
            "4",
            "--jobs",
            jobs,
        ]
        assert main(command) == 2
        err = capsys.readouterr().err
        assert "tuple index out of range; raised by the policy" in err
        assert "broken_policy for the observation" in err


def unlisted_policy(cell: int) -> int:
    return {}[cell]


@pytest.mark.slow
def test_an_exception_of_a_policy_is_no_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(gym.make("FrozenLake-v1"), tmp_path, 1)
    (episode,) = trajrec.open(tmp_path).episodes()
    policy = f"{__name__}:unlisted_policy"
    command = ["bisect", str(tmp_path), episode.id, "--policy", policy, "-n", "2"]
    # Python's own status of an exception is that of a finding.
    assert main([*command, "--success", "truncated"]) == ExitStatus.EXCEPTION
    err = capsys.readouterr().err
    assert "unlisted_policy for the observation" in err
    assert "return {}[cell]" in err, "the line that raised"


def test_random_actions_are_refused_for_an_agents_world(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with trajrec.episode(
        tmp_path, task="t", world=Bank(), checks=[lambda world: world.has_paid]
    ) as ep:
        ep.call("deposit", amount=100)
        ep.stop("done", claimed_done=True)
    close_logs()
    for command in ("credit", "bisect"):
        assert main([command, str(tmp_path), ep.id, "--policy", "random"]) == 2
        assert (
            capsys.readouterr().err
            == "trajrec: policy must be a function of a Context for a tool world, got 'random': "
            "a world has no action space to sample\n"
        )


def test_a_plot_takes_dollar_signs_and_values_beside_their_interval(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    estimate = Estimate(
        step=0,
        value=0.3,
        ci_low=0.30000000000000004,
        ci_high=0.4,
        ci_method="exact",
        n=3,
        n_discordant=None,
        estimator="advantage",
        estimand="value",
    )
    table = CreditTable(run_id="r", episode_id="e", policy_id="a$x^$b", estimates=[estimate])
    assert "<!-- episode e, policy a$x^$b -->" in plot(table, tmp_path / "a.svg").read_text()
