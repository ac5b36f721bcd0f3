"""State in variables of modules, classes and functions is seen, and no number is wrong by it."""

from __future__ import annotations

import argparse
import copy
import dis
import random
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import outer_envs
import pytest
from outer_envs import (
    GENERATORS,
    LENGTH,
    REMEMBERING,
    VARIABLES,
    ClosureGenerator,
    DefaultValue,
    GlobalCount,
    GlobalGenerator,
    GlobalShop,
    HoldsNumpy,
    HoldsRandom,
    ImportedCount,
    ImportsRandom,
    SeedsNumpy,
    SeedsRandom,
    counts,
)
from tiers import mostly_deep, spread, third_slow

import trajrec
from trajrec.envs import Bank
from trajrec.envstate.code_names import chains_in
from trajrec.envstate.contents import is_own_library, parts_of
from trajrec.envstate.outer_state import OuterState, digest_all
from trajrec.envstate.outer_variables import OuterSearch, outer_variables
from trajrec.errors import ControlError
from trajrec.replay import credit, fork_many, replay_episode


def record(env: Any, folder: Path, actions: list[int] | None = None) -> Any:
    recorded = trajrec.record(env, folder)
    recorded.reset(seed=5)
    for action in actions or [0, 1] * (LENGTH // 2):
        recorded.step(action)
    recorded.close()
    return next(trajrec.open(folder).episodes())


def any_action(observation: Any, rng: np.random.Generator) -> int:
    return int(rng.integers(2))


def names(value: Any) -> set[str]:
    return {variable.name for variable in outer_variables([value])}


def test_variables_are_named_by_module_class_and_function() -> None:
    assert "outer_envs._rng" in names(GlobalGenerator())
    assert "outer_envs.ClassGenerator.rng" in names(outer_envs.ClassGenerator())
    assert any(
        name.startswith("held around outer_envs._closure") for name in names(ClosureGenerator())
    )
    assert names(DefaultValue()) >= {"outer_envs.counted.__defaults__", "outer_envs.LENGTH"}
    ImportedCount().reset()
    assert "outer_module.count" in names(ImportedCount())
    assert OuterSearch([ImportsRandom()]).process_generators == [random._inst]  # type: ignore[attr-defined]
    assert not OuterSearch([GlobalCount()]).process_generators
    assert OuterSearch([SeedsRandom()]).process_generators == [random._inst]  # type: ignore[attr-defined]
    for kind in (SeedsNumpy, HoldsNumpy):
        assert OuterSearch([kind()]).process_generators == [np.random.mtrand._rand]
    assert OuterSearch([HoldsRandom()]).process_generators == [random._inst]  # type: ignore[attr-defined]


def by_dis(code: types.CodeType) -> list[tuple[str, ...]]:
    """Return the chains of names in code, by the names that `dis` gives to instructions."""
    chains: list[tuple[str, ...]] = []
    is_open = False
    for one in dis.get_instructions(code):
        if one.opname in ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL"):
            chains.append((one.argval,))
            is_open = True
        elif one.opname in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR") and is_open:
            chains[-1] = (*chains[-1], one.argval)
        elif one.opname != "EXTENDED_ARG":
            is_open = False
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            chains += by_dis(constant)
    return chains


@pytest.mark.parametrize("module", [argparse, dis, random, np.testing, np.lib.format], ids=str)
def test_names_are_those_that_dis_gives(module: Any) -> None:
    functions = [value for value in vars(module).values() if isinstance(value, types.FunctionType)]
    for cls in (value for value in vars(module).values() if isinstance(value, type)):
        functions += [
            value for value in vars(cls).values() if isinstance(value, types.FunctionType)
        ]
    assert len(functions) > 5
    for function in functions:
        assert list(chains_in(function.__code__)) == by_dis(function.__code__)


def test_names_beyond_the_first_256_are_found() -> None:
    many = "; ".join(f"name{number}" for number in range(300))
    code = compile(f"def f(): {many}; return np.random.rand()", "many", "exec").co_consts[0]
    assert ("np", "random", "rand") in list(chains_in(code))


def test_a_list_that_holds_itself_hides_no_variable() -> None:
    own: list[Any] = []
    own.append(own)
    digests = [digest_all([("own", own), ("other", [number])]) for number in (1, 2)]
    assert digests[0]["own"] == digests[1]["own"]
    assert digests[0]["other"] != digests[1]["other"]


def test_a_path_that_is_printed_has_not_changed() -> None:
    path = Path("a/b")
    before = digest_all([("path", path)])
    assert str(path)
    assert digest_all([("path", path)]) == before != digest_all([("path", Path("a/c"))])


class Node:
    __slots__ = ("all", "number")

    def __init__(self, number: int, all: list[Any]) -> None:
        self.number = number
        self.all = all


def test_a_digest_of_objects_with_slots_takes_each_once() -> None:
    nodes: list[Any] = []
    nodes += [Node(number, nodes) for number in range(5000)]
    start = time.process_time()
    before = digest_all([("nodes", nodes)])
    # A guard: the pickles of 5000 objects with all of them each take many seconds.
    assert time.process_time() - start < 2
    nodes[-1].number = 0
    assert digest_all([("nodes", nodes)]) != before


def test_a_changed_variable_is_named() -> None:
    env = GlobalCount()
    env.reset(seed=1)
    before = OuterState.of_env(env)
    env.step(0)
    assert before.changed(OuterState.of_env(env)) == ""
    env.step(1)
    assert before.changed(OuterState.of_env(env)) == "outer_envs._count"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.zeros(2, np.int64), np.zeros(2)),
        (np.array(["2020-01-01"], "M8[D]"), np.array(["2020-01-02"], "M8[D]")),
        (np.ma.array([1, 2], mask=[0, 1]), np.ma.array([1, 2], mask=[1, 0])),
        ({(0, 1): True}, {(0, 2): True}),
    ],
)
def test_a_changed_value_outside_has_another_digest(before: Any, after: Any) -> None:
    (first,) = digest_all([("value", before)]).values()
    (second,) = digest_all([("value", after)]).values()
    assert first != second
    assert digest_all([("value", copy.deepcopy(before))]) == {"value": first}


