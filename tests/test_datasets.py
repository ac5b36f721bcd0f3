"""Data for training: transitions and windows of steps, equal to those of `Episode`."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Scripted, record
from fuzz_parts import put_together, take_apart
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from plain_transitions import assert_same, plain_transitions
from tiers import deep, third_slow

import trajrec
from trajrec.datasets import cache as caches
from trajrec.datasets import pools
from trajrec.datasets.cache import CACHE_FOLDER
from trajrec.datasets.stores import split_stacks
from trajrec.errors import CorpusError, EnvContractError, LogError, QueryError
from trajrec.log.compaction import compact
from trajrec.log.reader import LogReader
from trajrec.replay import fork

ALL = (
    "obs",
    "action",
    "reward",
    "next_obs",
    "terminated",
    "truncated",
    "cut",
    "after_failure",
    "episode",
    "step",
)


def check(folder: Path, where: str = "true", *, with_failed: bool = False, **options: Any) -> int:
    """Compare a stream and a cache with the plain reading; return the number of transitions."""
    kind = options.get("kind", "rollout")
    with trajrec.open(folder) as corpus:
        expected: dict[Any, dict[str, Any]] = {}
        for episode in corpus.episodes(where, kind=kind):
            for transition in plain_transitions(episode, with_failed=with_failed):
                expected[episode.id, transition["step"]] = transition
        for shuffle, cache in itertools.product((False, True), (None, True)):
            source = corpus.transitions(
                where,
                columns=ALL,
                batch_size=7,
                shuffle=shuffle,
                cache=cache,
                with_failed=with_failed,
                **options,
            )
            assert len(source) == len(expected)
            seen = []
            for batch in source:
                for row in range(len(batch["step"])):
                    key = (source.episode_ids[batch["episode"][row]], int(batch["step"][row]))
                    assert_same(batch, row, expected[key], source)
                    seen.append(key)
            assert sorted(seen) == sorted(expected)
            if not shuffle:
                assert seen == list(expected)
    return len(expected)


def numbers(k: int) -> Any:
    return np.array([k, 2 * k], np.float32), float(k), k == 4, False, {}


@pytest.mark.slow
def test_a_transition_ends_before_the_next_episode(tmp_path: Path) -> None:
    record(Scripted(numbers), tmp_path, 3)
    assert check(tmp_path) == 15
    with trajrec.open(tmp_path) as corpus:
        batch = corpus.transitions(batch_size=99, shuffle=False, columns=ALL).batch(0)
    assert batch["next_obs"][4].tolist() == [4, 8]
    assert batch["obs"][5].tolist() == [-1, -2]
    assert batch["terminated"].nonzero()[0].tolist() == [4, 9, 14]
    assert not batch["cut"].any()


class Failing(Scripted):
    """Raises at some steps, after it has changed its state."""

    def __init__(self, steps: set[int]) -> None:
        super().__init__(lambda k: (np.array([k / 2, k], np.float32), 1.0, k == 6, False, {}))
        self.steps = steps

    def step(self, action: Any) -> Any:
        result = super().step(action)
        if self.k - 1 in self.steps:
            raise RuntimeError("half a step")
        return result


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("steps", [{0}, {2}, {2, 3}, {0, 5}], ids=str)
def test_a_step_after_a_failure_is_left_out_unless_asked_for(
    tmp_path: Path, steps: set[int]
) -> None:
    env = trajrec.record(Failing(steps), tmp_path)
    env.reset(seed=0)
    for _ in range(7):
        with contextlib.suppress(RuntimeError):
            env.step(0)
    env.close()
    n_after = sum(step + 1 not in steps for step in steps)
    assert check(tmp_path) == 7 - len(steps) - n_after
    assert check(tmp_path, with_failed=True) == 7 - len(steps)
    with trajrec.open(tmp_path) as corpus:
        source = corpus.transitions(columns=ALL, with_failed=True, shuffle=False)
        assert source.n_after_failure == n_after
        (batch,) = source
    assert batch["after_failure"].sum() == n_after
    # The row before a failed step has no step that goes on from it.
    assert all(batch["cut"][batch["step"] == step - 1].all() for step in steps)


@pytest.mark.slow
def test_an_episode_that_was_left_is_cut_and_not_ended(tmp_path: Path) -> None:
    env = trajrec.record(Scripted(numbers), tmp_path)
    env.reset(seed=0)
    for _ in range(3):
        env.step(0)
    env.reset(seed=1)
    env.step(0)
    # Still running: its rows stand in the journal.
    check(tmp_path)
    with trajrec.open(tmp_path) as corpus:
        batch = corpus.transitions(columns=ALL, shuffle=False).batch(0)
    assert batch["cut"].tolist() == [False, False, True, True]
    env.close()
    assert check(tmp_path) == 4


@pytest.mark.slow
def test_truncation_is_no_termination(tmp_path: Path) -> None:
    record(Scripted(lambda k: (*numbers(k)[:2], False, k == 3, {})), tmp_path)
    check(tmp_path)
    with trajrec.open(tmp_path) as corpus:
        batch = corpus.transitions(columns=ALL, shuffle=False).batch(0)
    assert batch["truncated"].tolist() == [False, False, False, True]
    assert not batch["terminated"].any()
    assert not batch["cut"].any()
    assert batch["next_obs"][-1].tolist() == [3, 6]


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_an_autoreset_makes_no_transition(tmp_path: Path, mode: AutoresetMode) -> None:
    def make() -> gym.Env[Any, Any]:
        return trajrec.record(Scripted(numbers), tmp_path)

    envs = SyncVectorEnv([make, make], autoreset_mode=mode)
    envs.reset(seed=0)
    for _ in range(14):
        envs.step(np.zeros(2, np.int64))
    envs.close()
    assert check(tmp_path) > 20
    with trajrec.open(tmp_path) as corpus:
        for batch in corpus.transitions(batch_size=5):
            # Within an episode the observation counts the steps.
            assert (batch["next_obs"][:, 0] == batch["obs"][:, 0] + 1).all()


@pytest.mark.slow
def test_a_fork_has_its_own_steps_alone(tmp_path: Path, cartpole: trajrec.Corpus) -> None:
    (parent,) = cartpole.episodes(order_by="n_steps DESC LIMIT 1")
    with fork(parent, at=5) as env:
        n_own = 0
        is_over = False
        while not is_over and n_own < 3:
            _, _, is_over, _, _ = env.step(1)
            n_own += 1
    assert check(cartpole.path, kind="fork") == n_own
    source = cartpole.transitions(kind="fork", shuffle=False)
    batch = source.batch(0)
    assert batch["step"][0] == 5
    assert batch["obs"][0].tobytes() == parent.observation_at(5).tobytes()
    assert len(cartpole.transitions(kind="all")) == len(cartpole.transitions()) + n_own


def damaged(path: Path, index: int) -> None:
    """Break a frame of a log."""
    entry = LogReader(path).frames[index]
    with path.open("r+b") as file:
        file.seek(entry.offset + entry.size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))


def in_chunks(folder: Path, env: gym.Env[Any, Any], lengths: list[int]) -> Path:
    """Record one episode in chunks of so many steps."""
    recorder = trajrec.record(env, folder)
    recorder.reset(seed=0)
    for n_steps in lengths:
        for _ in range(n_steps):
            recorder.step(0)
        recorder.flush()
    recorder.close()
    return recorder.path


def endless(k: int) -> Any:
    return np.array([k, 2 * k], np.float32), float(k), False, False, {}


@pytest.mark.slow
def test_a_step_behind_lost_ones_is_dropped_and_counted(tmp_path: Path) -> None:
    path = in_chunks(tmp_path, Scripted(endless), [4, 4, 4])
    reader = LogReader(path)
    chunks = [chunk.index for chunk in reader.chunks() if chunk.n_steps]
    assert len(chunks) == 3
    damaged(path, chunks[1])
    # Steps 8 to 11 are there, and the observation before step 8 is not.
    assert check(tmp_path) == 7
    with trajrec.open(tmp_path) as corpus:
        source = corpus.transitions(columns=ALL, shuffle=False)
        assert source.dropped == 1
        (batch,) = source
    assert batch["step"].tolist() == [0, 1, 2, 3, 9, 10, 11]
    assert batch["cut"].tolist() == [False, False, False, True, False, False, True]
    damaged(path, chunks[0])
    with trajrec.open(tmp_path) as corpus:
        assert corpus.transitions(shuffle=False).batch(0)["step"].tolist() == [9, 10, 11]


@pytest.mark.slow
def test_an_episode_goes_on_from_an_earlier_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each chunk alone in its pool, so that the one before it is read for one row.
    monkeypatch.setattr(pools, "RUN", 1)
    in_chunks(tmp_path, Scripted(endless), [0, 3, 5, 1, 4])
    assert check(tmp_path, pool=1) == 13
    assert check(tmp_path, pool=2) == 13


def test_numbers_have_one_type_in_all_chunks(tmp_path: Path) -> None:
    rewards = [0, 0, 0.5, 300, 70_000, np.float32(2.5), 1, True, -3, 2]

    def result(k: int) -> Any:
        return (np.int16(k), 1000**k), rewards[k], k == 9, False, {}

    in_chunks(tmp_path, Scripted(result), [2, 1, 2, 1, 4])
    with trajrec.open(tmp_path) as corpus:
        (batch,) = corpus.transitions(shuffle=False, columns=("reward", "action", "obs/0"))
    assert batch["reward"].dtype == np.float64
    assert batch["reward"].tolist() == [float(reward) for reward in rewards]
    assert batch["action"].dtype == np.int64
    assert batch["obs/0"].dtype == np.int16


@pytest.mark.slow
def test_a_number_is_never_rounded(tmp_path: Path) -> None:
    in_chunks(
        tmp_path, Scripted(lambda k: (np.zeros(2), [0.5, 2**53 + 1][k], k == 1, False, {})), [1, 1]
    )
    with trajrec.open(tmp_path) as corpus, pytest.raises(CorpusError, match="hold exactly"):
        list(corpus.transitions())


def test_a_large_integer_beside_a_fraction_is_refused(tmp_path: Path) -> None:
    rewards = [0.5, 2**53 + 1]
    record(Scripted(lambda k: (np.zeros(2), rewards[k % 2], k == 4, False, {})), tmp_path, 1)
    with trajrec.open(tmp_path) as corpus, pytest.raises(CorpusError, match="hold exactly"):
        list(corpus.transitions())


def test_texts_and_numbers_are_no_column(tmp_path: Path) -> None:
    seen = [np.int32(7), "7"]
    in_chunks(tmp_path, Scripted(lambda k: (seen[k > 1], 0.0, k == 3, False, {})), [1, 1, 1])
    with trajrec.open(tmp_path) as corpus, pytest.raises(CorpusError, match="texts"):
        list(corpus.transitions())


def test_parts_with_one_name_are_refused(tmp_path: Path) -> None:
    record(Scripted(lambda k: ({"a": {"b": k}, "a/b": -k}, 0.0, k == 2, False, {})), tmp_path, 1)
    with trajrec.open(tmp_path) as corpus, pytest.raises(CorpusError, match="one name"):
        list(corpus.transitions())


def test_a_field_that_is_left_out_may_have_any_form(tmp_path: Path) -> None:
    def result(k: int) -> Any:
        return {"a": {"b": k}, "a/b": -k}, {"goal": 1.0, "cost": 2.0}, k == 2, False, {}

    in_chunks(tmp_path, Scripted(result), [2, 1])
    with trajrec.open(tmp_path) as corpus:
        (batch,) = corpus.transitions(columns=("action", "step", "terminated"), shuffle=False)
        for columns, name in ((("obs",), "'obs'"), (("reward",), "'reward'")):
            with pytest.raises(CorpusError, match=f"leave {name} out of columns="):
                corpus.transitions(columns=columns)
    assert batch["step"].tolist() == [0, 1, 2]
    assert batch["terminated"].tolist() == [False, False, True]


def test_a_cache_has_values_that_came_later(tmp_path: Path) -> None:
    env = trajrec.record(Scripted(endless), tmp_path)
    env.reset(seed=0)
    env.step(0)
    with trajrec.open(tmp_path) as corpus:
        for value in (1.0, 7.0):
            env.annotate(value=value)
            env.flush()
            corpus.refresh()
            source = corpus.transitions(columns=("values/value",), cache=True)
            assert next(iter(source))["values/value"].tolist() == [value]
    env.close()


class Film(gym.Env[Any, Any]):
    """Stacks of the last three frames; some steps show nothing new, some jump."""

    action_space = gym.spaces.Discrete(4)

    def __init__(self, axis: int, still: set[int], jumps: set[int]) -> None:
        self.axis = axis
        self.still = still
        self.jumps = jumps
        shape = [20, 30]
        shape.insert(axis, 3)
        self.observation_space = gym.spaces.Box(0, 255, tuple(shape), np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.k = 0
        self.frames = [np.full((20, 30), 7, np.uint8)] * 3
        return np.stack(self.frames, self.axis), {}

    def step(self, action: Any) -> Any:
        self.k += 1
        frame = self.frames[-1].copy()
        if self.k not in self.still:
            frame[self.k % 20, self.k % 30] = self.k
        self.frames = [*self.frames[1:], frame]
        if self.k in self.jumps:
            self.frames = [np.full((20, 30), self.k + n, np.uint8) for n in range(3)]
        return np.stack(self.frames, self.axis), 0.0, self.k == 40, False, {}


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("axis", [0, 2])
def test_stacks_of_frames_are_gathered_as_frames(tmp_path: Path, axis: int) -> None:
    # The first chunk shows one frame: it is stored without the filter of stacks.
    env = Film(axis, still=set(range(11)), jumps={25, 33})
    in_chunks(tmp_path, env, [10, 10, 10, 10])
    filters = [
        (column.kind, column.filter[:1])
        for chunk in LogReader(next(tmp_path.glob("*.trj"))).chunks()
        for column in chunk.record.columns
        if column.name == "obs"
    ]
    assert len(set(filters)) > 1
    assert check(tmp_path) == 40
    with trajrec.open(tmp_path) as corpus:
        source = corpus.transitions(cache=True)
        batch = source.sample(20)
        size = sum(file.stat().st_size for file in (tmp_path / CACHE_FOLDER).rglob("*.bin"))
    assert batch["obs"].shape[1:] == env.observation_space.shape
    # Frames once, and not three times for each of two observations.
    assert size < 41 * 600 * 2


def test_stacks_are_split_into_their_frames() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (10, 2, 3), np.uint8)
    stacks = np.stack([frames[k : k + 4] for k in (0, 1, 2, 5, 6, 6)])
    found, ends = split_stacks(stacks, 0, 4)
    assert len(found) == 4 + 1 + 1 + 4 + 1 + 4
    for stack, end in zip(stacks, ends.tolist(), strict=True):
        assert (found[end - 4 : end] == stack).all()
    # A stream adds the observation before a chunk alone.
    alone, (end,) = split_stacks(stacks[:1], 0, 4)
    assert (alone[end - 4 : end] == stacks[0]).all()


@pytest.mark.slow
def test_parts_of_composed_values_are_columns(tmp_path: Path) -> None:
    words = ["go", "stop"]

    def result(k: int) -> Any:
        observation = {
            "image": np.full((2, 2), k + 1, np.uint8),
            "pair": (np.float32(k), k),
            "mission": words[k % 2],
        }
        return observation, 1.0, k == 4, False, {}

    record(Scripted(result), tmp_path, 2)
    assert check(tmp_path) == 10
    with trajrec.open(tmp_path) as corpus:
        source = corpus.transitions(columns=("obs/mission", "next_obs/image", "obs/pair"))
        assert source.columns == ("obs/mission", "next_obs/image", "obs/pair/0", "obs/pair/1")
        assert sorted(source.texts["obs/mission"]) == words
        assert next(iter(source))["next_obs/image"].shape == (10, 2, 2)
        with pytest.raises(ValueError, match="no column 'obs/nothing'"):
            corpus.transitions(columns=("obs/nothing",))


@pytest.mark.slow
def test_the_order_of_keys_makes_no_other_columns(tmp_path: Path) -> None:
    def result(keys: str) -> Any:
        values = {"a": np.float32(1), "b": np.float32(2)}
        return lambda k: ({key: values[key] for key in keys}, 1.0, k == 4, False, {})

    for folder, keys in (("first", "ab"), ("second", "ba")):
        record(Scripted(result(keys)), tmp_path / folder)
    assert check(tmp_path) == 10
    with trajrec.open(tmp_path) as corpus:
        (batch,) = corpus.transitions()
    assert (batch["obs/a"].tolist(), batch["obs/b"].tolist()) == ([1.0] * 10, [2.0] * 10)


@pytest.mark.slow
def test_values_that_are_no_columns_are_named(tmp_path: Path) -> None:
    record(Scripted(lambda k: (np.zeros(k % 3 + 1), 1.0, k == 4, False, {})), tmp_path)
    with trajrec.open(tmp_path) as corpus:
        with pytest.raises(CorpusError, match=r"'obs' holds .*leave 'obs' out of columns="):
            corpus.transitions()
        (batch,) = corpus.transitions(columns=("action", "reward"))
    assert len(batch["reward"]) == 5


@pytest.mark.slow
def test_episodes_of_two_environments_are_refused(tmp_path: Path) -> None:
    record(gym.make("CartPole-v1"), tmp_path / "a")
    record(gym.make("FrozenLake-v1"), tmp_path / "b")
    with trajrec.open(tmp_path) as corpus:
        with pytest.raises(CorpusError, match="select episodes of one environment"):
            corpus.transitions()
        assert len(corpus.transitions("env_id = 'CartPole-v1'")) > 5
        with pytest.raises(CorpusError, match="no episode with a step is selected by"):
            corpus.transitions("env_id = 'Hopper-v5'")
        with pytest.raises(QueryError):
            corpus.transitions("env_id = ")


@pytest.mark.slow
def test_logs_of_agents_have_no_transitions(tmp_path: Path) -> None:
    """Nor have they segments to link."""
    with trajrec.episode(tmp_path, task="say", world=trajrec.envs.Shop(seed=1)) as ep:
        ep.call("get_order", order="O1001")
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        with pytest.raises(CorpusError, match="no steps of an environment"):
            corpus.transitions()
        record(Scripted(numbers), tmp_path)
        assert len(corpus.transitions()) > 0


def test_arguments_out_of_range_are_refused(cartpole: trajrec.Corpus) -> None:
    for options in (
        {"batch_size": 0},
        {"pool": 0},
        {"kind": "x"},
        {"columns": ("state",)},
        {"columns": ()},
        {"seed": None},
        {"seed": -1},
    ):
        with pytest.raises(ValueError, match="must"):
            cartpole.transitions(**options)
    with pytest.raises(ValueError, match="seed must be"):
        cartpole.sequences(length=2, seed=0.5)
    with pytest.raises(ValueError, match="must be at least 1"):
        cartpole.sequences(length=0)
    with pytest.raises(IndexError):
        cartpole.transitions().batch(99)
    with pytest.raises(ValueError, match="pass cache=True"):
        cartpole.transitions().sample(3)


def digests(source: Any) -> list[bytes]:
    return [b"".join(array.tobytes() for array in batch.values()) for batch in source]


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("cache", [None, True])
def test_a_seed_and_an_epoch_give_one_order(cartpole: trajrec.Corpus, cache: bool | None) -> None:
    def make(seed: int = 0) -> Any:
        return cartpole.transitions(batch_size=8, seed=seed, cache=cache, pool=2)

    source = make()
    first = digests(source)
    assert digests(source) == first == digests(make())
    assert digests(pickle.loads(pickle.dumps(make()))) == first
    assert digests(make(1)) != first
    source.epoch = 1
    assert digests(source) != first
    assert len(b"".join(first)) == len(b"".join(digests(source)))
    # A batch by its number, in any order.
    source.epoch = 0
    batches = [digests([source.batch(k)])[0] for k in reversed(range(source.n_batches))]
    assert batches[::-1] == first
    source.close()


@pytest.mark.slow
def test_threads_that_share_a_stream_get_its_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        record(gym.make("CartPole-v1"), tmp_path, 1)
    load = pools.StreamPools.load
    loading: list[int] = []

    def load_slowly(stream: pools.StreamPools, index: int) -> Any:
        # A stream has one pool in memory: two threads would get each other's.
        loading.append(index)
        time.sleep(0.002)
        assert loading == [index]
        loaded = load(stream, index)
        loading.remove(index)
        return loaded

    with trajrec.open(tmp_path) as corpus:
        stream = corpus.transitions(batch_size=4, pool=1, seed=3)
        expected = list(stream)
        numbers = list(range(len(expected)))
        with monkeypatch.context() as patch:
            patch.setattr(pools.StreamPools, "load", load_slowly)
            with ThreadPoolExecutor(4) as threads:
                batches = list(threads.map(stream.batch, numbers))
        for number, batch in zip(numbers, batches, strict=True):
            np.testing.assert_equal(batch, expected[number])
        again = pickle.loads(pickle.dumps(stream))
        np.testing.assert_equal(again.batch(1), expected[1])


def test_only_full_batches_are_given_if_asked(cartpole: trajrec.Corpus) -> None:
    n = len(cartpole.transitions())
    sizes = [len(b["step"]) for b in cartpole.transitions(batch_size=n - 1, drop_last=True)]
    assert sizes == [n - 1]
    sizes = [len(b["step"]) for b in cartpole.transitions(batch_size=n - 1)]
    assert sizes == [n - 1, 1]


@pytest.mark.slow
def test_a_cache_is_another_one_for_other_contents(cartpole: trajrec.Corpus) -> None:
    folder = cartpole.path / CACHE_FOLDER
    n = len(cartpole.transitions(cache=True))
    (first,) = folder.iterdir()
    cartpole.transitions(cache=True, seed=4, batch_size=3)
    assert list(folder.iterdir()) == [first]
    cartpole.transitions("number < 2", cache=True)
    assert len(list(folder.iterdir())) == 2
    record(gym.make("CartPole-v1"), cartpole.path)
    assert len(cartpole.transitions(cache=True)) > n
    assert len(list(folder.iterdir())) == 3


@pytest.mark.slow
def test_a_damaged_cache_is_refused_by_name(cartpole: trajrec.Corpus) -> None:
    cartpole.transitions(cache=True)
    (folder,) = (cartpole.path / CACHE_FOLDER).iterdir()
    file = folder / "0.bin"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CorpusError, match="delete this folder"):
        cartpole.transitions(cache=True)
    shutil.rmtree(folder)
    assert len(cartpole.transitions(cache=True))


@pytest.mark.slow
def test_a_cache_that_does_not_fit_is_not_begun(
    cartpole: trajrec.Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caches, "needed_bytes", lambda plan: 1 << 60)
    with pytest.raises(CorpusError, match="does not fit"):
        cartpole.transitions(cache=True)
    assert not list((cartpole.path / CACHE_FOLDER).iterdir())


@pytest.mark.slow
def test_samples_are_transitions_of_the_cache(cartpole: trajrec.Corpus, tmp_path: Path) -> None:
    source = cartpole.transitions(cache=tmp_path / "cache", columns=ALL, seed=3)
    batch = source.sample(500)
    assert len(set(zip(batch["episode"].tolist(), batch["step"].tolist(), strict=True))) > 50
    expected = {
        (episode.id, transition["step"]): transition
        for episode in cartpole.episodes()
        for transition in plain_transitions(episode)
    }
    for row in range(500):
        key = (source.episode_ids[batch["episode"][row]], int(batch["step"][row]))
        assert_same(batch, row, expected[key], source)
    again = cartpole.transitions(cache=tmp_path / "cache", columns=ALL, seed=3).sample(500)
    assert again["obs"].tobytes() == batch["obs"].tobytes()


def plain_windows(folder: Path, length: int, stride: int, *, pad: bool) -> Iterator[list[Any]]:
    """Yield the keys of the windows of each episode."""
    with trajrec.open(folder) as corpus:
        for episode in corpus.episodes():
            runs: list[list[Any]] = []
            for transition in plain_transitions(episode):
                step = transition["step"]
                if not runs or runs[-1][-1][1] != step - 1:
                    runs.append([])
                runs[-1].append((episode.id, step))
            for steps in runs:
                for start in range(0, len(steps), stride):
                    window = steps[start : start + length]
                    if pad or len(window) == length:
                        yield window


@third_slow("index")
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("cache", [None, True])
@pytest.mark.parametrize(("length", "stride"), [(4, 1), (16, 5), (1, 3)])
@pytest.mark.parametrize("pad", [False, True])
def test_windows_stay_within_an_episode(
    cartpole: trajrec.Corpus, cache: bool | None, length: int, stride: int, pad: bool
) -> None:
    source = cartpole.sequences(
        length=length, stride=stride, pad=pad, cache=cache, columns=ALL, shuffle=False
    )
    expected = list(plain_windows(cartpole.path, length, stride, pad=pad))
    assert len(source) == len(expected)
    found = []
    for batch in source:
        mask = batch.get("mask", np.ones(batch["step"].shape, np.bool_))
        assert batch["obs"].shape[1:] == (length, 4)
        assert not batch["obs"][~mask].any()
        for row in range(len(mask)):
            steps = batch["step"][row][mask[row]].tolist()
            codes = batch["episode"][row][mask[row]].tolist()
            found.append([(source.episode_ids[c], s) for c, s in zip(codes, steps, strict=True)])
    assert found == expected
    shuffled = cartpole.sequences(length=length, stride=stride, pad=pad, columns=ALL)
    assert len(shuffled) == len(expected)


@pytest.mark.slow
def test_windows_stop_before_a_failed_step(tmp_path: Path) -> None:
    env = trajrec.record(Failing({3}), tmp_path)
    env.reset(seed=0)
    for _ in range(7):
        with contextlib.suppress(RuntimeError):
            env.step(0)
    env.close()
    with trajrec.open(tmp_path) as corpus:
        (batch,) = corpus.sequences(length=2, shuffle=False)
    assert batch["step"].tolist() == [[0, 1], [1, 2], [5, 6]]


@pytest.mark.slow
def test_padding_leaves_frames_of_a_stack_alone(tmp_path: Path) -> None:
    in_chunks(tmp_path, Film(0, set(), set()), [10, 10])
    with trajrec.open(tmp_path) as corpus:
        source = corpus.sequences(length=6, stride=6, pad=True, shuffle=False, cache=True)
        (batch,) = source
        (episode,) = corpus.episodes()
    assert not batch["next_obs"][-1, 2:].any()
    assert batch["next_obs"][-1, 1].tobytes() == episode.observations[20].tobytes()


@pytest.mark.slow
def test_a_pair_of_views_cannot_be_written(tmp_path: Path) -> None:
    in_chunks(tmp_path, Film(0, set(), set()), [10])
    with trajrec.open(tmp_path) as corpus:
        batch = corpus.transitions(cache=True).sample(4)
    with pytest.raises(ValueError, match="read-only"):
        batch["obs"][:] = 0


@pytest.mark.slow
def test_a_log_that_was_exchanged_is_noticed(tmp_path: Path) -> None:
    path = record(Scripted(numbers), tmp_path / "a", 2)
    other = record(Scripted(numbers), tmp_path / "b", 2)
    with trajrec.open(tmp_path / "a") as corpus:
        source = corpus.transitions()
        path.write_bytes(other.read_bytes())
        with pytest.raises(CorpusError, match="another log is in this place"):
            list(source)


@pytest.mark.slow
def test_rewards_of_several_players_are_refused(tmp_path: Path) -> None:
    record(Scripted(lambda k: (np.zeros(2), {"a": 1.0, "b": 2.0}, k == 2, False, {})), tmp_path)
    with trajrec.open(tmp_path) as corpus, pytest.raises(CorpusError, match="several players"):
        corpus.transitions()


@pytest.mark.slow
def test_arrow_has_shapes_texts_and_ids(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")

    def result(k: int) -> Any:
        return {"x": np.full((2, 3), k, np.int16), "m": f"m{k % 2}"}, 0.5, k == 4, False, {}

    record(Scripted(result), tmp_path, 2)
    with trajrec.open(tmp_path) as corpus:
        reader = corpus.to_arrow(batch_size=4)
        assert isinstance(reader, pyarrow.RecordBatchReader)
        table = reader.read_all()
        ids = [episode.id for episode in corpus.episodes()]
    assert table.schema.field("obs/x").metadata == {b"shape": b"[2, 3]"}
    assert table["episode_id"].to_pylist() == [ids[0]] * 5 + [ids[1]] * 5
    assert table["next_obs/m"].to_pylist()[:2] == ["m0", "m1"]
    assert np.array(table["next_obs/x"].to_pylist())[:, 0].tolist() == [*range(5), *range(5)]


def test_named_values_of_steps_are_columns(tmp_path: Path) -> None:
    env = trajrec.record(Scripted(numbers), tmp_path)
    with pytest.raises(EnvContractError, match="before the first step"):
        env.annotate(value=1.0)
    for episode in range(2):
        env.reset(seed=episode)
        with pytest.raises(EnvContractError, match="before the first step"):
            env.annotate(value=1.0)
        for k in range(5):
            env.step(0)
            if k != 2:
                env.annotate(value=np.float32(k / 4), n=k)
            env.annotate(n=10 * k + episode, pair=np.array([k, episode]), note="x")
        if not episode:
            # Its last step was annotated after its end.
            env.flush()
    env.close()
    with pytest.raises(EnvContractError, match="after close"):
        env.annotate(value=1.0)
    with trajrec.open(tmp_path) as corpus:
        columns = ("step", "values/value", "values/n", "values/pair")
        for cache in (None, True):
            (batch,) = corpus.transitions(columns=columns, shuffle=False, cache=cache)
            assert batch["values/value"].dtype == np.float32
            expected = [0, 0.25, None, 0.75, 1.0] * 2
            values = batch["values/value"].tolist()
            assert [None if value != value else value for value in values] == expected
            assert batch["values/n"].tolist() == [0, 10, 20, 30, 40, 1, 11, 21, 31, 41]
            assert batch["values/pair"].tolist()[-2:] == [[3, 1], [4, 1]]
        first, second = corpus.episodes()
        assert first.step_values[1]["n"] == 10
        assert second.step_values[2].keys() == {"n", "pair", "note"}
        for name, reason in (("note", "no numbers"), ("nothing", "no selected step")):
            with pytest.raises(CorpusError, match=reason):
                corpus.transitions(columns=(f"values/{name}",))


ODD_OBSERVATIONS = {
    "empty": lambda k: np.zeros((3, 0), np.float32),
    "a part that is empty": lambda k: {"empty": np.zeros(0), "full": np.full(2, k)},
    "dates": lambda k: np.array(["2020-01-01"], "M8[D]") + np.timedelta64(k, "D"),
    "durations": lambda k: np.timedelta64(k, "s"),
    "another byte order": lambda k: np.array([k / 3], ">f4"),
}


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("kind", ODD_OBSERVATIONS)
def test_odd_arrays_are_cached_and_exported(kind: str, tmp_path: Path) -> None:
    observation = ODD_OBSERVATIONS[kind]
    in_chunks(tmp_path, Scripted(lambda k: (observation(k), 1.0, k == 4, False, {})), [2, 3])
    assert check(tmp_path, pool=1) == 5
    pytest.importorskip("pyarrow")
    with trajrec.open(tmp_path) as corpus:
        rows = corpus.to_arrow().read_all()
        (batch,) = corpus.transitions(shuffle=False)
        for name in ("empty", "full"):
            if kind == "a part that is empty":
                assert rows[f"obs/{name}"].to_pylist() == batch[f"obs/{name}"].tolist()
        if kind == "empty":
            assert rows["obs"].to_pylist() == [[]] * 5
        elif "obs" in batch:
            assert rows["obs"].to_pylist() == batch["obs"].tolist()


def test_numbers_that_arrow_lacks_are_refused_by_name(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    in_chunks(tmp_path, Scripted(lambda k: (np.array([k * 1j]), 1.0, k == 1, False, {})), [2])
    match = "'obs' holds numbers of the type complex128"
    with trajrec.open(tmp_path) as corpus, pytest.raises(CorpusError, match=match):
        corpus.to_arrow()


def test_lone_surrogates_are_escapes_in_arrow(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    in_chunks(tmp_path, Scripted(lambda k: (f"\ud800{k}", 1.0, k == 1, False, {})), [2])
    with trajrec.open(tmp_path) as corpus:
        rows = corpus.to_arrow().read_all()
    assert rows["obs"].to_pylist() == ["\\ud800-1", "\\ud8000"]


@pytest.mark.parametrize("kind", ["array", "scalar"])
def test_a_column_of_no_type_is_a_damaged_log(kind: str, tmp_path: Path) -> None:
    observations = {"array": lambda k: np.full(2, k), "scalar": lambda k: k}
    result = observations[kind]
    path = in_chunks(tmp_path, Scripted(lambda k: (result(k), 1.0, k == 3, False, {})), [4])
    log = take_apart(path.read_bytes())
    columns = [part.record[2] for part in log.chunks() if part.record[2]]
    (column,) = (column for column in columns[0] if column[:2] == ["obs", kind])
    column[{"array": 3, "scalar": 5}[kind]] = "no type"
    path.write_bytes(put_together(log))
    with trajrec.open(tmp_path) as corpus, pytest.raises(LogError, match="column 'obs'"):
        list(corpus.transitions())


def test_a_large_unsigned_integer_never_becomes_negative(tmp_path: Path) -> None:
    path = in_chunks(
        tmp_path, Scripted(lambda k: (np.uint64(2**63 + k + 1), 1.0, k == 3, False, {})), [4]
    )
    log = take_apart(path.read_bytes())
    (column,) = (c for part in log.chunks() for c in part.record[2] if c[0] == "obs")
    assert column[3:6] == ["<u8", [], "<u8"]
    column[5] = "int"
    path.write_bytes(put_together(log))
    with trajrec.open(tmp_path) as corpus:
        assert next(corpus.episodes()).observation_values[0] == 2**63
        with pytest.raises(CorpusError, match="hold exactly"):
            list(corpus.transitions())


def test_episodes_of_failed_steps_alone_have_no_transition(tmp_path: Path) -> None:
    def fail(k: int) -> Any:
        if k >= 0:
            raise ValueError("no")
        return endless(k)

    with trajrec.record(Scripted(fail), tmp_path) as env:
        env.reset(seed=0)
        with pytest.raises(ValueError, match="no"):
            env.step(0)
    with (
        trajrec.open(tmp_path) as corpus,
        pytest.raises(CorpusError, match="no step that returned"),
    ):
        corpus.transitions()


def test_named_integers_that_no_float_holds_are_refused(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    env.reset(seed=0)
    for exact, large in ((2**53, 2**53 + 1), (0.5, 0.5)):
        env.step(0)
        env.annotate(exact=exact, large=large)
    env.close()
    with trajrec.open(tmp_path) as corpus:
        (batch,) = corpus.transitions(columns=("values/exact",), shuffle=False)
        assert batch["values/exact"].tolist() == [2**53, 0.5]
        with pytest.raises(CorpusError, match="integers that float64 cannot hold exactly"):
            corpus.transitions(columns=("values/large",))


@pytest.mark.parametrize("values", [[[1], [1, 2]], [[2**53 + 1, 0.5], [1, 2]]])
def test_named_lists_that_are_no_array_are_refused(values: Any, tmp_path: Path) -> None:
    with trajrec.record(Scripted(endless), tmp_path) as env:
        env.reset(seed=0)
        for value in values:
            env.step(0)
            env.annotate(odd=value)
    with trajrec.open(tmp_path) as corpus, pytest.raises(CorpusError, match="'odd'"):
        corpus.transitions(columns=("values/odd",))


@pytest.mark.slow
def test_named_values_survive_compaction_and_forks(cartpole: trajrec.Corpus) -> None:
    (parent,) = cartpole.episodes(order_by="n_steps DESC LIMIT 1")
    with fork(parent, at=5) as env:
        with pytest.raises(EnvContractError, match="before the first step"):
            env.annotate(value=0)
        env.step(1)
        env.annotate(value=3)
    with cartpole:
        (batch,) = cartpole.transitions(kind="fork", columns=("values/value", "step"))
        assert (batch["values/value"].tolist(), batch["step"].tolist()) == ([3], [5])
        for path in cartpole.path.glob("*.trj"):
            compact(path)
        (batch,) = cartpole.transitions(kind="fork", columns=("values/value", "step"))
        assert (batch["values/value"].tolist(), batch["step"].tolist()) == ([3], [5])


def test_an_episode_has_the_flags_and_successors_of_its_steps(tmp_path: Path) -> None:
    record(Scripted(numbers), tmp_path, 1)
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes()
    assert episode.next_observations.tobytes() == episode.observations[1:].tobytes()
    assert episode.terminations.tolist() == [False] * 4 + [True]
    assert episode.truncations.tolist() == [False] * 5


@pytest.mark.slow
def test_a_log_that_grows_never_gives_other_rows(tmp_path: Path) -> None:
    env = trajrec.record(Scripted(endless), tmp_path)
    env.reset(seed=0)
    for _ in range(5):
        env.step(0)
    with trajrec.open(tmp_path) as corpus:
        source = corpus.transitions(shuffle=False, columns=ALL)
        (batch,) = source
        assert batch["reward"].tolist() == [0, 1, 2, 3, 4]
        for change in (lambda: env.step(0), env.flush, lambda: env.step(0), env.close):
            change()
            source.close()
            with contextlib.suppress(CorpusError, LogError):
                (again,) = source
                assert again["obs"].tobytes() == batch["obs"].tobytes()
                assert again["reward"].tobytes() == batch["reward"].tobytes()
        assert len(corpus.transitions()) == 7
    assert check(tmp_path) == 7


def test_a_log_that_was_rewritten_since_is_not_called_damaged(tmp_path: Path) -> None:
    env = trajrec.record(Scripted(endless), tmp_path)
    for seed in range(3):
        env.reset(seed=seed)
        env.step(0)
        env.flush()
    with trajrec.open(tmp_path) as corpus:
        source = corpus.transitions()
        assert len(list(source)) == 1
        source.close()
        env.close()
        (path,) = tmp_path.glob("*.trj")
        compact(path)
        with pytest.raises(CorpusError, match="another log is in this place now; select"):
            list(source)


@pytest.mark.slow
def test_a_cache_of_renamed_logs_is_another_one(tmp_path: Path) -> None:
    for word in ("go", "stop"):
        path = record(
            Scripted(
                lambda k, word=word: ({"m": word, "k": k + len(word)}, 1.0, k == 2, False, {})
            ),
            tmp_path,
        )
        path.rename(tmp_path / f"{word}.trj")
    assert check(tmp_path) == 6
    # The other log comes first now: its episode is number 0, and its text has the code 0.
    (tmp_path / "go.trj").rename(tmp_path / "zebra.trj")
    assert check(tmp_path) == 6


# Environment -> its arguments: short episodes, so that a thousand take a minute.
MANY = {
    "CartPole-v1": {},
    "FrozenLake-v1": {},
    "Hopper-v5": {},
    "Pendulum-v1": {"max_episode_steps": 40},
    "MiniGrid-DoorKey-8x8-v0": {"max_episode_steps": 30},
    "Acrobot-v1": {"max_episode_steps": 40},
}


@deep("environments")
@pytest.mark.parametrize("env_id", MANY)
def test_a_thousand_episodes_are_those_that_were_recorded(tmp_path: Path, env_id: str) -> None:
    if env_id.startswith("MiniGrid"):
        pytest.importorskip("minigrid")
    record(gym.make(env_id, **MANY[env_id]), tmp_path, 1000)
    assert check(tmp_path) > 1000
