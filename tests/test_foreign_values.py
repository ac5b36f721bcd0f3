"""Environments that return tensors, masked arrays, ordered dicts or enums, or have odd states."""

from __future__ import annotations

import collections
import enum
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.errors import CorpusError, EncodeError, ReplayError
from trajrec.replay import fork, fork_many, replay_episode, replay_episodes
from trajrec.values import codec
from trajrec.values.diff import is_same

Make = Callable[[int], Any]


class Mood(enum.Enum):
    """A value of an observation."""

    CALM = 1
    WILD = 2


class Level(enum.IntEnum):
    """A value of an observation."""

    LOW = 0
    HIGH = 1


def tensor(n: int) -> Any:
    torch = pytest.importorskip("torch")
    return torch.arange(3) + n


def half_tensor(n: int) -> Any:
    torch = pytest.importorskip("torch")
    return (torch.arange(3) + n).to(torch.bfloat16)


def jax_array(n: int) -> Any:
    numpy = pytest.importorskip("jax.numpy")
    return numpy.arange(3) + n


def half_jax_array(n: int) -> Any:
    numpy = pytest.importorskip("jax.numpy")
    return (numpy.arange(3) + n).astype(numpy.bfloat16)


def half_array(n: int) -> Any:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    return (np.arange(3) + n).astype(ml_dtypes.bfloat16)


def tiny_array(n: int) -> Any:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    return (np.arange(3) + n).astype(ml_dtypes.float8_e5m2)


def masked_array(n: int) -> Any:
    return np.ma.masked_array(np.arange(3) + n, mask=[False, True, False])


def ordered(n: int) -> Any:
    return collections.OrderedDict(place=n, scan=np.arange(3) + n)


# To import these libraries takes seconds.
LIBRARIES = (tensor, half_tensor, jax_array, half_jax_array)
MAKERS = [
    *(pytest.param(make, marks=pytest.mark.slow) for make in LIBRARIES),
    half_array,
    tiny_array,
    masked_array,
    ordered,
]


