"""The recorder: it records seeds, generators, states and checks, and does not change the loop."""

from __future__ import annotations

import contextlib
import copy
import enum
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import gymnasium as gym
import numpy as np
import pytest
from conftest import Scripted, record, run
from tiers import third_slow

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.corpus.step import failed_action
from trajrec.errors import CorpusError, EncodeError, EnvContractError
from trajrec.log.reader import LogReader
from trajrec.protocols import Verdict
from trajrec.recording.event_log import close_logs
from trajrec.recording.options import KeepStates, RecordOptions
from trajrec.replay import replay_episode
from trajrec.values import codec
from trajrec.values.diff import is_same
from trajrec.values.digest import state_check


def episodes(path: Path, n: int) -> list[Episode]:
    reader = LogReader(path)
    return [Episode(reader, k) for k in range(n)]


def test_unseeded_resets_record_the_state_of_the_generator(tmp_path: Path) -> None:
    path = record(gym.make("CartPole-v1"), tmp_path, 3, seed=7)
    starts = [episode.start for episode in episodes(path, 3)]
    assert [(s.seed, s.seed_origin, s.rng_data is None) for s in starts if s] == [
        (7, "caller", True),
        (None, "none", False),
        (None, "none", False),
    ]
    states = [
        codec.decode(s.rng_data)["np_random"]["state"]["state"]
        for s in starts[1:]
        if s and s.rng_data
    ]
    assert len(set(states)) == 2


def test_first_reset_without_a_seed_gets_the_recorders_seed(
    tmp_path: Path,
) -> None:
    start = episodes(record(gym.make("CartPole-v1"), tmp_path, 1, seed=None), 1)[0].start
    assert start is not None
    assert start.seed_origin == "recorder"
    assert start.seed is not None


def test_recording_works_in_a_deleted_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    env = trajrec.record(gym.make("FrozenLake-v1"), tmp_path / "runs")
    env.reset(seed=0)
    env.step(0)
    env.close()
    with trajrec.episode(tmp_path / "runs"):
        pass
    close_logs()
    first, second = trajrec.open(tmp_path / "runs").episodes()
    assert first.header.runtime["git"] is second.header.runtime["git"] is None


def test_recording_does_not_change_the_episode(tmp_path: Path) -> None:
    bare = gym.make("FrozenLake-v1")
    recorded = trajrec.record(gym.make("FrozenLake-v1"), tmp_path)
    for env in (bare, recorded):
        env.action_space.seed(1)
    rollouts: list[list[Any]] = [[], []]
    for env, rollout in zip((bare, recorded), rollouts, strict=True):
        for k in range(20):
            rollout.append(env.reset(seed=5 if k == 0 else None))
            done = False
            while not done:
                rollout.append(env.step(env.action_space.sample()))
                done = rollout[-1][2] or rollout[-1][3]
    recorded.close()
    assert is_same(rollouts[0], rollouts[1])


STATES: dict[str, Any] = {
    "CartPole-v1": lambda e: e.state.copy(),
    "MountainCar-v0": lambda e: np.array(e.state, np.float64),
    "FrozenLake-v1": lambda e: int(e.s),
    "Blackjack-v1": lambda e: {"player": list(e.player), "dealer": list(e.dealer)},
    "Hopper-v5": lambda e: np.concatenate([e.data.qpos, e.data.qvel]),
    "trajrec/KeyDoor-v0": lambda e: e.get_state(),
    "trajrec/Shop-v0": lambda e: e.get_state(),
}


