"""PettingZoo: episodes of several players are recorded unchanged, replayed and forked."""

from __future__ import annotations

import copy
import functools
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import msgspec
import numpy as np
import pytest
from gymnasium.utils import EzPickle
from tiers import spread, third_slow

import trajrec
from trajrec.cli.main import main
from trajrec.corpus.episode import Episode
from trajrec.envstate.pettingzoo import as_gymnasium
from trajrec.errors import DivergenceError, EnvMissingError, EnvRefusedError, SnapshotError
from trajrec.log.reader import LogReader
from trajrec.replay import (
    check_determinism,
    credit,
    fork,
    fork_many,
    replay_episode,
    replay_episodes,
)
from trajrec.replay.execute.environments import make_env
from trajrec.values import codec
from trajrec.values.diff import is_same

pettingzoo = pytest.importorskip(
    "pettingzoo", reason="pettingzoo is not installed: pip install 'trajrec[pettingzoo]'"
)
pytest.importorskip("pygame", reason="the environments draw with pygame: pip install pygame-ce")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # they import environments by their old names
    from pettingzoo.test import api_test, parallel_api_test
from pettingzoo.utils import wrappers  # noqa: E402
from pettingzoo.utils.conversions import parallel_to_aec  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning"
)  # PettingZoo's advice on its own environments

TICTACTOE, CONNECT_FOUR, RPS = "classic/tictactoe_v3", "classic/connect_four_v3", "classic/rps_v2"
KNIGHTS = "butterfly/knights_archers_zombies_v11"
LIGHT = [
    ("aec", TICTACTOE, 30),
    ("aec", CONNECT_FOUR, 30),
    ("aec", RPS, 40),
    ("parallel", RPS, 30),
    ("parallel", KNIGHTS, 150),
]
OTHERS = [
    ("aec", KNIGHTS, 700, ()),
    ("parallel", "butterfly/cooperative_pong_v6", 60, ()),
    ("parallel", "butterfly/pistonball_v6", 30, ("pymunk",)),
    ("aec", "butterfly/pistonball_v6", 130, ("pymunk",)),
    ("parallel", "sisl/multiwalker_v9", 150, ("Box2D",)),
    ("parallel", "sisl/pursuit_v5", 40, ("scipy",)),
    ("aec", "sisl/pursuit_v5", 80, ("scipy",)),
    ("aec", "classic/leduc_holdem_v4", 60, ("rlcard",)),
    ("aec", "classic/chess_v6", 60, ("chess",)),
    ("aec", "classic/go_v5", 60, ()),
]

Seen = list[Any]


def play(env: Any, n_steps: int, *, seed: int | None = 5) -> Seen:
    """Run episodes of random legal actions, seeded once; return all returned values, encoded."""
    seen: Seen = []
    spaces = {agent: copy.deepcopy(env.action_space(agent)) for agent in env.possible_agents}
    for k, space in enumerate(spaces.values()):
        space.seed(k)
    while n_steps > 0:
        run = play_aec if isinstance(env, pettingzoo.AECEnv) else play_parallel
        n_steps -= run(env, spaces, n_steps, seed, seen)
        seed = None
    env.close()
    return seen


def play_aec(env: Any, spaces: Any, n_steps: int, seed: int | None, seen: Seen) -> int:
    env.reset(seed=seed)
    n = 0
    for agent in env.agent_iter(n_steps):
        observation, reward, terminated, truncated, info = env.last()
        seen.append(codec.encode([agent, observation, reward, terminated, truncated, info]))
        env.step(None if terminated or truncated else sample(spaces[agent], observation, info))
        seen.append(
            codec.encode([env.rewards, env.terminations, env.truncations, env.infos, env.agents])
        )
        n += 1
    return n


def play_parallel(env: Any, spaces: Any, n_steps: int, seed: int | None, seen: Seen) -> int:
    observations, infos = env.reset(seed=seed)
    seen.append(codec.encode([observations, infos]))
    n = 0
    while env.agents and n < n_steps:
        actions = {
            agent: sample(spaces[agent], observations[agent], infos[agent]) for agent in env.agents
        }
        observations, rewards, terminations, truncations, infos = env.step(actions)
        seen.append(
            codec.encode(
                [actions, observations, rewards, terminations, truncations, infos, env.agents]
            )
        )
        n += 1
    return n


def sample(space: Any, observation: Any, info: Any) -> Any:
    return space.sample(
        observation.get("action_mask") if isinstance(observation, dict) else info.get("action_mask")
    )


def make(kind: str, name: str, **kwargs: Any) -> Any:
    return pettingzoo.make(kind, name, **kwargs)