@third_slow("credit")
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("kind", GENERATORS)
def test_a_generator_outside_draws_by_the_scenario(kind: Any, tmp_path: Path) -> None:
    assert_drawn_by_scenario(kind, tmp_path, "auto")


# They take seconds.
@pytest.mark.parametrize("kind", spread("credit", GENERATORS, drawn=1))
def test_a_generator_outside_draws_by_the_scenario_in_forks(kind: Any, tmp_path: Path) -> None:
    assert_drawn_by_scenario(kind, tmp_path, "os_fork")


def assert_drawn_by_scenario(kind: Any, folder: Path, restore: str) -> None:
    episode = record(kind(), folder)
    options: Any = {"env": kind, "folder": None, "n_rollouts": 64, "restore": restore}
    (value,) = credit.estimate(episode, any_action, estimator="value", steps=[4], **options)
    assert value.ci_low < 4.0 < value.ci_high
    assert value.ci_high - value.ci_low < 1.5
    table = credit.counterfactual(episode, any_action, 4, action=1, **options)
    (effect,) = table.of("effect")
    assert effect.ci_low <= 0.0 <= effect.ci_high


@mostly_deep("credit", drawn=2)
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("kind", VARIABLES)
def test_a_variable_outside_is_restored(kind: Any, jobs: int, tmp_path: Path) -> None:
    episode = record(kind(), tmp_path)
    options: Any = {"n_rollouts": 48, "env": kind, "folder": None}
    alone: Any = {"restore": "reexecute", "merge_rollouts": False}
    for estimate in (
        lambda **more: credit.counterfactual(episode, any_action, 4, action=1, **options, **more),
        lambda **more: credit.estimate(episode, any_action, steps=[2, 9], **options, **more),
    ):
        right = estimate(**alone)
        table = estimate(jobs=jobs)
        assert [row.value for row in table] == [row.value for row in right]


def test_a_snapshot_without_a_variable_is_refused_by_name(tmp_path: Path) -> None:
    # No recorded action changes the variable, so no control differs.
    episode = record(GlobalCount(), tmp_path, [0] * LENGTH)
    with pytest.raises(ControlError, match=r"outer_envs\._count"):
        credit.counterfactual(
            episode,
            any_action,
            4,
            action=1,
            n_rollouts=16,
            env=GlobalCount,
            restore="snapshot",
            folder=None,
        )


@third_slow("credit")
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("kind", GENERATORS)
def test_branches_draw_from_a_generator_outside(kind: Any, tmp_path: Path) -> None:
    episode = record(kind(), tmp_path)
    branches = fork_many(episode, at=[2], actions=[0] * 10, n_branches=6, env=kind)
    assert len({branch.total_reward for branch in branches}) > 1
    with trajrec.open(tmp_path) as corpus:
        for branch in branches:
            child = corpus.episode(branch.episode_id or "")
            assert replay_episode(child, env=kind).grade == "exact"


@pytest.mark.parametrize("kind", [SeedsRandom, SeedsNumpy])
def test_the_generators_of_the_process_are_put_back(kind: Any, tmp_path: Path) -> None:
    episode = record(kind(), tmp_path)
    drawn = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        options: Any = {"n_rollouts": 2, "restore": "reexecute", "steps": [10]}
        credit.estimate(episode, any_action, env=kind, folder=None, **options)
        drawn.append((random.random(), np.random.random()))
    assert drawn[0] != drawn[1]


class Paid(outer_envs.Game):
    """Pays for each one."""

    total = 0

    def begin(self, seed: int | None) -> None:
        self.total = 0

    def pay(self, action: int) -> float:
        self.total += action
        return float(action)


class NamesNumpy(Paid):
    """Names a function that draws from the generator of NumPy, and never calls it."""

    def shuffled(self, items: list[int]) -> Any:
        return np.random.permutation(items)