@pytest.mark.parametrize("keep", ["auto", "all"])
@pytest.mark.parametrize("env_id", STATES)
def test_each_step_has_its_state_or_its_digest(env_id: str, keep: Any, tmp_path: Path) -> None:
    trajrec.envs.__all__  # noqa: B018 - registers trajrec's own environments
    try:
        env = gym.make(env_id)
    except gym.error.DependencyNotInstalled as exc:
        pytest.skip(str(exc))
    recorder = trajrec.record(env, tmp_path, keep_states=keep)
    read_state = STATES[env_id]
    truth = []
    recorder.action_space.seed(0)
    recorder.reset(seed=0)
    truth.append(read_state(env.unwrapped))
    done = False
    while not done:
        _, _, terminated, truncated, _ = recorder.step(recorder.action_space.sample())
        truth.append(read_state(env.unwrapped))
        done = terminated or truncated
    recorder.close()
    episode = episodes(recorder.path, 1)[0]
    digests = episode.state_digests
    assert digests is not None
    assert len(digests) == len(truth)
    for row, state in enumerate(truth):
        if env_id == "Hopper-v5":
            continue
        assert digests[row] == state_check(state)
        if row in episode.states:
            assert is_same(episode.states[row], state)
    assert {0, len(truth) - 1} <= set(episode.states)
    if keep == "all":
        assert len(episode.states) == len(truth)
        assert is_same(episode.state(len(truth) - 1), episode.states[len(truth) - 1])
    if env_id == "Hopper-v5":
        n = len(truth[-1])
        assert all(np.isin(truth[-1], episode.states[len(truth) - 1])), n


def test_digested_state_cannot_be_read_whole(tmp_path: Path) -> None:
    episode = episodes(record(gym.make("CartPole-v1"), tmp_path), 1)[0]
    with pytest.raises(CorpusError, match="only the digest of this state is stored"):
        episode.state(3)
    with pytest.raises(IndexError):
        episode.state(10_000)


def test_environment_without_an_adapter_is_recorded_without_state(
    tmp_path: Path,
) -> None:
    episode = episodes(
        record(Scripted(lambda k: (np.zeros(2), 1.0, k == 3, False, {})), tmp_path), 1
    )[0]
    assert episode.header.state.keep == "none"
    assert episode.state_digests is None
    with pytest.raises(CorpusError, match="no state was captured"):
        episode.state(0)


def test_users_function_of_the_environment_returns_the_state(tmp_path: Path) -> None:
    env = Scripted(lambda k: (np.zeros(2), 1.0, k == 3, False, {}))
    episode = episodes(record(env, tmp_path, state=lambda e: {"k": e.unwrapped.k}), 1)[0]
    assert episode.states == {k: {"k": k} for k in range(5)}


@pytest.mark.slow
def test_digests_option_stores_few_states_whole(tmp_path: Path) -> None:
    whole = record(gym.make("Taxi-v4"), tmp_path / "all", keep_states="all")
    digested = record(gym.make("Taxi-v4"), tmp_path / "digests", keep_states="digests")
    assert len(episodes(whole, 1)[0].states) == 201
    episode = episodes(digested, 1)[0]
    assert len(episode.states) < 10
    assert episode.state_digests is not None


def test_checks_record_verdict_score_evidence_and_errors(
    tmp_path: Path,
) -> None:
    @trajrec.verifier(id="upright", version="2", family="environmental")
    def upright(env: Any) -> bool:
        return bool(abs(env.unwrapped.state[2]) < 0.2)

    def graded(env: Any) -> Verdict:
        return Verdict(True, 0.5, {"expected": 1, "actual": 2})

    def broken(env: Any) -> bool:
        raise ZeroDivisionError("the judge is out")

    def silent(env: Any) -> None:
        return None

    with pytest.warns(RuntimeWarning, match="broken raised ZeroDivisionError"):
        (episode,) = episodes(
            record(gym.make("CartPole-v1"), tmp_path, checks=[upright, graded, broken, silent]), 1
        )
    assert [(c.status, c.verdict, c.score) for c in episode.checks] == [
        ("ok", False, None),
        ("ok", True, 0.5),
        ("error", None, None),
        ("not_evaluated", None, None),
    ]
    assert (episode.checks[0].check_id, episode.checks[0].version) == ("upright", "2")
    assert episode.checks[1].evidence_data is not None
    assert codec.decode(episode.checks[1].evidence_data) == {"expected": 1, "actual": 2}
    assert [(f.phase, f.origin, f.message) for f in episode.failures] == [
        ("check", "verifier", "the judge is out")
    ]
    assert all(c.code_digest and c.state_digest for c in episode.checks)
    # The first check decides.
    assert episode.outcome == "failure"


