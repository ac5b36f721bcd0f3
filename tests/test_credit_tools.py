"""Credit in tool worlds: rollouts of tool calls, the decisive step, counterfactuals, Shapley values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from chains import chain
from tiers import third_slow

import trajrec
import trajrec.envs
from trajrec.corpus.episode import Episode
from trajrec.envs import Bank, Shop
from trajrec.envs.solved import RepairingPolicy
from trajrec.errors import AgentDivergedError, ControlError, DivergenceError, ReplayError
from trajrec.protocols import Tool
from trajrec.recording.event_log import close_logs
from trajrec.replay import credit

assert trajrec.envs


def record(folder: Path, world: Any, calls: list[Any], **kwargs: Any) -> Episode:
    """Record an agent that makes the given calls."""
    with trajrec.episode(folder, task="t", world=world, **kwargs) as ep:
        for name, arguments in calls:
            try:
                ep.call(name, **arguments)
            except Exception:
                continue
        ep.stop("done", claimed_done=True)
    close_logs()
    return trajrec.open(folder).episode(ep.id)


def gambler(context: Any, rng: np.random.Generator) -> Any:
    """Deposit 100, choose 50 or 150 with equal probability, withdraw."""
    plan = [
        ("deposit", {"amount": 100}),
        ("choose", {"amount": 50 if rng.random() < 0.5 else 150}),
        ("withdraw", {}),
    ]
    return plan[context.step] if context.step < len(plan) else None


LOST = [("deposit", {"amount": 100}), ("choose", {"amount": 150}), ("withdraw", {})]


def test_the_losing_choice_is_blamed_not_the_deposit(tmp_path: Path) -> None:
    decision = credit.decisive_step(record(tmp_path, Bank(), LOST), gambler)
    assert decision.step == 1
    assert decision.confidence is not None
    assert decision.confidence > 0.99
    assert decision.redrawn is not None
    assert decision.redrawn.ci_low <= 0.5 <= decision.redrawn.ci_high
    assert decision.kept is not None
    assert decision.kept.value == 0
    assert str(decision).startswith("step 1 decided it")


def test_a_diverged_world_gives_no_estimate(tmp_path: Path) -> None:
    class Taxed(Bank):
        def call(self, name: str, arguments: dict[str, Any], /) -> dict[str, Any]:
            if name == "deposit":
                arguments = {"amount": arguments["amount"] - 10}
            return super().call(name, arguments)

    episode = record(tmp_path, Bank(), LOST)
    with pytest.raises(DivergenceError, match=r"after step 0|step 0"):
        credit.decisive_step(episode, gambler, env=Taxed)
    with pytest.raises(DivergenceError):
        credit.estimate(episode, gambler, env=Taxed)


@pytest.mark.slow
def test_the_winning_choice_gets_the_credit(tmp_path: Path) -> None:
    won = record(tmp_path, Bank(), [LOST[0], ("choose", {"amount": 50}), LOST[2]])
    decision = credit.decisive_step(won, gambler)
    assert decision.step == 1
    assert decision.effect is not None
    assert decision.effect.value > 0.3


@pytest.mark.slow
def test_world_estimates_depend_neither_on_restore_nor_on_jobs(
    tmp_path: Path,
) -> None:
    episode = record(tmp_path, Bank(), LOST)

    def numbers(**kwargs: Any) -> Any:
        return [
            (e.step, e.estimator, e.value, e.ci_low, e.ci_high)
            for e in credit.estimate(episode, gambler, n_rollouts=16, **kwargs)
        ]

    with pytest.raises(ValueError, match="no recorded noise"):
        numbers(noise="recorded")
    whole = numbers(merge_rollouts=False)
    assert numbers() == whole
    assert numbers(restore="reexecute") == whole
    assert numbers(jobs=2) == whole


def test_an_alternative_is_an_action_a_policy_or_an_observation(tmp_path: Path) -> None:
    episode = record(tmp_path, Bank(), LOST)
    by_action = credit.counterfactual(
        episode, gambler, 1, action=("choose", {"amount": 70}), n_rollouts=16
    )
    assert by_action.of("effect")[0].value == 1.0
    assert by_action.of("flip")[0].value == 1.0
    redrawn = credit.counterfactual(episode, gambler, 1, n_rollouts=64)
    (flip,) = redrawn.of("flip")
    assert flip.ci_low <= 0.5 <= flip.ci_high
    by_policy = credit.counterfactual(
        episode, gambler, 1, by=lambda context, rng: ("choose", {"amount": 10}), n_rollouts=16
    )
    assert by_policy.of("substituted")[0].value == 1.0
    last = credit.counterfactual(
        episode, gambler, 2, action=[("choose", {"amount": 20}), ("withdraw", {})], n_rollouts=16
    )
    assert last.of("flip")[0].value == 1.0
    with pytest.raises(
        ValueError, match="give one of action, observation and by, got action and observation"
    ):
        credit.counterfactual(episode, gambler, 1, action=3, observation=4)


def test_a_budget_ends_a_counterfactual_after_a_round(tmp_path: Path) -> None:
    episode = record(tmp_path, Bank(), LOST)
    whole = credit.counterfactual(episode, gambler, 1, n_rollouts=4)

    def within(env_steps: int, **options: Any) -> credit.CreditTable:
        return credit.counterfactual(
            episode, gambler, 1, n_rollouts=64, budget=credit.Budget(env_steps=env_steps), **options
        )

    assert [row.n for row in within(1)] == [2] * 4
    # For four scenarios, and not for eight.
    spent = 4 * within(1).env_steps
    assert [(row.value, row.ci_low, row.ci_high) for row in within(spent)] == [
        (row.value, row.ci_low, row.ci_high) for row in whole
    ]
    assert within(spent).env_steps <= spent
    assert ": 4 of 64 scenarios" in within(spent).notes[0]
    for outcome in (True, False):
        assert (
            within(spent, success=lambda world, outcome=outcome: outcome).notes
            == within(spent).notes
        )


def test_an_observation_can_be_replaced(tmp_path: Path) -> None:
    def careful(observation: Any, rng: np.random.Generator) -> int:
        return 2 if observation[1] else 0

    episode = chain(tmp_path, 4, 1)
    shown = credit.counterfactual(episode, careful, 2, observation=np.array([2, 0]), n_rollouts=4)
    assert shown.of("substituted")[0].value == 1.0  # the policy repairs the chain at the last step
    blind = credit.counterfactual(episode, careful, 3, observation=np.array([3, 0]), n_rollouts=4)
    assert blind.of("substituted")[0].value == 0.0


def test_external_calls_are_answered_only_from_the_log(
    tmp_path: Path,
) -> None:
    class Posted(Bank):
        sent = 0

        def tools(self) -> tuple[Tool, ...]:
            return (*super().tools(), Tool.with_args("post", "external", text="string"))

        def call(self, name: str, arguments: dict[str, Any], /) -> Any:
            if name == "post":
                type(self).sent += 1
                return "posted"
            return super().call(name, arguments)

    episode = record(tmp_path, Posted(), [LOST[0], ("post", {"text": "hello"}), LOST[1], LOST[2]])
    assert Posted.sent == 1

    def posting(context: Any, rng: np.random.Generator) -> Any:
        text = "hello" if rng.random() < 0.5 else "other"
        plan = [LOST[0], ("post", {"text": text}), ("choose", {"amount": 50}), LOST[2]]
        return plan[context.step] if context.step < len(plan) else None

    table = credit.estimate(episode, posting, n_rollouts=32, env=Posted)
    assert Posted.sent == 1  # nothing was posted again
    value = table.of("value")[0]
    assert value.n_invalid > 5
    assert value.n + value.n_invalid == 32
    assert value.value == 1.0  # an unreplayable rollout is no failure
    assert "reaches beyond the world" in "".join(table.notes)

    nothing = credit.counterfactual(
        episode, posting, 1, action=("post", {"text": "other"}), n_rollouts=8, env=Posted
    )
    (other,) = nothing.of("substituted")
    assert (other.n, other.n_invalid) == (0, 8)
    assert all(np.isnan(row.value) for row in nothing if row.estimator != "kept")
    assert nothing.of("kept")[0].value == 1.0
    assert "8 rollouts have no result" in nothing.notes[0]


class Worn(Bank):
    """Allows one choice, and its `get_state` leaves out how many there were."""

    n_choices = 0

    def reset(self, *args: Any, **kwargs: Any) -> Any:
        self.n_choices = 0
        return super().reset(*args, **kwargs)

    def call(self, name: str, arguments: dict[str, Any], /) -> Any:
        self.n_choices += name == "choose"
        return super().call(name, arguments)

    def task_solved(self) -> Any:
        return self.n_choices == 1 and super().task_solved()


def test_a_world_whose_state_is_not_whole_is_executed_again(tmp_path: Path) -> None:
    episode = record(tmp_path, Worn(), LOST)

    def winning(context: Any) -> Any:
        plan = [LOST[0], ("choose", {"amount": 50}), LOST[2]]
        return plan[context.step] if context.step < len(plan) else None

    options: Any = {"estimator": "value", "n_rollouts": 4, "env": Worn, "folder": None}
    table = credit.estimate(episode, winning, steps=[0, 1], **options)
    assert [row.value for row in table] == [1.0, 1.0]
    assert table.restore == "reexecute"
    assert "run twice" in "".join(table.notes)
    with pytest.raises(ControlError, match="restore='snapshot' is not right"):
        credit.estimate(episode, winning, steps=[0, 1], restore="snapshot", **options)
    # The control arm: without repeats every rollout is lost, and nothing shows it.
    wrong = credit.estimate(episode, winning, steps=[0, 1], control=False, **options)
    assert [row.value for row in wrong] == [0.0, 0.0]


class Numbering(Bank):
    """Numbers its withdrawals, and its `get_state` leaves the number out."""

    n_withdrawn = 0

    def reset(self, *args: Any, **kwargs: Any) -> Any:
        self.n_withdrawn = 0
        return super().reset(*args, **kwargs)

    def call(self, name: str, arguments: dict[str, Any], /) -> Any:
        if name != "withdraw":
            return super().call(name, arguments)
        self.n_withdrawn += 1
        return {"result": super().call(name, arguments), "number": self.n_withdrawn}


def test_controls_of_a_world_find_state_that_it_leaves_out(tmp_path: Path) -> None:
    won = [LOST[0], ("choose", {"amount": 50}), LOST[2]]
    episode = record(tmp_path, Numbering(), won)

    def again(context: Any) -> Any:
        return won[context.step] if context.step < len(won) else None

    options: Any = {"estimator": "value", "n_rollouts": 8, "env": Numbering, "folder": None}
    table = credit.estimate(episode, again, steps=[0, 1, 2], **options)
    assert table.restore == "reexecute"
    assert table.controls.n >= 2
    assert table.controls.n_steps >= 2
    with pytest.raises(ControlError, match=r"with the recorded actions .* after step 2, result"):
        credit.estimate(episode, again, steps=[0, 1, 2], restore="snapshot", **options)


def test_a_world_without_task_solved_needs_success(tmp_path: Path) -> None:
    class Mute(Bank):
        task_solved = None  # type: ignore[assignment]

    episode = record(tmp_path, Mute(), LOST)
    with pytest.raises(ReplayError, match="give success="):
        credit.estimate(episode, gambler, env=Mute)
    table = credit.estimate(
        episode, gambler, env=Mute, success=lambda world: world.has_paid, n_rollouts=8
    )
    assert table.split is not None


def test_pooling_refuses_tool_worlds(tmp_path: Path) -> None:
    episode = record(tmp_path, Bank(), LOST)
    with pytest.raises(ValueError, match=r"use estimate\(\)"):
        credit.pooled_advantages([episode], gambler)


def test_the_spoiled_call_of_a_shop_task_is_decisive(tmp_path: Path) -> None:
    shop = Shop(seed=7)
    shop.reset(options={"task": 0})
    plan = shop.ground_truth_calls()
    spoiled = [plan[0], ("refund_order", {"order": "O1001", "cents": 100}), *plan[2:]]
    episode = record(tmp_path, shop, spoiled, options={"task": 0})

    def follow(context: Any, rng: np.random.Generator) -> Any:
        return plan[context.step] if context.step < len(plan) else None

    decision = credit.decisive_step(episode, follow, n_rollouts=8)
    assert decision.step == 1


class Popper(Bank):
    """Empties the dict of its arguments."""

    def call(self, name: str, arguments: dict[str, Any], /) -> dict[str, Any]:
        return super().call(name, {key: arguments.pop(key) for key in list(arguments)})


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("options", [{}, {"merge_rollouts": False}, {"restore": "reexecute"}])
def test_a_world_gets_its_own_copy_of_arguments(tmp_path: Path, options: Any) -> None:
    episode = record(tmp_path, Popper(), [LOST[0], ("choose", {"amount": 50}), LOST[2]])
    plan = [("deposit", {"amount": 100}), ("choose", {"amount": 50}), ("withdraw", {})]

    def follow(context: Any) -> Any:
        return plan[context.step] if context.step < len(plan) else None

    table = credit.estimate(episode, follow, n_rollouts=4, env=Popper, **options)
    assert {row.value for row in table.of("value")} == {1.0}
    assert plan[1] == ("choose", {"amount": 50})
    assert (
        credit.counterfactual(episode, follow, 1, action=plan[1], n_rollouts=4, env=Popper)
        .of("effect")[0]
        .value
        == 0.0
    )
    report = trajrec.replay.replay_episode(episode, world=Popper())
    assert report.grade == trajrec.replay.replay_episode(episode, world=Popper()).grade == "exact"


def test_an_agents_own_loop_is_a_policy(tmp_path: Path) -> None:
    def agent(ep: Any) -> None:
        balance = ep.call("deposit", amount=100)["balance"]
        ep.call("choose", amount=balance // 2)
        try:
            ep.call("wrong")
        except Exception:
            ep.call("withdraw")
        ep.stop("done")

    episode = record(tmp_path, Bank(), LOST)
    (value,) = credit.estimate(
        episode, credit.AgentPolicy(agent), estimator="value", steps=[0], n_rollouts=2
    )
    assert value.value == 1.0
    table = credit.counterfactual(
        episode, credit.AgentPolicy(agent), 0, n_rollouts=2, by=credit.AgentPolicy(agent)
    )
    assert table.of("substituted")[0].value == 1.0
    with pytest.raises(
        AgentDivergedError, match=r"call 1 of the agent is choose\(\{'amount': 50\}\), and was"
    ):
        credit.estimate(
            episode, credit.AgentPolicy(agent), estimator="value", steps=[2], n_rollouts=2
        )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["drop", "bayes"])
def test_a_final_fault_is_found_by_every_method(method: Any, tmp_path: Path) -> None:
    decision = credit.decisive_step(
        chain(tmp_path, 32, 13), RepairingPolicy(0.0), method=method, n_rollouts=8
    )
    assert decision.step == 13


@pytest.mark.sources
def test_a_final_fault_is_found_by_bisection_of_the_benchmark(tmp_path: Path) -> None:
    from benchmarks.credit.searches import bisect_success, halve_value

    episode = chain(tmp_path, 32, 13)
    bisected = bisect_success(episode, RepairingPolicy(0.0), n_rollouts=8)
    assert bisected.step == 13
    assert bisected.n_rollouts == 8 * 5 + 2 * 8
    assert halve_value(episode, RepairingPolicy(0.0), n_rollouts=8).step == 13


@pytest.mark.slow
def test_a_fault_that_is_often_repaired_is_found(tmp_path: Path) -> None:
    episode = chain(tmp_path, 32, 5)
    policy = RepairingPolicy(0.05)
    assert credit.decisive_step(episode, policy, method="drop").step == 5
    assert credit.decisive_step(episode, policy, method="bayes").step == 5


@pytest.mark.sources
def test_bisection_misses_a_fault_that_is_often_repaired(tmp_path: Path) -> None:
    from benchmarks.credit.searches import bisect_success

    episode = chain(tmp_path, 32, 5)
    assert bisect_success(episode, RepairingPolicy(0.05), n_rollouts=8).likeliest > 5


@pytest.mark.slow
def test_a_step_that_does_not_stand_out_is_undecided(tmp_path: Path) -> None:
    decision = credit.decisive_step(
        chain(tmp_path, 32, 2), RepairingPolicy(0.3), n_rollouts=8, max_rollouts=16
    )
    assert decision.step is None
    assert "16 scenarios do not tell the steps apart" in decision.reason
    assert str(decision).startswith("undecided")
    assert decision.likeliest == decision.candidates[0]
    named = ", ".join(str(step) for step in decision.candidates[:8])
    assert (
        f"95 % of the probability is on steps {named} and {len(decision.candidates) - 8} more"
        in str(decision)
    )
    assert decision.table.notes[0].startswith(f"undecided among steps {named}")
    spent = credit.decisive_step(
        chain(tmp_path / "b", 8, 2),
        RepairingPolicy(0.3),
        n_rollouts=8,
        budget=credit.Budget(env_steps=10),
    )
    assert spent.step is None
    assert "its budget does not allow" in spent.reason
    assert spent.n_rollouts == 8 * 2 * 2 + 2 * 2, (
        "the fewest of each arm of each step, and of the confirmation"
    )


@pytest.mark.slow
@third_slow("credit")
def test_two_needed_steps_share_the_outcome(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("trajrec/Switches-v0", rule="and"), tmp_path)
    env.reset(seed=0)
    for action in (0, 0, 1, 0, 0, 1, 0, 0):
        env.step(action)
    env.close()
    episode = next(trajrec.open(tmp_path).episodes())
    policy = credit.TabularPolicy([[0.7, 0.3]], state=lambda observation: 0)
    table = credit.shapley_values(episode, policy, n_permutations=128, seed=1)
    assert [row.step for row in table if row.value > 0.1] == [2, 5]
    assert all(row.ci_low <= 0.455 <= row.ci_high for row in (table[2], table[5]))
    assert sum(row.value for row in table) == pytest.approx(1 - 0.09, abs=0.12)
    together = credit.shapley_values(
        episode, policy, segments=[(0, 1, 2), (3, 4, 5), (6, 7)], n_permutations=32
    )
    assert [row.step for row in together] == [0, 3, 6]
    assert together[2].value == 0
    with pytest.raises(IndexError, match=r"steps of a segment must be in \[0, 8\)"):
        credit.shapley_values(episode, policy, segments=[(99,)])
    apart = credit.shapley_values(episode, policy, n_permutations=8, jobs=3)
    assert [row.value for row in apart] == [
        row.value for row in credit.shapley_values(episode, policy, n_permutations=8)
    ]
    whole = credit.shapley_values(episode, policy, n_permutations=8, merge_rollouts=False)
    assert [row.value for row in whole] == [row.value for row in apart]
    assert (
        whole.env_steps > 1.2 * credit.shapley_values(episode, policy, n_permutations=8).env_steps
    )
    short = credit.shapley_values(
        episode, policy, n_permutations=64, budget=credit.Budget(env_steps=10)
    )
    assert "2 of 64 pairs of orders" in short.notes[0]
