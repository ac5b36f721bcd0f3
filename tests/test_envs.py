"""The shipped environments are deterministic, and their tasks can be solved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from tiers import third_slow

import trajrec
from trajrec.envs import GymWorld, KeyDoor, Office, Shop, ToolTextEnv, Workspace
from trajrec.envs.office import OfficeError
from trajrec.envs.shop_tasks import TASKS
from trajrec.replay import check_determinism


@pytest.mark.slow
@third_slow("environments")
@pytest.mark.parametrize("env_id", ["trajrec/KeyDoor-v0", "trajrec/Shop-v0"])
def test_our_environments_pass_both_checks_of_contracts(env_id: str) -> None:
    report = check_determinism(env_id, n_steps=200)
    report.raise_if_failed()
    assert report.has_state
    gymnasium_check(gym.make(env_id).unwrapped, skip_render_check=True)


def test_the_random_value_of_keydoor_is_its_share_of_wins() -> None:
    env = KeyDoor(size=4, slip=0.2, max_steps=20)
    rng = np.random.default_rng(0)
    n = 2000
    n_won = 0
    for k in range(n):
        env.reset(seed=0 if k == 0 else None)
        is_over = False
        while not is_over:
            _, reward, terminated, truncated, _ = env.step(rng.integers(4))
            is_over = terminated or truncated
        n_won += reward > 0
    truth = env.random_value(2, False, 0)
    assert 0.02 < truth < 0.98
    # Four standard errors: chance exceeds them once in 16,000 seeds.
    assert abs(n_won / n - truth) < 4 * np.sqrt(truth * (1 - truth) / n)


def test_the_key_earns_the_reward_of_keydoor() -> None:
    env = KeyDoor()
    assert env.random_value(6, True, 50) > 3 * env.random_value(6, False, 50)


@pytest.mark.parametrize("task", range(len(TASKS)))
def test_only_the_ground_truth_solves_a_task_of_the_shop(task: int) -> None:
    env = Shop()
    for seed in range(10):
        env.reset(seed=seed, options={"task": task})
        assert [env.step(action)[1] for action in env.ground_truth()][-1] == 1.0
        env.reset(seed=seed, options={"task": task})
        assert env.step('{"tool": "finish"}')[1:3] == (0.0, True)


@pytest.mark.parametrize(
    ("action", "error"),
    [
        ("not json", "must be JSON"),
        ("[1]", "must be JSON"),
        ('{"tool": "no_such"}', "no tool 'no_such'"),
        ('{"tool": "__init__"}', "no tool"),
        ('{"tool": "get_order", "arguments": {}}', "takes exactly the arguments"),
        ('{"tool": "get_order", "arguments": {"order": 5}}', "order must be string"),
        ('{"tool": "get_order", "arguments": {"order": "O1"}}', "no order O1"),
        ('{"tool": "refund_order", "arguments": {"order": "O1002", "cents": 1}}', "only delivered"),
    ],
)
def test_a_wrong_call_gets_an_error_and_changes_nothing(action: str, error: str) -> None:
    env = Shop()
    env.reset(seed=0, options={"task": 0})
    before = env.get_state()["database"]
    observation, _, terminated, _, info = env.step(action)
    assert error in json.loads(observation["result"])["error"]
    assert (terminated, info["ok"]) == (False, False)
    assert env.get_state()["database"] == before


@pytest.mark.parametrize(
    ("arguments", "name"),
    [({"size": 2}, "size"), ({"slip": 1.0}, "slip"), ({"max_steps": 0}, "max_steps")],
)
def test_keydoor_names_the_argument_that_it_refuses(arguments: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        KeyDoor(**arguments)


@pytest.mark.slow
def test_an_environment_as_a_world_replays_exactly(tmp_path: Path) -> None:
    world = GymWorld(gym.make("FrozenLake-v1", is_slippery=False))
    with trajrec.episode(tmp_path, world=world, seed=0) as ep:
        assert ep.call("act", action=2)["observation"] == 1
        with pytest.raises(ValueError, match=r"action must be in Discrete\(4\), got 7"):
            ep.call("act", action=7)
        # Into a hole.
        assert ep.call("act", action=1)["terminated"]
        with pytest.raises(ValueError, match="the episode is over"):
            ep.call("act", action=2)
    (episode,) = trajrec.open(tmp_path).episodes()
    equal = GymWorld(gym.make("FrozenLake-v1", is_slippery=False))
    assert trajrec.replay.replay_episode(episode, world=equal).grade == "exact"
    slippery = GymWorld(gym.make("FrozenLake-v1", is_slippery=True))
    assert trajrec.replay.replay_episode(episode, world=slippery, explain=False).grade == "diverged"


def test_an_environment_as_a_world_has_one_tool() -> None:
    world = GymWorld(gym.make("FrozenLake-v1", is_slippery=False))
    world.reset(seed=0)
    with pytest.raises(ValueError, match="no tool 'jump'; there is act"):
        world.call("jump", {"action": 2})
    assert world.call("act", {"action": 2})["observation"] == 1


def make_office() -> Any:
    return ToolTextEnv(Office(), lambda world: world.task_solved())


@pytest.mark.slow
@third_slow("environments")
def test_a_world_as_an_environment_of_text_replays_exactly(tmp_path: Path) -> None:
    report = check_determinism(lambda: ToolTextEnv(Office(), lambda world: False), n_steps=20)
    report.raise_if_failed()
    assert report.has_state
    env = trajrec.record(make_office(), tmp_path)
    _, info = env.reset(seed=3, options={"task": 2})
    assert info["goal"] == "Mark all expenses of Ben as paid."
    assert "query" in [tool["name"] for tool in info["tools"]]
    assert env.step("nonsense")[0].startswith('{"error": "JSONDecodeError')
    for name, arguments in env.unwrapped.world.ground_truth_calls():  # type: ignore[attr-defined]
        env.step(json.dumps({"tool": name, "arguments": arguments}))
    assert env.step('{"tool": "finish"}')[1:3] == (1.0, True)
    env.close()
    (episode,) = trajrec.open(tmp_path).episodes()
    assert trajrec.replay.replay_episode(episode, env=make_office()).grade == "exact"


def test_a_file_without_a_suffix_counts_as_a_change() -> None:
    world = Office(seed=0)
    world.reset(options={"task": 0})
    before = world.get_state()
    for name, arguments in world.ground_truth_calls():
        world.call(name, arguments)
    world.call("write_file", {"path": "README", "text": "unasked"})
    assert not world.task_solved()
    assert world.get_state()["files"]["README"] == "unasked"
    world.set_state(before)
    assert world.get_state() == before


@pytest.mark.parametrize("arguments", [{"path": "notes"}, {"path": "config.ini/x"}])
def test_refused_writes_name_no_folder_of_the_machine(arguments: dict[str, str]) -> None:
    world = Office(seed=0)
    world.reset()
    with pytest.raises(OfficeError) as caught:
        world.call("write_file", {**arguments, "text": "x"})
    assert str(world.path) not in str(caught.value)


def test_a_text_that_cannot_be_written_changes_nothing() -> None:
    world = Office(seed=0)
    world.reset()
    before = world.get_state()
    with pytest.raises(OfficeError, match="surrogates"):
        world.call("write_file", {"path": "draft.txt", "text": "\ud800"})
    assert world.get_state() == before


def test_a_restored_folder_has_the_same_line_ends() -> None:
    world = Office(seed=0)
    world.reset()
    world.call("write_file", {"path": "dos.txt", "text": "a\r\nb"})
    other = Office(seed=1)
    other.set_state(world.get_state())
    assert (other.path / "dos.txt").read_bytes() == b"a\r\nb"
    assert other.call("read_file", {"path": "dos.txt"}) == "a\r\nb"


@pytest.mark.parametrize("make", [Office, Workspace])
def test_a_restored_folder_has_the_same_empty_folders(make: Any) -> None:
    world = make(seed=0)
    world.reset()
    before = world.get_state()
    world.call("write_file", {"path": "a/b/c", "text": ""})
    world.call("delete_file", {"path": "a/b/c"})
    other = make(seed=1)
    other.set_state(world.get_state())
    assert other.get_state() == world.get_state() != before
    with pytest.raises(world.Refusal):
        other.call("write_file", {"path": "a/b", "text": ""})
    # States of older recordings have no folders.
    world.set_state(before)
    assert world.get_state() == before


def test_a_workspace_restores_files_that_are_no_text() -> None:
    world = Workspace(seed=0)
    world.reset()
    (world.path / "made.bin").write_bytes(b"\xff")
    other = Workspace(seed=1)
    other.set_state(world.get_state())
    assert (other.path / "made.bin").read_bytes() == b"\xff"


@pytest.mark.parametrize("is_mended", [True, False])
def test_no_folder_or_link_keeps_a_workspace_from_its_verdict(is_mended: bool) -> None:
    world = Workspace()
    world.reset(options={"task": 0})
    if is_mended:
        for name, arguments in world.ground_truth_calls():
            world.call(name, arguments)
    world.call("delete_file", {"path": "test_median.py"})
    world.call("write_file", {"path": "test_median.py/x.py", "text": ""})
    (world.path / "link").symlink_to("nowhere")
    assert world.task_solved() is is_mended


@pytest.mark.parametrize(
    "sql", ["UPDATE\nexpenses SET paid = 1", "DELETE FROM expenses RETURNING id"]
)
def test_an_office_counts_all_rows_that_a_statement_changed(sql: str) -> None:
    world = Office(seed=0)
    world.reset()
    assert world.call("execute", {"sql": sql}) == 24


@pytest.mark.slow
def test_tests_that_an_agent_adds_do_not_count() -> None:
    world = Workspace()
    world.reset(options={"task": 0})
    for name, arguments in world.ground_truth_calls():
        world.call(name, arguments)
    lines = [
        "import unittest",
        "class More(unittest.TestCase):",
        "    def test_it(self): self.fail()",
    ]
    world.call("write_file", {"path": "test_more.py", "text": "\n".join(lines)})
    assert world.task_solved()


def test_tests_may_print_any_bytes() -> None:
    world = Workspace()
    world.reset(options={"task": 0})
    lines = ["import sys", 'sys.stdout.buffer.write(b"\\xff")']
    world.call("write_file", {"path": "test_median.py", "text": "\n".join(lines)})
    assert "\\xff" in world.call("run_tests", {})["output"]


@pytest.mark.parametrize("make", [Shop, make_office])
def test_two_environments_draw_from_spaces_of_their_own(make: Any) -> None:
    first, other = make(), make()
    first.action_space.seed(1)
    drawn = [first.action_space.sample() for _ in range(2)]
    first.action_space.seed(1)
    again = [first.action_space.sample()]
    other.action_space.sample()
    other.observation_space.seed(2)
    assert [*again, first.action_space.sample()] == drawn


class Echo(gym.Env[Any, Any]):
    """Returns its action as the observation."""

    def __init__(self, space: gym.Space[Any]) -> None:
        self.action_space = self.observation_space = space

    def reset(self, **_: Any) -> Any:
        return None, {}

    def step(self, action: Any) -> Any:
        assert not isinstance(self.action_space, gym.spaces.Dict) or action["a"].dtype == np.float32
        return action, 0.0, False, False, {"made of": np.array([1j]), "seen": {"b", "c", "a"}}


BYTES = gym.spaces.Box(0, 255, (1,), np.uint8)
PARTS = gym.spaces.Dict(a=gym.spaces.Box(0, 1, (1,)), b=gym.spaces.Tuple([BYTES]))


@pytest.mark.parametrize(
    ("space", "action"),
    [
        (BYTES, [2.5]),
        (BYTES, [300]),
        (gym.spaces.Box(-np.inf, np.inf, (1,), np.float32), [1e300]),
        (BYTES, ["2"]),
        (BYTES, [[1], [2, 3]]),
        (gym.spaces.MultiDiscrete([3, 3]), [1.9, 0.2]),
        (gym.spaces.MultiBinary(1), [0.5]),
        (PARTS, {"a": [0.5]}),
        (PARTS, {"a": [0.5], "b": [[0.5]]}),
    ],
)
def test_an_action_that_a_space_cannot_hold_is_refused(space: Any, action: Any) -> None:
    world = GymWorld(Echo(space))
    world.reset()
    with pytest.raises(ValueError, match="action must be in"):
        world.call("act", {"action": action})


def test_the_parts_of_an_action_reach_the_environment_as_arrays() -> None:
    world = GymWorld(Echo(PARTS))
    world.reset()
    result = world.call("act", {"action": {"b": [[7]], "a": [0.5]}})
    assert result["observation"] == {"a": [0.5], "b": [[7]]}
    info = json.loads(json.dumps(result["info"]))
    assert info == {"made of": ["1j"], "seen": ["a", "b", "c"]}