def test_step_before_a_reset_or_after_the_end_is_refused(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    with pytest.raises(EnvContractError, match="before the first reset"):
        env.step(0)
    run(env)
    with pytest.raises(EnvContractError, match="after the end of episode"):
        env.step(0)
    env.close()
    env.close()


def test_an_environment_is_recorded_once_into_a_corpus(tmp_path: Path) -> None:
    def make() -> gym.Env[Any, Any]:
        return gym.wrappers.TimeLimit(trajrec.record(gym.make("CartPole-v1"), tmp_path), 9)

    env = make()
    with pytest.raises(ValueError, match=r"already recorded into .* would count twice"):
        trajrec.record(env, tmp_path / "x" / "..")
    env.close()
    envs = gym.vector.SyncVectorEnv([make, make])
    n_logs = len(list(tmp_path.glob("*.trj")))
    with pytest.raises(ValueError, match="already recorded into"):
        trajrec.record(envs, tmp_path)
    envs.close()
    assert len(list(tmp_path.glob("*.trj"))) == n_logs


def test_an_environment_recorded_into_two_corpora_is_made_again(tmp_path: Path) -> None:
    inner = trajrec.record(gym.make("CartPole-v1"), tmp_path / "inner")
    env = trajrec.record(gym.wrappers.FlattenObservation(inner), tmp_path / "outer")
    run(env)
    env.close()
    (episode,) = trajrec.open(tmp_path / "outer").episodes()
    assert [name for name, _ in episode.header.env.wrappers] == [
        "gymnasium.wrappers.transform_observation.FlattenObservation"
    ]
    assert replay_episode(episode).grade == "exact"


def test_unclosed_recorder_warns_and_its_steps_are_readable(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    run(env)
    path = env.path
    with pytest.warns(ResourceWarning, match="was not closed"):
        env.__del__()
    assert episodes(path, 1)[0].ending == "terminated"
    env.close()


def test_wrong_arguments_are_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="keep_states must be one of 'auto', 'keys', 'all', 'digests', got 'full'"
    ):
        trajrec.record(gym.make("CartPole-v1"), tmp_path, keep_states="full")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"env must be a gymnasium\.Env, got int"):
        trajrec.record(5, tmp_path)  # type: ignore[arg-type]


class Older:
    """Has the methods of an environment, and is no `gymnasium.Env`."""

    def reset(self) -> Any: ...

    def step(self, action: Any) -> Any: ...


class OfGym(Older):
    __module__ = "gym.envs"


class OfPuffer(Older):
    num_envs = 2


class OfDeepMind(Older):
    def action_spec(self) -> Any: ...

    def observation_spec(self) -> Any: ...


@pytest.mark.parametrize(
    ("env", "remedy"),
    [
        ("CartPole-v1", r"got str: make the environment first, gym\.make\('CartPole-v1'\)"),
        (Older, r"got the class Older: make an object of it, Older\(\.\.\.\)"),
        (Older(), r"got Older: derive its class from gymnasium\.Env; reset returns \(observation,"),
        (
            OfGym(),
            r"got OfGym: it is of the package gym, .* shimmy, GymV21CompatibilityV0\(env=env",
        ),
        (OfPuffer(), r"got OfPuffer: it is a vector of environments: let it make recorded ones"),
        (OfDeepMind(), r"got OfDeepMind: wrap it by the package shimmy, DmControlCompatibilityV0"),
    ],
)
def test_other_kinds_of_environments_are_refused_with_a_remedy(
    env: Any, remedy: str, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match=rf"env must be a gymnasium\.Env, {remedy}"):
        trajrec.record(env, tmp_path)


