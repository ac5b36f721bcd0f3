"""Transitions of each player of PettingZoo environments, compared with those that the loop saw."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import trajrec
from trajrec.errors import CorpusError, EnvContractError
from trajrec.replay import replay_episode

pettingzoo = pytest.importorskip(
    "pettingzoo", reason="pettingzoo is not installed: pip install 'trajrec[pettingzoo]'"
)

Seen = dict[Any, list[tuple[Any, ...]]]


def play_turns(env: Any, seed: int, n_turns: int = 10**9) -> Seen:
    """Play a game of turns; return the transitions of each player as `last()` shows them."""
    seen: Seen = defaultdict(list)
    waiting: dict[Any, Any] = {}
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    for turn, agent in enumerate(env.agent_iter()):
        observation, reward, terminated, truncated, _ = env.last()
        if agent in waiting:
            step, obs, action = waiting.pop(agent)
            seen[agent].append((step, obs, action, reward, observation, terminated, truncated))
        if turn == n_turns:
            break
        action = None
        if not (terminated or truncated):
            mask = observation.get("action_mask") if isinstance(observation, dict) else None
            choices = np.arange(env.action_space(agent).n) if mask is None else np.flatnonzero(mask)
            action = int(rng.choice(choices))
            waiting[agent] = (turn, observation, action)
        env.step(action)
    return seen


def play_jointly(env: Any, seed: int) -> Seen:
    """Play a game of joint steps."""
    seen: Seen = defaultdict(list)
    before, _ = env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    step = 0
    while env.agents:
        actions = {agent: int(rng.integers(env.action_space(agent).n)) for agent in env.agents}
        after, rewards, terminations, truncations, _ = env.step(actions)
        for agent, action in actions.items():
            flags = (terminations[agent], truncations[agent])
            seen[agent].append((step, before[agent], action, rewards[agent], after[agent], *flags))
        before = after
        step += 1
    return seen


def same_bits(rows: Any, row: int, expected: Any) -> bool:
    """Return whether a row is a value, with dtype and shape."""
    if isinstance(expected, dict):
        return list(rows) == list(expected) and all(
            same_bits(rows[key], row, value) for key, value in expected.items()
        )
    value = rows[row]
    if isinstance(expected, np.ndarray):
        is_same_form = (value.dtype, value.shape) == (expected.dtype, expected.shape)
        return bool(is_same_form and value.tobytes() == expected.tobytes())
    return bool(value == expected)


def check(corpus: trajrec.Corpus, games: list[Seen]) -> None:
    parts = list(corpus.agent_transitions())
    for episode, seen in zip(corpus.episodes(), games, strict=True):
        of_episode = {part.agent: part for part in parts if part.episode_id == episode.id}
        assert of_episode.keys() == seen.keys()
        for agent, rows in seen.items():
            part = of_episode[agent]
            assert part.step.tolist() == [row[0] for row in rows]
            assert part.n_dropped == 0
            columns = (part.obs, part.action, part.reward, part.next_obs)
            columns = (*columns, part.terminated, part.truncated)
            for number, row in enumerate(rows):
                for column, value in zip(columns, row[1:], strict=True):
                    assert same_bits(column, number, value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "name", ["classic/tictactoe_v3", "classic/connect_four_v3", "classic/rps_v2"]
)
def test_each_turn_ends_at_the_next_turn_of_its_player(name: str, tmp_path: Path) -> None:
    pytest.importorskip("pygame", reason="the environments draw with pygame")
    env = trajrec.record(pettingzoo.make("aec", name), tmp_path)
    games = [play_turns(env, seed) for seed in range(5)]
    env.close()
    with trajrec.open(tmp_path) as corpus:
        check(corpus, games)
        rewards = {part.agent: part.reward.sum() for part in corpus.agent_transitions()}
        last = list(corpus.episodes())[-1]
        assert rewards == last.rewards_by_agent


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_each_joint_step_is_one_transition_a_player(tmp_path: Path) -> None:
    pytest.importorskip("pygame", reason="the environments draw with pygame")
    env = trajrec.record(pettingzoo.make("parallel", "classic/rps_v2"), tmp_path)
    games = [play_jointly(env, seed) for seed in range(3)]
    env.close()
    with trajrec.open(tmp_path) as corpus:
        check(corpus, games)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_turns_without_a_next_one_are_counted(tmp_path: Path) -> None:
    pytest.importorskip("pygame", reason="the environments draw with pygame")
    env = trajrec.record(pettingzoo.make("aec", "classic/tictactoe_v3"), tmp_path)
    seen = play_turns(env, 0, n_turns=4)
    env.close()
    with trajrec.open(tmp_path) as corpus:
        parts = {part.agent: part for part in corpus.agent_transitions()}
    # Four moves: the third one's next turn was seen, and the fourth one's was not.
    assert [len(part.step) for part in parts.values()] == [2, 1]
    assert [part.n_dropped for part in parts.values()] == [0, 1]
    assert {agent: len(rows) for agent, rows in seen.items()} == {"player_1": 2, "player_2": 1}


class Leaving(pettingzoo.ParallelEnv):  # type: ignore[misc, name-defined]
    """Two players, one of which leaves after its first step; it may raise at a step."""

    metadata = {"name": "leaving"}  # noqa: RUF012 - as PettingZoo has it
    possible_agents = ["a", "b"]  # noqa: RUF012

    def __init__(self, raises_at: int = -1) -> None:
        self.raises_at = raises_at

    def observation_space(self, agent: str) -> Any:
        return gym.spaces.Box(0, 99, (2,), np.float32)

    def action_space(self, agent: str) -> Any:
        return gym.spaces.Discrete(3)

    def seen(self) -> dict[str, Any]:
        return {agent: np.array([self.k, agent == "b"], np.float32) for agent in self.agents}

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents = ["a", "b"]
        self.k = 0
        return self.seen(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, int]) -> Any:
        self.k += 1
        if self.k - 1 == self.raises_at:
            raise RuntimeError("half a step")
        seen = self.seen()
        rewards = {agent: float(self.k) for agent in self.agents}
        terminations = {agent: agent == "a" or self.k == 4 for agent in self.agents}
        truncations = dict.fromkeys(self.agents, False)
        infos: dict[str, Any] = {agent: {} for agent in self.agents}
        self.agents = [agent for agent in self.agents if not terminations[agent]]
        return seen, rewards, terminations, truncations, infos


def test_a_player_that_leaves_has_its_own_end(tmp_path: Path) -> None:
    env = trajrec.record(Leaving(), tmp_path)
    env.reset(seed=0)
    while env.agents:
        env.step(dict.fromkeys(env.agents, 1))
    env.close()
    with trajrec.open(tmp_path) as corpus:
        a, b = corpus.agent_transitions()
        with pytest.raises(CorpusError, match="agent_transitions"):
            corpus.transitions()
    assert (a.agent, a.step.tolist(), a.terminated.tolist()) == ("a", [0], [True])
    assert b.step.tolist() == [0, 1, 2, 3]
    assert b.terminated.tolist() == [False, False, False, True]
    assert b.obs.dtype == np.float32
    assert b.obs.tolist() == [[0, 1], [1, 1], [2, 1], [3, 1]]
    assert b.next_obs.tolist() == [[1, 1], [2, 1], [3, 1], [4, 1]]
    assert b.reward.tolist() == [1, 2, 3, 4]


class Idle(Leaving):
    """Two players that need not act in each step; "a" dies in the third."""

    def step(self, actions: dict[str, int]) -> Any:
        seen, rewards, terminations, truncations, infos = super().step(actions)
        if self.k < 3:
            terminations["a"] = False
            self.agents = ["a", "b"]
        return seen, rewards, terminations, truncations, infos


def test_a_player_that_does_not_act_still_earns_and_dies(tmp_path: Path) -> None:
    env = trajrec.record(Idle(), tmp_path)
    env.reset(seed=0)
    for actions in ({"a": 1}, {"b": 0}, {"b": 1}, {}):
        env.step(actions)
    env.close()
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes()
        a, b = corpus.agent_transitions()
    assert episode.rewards_by_agent == {"a": 6.0, "b": 10.0}
    assert (a.step.tolist(), a.reward.tolist(), a.terminated.tolist()) == ([0], [6.0], [True])
    assert a.next_obs.tolist() == [[3, 0]]
    # What "b" earned before its first decision belongs to none.
    assert (b.step.tolist(), b.reward.tolist()) == ([1, 2], [2.0, 7.0])
    assert (b.obs.tolist(), b.next_obs.tolist()) == ([[1, 1], [2, 1]], [[2, 1], [4, 1]])
    assert b.terminated.tolist() == [False, True]
    assert (a.n_dropped, b.n_dropped) == (0, 0)


def test_nothing_is_earned_over_a_step_that_raised(tmp_path: Path) -> None:
    env = trajrec.record(Leaving(raises_at=1), tmp_path)
    env.reset(seed=0)
    env.step({"a": 1, "b": 2})
    with pytest.raises(RuntimeError):
        env.step({})
    env.step({})
    env.close()
    with trajrec.open(tmp_path) as corpus:
        _, b = corpus.agent_transitions()
    assert (b.step.tolist(), b.reward.tolist()) == ([0], [1.0])


def test_a_raised_action_that_is_no_dict_is_no_decision(tmp_path: Path) -> None:
    env = trajrec.record(Leaving(raises_at=1), tmp_path)
    env.reset(seed=0)
    env.step({"a": 1, "b": 2})
    with pytest.raises(RuntimeError):
        env.step(7)
    env.close()
    with trajrec.open(tmp_path) as corpus:
        _, b = corpus.agent_transitions()
    assert (b.step.tolist(), b.n_dropped) == ([0], 0)


def test_a_step_that_raised_ends_no_transition(tmp_path: Path) -> None:
    env = trajrec.record(Leaving(raises_at=1), tmp_path)
    env.reset(seed=0)
    env.step({"a": 1, "b": 2})
    with pytest.raises(RuntimeError):
        env.step({"b": 0})
    env.step({"b": 1})
    env.step({"b": 2})
    env.close()
    with trajrec.open(tmp_path) as corpus:
        _, b = corpus.agent_transitions()
    # The step after it started from a change that was half done.
    assert b.step.tolist() == [0, 3]
    assert b.action.tolist() == [2, 2]
    assert b.n_dropped == 1


def test_other_environments_are_refused_by_name(cartpole: trajrec.Corpus) -> None:
    with pytest.raises(CorpusError, match=r"corpus\.transitions reads it"):
        next(cartpole.agent_transitions())


class Padded(pettingzoo.ParallelEnv):  # type: ignore[misc, name-defined]
    """Player "b" is done at its second step; padded, the environment goes on to return it."""

    metadata: dict[str, Any] = {"name": "padded_v0"}  # noqa: RUF012
    possible_agents = ["a", "b"]  # noqa: RUF012
    render_mode = None

    def __init__(self, *, is_padded: bool) -> None:
        self.is_padded = is_padded

    def observation_space(self, agent: str) -> Any:
        return gym.spaces.Box(0, 9, (1,))

    def action_space(self, agent: str) -> Any:
        return gym.spaces.Discrete(2)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.k = 0
        self.agents = ["a", "b"]
        return {agent: np.zeros(1, np.float32) for agent in self.agents}, {"a": {}, "b": {}}

    def step(self, actions: Any) -> Any:
        self.k += 1
        given = self.possible_agents if self.is_padded else self.agents
        observations = {agent: np.full(1, self.k, np.float32) for agent in given}
        rewards = {agent: 1.0 if agent in self.agents else 0.0 for agent in given}
        ends = {agent: self.k >= (4 if agent == "a" else 2) for agent in given}
        self.agents = [agent for agent in self.agents if not ends[agent]]
        return observations, rewards, ends, dict.fromkeys(given, False), {a: {} for a in given}


@pytest.mark.parametrize("is_padded", [True, False])
def test_player_that_is_done_decides_no_more(is_padded: bool, tmp_path: Path) -> None:
    env = trajrec.record(Padded(is_padded=is_padded), tmp_path)
    for seed in range(2):
        env.reset(seed=seed)
        for _ in range(4):
            # As vector environments do that pad the actions of players that have left.
            env.step({"a": 1, "b": 1})
    env.close()
    parts = [part for part in trajrec.open(tmp_path).agent_transitions() if part.agent == "b"]
    assert [part.reward.tolist() for part in parts] == [[1.0, 1.0]] * 2
    assert [part.terminated.tolist() for part in parts] == [[False, True]] * 2
    assert [part.n_dropped for part in parts] == [0, 0]


class Unlike(Padded):
    """Returns the results of functions."""

    def __init__(self, reset_result: Any, step_result: Any) -> None:
        super().__init__(is_padded=False)
        self.reset_result = reset_result
        self.step_result = step_result

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        return self.reset_result(*super().reset())

    def step(self, actions: Any) -> Any:
        return self.step_result(*super().step(actions))


def as_they_are(*parts: Any) -> Any:
    return parts


@pytest.mark.parametrize(
    ("reset_result", "step_result", "message"),
    [
        (lambda obs, infos: obs, as_they_are, r"reset .* must return \(observations, infos\), got"),
        (as_they_are, lambda *p: p[:3] + p[4:], r"step .* must return .*, got a tuple of 4"),
        (as_they_are, lambda *p: (*p, {}), r"step .* must return .*, got a tuple of 6"),
        (
            as_they_are,
            lambda o, r, te, tr, i: (o, r, {"a": 0.37, "b": False}, tr, i),
            r"terminations\['a'\] must be true or false, got",
        ),
        (
            as_they_are,
            lambda o, r, te, tr, i: (o, r, te, {"a": False, "b": "False"}, i),
            r"truncations\['b'\] must be true or false, got",
        ),
    ],
)
def test_results_that_pettingzoo_does_not_allow_are_refused(
    reset_result: Any, step_result: Any, message: str, tmp_path: Path
) -> None:
    env = trajrec.record(Unlike(reset_result, step_result), tmp_path)

    def play() -> None:
        env.reset(seed=1)
        env.step({"a": 1, "b": 1})

    with pytest.raises(EnvContractError, match=message):
        play()
    env.close()
    (episode,) = trajrec.open(tmp_path).episodes()
    assert episode.ending == "error"
    assert replay_episode(episode, env=lambda: Unlike(reset_result, step_result)).grade == "exact"


def test_joint_reset_without_infos_is_recorded(tmp_path: Path) -> None:
    env = trajrec.record(Unlike(lambda obs, infos: (obs, None), as_they_are), tmp_path)
    assert env.reset(seed=1)[1] is None
    env.step({"a": 1, "b": 1})
    env.close()
    (episode,) = trajrec.open(tmp_path).episodes()
    assert episode.rewards_by_agent == {"a": 1.0, "b": 1.0}