class Any3(gym.Env[Any, Any]):
    """Returns what a function makes of a number, as observation and in the info."""

    observation_space = gym.spaces.Box(-1e9, 1e9, (3,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def __init__(self, make: Make, at: int = -1) -> None:
        # Skips the test if the package is missing, before a recorder is open.
        make(0)
        self.make = make
        self.at = at
        self.n = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.n = 0
        return self.make(0), {}

    def step(self, action: Any) -> Any:
        self.n += int(action) + 1
        value = self.make(self.n + (self.n == self.at))
        return value, float(self.n), self.n > 6, False, {"x": value, "mood": Mood(1 + self.n % 2)}


def record(env: Any, folder: Path, actions: Any = (0, 1, 2), **options: Any) -> Episode:
    recorder = trajrec.record(env, folder, **options)
    recorder.reset(seed=1)
    for action in actions:
        recorder.step(action)
    recorder.close()
    assert recorder.episode_id is not None
    return trajrec.open(folder).episode(recorder.episode_id)


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("make", MAKERS)
def test_any_array_is_recorded_and_replayed(tmp_path: Path, make: Make) -> None:
    episode = record(Any3(make), tmp_path)
    report = replay_episode(episode, env=lambda: Any3(make))
    assert report.grade == "exact", report
    expected = np.arange(3) + np.array([[0], [1], [3], [6]])
    observations = episode.observations
    if make is ordered:
        assert observations["place"].tolist() == [0, 1, 3, 6]
        observations = observations["scan"]
    assert np.array_equal(np.asarray(observations).astype(int), expected)
    if make is masked_array:
        assert observations.mask.tolist() == [[False, True, False]] * 4
    assert episode.infos[0]["mood"] is Mood.WILD
    with fork(episode, at=1, env=lambda: Any3(make), folder=None) as env:
        step = env.step(1)
    assert is_same(codec.decode(codec.encode(step[0])), episode.observation_at(2))


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("make", MAKERS)
def test_one_other_item_diverges_at_its_step(tmp_path: Path, make: Make) -> None:
    episode = record(Any3(make), tmp_path)
    report = replay_episode(episode, env=lambda: Any3(make, at=3), explain=False)
    assert report.divergence is not None
    assert (report.divergence.step, report.divergence.field[:11]) == (1, "observation")


@pytest.mark.slow
@pytest.mark.parametrize("make", [masked_array, tensor, jax_array])
def test_another_process_replays_any_array(tmp_path: Path, make: Make) -> None:
    record(Any3(make), tmp_path)
    code = (
        "import sys, trajrec; sys.path.insert(0, sys.argv[2]); import test_foreign_values as t\n"
        "from trajrec.replay import replay_episode\n"
        "(e,) = trajrec.open(sys.argv[1]).episodes()\n"
        "print(e.observations.shape, e.observations.sum())\n"
        f"print(replay_episode(e, env=lambda: t.Any3(t.{make.__name__})).grade)"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "exact"


@pytest.mark.slow
def test_another_type_of_array_is_no_exact_replay(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    assert torch.arange(2).dtype is torch.int64
    episode = record(Any3(tensor), tmp_path)
    report = replay_episode(episode, env=lambda: Any3(lambda n: np.arange(3) + n), explain=False)
    assert report.grade == "diverged"


class Steered(gym.Env[Any, Any]):
    """Takes tensors as actions, and nothing else."""

    observation_space = gym.spaces.Box(-1e9, 1e9, (2,), np.float64)
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = np.zeros(2)
        return self.place.copy(), {}

    def step(self, action: Any) -> Any:
        self.place += action.detach().float().numpy()
        return self.place.copy(), 0.0, False, False, {}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_action_that_was_a_tensor_is_one_again(tmp_path: Path, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    actions = [torch.tensor([0.5, k], dtype=getattr(torch, dtype)) for k in range(3)]
    episode = record(Steered(), tmp_path, actions)
    assert replay_episode(episode, env=Steered).grade == "exact"


class OddState(Any3):
    """Its get_state is of no use, in one of several ways; its step needs a lock."""

    def __init__(self, way: str = "lock") -> None:
        super().__init__(masked_array)
        self.way = way
        self.lock = threading.Lock()

    def get_state(self) -> Any:
        if self.way == "lock":
            return {"n": self.n, "lock": self.lock}
        if self.way == "function":
            return lambda: self.n
        raise RuntimeError("there is no state")

    def set_state(self, state: Any) -> None:
        self.n = state["n"]


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("way", ["lock", "function", "raises"])
@pytest.mark.parametrize("keep", ["auto", "keys", "digests"])
def test_a_state_that_is_no_data_is_left_out(tmp_path: Path, way: str, keep: Any) -> None:
    recorder = trajrec.record(OddState(way), tmp_path, keep_states=keep)
    path = recorder.path
    with pytest.warns(RuntimeWarning, match="state=") as warned:
        recorder.reset(seed=1)
    recorder.step(1)
    recorder.reset(seed=2)
    recorder.step(1)
    recorder.close()
    assert len(warned) == 1
    assert [recorder.path, *tmp_path.glob("*.*")] == [path, path]
    reports = list(replay_episodes(trajrec.open(tmp_path).episodes(), env=lambda: OddState(way)))
    assert [report.grade for report in reports] == ["exact", "exact"]
    assert all("state not compared" in report.notes[0] for report in reports)


def test_a_given_function_of_the_state_still_raises(tmp_path: Path) -> None:
    recorder = trajrec.record(Any3(masked_array), tmp_path, state=lambda env: threading.Lock())
    with pytest.raises(EncodeError):
        recorder.reset(seed=1)
    recorder.close()


@pytest.mark.parametrize(
    "value",
    [
        np.ma.masked_all((2, 0)),
        np.ma.masked_array(3, mask=True),
        np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.ma.masked,
    ],
)
def test_arrays_of_numpys_other_classes_round_trip(value: Any) -> None:
    decoded = codec.decode(codec.encode(value))
    assert decoded.kind == "array"
    assert codec.encode(decoded) == codec.encode(value)


def test_a_dtype_of_a_package_is_never_taken_for_bytes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = [
        np.zeros((2, 3), ml_dtypes.int4),
        np.array(1.5, ml_dtypes.bfloat16),
        ml_dtypes.bfloat16(1.5),
        ml_dtypes.float8_e4m3fn(1.5),
    ]
    for value in values:
        decoded = codec.decode(codec.encode(value))
        assert decoded.fields["dtype"] == str(value.dtype)
        assert codec.encode(decoded) == codec.encode(value)
    record_of = np.zeros(2, np.dtype([("a", ml_dtypes.bfloat16)]))
    with pytest.raises(EncodeError, match="dtype"):
        codec.encode(record_of)


def test_trajrec_is_imported_after_packages_with_dtypes() -> None:
    pytest.importorskip("ml_dtypes")
    code = "import ml_dtypes, trajrec.values.codec"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["longdouble", "clongdouble"])
def test_long_doubles_have_the_same_bytes_each_time(dtype: str, order: str) -> None:
    """Their last bytes belong to no value: NumPy leaves there what was in memory."""
    values = (np.arange(3) / np.longdouble(3)).astype(np.dtype(dtype).newbyteorder(order))
    encoded = codec.encode(values)
    for noise in (0x00, 0xFF):
        buffer = np.full(values.nbytes, noise, np.uint8)
        again = buffer.view(values.dtype)
        for k, value in enumerate(values):
            again[k] = value
        assert codec.encode(again) == encoded
        assert [codec.encode(item) for item in again] == [codec.encode(item) for item in values]
    decoded = codec.decode(encoded)
    assert decoded.dtype == values.dtype
    assert (decoded == values).all()


class Shows(gym.ObservationWrapper[Any, Any, Any]):
    """Shows a lock, which nobody can store, if it is told so."""

    is_locked = True

    def observation(self, observation: Any) -> Any:
        return threading.Lock() if Shows.is_locked else observation


@pytest.mark.parametrize("is_locked", [True, False])
def test_a_reset_that_was_not_recorded_is_refused(
    is_locked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = lambda: Shows(gym.make("FrozenLake-v1"))  # noqa: E731
    env = trajrec.record(make(), tmp_path, factory=None)
    with pytest.raises(EncodeError):
        env.reset(seed=1)
    env.close()
    (episode,) = trajrec.open(tmp_path).episodes()
    monkeypatch.setattr(Shows, "is_locked", is_locked)
    report = replay_episode(episode, env=make)
    assert report.grade == "refused"
    assert "its reset could not be recorded" in report.notes[0]
    for attempt in (
        lambda: fork(episode, at=0, env=make),
        lambda: fork_many(episode, at=[0], policy="random", env=make),
    ):
        with pytest.raises(ReplayError, match="its reset could not be recorded"):
            attempt()


BITS = np.array([[0x3FC0, 0xC000], [0x7F80, 0x0001]], np.uint16)
"""1.5 and -2, infinity and the smallest number, in bfloat16."""

HALVES = np.array([[1.5, -2.0], [np.inf, 2.0**-133]], np.float32)


def plain_array(type_name: str, items: Any, **fields: Any) -> codec.Plain:
    return codec.Plain(type_name, "array", {"value": np.asarray(items), **fields})


class Tensors(gym.Env[Any, Any]):
    """Returns arrays of other libraries as they are decoded, without the libraries."""

    observation_space = gym.spaces.Discrete(1)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, *, is_constant: bool, mask: bool = False) -> None:
        self.is_constant = is_constant
        self.mask = {"mask": np.array([True, False])} if mask else {}

    def _obs(self, k: int) -> Any:
        row = 0 if self.is_constant else k % 2
        return {
            "jax": plain_array("jax.Array", np.arange(2, dtype=np.float32) + row, **self.mask),
            "half": plain_array("torch.Tensor", BITS[row], dtype="bfloat16"),
        }

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.k = 0
        return self._obs(0), {}

    def step(self, action: Any) -> Any:
        self.k += 1
        reward = plain_array("jax.Array", np.float32(0.5 * self.k))
        return self._obs(self.k), reward, self.k == 4, False, {}


@pytest.mark.parametrize("is_constant", [True, False])
def test_arrays_of_other_libraries_become_training_columns(
    is_constant: bool, tmp_path: Path
) -> None:
    env = trajrec.record(Tensors(is_constant=is_constant), tmp_path)
    env.reset(seed=1)
    for k in range(4):
        env.step(plain_array("torch.Tensor", np.int64(k % 2)))
    env.close()
    (batch,) = trajrec.open(tmp_path).transitions(shuffle=False)
    rows = np.zeros(5, int) if is_constant else np.arange(5) % 2
    jax = np.arange(2, dtype=np.float32) + rows[:, None]
    for name, values in {"jax": jax.astype(np.float32), "half": HALVES[rows]}.items():
        for column, expected in ((f"obs/{name}", values[:-1]), (f"next_obs/{name}", values[1:])):
            assert batch[column].dtype == np.float32
            assert batch[column].tolist() == expected.tolist()
    assert batch["reward"].dtype == np.float32
    assert batch["reward"].tolist() == [0.5, 1.0, 1.5, 2.0]
    assert batch["action"].tolist() == [0, 1, 0, 1]


def test_masked_arrays_are_refused_as_columns_by_name(tmp_path: Path) -> None:
    env = trajrec.record(Tensors(is_constant=False, mask=True), tmp_path)
    env.reset(seed=1)
    env.step(0)
    env.close()
    with pytest.raises(CorpusError, match=r"'obs/jax' holds a jax\.Array"):
        trajrec.open(tmp_path).transitions()
    assert len(trajrec.open(tmp_path).transitions(columns=("obs/half", "reward"))) == 1