def test_option_group_lists_every_keyword_of_the_recorder() -> None:
    parameters = inspect.signature(trajrec.Recorder).parameters.values()
    keywords = {p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    assert keywords == set(RecordOptions.__annotations__)
    for name in keywords:
        assert f"{name}:" in str(RecordOptions.__doc__)


def test_allowed_modules_without_an_audit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has an effect on audited episodes only"):
        trajrec.record(gym.make("CartPole-v1"), tmp_path, allow=("mine",))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_header_stores_the_option_keep_states(tmp_path: Path) -> None:
    for keep_states in get_args(KeepStates):
        path = record(gym.make("Taxi-v4"), tmp_path / keep_states, keep_states=keep_states)
        assert LogReader(path).header.keep_states == keep_states


def test_header_describes_how_to_make_the_environment(tmp_path: Path) -> None:
    env = gym.wrappers.RecordEpisodeStatistics(
        gym.make("FrozenLake-v1", is_slippery=False, max_episode_steps=17)
    )
    header = episodes(record(env, tmp_path), 1)[0].header
    assert header.env.env_id == "FrozenLake-v1"
    assert codec.decode(header.env.kwargs_data)["is_slippery"] is False
    assert header.env.max_episode_steps == 17
    assert [name.rpartition(".")[2] for name, _ in header.env.wrappers] == [
        "RecordEpisodeStatistics"
    ]
    assert header.env.recreatable == ""
    assert {"python", "platform", "packages", "cpu"} <= header.runtime.keys()
    assert "gymnasium" in header.runtime["packages"]


def test_header_says_why_an_environment_cannot_be_made(tmp_path: Path) -> None:
    env = gym.wrappers.TransformReward(gym.make("CartPole-v1"), lambda r: 2 * r)
    header = episodes(record(env, tmp_path), 1)[0].header
    assert "TransformReward" in header.env.recreatable


@pytest.mark.slow
def test_recording_imports_neither_duckdb_nor_pettingzoo(tmp_path: Path) -> None:
    code = (
        "import sys, gymnasium as gym, trajrec\n"
        "env = trajrec.record(gym.make('CartPole-v1'), sys.argv[1])\n"
        "env.reset(seed=0); env.step(0); env.close()\n"
        "assert not {'duckdb', 'pettingzoo'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_importing_trajrec_imports_neither_recorder_nor_corpus() -> None:
    code = "import sys, trajrec; assert not {'duckdb', 'zstandard', 'trajrec.recording.recorder'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def run_and_close(env: Any, n_episodes: int) -> None:
    run(env, n_episodes)
    env.close()


@pytest.mark.slow
def test_audit_of_a_process_with_many_open_files_does_not_end_the_loop(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="Windows has no limit of open files")
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 1500:
        pytest.skip("this process may not open 1,024 files")
    first = os.open(os.devnull, os.O_RDONLY)
    files = [first, *(os.dup(first) for _ in range(1100))]
    try:
        env = trajrec.record(gym.make("CartPole-v1"), tmp_path, audit=1.0)
        for seed in range(3):
            run(env, 1, seed=seed)
        env.close()
    finally:
        for file in files:
            os.close(file)
    assert [report.grade for report in env.audits] == ["exact"] * 3


def test_replays_that_had_no_time_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trajrec.replay.audit.WAIT_S", 0.0)
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path, audit=1.0)
    run(env, 3)
    with pytest.warns(UserWarning, match="3 episodes were not audited: their replays had not"):
        env.close()


@pytest.mark.slow
@third_slow("replay")
def test_audit_replays_a_share_and_warns_of_divergence(
    tmp_path: Path,
) -> None:
    sound = trajrec.record(gym.make("CartPole-v1"), tmp_path, audit=1.0)
    run(sound, 5)
    sound.close()
    assert [report.grade for report in sound.audits] == ["exact"] * 5
    some = trajrec.record(gym.make("CartPole-v1"), tmp_path, audit=0.3)
    run(some, 40)
    some.close()
    assert 0 < len(some.audits) < 40
    env = gym.make("CartPole-v1")
    # The log says nothing of the changed mass.
    env.unwrapped.total_mass = 1.5  # type: ignore[attr-defined]
    odd = trajrec.record(env, tmp_path, audit=1.0)
    with pytest.warns(UserWarning, match="this episode does not replay: .* diverged"):
        run_and_close(odd, 1)
    close_logs()
    with trajrec.open(tmp_path) as corpus:
        query = "SELECT verdict, count(*) FROM checks WHERE check_id = 'trajrec/replay' AND phase = 'post-hoc' GROUP BY 1"
        assert dict(corpus.sql(query).fetchall()) == {True: 5 + len(some.audits), False: 1}
        assert corpus.sql("SELECT DISTINCT outcome FROM episodes").fetchall() == [(None,)]
    with pytest.raises(ValueError, match=r"audit must be in \(0, 1\]"):
        trajrec.record(gym.make("CartPole-v1"), tmp_path, audit=2.0)


@pytest.mark.slow
def test_environment_that_cannot_be_audited_warns_once(tmp_path: Path) -> None:
    class Local(gym.Wrapper[Any, Any, Any, Any]):
        """A wrapper that no log can name."""

    env = trajrec.record(Local(gym.make("CartPole-v1")), tmp_path, audit=1.0)
    with pytest.warns(
        UserWarning, match="episodes cannot be audited: .*cannot be made from the log"
    ) as warnings:
        run_and_close(env, 3)
    assert len(warnings) == 1


def test_exception_while_recording_costs_only_that_step(tmp_path: Path) -> None:
    to_raise: list[BaseException] = []

    def read_state(env: Any) -> Any:
        if to_raise:
            raise to_raise.pop()
        return {"step": env.unwrapped.state[0]}

    env = trajrec.record(gym.make("CartPole-v1"), tmp_path, state=read_state)
    env.reset(seed=0)
    env.step(0)
    for exc in (RuntimeError("no state today"), KeyboardInterrupt()):
        to_raise.append(exc)
        with pytest.raises(type(exc)):
            env.step(1)
    cycle: dict[str, Any] = {}
    cycle["self"] = cycle
    env.env.step = lambda action: (cycle, *gym.Wrapper.step(env.env, action)[1:])  # type: ignore[method-assign]
    with pytest.raises(EncodeError, match="nested deeper"):
        env.step(1)
    del env.env.step  # type: ignore[misc]
    env.step(0)
    to_raise.append(RuntimeError("nor at a reset"))
    with pytest.raises(RuntimeError, match="nor at a reset"):
        env.reset(seed=1)
    env.reset(seed=2)
    for action in (1, 1, 0):
        env.step(action)
    env.close()
    first, broken, last = trajrec.open(tmp_path).episodes(order_by="number")
    assert (first.actions, first.step_numbers.tolist()) == ([0, 0], [0, 4])
    assert [(f.step, f.origin, f.error_type) for f in first.failures] == [
        (1, "scaffold", "builtins.RuntimeError"),
        (2, "scaffold", "builtins.KeyboardInterrupt"),
        (3, "scaffold", "trajrec.errors.EncodeError"),
    ]
    assert (broken.n_steps, broken.ending, last.actions) == (0, "error", [1, 1, 0])
    assert [replay_episode(e, state=read_state).grade for e in (first, last)] == [
        "partial",
        "exact",
    ]


def cyclic() -> list[Any]:
    cycle: list[Any] = []
    cycle.append(cycle)
    return cycle


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (cyclic(), "nested deeper than 100 levels"),
        (np.zeros(2, [("a", "i4"), ("b", "f8", (2,))]), "cannot be stored"),
    ],
)
@pytest.mark.parametrize("redact", [True, False])
def test_part_of_an_info_that_cannot_be_stored_ends_no_loop(
    part: Any, reason: str, redact: bool, tmp_path: Path
) -> None:
    class Told(Scripted):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return super().reset(seed=seed)[0], {"part": part, "other": "x"}

    def result_of(k: int) -> Any:
        return k, 1.0, k == 3, False, {"part": part if k % 2 else 0, "other": "x"}

    env = trajrec.record(Told(result_of), tmp_path, redact=redact)
    run(env)
    env.close()
    (episode,) = trajrec.open(tmp_path).episodes()
    for info in (episode.reset_info, *episode.infos[1::2]):
        assert info["other"] == "x"
        assert reason in info["part"].text
    assert episode.infos[0] == {"part": 0, "other": "x"}