def test_a_generator_that_only_forks_seed_is_put_back(tmp_path: Path) -> None:
    episode = record(NamesNumpy(), tmp_path)
    options: Any = {"at": [4], "policy": "random", "n_branches": 20, "env": NamesNumpy}
    branches = fork_many(episode, restore="snapshot", folder=None, **options)
    assert len({branch.total_reward for branch in branches}) > 1
    table = credit.estimate(
        episode, any_action, n_rollouts=16, steps=[4], env=NamesNumpy, folder=None
    )
    assert table.restore == "snapshot"


@pytest.mark.slow
@third_slow("credit")
@pytest.mark.parametrize("restore", ["auto", "os_fork"])
def test_visits_are_not_pooled_without_a_variable(restore: Any, tmp_path: Path) -> None:
    episode = record(GlobalCount(), tmp_path)
    options: Any = {"n_rollouts": 4, "env": GlobalCount, "folder": None, "restore": restore}
    with pytest.raises(ValueError, match="visits cannot be pooled"):
        credit.pooled_advantages([episode], any_action, **options)


@pytest.mark.slow
def test_pooled_rounds_may_run_in_workers(tmp_path: Path) -> None:
    episode = record(GlobalGenerator(), tmp_path)
    options: Any = {"env": GlobalGenerator, "folder": None, "budget": credit.Budget(env_steps=4000)}
    (alone,) = credit.pooled_advantages([episode], any_action, n_rollouts=16, **options)
    (shared,) = credit.pooled_advantages([episode], any_action, n_rollouts=16, jobs=2, **options)
    assert [row.value for row in shared] == [row.value for row in alone]


def test_a_world_with_a_variable_outside_is_made_again(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path, task="sell", world=GlobalShop()) as ep:
        for tool in ("wait", "sell", "wait", "sell"):
            ep.call(tool)
    trajrec.close_logs()
    episode = next(trajrec.open(tmp_path).episodes())

    def policy(context: Any, rng: np.random.Generator) -> Any:
        return ("sell" if rng.random() < 0.5 else "wait", {}) if context.step < 4 else None

    options: Any = {"estimator": "value", "n_rollouts": 64, "world": GlobalShop, "folder": None}
    options["env"] = options.pop("world")
    table = credit.estimate(episode, policy, steps=[0], **options)
    (value,) = table
    # At least two sales in four steps.
    assert value.ci_low < 11 / 16 < value.ci_high
    assert table.restore == "reexecute"
    assert any("outer_envs._stock" in note for note in table.notes)


CALLS: dict[str, Any] = {
    "estimate": lambda episode, policy, **o: credit.estimate(episode, policy, steps=[5], **o),
    "counterfactual": lambda episode, policy, **o: credit.counterfactual(
        episode, policy, 5, action=1, **o
    ),
    "by": lambda episode, policy, **o: credit.counterfactual(episode, "random", 5, by=policy, **o),
    "shapley": lambda episode, policy, n_rollouts, **o: credit.shapley_values(
        episode, policy, n_permutations=2, **o
    ),
    "no return": lambda episode, policy, **o: credit.point_of_no_return(
        episode, policy, success=lambda env: env.unwrapped.total > LENGTH // 2, **o
    ),
    "decisive": lambda episode, policy, **o: credit.decisive_step(episode, policy, **o),
    "pooled": lambda episode, policy, **o: credit.pooled_advantages([episode], policy, **o),
    "forks": lambda episode, policy, **o: credit.estimate(
        episode, policy, steps=[5], restore="os_fork", **o
    ),
    "jobs": lambda episode, policy, **o: credit.estimate(episode, policy, steps=[5], jobs=2, **o),
}


@mostly_deep("credit", drawn=12)
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("policy", REMEMBERING)
@pytest.mark.parametrize("call", CALLS)
def test_a_policy_that_remembers_outside_is_refused(call: str, policy: Any, tmp_path: Path) -> None:
    episode = record(Paid(), tmp_path)
    outer_envs._first.clear()
    with pytest.raises(ValueError, match="has a memory that cannot be restored"):
        CALLS[call](episode, policy, n_rollouts=4, env=Paid, folder=None)


def test_a_policy_that_counts_outside_is_not_refused(tmp_path: Path) -> None:
    episode = record(Paid(), tmp_path)
    table = credit.estimate(episode, counts, n_rollouts=2, steps=[5], env=Paid, folder=None)
    assert table.of("value")[0].value == 7.0


def test_what_trajrec_keeps_is_no_state_of_an_environment() -> None:
    def ask(value: Any) -> Any:
        return parts_of(value), Bank

    found = [variable.name for variable in outer_variables([ask])]
    assert not [name for name in found if name.startswith("trajrec.envstate")]
    assert is_own_library("trajrec.envstate.contents")
    assert not is_own_library("trajrec.envs")
    assert not is_own_library("trajrec.envs.bank")
