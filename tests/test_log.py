"""A log holds the exact values that the environment returned."""

from __future__ import annotations

import struct
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Scripted, Witness, record, run
from equal_pairs import EQUAL_PAIRS
from tiers import mostly_deep

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.errors import EncodeError, LogFormatError, LogWriteError, UnknownToolError
from trajrec.log import columns, flusher, frames
from trajrec.log.compaction import compact
from trajrec.log.journal import MAX_HALF_BYTES
from trajrec.log.reader import LogReader
from trajrec.values.diff import diff, is_same


@pytest.mark.parametrize("value", [np.zeros(5000), list(range(5000))])
def test_value_too_large_to_be_read_is_not_written(
    value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = trajrec.record(
        Scripted(lambda k: (value, 0.0, k == 5, False, {})), tmp_path, on_full="raise"
    )
    for module in (frames, columns):
        monkeypatch.setattr(module, "MAX_PART", 10_000)
    env.reset(seed=0)
    env.step(0)
    with pytest.raises(LogWriteError, match=r"bytes in .* at most 10000 are read back"):
        env.flush()
    with pytest.raises(LogWriteError):
        env.close()


@mostly_deep("log", drawn=4)
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("pair", EQUAL_PAIRS, ids=repr)
def test_values_that_only_compare_equal_survive_recording_and_compaction(
    pair: tuple[Any, Any], tmp_path: Path
) -> None:
    values = [pair[0]] * 3 + [pair[1]] * 3
    env = trajrec.record(
        Scripted(lambda k: (np.zeros(2), 0.0, k == 5, False, {"value": values[k]})), tmp_path
    )
    env.reset(seed=0)
    for step in range(len(values)):
        if step == 3:
            env.flush()  # Two chunks, each with one value in all rows: compaction merges them.
        env.step(0)
    env.close()
    for _ in range(2):
        (episode,) = trajrec.open(tmp_path).episodes()
        assert is_same([info["value"] for info in episode.infos], values)
        compact(env.path)


ENVIRONMENTS = [
    "CartPole-v1",
    "Acrobot-v1",
    "MountainCarContinuous-v0",
    "Pendulum-v1",
    "FrozenLake-v1",
    "Taxi-v4",
    "Blackjack-v1",
    "LunarLander-v3",
    "MiniGrid-DoorKey-5x5-v0",
    "Hopper-v5",
    "trajrec/KeyDoor-v0",
    "trajrec/Shop-v0",
]


def make(env_id: str) -> gym.Env[Any, Any]:
    if env_id.startswith("MiniGrid"):
        pytest.importorskip("minigrid")
    if env_id.startswith("trajrec"):
        trajrec.envs.__all__  # noqa: B018 - registers them
    try:
        return gym.make(env_id)
    except gym.error.DependencyNotInstalled as exc:
        pytest.skip(str(exc))


def assert_recorded(path: Path, witness: Witness) -> None:
    with LogReader(path) as reader:
        assert not reader.damage
        for number, truth in enumerate(witness.episodes):
            episode = Episode(reader, number)
            assert not episode.missing_steps
            for name, values in (
                ("observations", episode.observation_values),
                ("actions", episode.actions),
                ("rewards", episode.reward_values),
                ("infos", episode.infos),
            ):
                assert is_same(values, truth[name]), (number, name, diff(values, truth[name])[:3])


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_log_holds_the_values_of_real_environments(env_id: str, tmp_path: Path) -> None:
    witness = Witness(make(env_id))
    path = record(witness, tmp_path, 3)
    assert_recorded(path, witness)


@pytest.mark.slow
def test_breakout_is_recorded_pixel_by_pixel(tmp_path: Path) -> None:
    pytest.importorskip("ale_py")
    witness = Witness(gym.make("ALE/Breakout-v5"))
    path = record(witness, tmp_path)
    assert_recorded(path, witness)
    assert path.stat().st_size < 400 * len(witness.episodes[0]["actions"])


def test_reused_observation_buffer_is_copied_at_each_step(
    tmp_path: Path,
) -> None:
    buffer = np.zeros(2, np.float32)

    def at(k: int) -> Any:
        buffer[:] = k
        return buffer, float(k), k == 8, False, {"buffer": buffer}

    path = record(Scripted(at), tmp_path)
    with LogReader(path) as reader:
        episode = Episode(reader, 0)
        assert episode.observations[:, 0].tolist() == list(range(-1, 9))
        assert [info["buffer"].tolist() for info in episode.infos] == [[k, k] for k in range(9)]


ODD: dict[str, list[Any]] = {
    "arrays of changing shape": [np.zeros(k % 4, np.int32) for k in range(12)],
    "arrays of changing dtype": [
        np.zeros(2, np.float32 if k < 5 else np.float64) for k in range(12)
    ],
    "scalars, then arrays, then text": [
        1,
        2,
        np.zeros(2),
        "x",
        "y",
        (1, 2),
        {"a": 1},
        {"a": 2},
        {"b": 2},
        None,
        2**80,
        0,
    ],
    "dicts with changing keys": [{"a": 1, **({"b": k} if k % 3 else {})} for k in range(12)],
    "dicts of text and arrays": [{"text": "é" * k, "array": np.full((2, 2), k)} for k in range(12)],
    "tuples with a list in them": [(k, [k, np.zeros(1)]) for k in range(12)],
    "the empty dict and tuple": [{} if k % 2 else () for k in range(12)],
}


@pytest.mark.parametrize("rows", ODD.values(), ids=ODD.keys())
def test_log_holds_odd_observations_unchanged(rows: list[Any], tmp_path: Path) -> None:
    witness = Witness(Scripted(lambda k: (rows[k + 1], 1.0, k == 10, False, {})))
    assert_recorded(record(witness, tmp_path, 3), witness)


def test_observations_may_change_their_form_each_step(tmp_path: Path) -> None:
    rows = [
        {"a": np.zeros(2)},
        {"a": np.zeros(2)},
        None,
        np.zeros(3),
        (np.zeros(1), 2),
        {"a": np.zeros(2)},
    ]
    with LogReader(
        record(Scripted(lambda k: (rows[k + 1], 1.0, k == 4, False, {})), tmp_path)
    ) as reader:
        assert is_same(list(Episode(reader, 0).observations), rows)


def test_block_of_large_values_is_written_before_memory_fills(
    tmp_path: Path,
) -> None:
    sizes = []
    env = trajrec.record(
        Scripted(lambda k: ([k] if k < 5 else ["x" * 100_000], 1.0, False, False, {})), tmp_path
    )
    env.reset()
    for _ in range(100):
        env.step(0)
        sizes.append(sum(len(item) for item in env._buffer.block.rows if type(item) is bytes))
    env.close()
    assert max(sizes) < MAX_HALF_BYTES
    with LogReader(env.path) as reader:
        assert Episode(reader, 0).observation_values == [
            [k] if k < 5 else ["x" * 100_000] for k in range(-1, 100)
        ]


def test_infos_may_change_their_keys_each_step(tmp_path: Path) -> None:
    witness = Witness(
        Scripted(
            lambda k: (
                np.zeros(2),
                1,
                k == 40,
                False,
                {f"k{j}": j for j in range(k % 5)} if k % 2 else {"x": k},
            )
        )
    )
    assert_recorded(record(witness, tmp_path, 2), witness)


@pytest.mark.parametrize(
    "info", [{"a": {}}, {"a": ()}, {"\ud800": 1, "b": {"\udfff": 2}}], ids=ascii
)
def test_infos_of_some_steps_stay_with_their_steps(info: dict[str, Any], tmp_path: Path) -> None:
    witness = Witness(Scripted(lambda k: (np.zeros(2), 1, k == 20, False, info if k % 3 else {})))
    assert_recorded(record(witness, tmp_path, 2), witness)


def test_states_of_empty_parts_are_read_at_their_own_steps(tmp_path: Path) -> None:
    def state(env: Any) -> Any:
        return {"board": {}} if env.unwrapped.k < 3 else np.zeros(2)

    env = Scripted(lambda k: (np.zeros(2), 1.0, k == 5, False, {}))
    path = record(env, tmp_path, state=state, keep_states="digests")
    with LogReader(path) as reader:
        states = Episode(reader, 0).states
    assert is_same(states, {0: {"board": {}}, 6: np.zeros(2)})


ODD = "a\ud800"


def name_tool(folder: Path) -> None:
    with trajrec.episode(folder, task="t") as ep, pytest.raises(UnknownToolError):
        ep.call(ODD)


def name_everything(folder: Path) -> None:
    verifier = trajrec.verifier(id=ODD, version=ODD)(lambda world: True)
    with trajrec.episode(folder, task=ODD, watch={ODD: {"n": 1}}) as ep:
        ep.side_effect(ODD, time.time)
        ep.check(verifier)
        ep.stop(ODD)


def name_space(folder: Path) -> None:
    env = Scripted(lambda k: (ODD, 1.0, k == 3, False, {ODD: k}))
    env.observation_space = gym.spaces.Text(3, charset="ab\ud800")
    record(env, folder, interface={ODD: ODD})


@pytest.mark.parametrize("name", [name_tool, name_everything, name_space])
def test_names_with_lone_surrogates_cost_no_record(
    name: Callable[[Path], None], tmp_path: Path
) -> None:
    name(tmp_path)
    trajrec.close_logs()
    (path,) = tmp_path.glob("*.trj")
    for _ in range(2):
        with LogReader(path) as reader:
            assert (reader.is_sealed, reader.damage) == (True, [])
            assert Episode(reader, 0).ending == "terminated"
        compact(path)


def test_rewards_may_change_their_type_each_step(tmp_path: Path) -> None:
    rewards = [1, 1.0, np.float32(1), np.array([1.0, 2.0]), True, np.int64(3)]
    witness = Witness(Scripted(lambda k: (np.zeros(2), rewards[k % 6], k == 20, False, {})))
    assert_recorded(record(witness, tmp_path), witness)


def test_unstorable_info_is_opaque_but_observation_fails(
    tmp_path: Path,
) -> None:
    path = record(
        Scripted(lambda k: (np.zeros(2), 1.0, k == 3, False, {"handle": object()})), tmp_path
    )
    with LogReader(path) as reader:
        assert type(Episode(reader, 0).infos[0]["handle"]).__name__ == "Opaque"
    env = trajrec.record(
        Scripted(lambda k: (np.zeros(2) if k < 2 else object(), 1.0, k == 3, False, {})), tmp_path
    )
    with pytest.raises(EncodeError, match=r"episode [0-9a-f]{16} step \d: obs: builtins.object"):
        run(env)
    env.close()
    with LogReader(env.path) as reader:
        episode = Episode(reader, 0)
        assert (episode.n_steps, episode.ending, len(episode.failures)) == (3, "error", 1)


def test_unstorable_action_never_reaches_the_environment(
    tmp_path: Path,
) -> None:
    inner = Scripted(lambda k: (np.zeros(2), 1.0, False, False, {}))
    env = trajrec.record(inner, tmp_path)
    env.reset(seed=0)
    env.step({"a": 1, "b": [2]})
    with pytest.raises(EncodeError, match=r"action"):
        env.step({"a": 1, "b": object()})
    assert inner.k == 1
    env.step({"a": 3, "b": [4]})
    env.close()
    with LogReader(env.path) as reader:
        assert Episode(reader, 0).actions == [{"a": 1, "b": [2]}, {"a": 3, "b": [4]}]


def test_episode_may_continue_after_a_step_that_raised(
    tmp_path: Path,
) -> None:
    def at(k: int) -> Any:
        if k == 3:
            raise TimeoutError("the tool did not answer")
        return np.full(2, k, np.float32), float(k), k == 6, False, {}

    env = trajrec.record(Scripted(at), tmp_path)
    env.reset(seed=0)
    for k in range(7):
        if k == 3:
            with pytest.raises(TimeoutError):
                env.step(k)
        else:
            env.step(k)
    env.close()
    episode = Episode(LogReader(env.path), 0)
    assert (episode.n_steps, episode.ending, episode.missing_steps) == (7, "terminated", [])
    assert episode.step_numbers.tolist() == [0, 1, 2, 4, 5, 6]
    failure = episode.failures[0]
    assert (failure.step, failure.error_type, failure.message) == (
        3,
        "builtins.TimeoutError",
        "the tool did not answer",
    )
    steps = list(episode.steps())
    assert [s.action for s in steps] == list(range(7))
    assert steps[3].failure is not None


def test_failed_reset_is_an_episode_with_an_error(tmp_path: Path) -> None:
    class Broken(Scripted):
        def reset(self, **kwargs: Any) -> Any:
            raise RuntimeError("no display")

    env = trajrec.record(Broken(lambda k: None), tmp_path)  # type: ignore[arg-type, return-value]
    with pytest.raises(RuntimeError):
        env.reset(seed=3)
    env.close()
    with LogReader(env.path) as reader:
        episode = Episode(reader, 0)
    assert (episode.ending, episode.n_steps, episode.failures[0].phase) == ("error", 0, "reset")
    assert episode.start is not None
    assert episode.start.seed == 3


def test_reset_without_an_end_abandons_the_episode(
    tmp_path: Path,
) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    env.reset(seed=0)
    env.step(0)
    env.reset()
    env.reset()
    env.step(1)
    env.close()
    with LogReader(env.path) as reader:
        # A reset that no step followed leaves no episode, and no other one gets its number.
        episodes = [Episode(reader, k) for k in (0, 2)]
    assert [(episode.ending, episode.n_steps) for episode in episodes] == [
        ("abandoned", 1),
        ("abandoned", 1),
    ]


def test_refresh_reads_the_frames_that_were_appended(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    run(env, 2)
    env.flush()
    with LogReader(env.path) as reader:
        assert not reader.is_sealed
        assert reader.is_being_written()
        n_before = len(reader.frames)
        run(env, 2)
        env.close()
        assert reader.refresh()
        assert len(reader.frames) > n_before
        assert reader.is_sealed
        assert Episode(reader, 3).ending == "terminated"


def test_footer_and_scan_give_the_same_episodes(tmp_path: Path) -> None:
    path = record(gym.make("Taxi-v4"), tmp_path, 3)
    data = path.read_bytes()
    cut = tmp_path / "cut.trj"
    cut.write_bytes(data[: -frames.TRAILER.size])
    with LogReader(path) as sealed, LogReader(cut) as scanned:
        assert sealed.is_sealed
        assert not scanned.is_sealed
        assert [f.offset for f in sealed.frames] == [f.offset for f in scanned.frames]
        for k in range(3):
            assert is_same(
                Episode(sealed, k).observation_values, Episode(scanned, k).observation_values
            )


def test_newer_format_is_refused_by_its_number(tmp_path: Path) -> None:
    path = record(gym.make("CartPole-v1"), tmp_path)
    data = bytearray(path.read_bytes())
    head = struct.pack("<8sI", frames.MAGIC, 99)
    data[:16] = head + struct.pack("<I", zlib.crc32(head))
    path.write_bytes(data)
    with pytest.raises(LogFormatError, match="format version 99 is newer than 2"):
        LogReader(path)


@pytest.mark.parametrize(
    "content", [b"", b"hello world, this is not a log at all", b"\x89PNG\r\n\x1a\n" + b"\0" * 100]
)
def test_foreign_file_is_refused_with_its_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "foreign.trj"
    path.write_bytes(content)
    with pytest.raises(LogFormatError, match=r"foreign\.trj.*not a trajrec log"):
        LogReader(path)


def test_recorders_of_one_process_do_not_mix(tmp_path: Path) -> None:
    witnesses = [Witness(gym.make("CartPole-v1")) for _ in range(5)]
    recorders = [trajrec.record(witness, tmp_path) for witness in witnesses]
    for k, env in enumerate(recorders):
        env.reset(seed=k)
    for _ in range(8):
        for k, env in enumerate(recorders):
            env.step(k % 2)
    for env, witness in zip(recorders, witnesses, strict=True):
        env.close()
        assert_recorded(env.path, witness)


@pytest.mark.parametrize(
    ("env_id", "n"),
    [
        ("CartPole-v1", 150),
        ("Taxi-v4", 10),
        pytest.param("Blackjack-v1", 400, marks=pytest.mark.slow),
        ("trajrec/Shop-v0", 5),
    ],
)
def test_log_does_not_depend_on_the_times_of_flushes(
    env_id: str, n: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Flushes and switches between threads are as frequent as possible.
    monkeypatch.setattr(flusher, "FLUSH_S", 0.0)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        witness = Witness(make(env_id))
        path = record(witness, tmp_path, n)
    finally:
        sys.setswitchinterval(interval)
    assert_recorded(path, witness)
    with LogReader(path) as reader:
        assert len(reader.frames) >= 3
        for k in range(0, n, 7):
            assert {0, Episode(reader, k).n_steps} <= set(Episode(reader, k).states)


def test_recording_raises_no_warnings(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record(gym.make("FrozenLake-v1"), tmp_path, 3)