def test_a_reward_of_lists_of_several_lengths_is_recorded(tmp_path: Path) -> None:
    reward = [1, (2, 3)]
    env = trajrec.record(Scripted(lambda k: (k, reward, k == 3, False, {})), tmp_path)
    run(env)
    env.close()
    (episode,) = trajrec.open(tmp_path).episodes()
    assert [step.reward for step in episode.steps()] == [reward] * 4
    assert np.isnan(episode.total_reward)


def test_annotate_after_a_refused_reset_is_of_the_last_step(tmp_path: Path) -> None:
    # The function of the task returns no text for seed 1.
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path, task=lambda seed, _: ["a", 1][seed])
    env.reset(seed=0)
    env.step(0)
    with pytest.raises(TypeError, match="must return a text"):
        env.reset(seed=1)
    env.annotate(value=1.0)
    env.close()
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes()
        assert episode.step_values == {0: {"value": 1.0}}


def test_wrappers_of_one_class_keep_their_own_arguments(tmp_path: Path) -> None:
    wrapper = gym.wrappers.DelayObservation
    env = trajrec.record(wrapper(wrapper(gym.make("CartPole-v1"), delay=1), delay=3), tmp_path)
    path = env.path
    env.close()
    with LogReader(path) as reader:
        wrappers = reader.header.env.wrappers
    assert [codec.decode_map(data)["delay"] for _, data in wrappers] == [1, 3]