def recorded(
    env: Any, folder: Path, n_steps: int, *, seed: int | None = 5, **options: Any
) -> list[Episode]:
    """Record episodes; read them from their log alone, which is faster than to index it."""
    recording = trajrec.record(env, folder, **options)
    play(recording, n_steps, seed=seed)
    reader = LogReader(recording.path)
    return [Episode(reader, number) for number in range(recording.recorder._episodes.number + 1)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of light environments, compared with the values that their bare loops got."""
    folder = tmp_path_factory.mktemp("zoo")
    for kind, name, n_steps in LIGHT:
        bare = play(make(kind, name), n_steps)
        assert play(trajrec.record(make(kind, name), folder), n_steps) == bare, (kind, name)
    return folder


@pytest.mark.slow
@third_slow("replay")
def test_light_environments_replay_exactly_in_another_process(runs: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "trajrec", "replay", str(runs)], capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    with trajrec.open(runs) as corpus:
        n, n_steps = corpus.sql("SELECT count(*), sum(n_steps) FROM episodes").fetchall()[0]
    assert n_steps == sum(n_steps for *_, n_steps in LIGHT)
    assert f"{n} episodes, {n_steps} steps: {n} exact" in finished.stdout


@pytest.mark.parametrize(
    ("kind", "name", "n_steps", "needs"), spread("environments", OTHERS, drawn=2)
)
def test_other_environments_are_recorded_replayed_and_forked(
    kind: str, name: str, n_steps: int, needs: tuple[str, ...], tmp_path: Path
) -> None:
    for package in needs:
        pytest.importorskip(package, reason=f"{name} needs {package}")
    bare = play(make(kind, name), n_steps)
    assert play(trajrec.record(make(kind, name), tmp_path), n_steps) == bare
    finished = subprocess.run(
        [sys.executable, "-m", "trajrec", "replay", str(tmp_path)], capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stdout.count("diverged") == 0
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes("number = 0")
        step = episode.n_steps // 2
        for restore in ("reexecute", "auto", "os_fork"):
            assert_continues_as_recorded(corpus, episode, step, restore)


def assert_continues_as_recorded(
    corpus: trajrec.Corpus, episode: Any, step: int, restore: Any, **options: Any
) -> None:
    """Check that a branch with the recorded actions equals the rest of the recorded episode."""
    (branch,) = fork_many(
        episode, at=[step], actions=episode.actions[step:], restore=restore, **options
    )
    assert branch.error == ""
    child = corpus.episode(branch.episode_id or "")
    assert is_same(child.observation_values, episode.observation_values[step:])
    assert is_same(child.reward_values, episode.reward_values[step:])
    assert is_same(child.infos, episode.infos[step:])
    assert (child.ending, child.end_step) == (episode.ending, episode.end_step)


@pytest.mark.parametrize("kind", ["aec", "parallel"])
def test_recorded_environment_passes_pettingzoos_own_tests(kind: str, tmp_path: Path) -> None:
    for name in (TICTACTOE, RPS) if kind == "aec" else (RPS,):
        env = trajrec.record(make(kind, name), tmp_path)
        api_test(env, num_cycles=10) if kind == "aec" else parallel_api_test(env, num_cycles=20)
        env.close()
    with trajrec.open(tmp_path) as corpus:
        assert {report.grade for report in replay_episodes(corpus.episodes())} == {"exact"}


@pytest.mark.slow
def test_parallel_log_has_each_players_observations_actions_rewards(runs: Path) -> None:
    env = make("parallel", KNIGHTS)
    with trajrec.open(runs) as corpus:
        (episode,) = corpus.episodes(f"env_id = '{KNIGHTS.partition('/')[2]}' AND number = 0")
        observations, infos = env.reset(seed=5)
        assert is_same(episode.observation_values[0], observations)
        assert episode.reset_info == {"infos": infos}
        for step in episode.steps():
            observations, rewards, terminations, truncations, infos = env.step(step.action)
            assert is_same(step.observation, observations)
            assert is_same(step.reward, dict(rewards))
            assert is_same(
                step.info,
                {"terminations": terminations, "truncations": truncations, "infos": infos},
            )
        # Some players die before the end.
        assert len(episode.actions[0]) == 4 > len(episode.actions[-1])
        query = "SELECT agent, sum(reward), bool_or(terminated) FROM agent_rewards WHERE episode_id = ? GROUP BY 1 ORDER BY 1"
        rows = corpus.sql(query, params=[episode.id]).fetchall()
        assert [row[:2] for row in rows] == sorted(episode.rewards_by_agent.items())
        assert [row[2] for row in rows] == [row[0] not in env.agents for row in rows]
    env.close()


@pytest.mark.slow
def test_aec_log_has_the_result_of_last_for_each_turn(runs: Path) -> None:
    env = make("aec", TICTACTOE)
    env.reset(seed=5)
    with trajrec.open(runs) as corpus:
        (episode,) = corpus.episodes("env_id = 'tictactoe_v3' AND number = 0")
        observations = episode.observation_values
        for row, step in enumerate(episode.steps()):
            names = ("observation", "reward", "terminated", "truncated")
            last = dict(zip(names, env.last()[:4], strict=True))
            assert is_same(observations[row], {"agent": env.agent_selection, **last})
            assert step.info["agent"] == env.agent_selection
            assert (step.action is None) == (last["terminated"] or last["truncated"])
            env.step(step.action)
            assert is_same(step.reward, env.rewards)
            assert all(
                is_same(step.info[name], getattr(env, name))
                for name in ("terminations", "truncations", "infos")
            )
        assert not env.agents
        assert observations[-1] is None
        assert sorted(episode.rewards_by_agent.values()) == [-1.0, 1.0]
        assert (episode.ending, str(episode.total_reward)) == ("terminated", "nan")


@pytest.mark.slow
@third_slow("replay")
def test_fork_with_recorded_actions_equals_the_episode(
    tmp_path: Path,
) -> None:
    turns = recorded(make("aec", TICTACTOE), tmp_path, 30)[1]
    moves = recorded(make("parallel", RPS), tmp_path, 30)[1]
    with trajrec.open(tmp_path) as corpus:
        for restore in ("reexecute", "pickle"):
            for step in (3, turns.n_steps - 1):
                assert_continues_as_recorded(corpus, turns, step, restore)
            for step in (0, 14):
                assert_continues_as_recorded(corpus, moves, step, restore)
        assert_continues_as_recorded(corpus, turns, 3, "os_fork")
    with pytest.raises(SnapshotError, match="its snapshots need restore='pickle'"):
        fork_many(moves, at=[2], actions=moves.actions[2:], restore="snapshot", folder=None)


def test_fork_returns_a_live_environment_and_records_a_child(tmp_path: Path) -> None:
    (episode,) = recorded(make("parallel", RPS), tmp_path, 15)
    with trajrec.open(tmp_path) as corpus:
        with fork(episode, at=6) as world:
            assert is_same(world.observation, episode.observation_values[6])
            actions = {agent: (action + 1) % 3 for agent, action in episode.actions[6].items()}
            observations, rewards, terminated, truncated, info = world.step(actions)
            assert (
                world.unwrapped.agents
                == list(rewards)
                == list(info["infos"])
                == ["player_0", "player_1"]
            )
            assert not terminated
            assert not truncated
            assert observations == {
                "player_0": actions["player_1"],
                "player_1": actions["player_0"],
            }
        child = corpus.episode(world.episode_id or "")
        assert (child.parent, child.first_step, child.actions) == (child.parent, 6, [actions])
        assert child.parent is not None
        assert child.parent.id == episode.id
        assert replay_episode(child).grade == "exact"


@pytest.mark.slow
def test_random_policy_draws_the_same_legal_actions_for_each_restore(
    tmp_path: Path,
) -> None:
    episode = recorded(make("aec", TICTACTOE), tmp_path, 12)[0]
    with trajrec.open(tmp_path) as corpus:
        actions_by_restore = {}
        for restore in ("reexecute", "pickle"):
            branches = fork_many(episode, at=[0, 2], policy="random", n_branches=3, restore=restore)  # type: ignore[arg-type]
            assert {branch.terminated for branch in branches} == {True}
            children = [corpus.episode(branch.episode_id or "") for branch in branches]
            assert all(min(child.rewards_by_agent.values()) >= -1 for child in children)
            actions_by_restore[restore] = [child.actions for child in children]
            for child in children:
                boards = [
                    observation["observation"]["observation"].sum()
                    for observation in child.observation_values[:-1]
                ]
                # An illegal move would end the game with an unchanged board.
                assert boards == sorted(boards)
        assert is_same(*actions_by_restore.values())
        assert len({str(actions) for actions in actions_by_restore["reexecute"]}) > 2
    env = as_gymnasium(make("parallel", RPS))
    env.reset(seed=1)
    env.action_space.seed(3)
    drawn = env.action_space.sample()
    assert drawn.keys() == {"player_0", "player_1"}
    assert env.action_space.contains(drawn)
    assert not env.action_space.contains({"player_2": 0})


def test_illegal_moves_are_recorded_and_replay(
    tmp_path: Path,
) -> None:
    env = trajrec.record(make("aec", TICTACTOE), tmp_path)
    env.reset(seed=1)
    for move in (4, 4):
        env.step(move)
    assert env.terminations == {"player_1": True, "player_2": True}
    assert env.rewards == {"player_1": 0, "player_2": -1.0}
    for _ in range(2):
        env.step(None)
    assert not env.agents
    env.reset()
    env.step(0)
    with pytest.raises(AssertionError, match="action is not in action space"):
        env.step(9)
    # The failed step has not ended that player's turn.
    env.step(1)
    assert env.agent_selection == "player_1"
    env.close()
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql(
            "SELECT ending, n_steps, n_failures FROM episodes ORDER BY number"
        ).fetchall() == [
            ("terminated", 4, 0),
            ("error", 3, 1),
        ]
        assert corpus.sql("SELECT error_type, step FROM failures").fetchall() == [
            ("builtins.AssertionError", 1)
        ]
        assert next(corpus.episodes()).rewards_by_agent == {"player_1": 0.0, "player_2": -1.0}
        assert {report.grade for report in replay_episodes(corpus.episodes())} == {"exact"}


class Twisted(wrappers.BaseWrapper):
    """Changes the environment after one step."""

    def __init__(self, env: Any, at: int, twist: Callable[[Any], Any]) -> None:
        super().__init__(env)
        self._at = at
        self._twist = twist
        self._n = 0

    def reset(self, seed: Any = None, options: Any = None) -> None:
        super().reset(seed=seed, options=options)
        self._n = 0

    def step(self, action: Any) -> None:
        super().step(action)
        self._n += 1
        if self._n == self._at + 1:
            self._twist(self.unwrapped)


TWISTS: dict[str, Callable[[Any], Any]] = {
    "observation/observation/observation/0/0/0": lambda env: env.board.squares.__setitem__(
        0, 1 - env.board.squares[0] // 2
    ),
    "reward/player_1": lambda env: env.rewards.update(player_1=0.25),
    "info/truncations/player_2": lambda env: env.truncations.update(player_2=np.False_),
    "info/infos/player_1/x": lambda env: env.infos["player_1"].update(x=1),
}


@pytest.mark.parametrize("field", TWISTS)
def test_divergence_at_step_3_is_reported_with_its_field(field: str, tmp_path: Path) -> None:
    env = trajrec.record(make("aec", TICTACTOE), tmp_path)
    env.reset(seed=1)
    for move in (4, 1, 8, 2, 6, 7):
        env.step(move)
    env.close()
    episode = Episode(LogReader(env.path), 0)
    report = replay_episode(
        episode, env=Twisted(make("aec", TICTACTOE), 3, TWISTS[field]), explain=False
    )
    assert report.divergence is not None
    assert (report.divergence.step, report.divergence.field) == (3, field)
    if field.startswith("observation"):
        with pytest.raises(DivergenceError, match="after step 3, observation"):
            fork(episode, at=4, env=Twisted(make("aec", TICTACTOE), 3, TWISTS[field]), folder=None)


class Growing(pettingzoo.ParallelEnv):
    """Has players that it does not list before, whose names are no texts; makes spaces at a reset."""

    metadata = {"name": "growing_v0"}  # noqa: RUF012

    def observation_space(self, agent: Any) -> Any:
        return self.spaces[agent]

    action_space = observation_space

    def reset(self, seed: Any = None, options: Any = None) -> Any:
        self.agents = [0, (1, 2)]
        self.n = 0
        self.spaces = {agent: gym.spaces.Discrete(9) for agent in (0, (1, 2), 7)}
        return dict.fromkeys(self.agents, 0), {agent: {} for agent in self.agents}

    def step(self, actions: Any) -> Any:
        self.n += 1
        acting = self.agents
        if self.n == 2:
            self.agents = [*acting, 7]
        elif self.n == 4:
            self.agents = []
        observations = dict.fromkeys(acting, self.n)
        rewards = {agent: float(actions[agent]) for agent in acting}
        terminations = dict.fromkeys(acting, self.n == 4)
        truncations = dict.fromkeys(acting, False)
        infos: dict[Any, Any] = {agent: {} for agent in acting}
        return observations, rewards, terminations, truncations, infos


def test_players_that_appear_later_are_recorded_and_replayed(tmp_path: Path) -> None:
    env = trajrec.record(Growing(), tmp_path)
    env.reset(seed=1)
    while env.agents:
        env.step(dict.fromkeys(env.agents, 1))
    env.close()
    episode = Episode(LogReader(env.path), 0)
    assert episode.rewards_by_agent == {0: 4.0, (1, 2): 4.0, 7: 2.0}
    assert replay_episode(episode, allow=(__name__,)).grade == "exact"
    first, second = (
        fork_many(
            episode, at=[1], policy="random", restore="reexecute", folder=None, allow=(__name__,)
        )[0]
        for _ in range(2)
    )
    assert first.actions == second.actions
    assert [list(actions) for actions in first.actions] == [
        [0, (1, 2)],
        [0, (1, 2), 7],
        [0, (1, 2), 7],
    ]
    with trajrec.open(tmp_path) as corpus:
        query = "SELECT agent, sum(reward) FROM agent_rewards GROUP BY 1 ORDER BY 1"
        assert corpus.sql(query).fetchall() == [("(1, 2)", 4.0), ("0", 4.0), ("7", 2.0)]


class World:
    """Holds the generators of `Walk`, which has none itself."""

    def __init__(self) -> None:
        self.seed(None)

    def seed(self, seed: int | None) -> None:
        self.generators = [
            np.random.RandomState(seed),
            {"python": random.Random(seed)},
            np.random.default_rng(seed),
        ]

    def draw(self) -> float:
        old, by_name, new = self.generators
        return float(old.random() + by_name["python"].random() + new.random())


class Walk(pettingzoo.ParallelEnv, EzPickle):
    """Three players walk at random: one dies at step 3, one leaves at step 5, `last` ends the third."""

    metadata = {"name": "walk_v0"}  # noqa: RUF012
    render_mode = None

    def __init__(self, size: float = 1.0, last: str = "terminated") -> None:
        EzPickle.__init__(self, size, last)
        self.possible_agents = ["a_0", "b_0", "c_0"]
        self.agents: list[str] = []
        self.size = size
        self.last = last
        self.world = World()

    def observation_space(self, agent: str) -> Any:
        return gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)

    def action_space(self, agent: str) -> Any:
        # A new one each time, as in many environments.
        return gym.spaces.Discrete(3)

    def reset(self, seed: Any = None, options: Any = None) -> Any:
        if seed is not None:
            self.world.seed(seed)
        self.agents = list(self.possible_agents)
        self.n = 0
        return {agent: self.see() for agent in self.agents}, {agent: {} for agent in self.agents}

    def see(self) -> Any:
        return np.array([self.n, self.size * self.world.draw()])

    def step(self, actions: Any) -> Any:
        self.n += 1
        ends = {agent: self.n == {"a_0": 3, "b_0": 5, "c_0": 8}[agent] for agent in self.agents}
        cut = {
            agent: end and (agent == "b_0" or (agent == "c_0" and self.last == "truncated"))
            for agent, end in ends.items()
        }
        done = {agent: ends[agent] and not cut[agent] for agent in self.agents}
        observations = {agent: self.see() for agent in self.agents}
        rewards = {agent: float(actions[agent]) for agent in self.agents}
        infos: dict[str, Any] = {agent: {} for agent in self.agents}
        self.agents = [agent for agent in self.agents if not ends[agent]]
        return observations, rewards, done, cut, infos

    def close(self) -> None:
        pass

    def render(self) -> None:
        pass


HERE = (__name__,)


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("last", ["terminated", "truncated"])
def test_players_may_leave_before_the_last_ones_end(last: str, tmp_path: Path) -> None:
    episodes = recorded(Walk(last=last), tmp_path, 16)
    assert [(episode.ending, episode.n_steps) for episode in episodes] == [(last, 8)] * 2
    assert [len(action) for action in episodes[0].actions] == [3, 3, 3, 2, 2, 1, 1, 1]
    assert [report.grade for report in replay_episodes(episodes, allow=HERE)] == ["exact"] * 2
    turns = recorded(parallel_to_aec(Walk(last=last)), tmp_path / "aec", 60)
    assert turns[0].ending == last
    assert {report.grade for report in replay_episodes(turns, allow=HERE)} == {"exact"}
    with trajrec.open(tmp_path) as corpus:
        query = "SELECT agent, count(*), bool_or(r.terminated), bool_or(r.truncated) FROM agent_rewards r JOIN episodes "
        query += "USING (episode_id) WHERE log NOT LIKE 'aec/%' GROUP BY 1 ORDER BY 1"
        assert corpus.sql(query).fetchall() == [
            ("a_0", 6, True, False),
            ("b_0", 10, False, True),
            ("c_0", 16, last == "terminated", last == "truncated"),
        ]
        assert_continues_as_recorded(corpus, turns[0], 9, "pickle", allow=HERE)


def test_unseeded_resets_are_unchanged_and_replay_alone(tmp_path: Path) -> None:
    env = trajrec.record(Walk(), tmp_path)
    assert play(Walk(), 40) == play(env, 40)
    episodes = [Episode(LogReader(env.path), number) for number in range(5)]
    starts = [episode.start for episode in episodes]
    assert [(start.seed, start.seed_origin) for start in starts if start] == [(5, "caller")] + [
        (None, "none")
    ] * 4
    assert len({episode.observation_values[0]["a_0"].tobytes() for episode in episodes}) == 5
    for episode in reversed(episodes):
        assert replay_episode(episode, env=Walk()).grade == "exact"
    # Tic-tac-toe has no generator, so the recorder gives it a seed, which changes nothing.
    (episode, *_) = recorded(make("aec", TICTACTOE), tmp_path, 12, seed=None)
    assert episode.start is not None
    assert episode.start.seed_origin == "recorder"


class Late(Walk):
    """Makes its world when it is reset for the first time."""

    def __init__(self) -> None:
        super().__init__()
        EzPickle.__init__(self)
        del self.world

    def reset(self, seed: Any = None, options: Any = None) -> Any:
        if not hasattr(self, "world"):
            self.world = World()
        return super().reset(seed, options)


def test_generators_that_a_reset_makes_are_read_at_the_next(tmp_path: Path) -> None:
    episodes = recorded(Late(), tmp_path, 24, seed=None)
    assert [episode.start.seed_origin for episode in episodes if episode.start] == [
        "recorder",
        "none",
        "none",
    ]
    assert [replay_episode(episode, allow=HERE).grade for episode in episodes] == ["exact"] * 3


def test_fresh_noise_reaches_nested_generators(tmp_path: Path) -> None:
    (episode,) = recorded(Walk(), tmp_path, 8)
    with trajrec.open(tmp_path) as corpus:
        still = dict.fromkeys(("a_0", "b_0", "c_0"), 0)
        branches = fork_many(
            episode, at=[1], actions=[still], n_branches=3, restore="reexecute", allow=HERE
        )
        children = [corpus.episode(branch.episode_id or "") for branch in branches]
        assert len({child.observation_values[1]["a_0"].tobytes() for child in children}) == 3
        assert {replay_episode(child, allow=HERE).grade for child in children} == {"exact"}


class Stateful(Walk):
    def get_state(self) -> Any:
        return {"n": self.n, "agents": list(self.agents)}

    def set_state(self, state: Any) -> None:
        self.n = state["n"]
        self.agents = list(state["agents"])


@trajrec.verifier(id="all-left", version="1")
def all_left(env: Any) -> bool:
    return not env.agents and not env.unwrapped.agents


def test_state_and_checks_use_the_bare_environment(tmp_path: Path) -> None:
    (episode,) = recorded(Stateful(), tmp_path, 8, checks=[all_left])
    assert (episode.outcome, episode.header.state.adapter) == ("success", "get_state")
    assert [episode.state(step)["n"] for step in range(9)] == list(range(9))
    report = replay_episode(episode, allow=HERE)
    assert (report.grade, report.notes) == ("exact", ())
    (episode,) = recorded(Walk(), tmp_path, 8, state=lambda env: env.n)
    assert [episode.state(step) for step in (0, 8)] == [0, 8]
    (episode,) = recorded(Walk(), tmp_path, 8)
    assert episode.header.state.keep == "none"


def test_unrecorded_attributes_and_calls_reach_the_environment(tmp_path: Path) -> None:
    bare = Walk()
    env = trajrec.record(bare, tmp_path)
    assert env.unwrapped is env.env is bare
    assert isinstance(env, pettingzoo.ParallelEnv)
    assert (str(env), env.max_num_agents, env.num_agents, env.episode_id) == ("walk_v0", 3, 0, None)
    env.size = 2.0
    assert bare.size == env.size == 2.0
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = env.nothing
    env.reset(seed=1)
    assert (env.num_agents, env.agents) == (3, bare.agents)
    while env.agents:
        env.step(dict.fromkeys(env.agents, 1))
    # A step after the end is not recorded.
    assert env.step({}) == bare.step({}) == ({}, {}, {}, {}, {})
    env.flush()
    env.close()
    env.close()
    episode = Episode(LogReader(env.path), 0)
    assert (episode.id, episode.n_steps, episode.ending) == (env.episode_id, 8, "terminated")
    turns = trajrec.record(make("aec", TICTACTOE), tmp_path / "aec")
    with pytest.raises(AttributeError, match="agents cannot be accessed before reset"):
        _ = turns.agents
    with pytest.raises(AssertionError, match="reset\\(\\) needs to be called before step"):
        turns.step(0)
    turns.reset()
    with pytest.raises(AssertionError, match="need to call step\\(\\) or reset\\(\\) in a loop"):
        for _ in turns.agent_iter():
            pass
    turns.close()


class Kept(wrappers.BaseParallelWrapper):
    """A wrapper whose only argument is the environment."""


class Scaled(wrappers.BaseParallelWrapper):
    def __init__(self, env: Any, factor: float) -> None:
        super().__init__(env)


class Hiding(wrappers.BaseParallelWrapper):
    def __init__(self, env: Any) -> None:
        self.within = [env]

    env = property(lambda self: self.within[0])


class Unkept(Walk):
    """Takes arguments that it does not pass on to EzPickle."""

    def __init__(self, width: int, height: int, depth: int) -> None:
        super().__init__()


class Extended(Walk):
    def __init__(self, size: float = 1.0, last: str = "terminated", bonus: float = 0.0) -> None:
        super().__init__(size, last)


def test_log_says_why_it_cannot_make_an_environment(
    tmp_path: Path,
) -> None:
    class Local(Walk):
        pass

    cases: list[tuple[str, Callable[[], Any]]] = [
        ("the arguments of wrapper Scaled are not known", lambda: Scaled(Walk(), 2.0)),
        ("what wrapper Hiding wraps is out of sight", lambda: Hiding(Walk())),
        ("nothing says what it was made with", lambda: Unkept(1, 2, 3)),
        ("nothing says what it was made with", Extended),
        ("Local of the module", Local),
    ]
    for reason, factory in cases:
        (episode,) = recorded(factory(), tmp_path, 8)
        assert reason in episode.header.env.recreatable
        with pytest.raises(EnvMissingError, match="give a function that makes it"):
            replay_episode(episode, allow=HERE)
        assert replay_episode(episode, env=factory).grade == "exact"
        assert replay_episode(episode, env=factory()).grade == "exact"
        assert next(replay_episodes([episode], env=factory)).grade == "exact"
        with fork(episode, at=2, env=factory(), folder=None) as world:
            assert world.observation.keys() == {"a_0", "b_0", "c_0"}
    with pytest.raises(TypeError, match="cannot be sent to other processes"):
        next(replay_episodes([], env=Walk(), jobs=2))
    (episode,) = recorded(Kept(Walk(2.0, last="truncated")), tmp_path, 8)
    assert episode.header.env.recreatable == ""
    assert codec.decode(episode.header.env.kwargs_data) == {"size": 2.0, "last": "truncated"}
    assert replay_episode(episode, allow=HERE).grade == "exact"


def test_wrappers_with_arguments_are_made_again(tmp_path: Path) -> None:
    raw = make("aec", TICTACTOE).unwrapped
    env = wrappers.OrderEnforcingWrapper(wrappers.TerminateIllegalWrapper(raw, illegal_reward=-7))
    recording = trajrec.record(env, tmp_path)
    recording.reset(seed=0)
    recording.step(0)
    recording.step(0)
    recording.close()
    episode = Episode(LogReader(recording.path), 0)
    assert episode.rewards_by_agent == {"player_1": 0.0, "player_2": -7.0}
    assert replay_episode(episode).grade == "exact"


def test_players_are_recorded_once_into_a_corpus(tmp_path: Path) -> None:
    inner = trajrec.record(Walk(), tmp_path)
    for env in (inner, Kept(inner), parallel_to_aec(inner)):
        with pytest.raises(ValueError, match=r"already recorded into .* would count twice"):
            trajrec.record(env, tmp_path)
    inner.close()
    assert len(list(tmp_path.glob("*.trj"))) == 1


def test_a_recorder_inside_is_no_part_of_the_environment(tmp_path: Path) -> None:
    env = trajrec.record(trajrec.record(Walk(), tmp_path / "inner"), tmp_path / "outer")
    env.reset(seed=1)
    while env.agents:
        env.step(dict.fromkeys(env.agents, 1))
    env.close()
    with trajrec.open(tmp_path / "outer") as corpus:
        (episode,) = corpus.episodes()
        assert episode.header.env.wrappers == []
        assert replay_episode(episode, allow=("test_pettingzoo",)).grade == "exact"


class Turns(pettingzoo.AECEnv):
    """Two players add up what they take; the first to reach three wins."""

    metadata = {"name": "turns_v0"}  # noqa: RUF012

    def __init__(self) -> None:
        self.possible_agents = ["ann", "bob"]

    def observation_space(self, agent: str) -> Any:
        return gym.spaces.Discrete(9)

    def action_space(self, agent: str) -> Any:
        return gym.spaces.Discrete(4)

    def observe(self, agent: str) -> int:
        return self.sums[agent]

    def reset(self, seed: Any = None, options: Any = None) -> None:
        self.agents = list(self.possible_agents)
        self.sums = dict.fromkeys(self.agents, 0)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[str, Any] = {agent: {} for agent in self.agents}
        self.agent_selection = "ann"

    def step(self, action: Any) -> None:
        agent = self.agent_selection
        if self.terminations[agent]:
            self._was_dead_step(action)
            return
        other = "bob" if agent == "ann" else "ann"
        self._cumulative_rewards[agent] = 0.0
        self._clear_rewards()
        self.sums[agent] += action
        if self.sums[agent] >= 3:
            self.rewards = {agent: 1.0, other: -1.0}
            self.terminations = dict.fromkeys(self.agents, True)
        self.agent_selection = other
        self._accumulate_rewards()


def test_pages_name_the_player_of_each_turn_and_its_return(tmp_path: Path) -> None:
    pytest.importorskip("starlette", reason="the viewer needs pip install 'trajrec[view]'")
    from test_view import signed_in

    env = trajrec.record(Turns(), tmp_path)
    env.reset(seed=0, options={"level": 3})
    for action in (1, 0, 2, None, None):
        env.step(action)
    env.close()
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes()
        page = signed_in(corpus).get(f"/e/{episode.id}").text
    for text in ("ann: 1", "bob: 0", "ann: 2", "bob: null"):
        assert text in page
    assert "ann: 1, bob: -1" in page
    assert "{&#34;level&#34;:3}" in page


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda mask: np.array(mask, bool)])
def test_random_draws_follow_masks_of_any_kind(kind: Any) -> None:
    class Masked(Turns):
        def observe(self, agent: str) -> Any:
            return {"observation": self.sums[agent], "action_mask": kind([0, 1, 0, 0])}

    env = as_gymnasium(Masked())
    env.reset()
    env.action_space.seed(1)
    assert {env.action_space.sample() for _ in range(50)} == {1}


def test_a_loop_that_writes_into_a_mask_changes_no_draw() -> None:
    class Masked(Turns):
        def observe(self, agent: str) -> Any:
            return {"observation": self.sums[agent], "action_mask": np.array([0, 1, 0, 0])}

    env = as_gymnasium(Masked())
    observation, _ = env.reset()
    observation["observation"]["action_mask"][:] = [1, 0, 0, 0]
    assert env.action_space.sample() == 1


class Foggy(Turns):
    """Each look of a player at its picture is another one."""

    metadata = {"name": "foggy_v0"}  # noqa: RUF012

    def observe(self, agent: str) -> Any:
        return self.fog.integers(0, 255, (40, 40), np.uint8)

    def reset(self, seed: Any = None, options: Any = None) -> None:
        super().reset(seed=seed, options=options)
        self.fog = np.random.default_rng(seed)


def play_foggy(env: Any) -> list[Any]:
    """Return what the players see; they write into it."""
    seen = []
    env.reset(seed=3)
    for agent in env.agent_iter():
        picture, _, terminated, _, _ = env.last()
        seen.append(picture.copy())
        picture[:] = 0
        env.step(None if terminated else int(agent == "ann"))
    return seen


@pytest.mark.parametrize("wrap", [lambda env: env, wrappers.BaseWrapper], ids=["bare", "wrapped"])
def test_players_see_what_is_recorded_also_if_looks_draw(tmp_path: Path, wrap: Any) -> None:
    env = trajrec.record(Foggy(), tmp_path)
    seen = play_foggy(wrap(env))
    env.close()
    assert is_same(seen, play_foggy(Foggy()))
    (episode,) = trajrec.open(tmp_path).episodes()
    recorded_pictures = [turn["observation"] for turn in episode.observation_values[:-1]]
    assert is_same(recorded_pictures, seen)
    assert replay_episode(episode, env=Foggy).grade == "exact"


def test_a_second_look_reaches_the_environment(tmp_path: Path) -> None:
    env = trajrec.record(Foggy(), tmp_path)
    bare = Foggy()
    for one in (env, bare):
        one.reset(seed=3)
    looks: list[Callable[[Any], Any]] = [
        lambda one: one.last()[0],
        lambda one: one.observe("ann"),
        lambda one: one.observe("bob"),
        lambda one: one.last(observe=False)[0],
        lambda one: one.last()[0],
    ]
    for look in looks:
        assert is_same(look(env), look(bare))
    env.close()


def test_branches_of_several_players_show_no_sum(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (episode,) = recorded(Walk(), tmp_path, 4)
    (branch,) = fork_many(
        episode, at=2, policy="random", n_branches=1, allow=("test_pettingzoo",), folder=None
    )
    assert "nan" not in str(branch)
    command = ["fork", str(tmp_path), episode.id, "--at", "2", "--policy", "random"]
    assert main([*command, "--allow", "test_pettingzoo"]) == 0
    assert "nan" not in capsys.readouterr().out


def test_log_cannot_choose_the_code_that_runs(tmp_path: Path) -> None:
    record = recorded(Walk(), tmp_path, 8)[0].header.env
    with pytest.raises(EnvRefusedError, match=f"unless you allow it: pass --allow {__name__}"):
        make_env(record, episode_id="x")

    def refused(**changes: Any) -> None:
        with pytest.raises(EnvRefusedError):
            make_env(
                msgspec.structs.replace(record, kwargs_data=codec.encode({}), **changes),
                episode_id="x",
            )

    raw = "pettingzoo.classic.tictactoe.tictactoe:raw_env"
    refused(entry_point="os:system")
    refused(entry_point="pettingzoo.classic.tictactoe.tictactoe:env")  # a function
    refused(entry_point="pettingzoo.classic.tictactoe.tictactoe:os.system")
    refused(entry_point="pettingzoo.classic.tictactoe.tictactoe:Board")
    refused(entry_point=raw, wrappers=[("os.system", None)])
    video = "pettingzoo.utils.wrappers.record_video.RecordVideo"
    if hasattr(wrappers, "RecordVideo"):
        refused(
            entry_point=raw,
            wrappers=[(video, codec.encode({"video_folder": str(tmp_path / "video")}))],
        )
    assert not (tmp_path / "video").exists()
    gone = msgspec.structs.replace(record, entry_point="pettingzoo.classic.nothing_v0:raw_env")
    with pytest.raises(EnvMissingError, match=r"pip install 'trajrec\[pettingzoo\]'"):
        make_env(gone, episode_id="x")


@trajrec.verifier(id="first-wins", version="1")
def first_wins(env: Any) -> bool:
    return bool(env.unwrapped.board.game_status() == 0)


@pytest.mark.slow
def test_credit_needs_a_success_check(tmp_path: Path) -> None:
    episode = recorded(make("aec", TICTACTOE), tmp_path, 12)[0]
    with pytest.raises(
        ValueError, match=r"success must be given for episode .*: each of its players"
    ):
        credit.estimate(episode, "random", n_rollouts=2)
    table = credit.estimate(
        episode, "random", n_rollouts=4, steps=[0, 2], success=first_wins, folder=None
    )
    assert all(0.0 <= row.value <= 1.0 for row in table.estimates if row.estimator == "value")


@pytest.mark.slow
@third_slow("environments")
def test_determinism_is_probed_for_several_players() -> None:
    report = check_determinism(functools.partial(make, "aec", TICTACTOE), n_steps=60)
    assert (
        report.grade,
        report.restore["pickle"].is_granted,
        report.restore["os_fork"].is_granted,
    ) == ("exact", True, True)
    command = [
        sys.executable,
        "-m",
        "trajrec",
        "check-determinism",
        "pettingzoo.classic.rps.rps:parallel_env",
        "--steps",
        "40",
    ]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.mark.slow
def test_episodes_of_several_players_are_audited(tmp_path: Path) -> None:
    recorded(make("parallel", RPS), tmp_path, 45, audit=1.0)
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT verdict, count(*) FROM checks GROUP BY 1").fetchall() == [
            (True, 3)
        ]


def test_a_dead_player_has_no_action_after_a_restore() -> None:
    env = as_gymnasium(parallel_to_aec(Walk()))
    env.reset(seed=0)
    while env.env.agents and env.action_space.sample() is not None:
        env.step(env.action_space.sample())
    assert env.env.agents
    # As a pickle and a log give the text back.
    env.acting_agents = codec.decode(codec.encode(env.acting_agents))
    assert env.action_space.sample() is None
    assert env.action_space.contains(None)