class Late(gym.Env[int, int]):
    """Its first reset raises, and its state is no plain data."""

    observation_space = gym.spaces.Discrete(2)
    action_space = gym.spaces.Discrete(2)
    n_resets = 0

    def get_state(self) -> object:
        return object()

    def set_state(self, state: object) -> None: ...

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.n_resets += 1
        if self.n_resets == 1:
            raise ConnectionError("not yet")
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        return 0, 0.0, False, False, {}


def test_state_without_data_is_left_out_after_a_reset_that_raised(tmp_path: Path) -> None:
    env = trajrec.record(Late(), tmp_path, factory=Late)
    with pytest.raises(ConnectionError):
        env.reset(seed=0)
    with pytest.warns(RuntimeWarning, match="state of the environment is not recorded"):
        env.reset(seed=1)
    env.step(0)
    env.close()
    with trajrec.open(tmp_path) as corpus:
        episodes = list(corpus.episodes(order_by="started_at"))
        assert [len(episode.actions) for episode in episodes] == [0, 1]


class Change(enum.Enum):
    """An action of a class that a log names."""

    LEFT = 1


class Spoiling(Scripted):
    """Changes its action in place, and raises in every second step."""

    def __init__(self) -> None:
        super().__init__(lambda k: (np.zeros(2, np.float32), 1.0, k == 40, False, {}))

    def step(self, action: Any) -> Any:
        result = super().step(action)
        if isinstance(action, np.ndarray):
            action *= 2
        elif isinstance(action, (dict, list)):
            action.clear()
        if self.k % 2 == 0:
            raise RuntimeError("it broke")
        return result


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    "action",
    [
        np.array([1.0, -0.0, np.nan]),
        {"a": np.arange(3), "b": (1, np.float32(2.5), {"c": Change.LEFT}), "d": 2**70, "e": {}},
        [1, "left"],
        Change.LEFT,
        np.int64(3),
        None,
        "\ud800",
        (),
    ],
    ids=str,
)
def test_action_of_a_step_that_raised_is_as_it_was_given(tmp_path: Path, action: Any) -> None:
    env = trajrec.record(Spoiling(), tmp_path)
    env.reset(seed=0)
    for _ in range(4):
        with contextlib.suppress(RuntimeError):
            env.step(copy.deepcopy(action))
    env.close()
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes()
        failed = [failed_action(failure) for failure in episode.failures]
    assert len(failed) == len(episode.actions) == 2
    assert is_same(failed, episode.actions)
