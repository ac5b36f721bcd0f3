"""Datasets of Minari: exported, imported, replayed, damaged."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Scripted
from imported import DATA, check_account, counted, needs_data
from minari_data import (
    SPACES,
    assert_same_episode,
    exported,
    imported,
    record_samples,
    run_episode,
)
from test_import_mutations import change_file, check_import
from tiers import Share, spread, suite, third_slow

import trajrec
from trajrec.cli.main import main
from trajrec.errors import CorpusError, ImportFileError, MissingPackageError
from trajrec.exchange.importing import import_trajectories
from trajrec.exchange.minari_columns import Leaf, NotHeldError, columns_of
from trajrec.exchange.minari_spaces import info_rows
from trajrec.replay import Replayer, fork_many, replay_episode
from trajrec.values import codec
from trajrec.values.diff import is_same

h5py: Any = pytest.importorskip("h5py", reason="pip install 'trajrec[minari]'")
pytest.importorskip("pyarrow", reason="pip install 'trajrec[minari]'")


def reads(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a dataset as Minari reads it."""
    minari: Any = pytest.importorskip("minari", reason="pip install 'minari[arrow,create,hdf5]'")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(dataset.parent))
    return minari.load_dataset(dataset.name)


@third_slow("imports")
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("kind", SPACES)
def test_an_export_comes_back_with_equal_bits(kind: str, tmp_path: Path) -> None:
    record_samples(kind, tmp_path / "runs", seeds=(2, 3, 2**64 - 2))
    report = exported(tmp_path / "runs", tmp_path / "set-v0")
    assert report.n_episodes == 3
    with (
        trajrec.open(tmp_path / "runs") as corpus,
        imported(tmp_path / "set-v0", tmp_path / "back") as back,
    ):
        pairs = list(zip(corpus.episodes(), back.episodes(), strict=True))
        assert [episode.ending for episode, _ in pairs] == ["terminated", "truncated", "terminated"]
        for episode, other in pairs:
            assert_same_episode(episode, other)
            assert episode.header.env.env_id == other.header.env.env_id


def test_integers_that_no_type_holds_together_are_refused() -> None:
    with pytest.raises(NotHeldError, match="hold"):
        columns_of([2**63 + 1, -1], "rewards")


def test_arrays_of_other_libraries_are_refused_by_their_name() -> None:
    jax_number = codec.Plain("jax.Array", "array", {"value": np.array(1.5)})
    with pytest.raises(NotHeldError, match=r"values of type jax\.Array"):
        columns_of([jax_number], "rewards")


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("kind", SPACES)
def test_an_imported_export_replays_exactly(kind: str, tmp_path: Path) -> None:
    record_samples(kind, tmp_path / "runs")
    exported(tmp_path / "runs", tmp_path / "set-v0")
    with imported(tmp_path / "set-v0", tmp_path / "back") as back, Replayer() as replayer:
        assert [report.grade for report in replayer.replay_all(back.episodes())] == ["exact"] * 2


@pytest.mark.slow
def test_a_second_export_is_the_first_again(tmp_path: Path) -> None:
    record_samples("dict", tmp_path / "runs")
    exported(tmp_path / "runs", tmp_path / "one-v0")
    with imported(tmp_path / "one-v0", tmp_path / "back"):
        pass
    assert not exported(tmp_path / "back", tmp_path / "two-v0").account.dropped
    with (
        imported(tmp_path / "two-v0", tmp_path / "again") as again,
        trajrec.open(tmp_path / "runs") as corpus,
    ):
        for episode, other in zip(corpus.episodes(), again.episodes(), strict=True):
            assert_same_episode(episode, other)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPACES)
def test_minari_loads_an_export(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_samples(kind, tmp_path / "runs")
    exported(tmp_path / "runs", tmp_path / "set-v0")
    dataset = reads(tmp_path / "set-v0", monkeypatch)
    observation_space, action_space = SPACES[kind]
    assert dataset.observation_space == observation_space
    assert dataset.action_space == action_space
    assert (dataset.total_episodes, dataset.total_steps) == (2, 10)
    assert [facts["seed"] for facts in dataset.storage.get_episode_metadata([0, 1])] == [2, 3]
    with trajrec.open(tmp_path / "runs") as corpus:
        for episode, other in zip(corpus.episodes(), dataset.iterate_episodes(), strict=True):
            assert is_same(episode.rewards, other.rewards)
            assert is_same(episode.terminations, other.terminations)
            assert is_same(episode.truncations, other.truncations)
            rows = list(zip(*leaves_by_row(other.observations), strict=True))
            assert same_rows([flat(row) for row in episode.observation_values], rows)
            rows = list(zip(*leaves_by_row(other.actions), strict=True))
            assert same_rows([flat(row) for row in episode.actions], rows)


def leaves_by_row(columns: Any) -> list[Any]:
    """Return the columns of Minari, without their structure."""
    if isinstance(columns, dict):
        return [leaf for name in sorted(columns) for leaf in leaves_by_row(columns[name])]
    if isinstance(columns, tuple):
        return [leaf for part in columns for leaf in leaves_by_row(part)]
    return [columns]


def flat(value: Any) -> list[Any]:
    """Return the leaves of a value."""
    if isinstance(value, dict):
        return [leaf for name in sorted(value) for leaf in flat(value[name])]
    if isinstance(value, tuple):
        return [leaf for part in value for leaf in flat(part)]
    return [value]


def same_rows(rows: list[Any], others: list[Any]) -> bool:
    """Return whether rows have the same numbers, of the same dtype, and texts."""

    def is_equal(a: Any, b: Any) -> bool:
        if isinstance(a, str):
            return bool(a == b)
        return is_same(np.asarray(a), np.asarray(b))

    pairs = zip(rows, others, strict=True)
    return all(is_equal(a, b) for row, other in pairs for a, b in zip(row, other, strict=True))


@pytest.mark.parametrize(
    ("kind", "data_format", "has_infos"),
    spread(
        "imports",
        list(
            itertools.product(["CartPole-v1", *SPACES], ["hdf5", "arrow", "parquet"], [True, False])
        ),
        drawn=12,
    ),
)
@pytest.mark.filterwarnings("ignore::UserWarning:minari")
# Minari leaves folders to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_dataset_of_minaris_collector_is_imported_whole(
    kind: str,
    data_format: str,
    has_infos: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    minari: Any = pytest.importorskip("minari", reason="pip install 'minari[arrow,create,hdf5]'")
    pytest.importorskip("jax", reason="pip install 'minari[arrow,create,hdf5]'")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env_id = f"trajrec-test/Sample-{kind}-v0" if kind in SPACES else kind
    options = {"record_infos": has_infos, "data_format": data_format, "jpeg_encoding": False}
    env = minari.DataCollector(gym.make(env_id, disable_env_checker=True), **options)
    for seed in (4, 5, 2**64 - 2):
        run_episode(env, seed)
    env.reset(seed=9)
    env.step(env.action_space.sample())
    dataset = env.create_dataset("set-v0")
    env.close()
    del env
    gc.collect()
    report = import_trajectories("set-v0", tmp_path / "runs", format="minari")
    check_account(report)
    assert not report.files[0].account.dropped
    with trajrec.open(tmp_path / "runs") as corpus, Replayer() as replayer:
        episodes = list(corpus.episodes())
        facts = list(dataset.storage.get_episode_metadata(range(4)))
        for episode, other, fact in zip(episodes, dataset.iterate_episodes(), facts, strict=True):
            assert episode.start is not None
            assert episode.start.seed == fact["seed"]
            assert is_same(episode.rewards, other.rewards)
            assert is_same(episode.terminations, other.terminations)
            assert is_same(episode.truncations, other.truncations)
            rows = list(zip(*leaves_by_row(other.observations), strict=True))
            assert same_rows([flat(row) for row in episode.observation_values], rows)
            rows = list(zip(*leaves_by_row(other.actions), strict=True))
            assert same_rows([flat(row) for row in episode.actions], rows)
        grades = [report.grade for report in replayer.replay_all(episodes)]
        # The last one was cut off, which Minari calls truncated.
        assert grades == (["exact"] * 3 + ["state"] if kind == "CartPole-v1" else ["state"] * 4)


@pytest.mark.slow
@needs_data
def test_the_real_datasets_have_the_counted_steps(tmp_path: Path) -> None:
    import_trajectories(DATA / "minari", tmp_path / "runs").raise_if_failed()
    counts = {"CartPole-v1": (4, 69, 69.0), "trajrec-test/Dict-v0": (3, 9, 6.0)}
    counts |= {"FrozenLake-v1": (5, 32, 0.0), "trajrec-test/Pix-v0": (2, 10, 10.0)}
    assert counted("minari")["cartpole/random-v0"]["steps"] == 69
    query = (
        "SELECT env_id, count(*), sum(n_steps)::BIGINT, sum(total_reward) FROM episodes GROUP BY 1"
    )
    with trajrec.open(tmp_path / "runs") as corpus:
        assert {row[0]: row[1:] for row in corpus.sql(query).fetchall()} == counts


@pytest.mark.slow
def test_an_environment_that_is_not_registered_is_observed_only(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    change_metadata(dataset, env_spec=json.dumps({"id": "Gone-v0", "entry_point": "gone:Env"}))
    with imported(dataset, tmp_path / "back") as back, Replayer() as replayer:
        reports = list(replayer.replay_all(back.episodes()))
    assert {report.grade for report in reports} == {"observed-only"}
    assert "'Gone-v0' is not registered here" in reports[0].notes[0]
    change_metadata(dataset, env_spec=None)
    with imported(dataset, tmp_path / "other") as back, Replayer() as replayer:
        assert (
            "does not name its environment"
            in next(iter(replayer.replay_all(back.episodes()))).notes[0]
        )


def make_dataset(tmp_path: Path, kind: str = "box") -> Path:
    """Return an exported dataset that says nothing of trajrec."""
    record_samples(kind, tmp_path / "made")
    exported(tmp_path / "made", tmp_path / "set-v0")
    change_metadata(tmp_path / "set-v0", trajrec=None)
    return tmp_path / "set-v0"


def change_metadata(dataset: Path, **changes: Any) -> None:
    """Change fields of a dataset's metadata; None removes one."""
    path = dataset / "data" / "metadata.json"
    fields = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not None}))


@pytest.mark.slow
def test_types_that_minari_does_not_tell_do_not_count(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    with imported(dataset, tmp_path / "back") as back, Replayer() as replayer:
        for report in replayer.replay_all(back.episodes()):
            # The environment returns NumPy's rewards.
            assert report.grade == "state"
            assert "types of numbers" in report.notes[-1]
    with h5py.File(dataset / "data" / "main_data.hdf5", "a") as file:
        file["episode_1/rewards"][3] += 1e-9
    with imported(dataset, tmp_path / "other") as other, Replayer(explain=False) as replayer:
        grades = [report.grade for report in replayer.replay_all(other.episodes())]
    assert grades == ["state", "diverged"]


@pytest.mark.slow
def test_a_cut_off_episode_of_a_dataset_is_replayed_and_forked(tmp_path: Path) -> None:
    with trajrec.record(gym.make("MountainCarContinuous-v0"), tmp_path / "runs") as env:
        env.reset(seed=1)
        for _ in range(5):
            env.step(env.action_space.sample())
    exported(tmp_path / "runs", tmp_path / "set-v0")
    change_metadata(tmp_path / "set-v0", trajrec=None)
    with h5py.File(tmp_path / "set-v0" / "data" / "main_data.hdf5", "a") as file:
        file["episode_0/truncations"][-1] = True
    with imported(tmp_path / "set-v0", tmp_path / "back") as back, Replayer() as replayer:
        episode = next(back.episodes())
        report = replayer.replay(episode)
        assert report.grade == "state"
        assert "also have of an episode that was cut off" in report.notes[-1]
        again = replay_episode(episode, resync=True, explain=False)
        assert (again.grade, again.differing_steps) == ("state", ()), again
        branches = fork_many(episode, at=2, policy="random", n_branches=2, max_steps=3)
        assert [branch.n_steps for branch in branches] == [3, 3]


@pytest.mark.slow
def test_flags_inside_of_an_episode_come_back(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    with h5py.File(dataset / "data" / "main_data.hdf5", "a") as file:
        file["episode_0/truncations"][1] = True
        file["episode_0/terminations"][-1] = False
    with imported(dataset, tmp_path / "back") as back:
        first = next(back.episodes())
        endings = back.sql("SELECT ending FROM episodes ORDER BY number").fetchall()
        assert endings == [("unknown",), ("truncated",)]
        assert (first.ending, first.step_values) == (
            "unknown",
            {1: {"terminated": False, "truncated": True}},
        )
    exported(tmp_path / "back", tmp_path / "two-v0")
    with h5py.File(tmp_path / "two-v0" / "data" / "main_data.hdf5") as file:
        assert file["episode_0/truncations"][()].tolist() == [False, True, False, False]
        assert not file["episode_0/terminations"][()].any()


@pytest.mark.slow
def test_options_and_seeds_come_back(tmp_path: Path) -> None:
    options = {"level": 3, "name": "x", "inner": {"on": True, "at": 0.5}}
    with trajrec.record(gym.make("CartPole-v1"), tmp_path / "runs") as env:
        run_episode(env, 1, options={**options, "none": None})
    report = exported(tmp_path / "runs", tmp_path / "set-v0")
    assert report.account.dropped["options/none: a value that no attribute of HDF5 holds"] == 1
    with imported(tmp_path / "set-v0", tmp_path / "back") as back:
        episode = next(back.episodes())
        assert episode.start is not None
        assert is_same(episode.value(episode.start.options_data), options)
        assert episode.start.seed == 1


def test_empty_options_are_reported_as_lost(tmp_path: Path) -> None:
    with trajrec.record(gym.make("CartPole-v1"), tmp_path / "runs") as env:
        run_episode(env, 1, options={})
    report = exported(tmp_path / "runs", tmp_path / "set-v0")
    assert report.account.dropped["options: an empty dict"] == 1


def test_integers_above_63_bits_stay_pythons() -> None:
    numbers = [1 << 63, (1 << 64) - 1]
    column = columns_of(numbers, "infos/n")
    assert isinstance(column, Leaf)
    row = info_rows(column.values, "infos/n", {"infos/n": "python"})
    assert is_same([row(0), row(1)], numbers)


@pytest.mark.slow
def test_episodes_of_two_step_limits_are_refused(tmp_path: Path) -> None:
    for limit in (5, 7):
        env = gym.make("CartPole-v1", max_episode_steps=limit)
        with trajrec.record(env, tmp_path / "runs") as recorded:
            run_episode(recorded, 1)
    with pytest.raises(CorpusError, match="CartPole-v1 with other step limits"):
        exported(tmp_path / "runs", tmp_path / "set-v0")


@pytest.mark.slow
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_dataset(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    wanted = r"this needs h5py, which is not installed: pip install 'trajrec\[minari\]'"
    with pytest.raises(MissingPackageError, match=wanted):
        import_trajectories(dataset, tmp_path / "back")
    with pytest.raises(MissingPackageError, match=wanted):
        exported(tmp_path / "made", tmp_path / "other-v0")
    assert not list(tmp_path.rglob("other-v0*"))


@pytest.mark.slow
def test_the_rest_of_a_killed_import_is_removed(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    command = (
        "import os, sys\n"
        "from trajrec.exchange import env_log, importing\n"
        "env_log.EnvImportLog.finish = lambda log: os.kill(os.getpid(), 9)\n"
        "importing.import_trajectories(sys.argv[1], sys.argv[2])"
    )
    runs = tmp_path / "back"
    killed = subprocess.run([sys.executable, "-c", command, str(dataset), str(runs)], check=False)
    assert killed.returncode == -9
    assert {path.suffix for path in runs.rglob("*-*.*")} == {".trj", ".journal"}
    with imported(dataset, runs) as back:
        assert len(list(back.episodes())) == 2
    assert not list(runs.rglob("*-*.trj*"))


@pytest.mark.slow
def test_attributes_of_any_type_are_kept(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    with h5py.File(dataset / "data" / "main_data.hdf5", "a") as file:
        attributes = file["episode_0"].attrs
        attributes["tags"] = ["a", "b"]
        attributes["scores"] = np.arange(3)
        attributes["nothing"] = h5py.Empty("f8")
        attributes["options/goal"] = np.arange(2.0)
    with imported(dataset, tmp_path / "back") as back:
        extra = back.sql("SELECT extra FROM episodes ORDER BY number").fetchall()
        assert json.loads(extra[0][0]) == {"tags": ["a", "b"], "scores": [0, 1, 2]}
        start = next(back.episodes()).start
        assert start is not None
        assert is_same(codec.decode(start.options_data or b""), {"goal": np.arange(2.0)})


class StepInfoEnv(gym.Env[Any, Any]):
    """Has infos of which the reset lacks some, and texts whose space the log does not show."""

    observation_space = gym.spaces.Dict(
        text=gym.spaces.Text(4, charset="a,()"), number=gym.spaces.Discrete(5)
    )
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return {"text": "(", "number": 0}, {"position": 0.5}

    def step(self, action: Any) -> Any:
        info = {"position": 1.5, "force": {"x": np.zeros(2)}, "speed": float("nan"), "count": 3}
        return {"text": "a,", "number": np.int64(1)}, 0, False, True, info


@pytest.mark.slow
def test_infos_that_the_reset_lacks_come_back(tmp_path: Path) -> None:
    with trajrec.record(StepInfoEnv(), tmp_path / "runs") as env:
        run_episode(env, 1)
    report = exported(tmp_path / "runs", tmp_path / "set-v0")
    assert report.account.dropped["infos/count: not in the info of the reset"] == 1
    assert "infos/speed: not in the info of the reset, whose row is NaN" in report.account.notes
    assert (
        "observations/number: numbers of several types become those of one" in report.account.notes
    )
    with h5py.File(tmp_path / "set-v0" / "data" / "main_data.hdf5") as file:
        assert np.isnan(file["episode_0/infos/force/x"][0]).all()
    with imported(tmp_path / "set-v0", tmp_path / "back") as back:
        episode = next(back.episodes())
        assert episode.reset_info == {"position": 0.5}
        assert episode.infos[0].keys() == {"position", "force", "speed"}
        assert [value["text"] for value in episode.observation_values] == ["(", "a,"]
        report, *_ = Replayer(env=StepInfoEnv()).replay_all([episode])
        assert report.grade == "state"
        assert "infos that the imported files do not have" in report.notes[-1]
        row = "SELECT ending, seed_origin, started_at, source->>'$.position' FROM episodes"
        assert back.sql(row).fetchall() == [("truncated", "caller", None, "episode 0")]
        counts = "SELECT file, format, version, found = kept + extra FROM imports"
        assert back.sql(counts).fetchall() == [(str(tmp_path / "set-v0"), "minari", "0.5.4", True)]


class OddInfos(Scripted):
    """Returns the same kind of info from a reset and from each step."""

    def reset(self, **options: Any) -> Any:
        observation, _ = super().reset(**options)
        return observation, self.result_of(-1)[4]


ODD_INFOS: dict[str, Callable[[int], Any]] = {
    "tuple": lambda k: {"pair": (k, 0.5), "inner": {"long": tuple(range(k, k + 12)), "no": ()}},
    "empty": lambda k: {"none": {}},
    "bytes in another order": lambda k: {"vector": np.array([k / 3], ">f4")},
}


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("kind", ODD_INFOS)
def test_infos_of_odd_forms_come_back(kind: str, tmp_path: Path) -> None:
    def result(k: int) -> Any:
        return np.array([k, 0], ">f4"), 1.0, k == 3, False, ODD_INFOS[kind](k)

    with trajrec.record(OddInfos(result), tmp_path / "runs") as env:
        run_episode(env, 1)
    report = exported(tmp_path / "runs", tmp_path / "set-v0")
    assert ("infos/pair: tuples, which Minari reads as dicts" in report.account.notes) == (
        kind == "tuple"
    )
    with (
        trajrec.open(tmp_path / "runs") as corpus,
        imported(tmp_path / "set-v0", tmp_path / "back") as back,
    ):
        assert_same_episode(next(corpus.episodes()), next(back.episodes()))


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("infos", "reason"),
    [
        ([{"\ud800": 1}], r"infos: the key '\ud800' is no name of HDF5"),
        (
            [{"x": np.int64(2**53 + 1)}, {"x": 0.5}],
            "infos/x: numbers of several types, which one type does not hold",
        ),
        (
            [{"x": np.uint64(2**63 + 1)}, {"x": np.int64(-1)}],
            "infos/x: numbers of several types, which one type does not hold",
        ),
    ],
)
def test_infos_that_hdf5_would_change_are_dropped(
    infos: list[Any], reason: str, tmp_path: Path
) -> None:
    def result(k: int) -> Any:
        return np.zeros(2, np.float32), 1.0, k == 3, False, infos[k % len(infos)]

    with trajrec.record(OddInfos(result), tmp_path / "runs") as env:
        run_episode(env, 1)
    report = exported(tmp_path / "runs", tmp_path / "set-v0")
    assert report.account.dropped[reason] == 1


def test_options_without_a_name_of_hdf5_are_dropped(tmp_path: Path) -> None:
    env = Scripted(lambda k: (np.zeros(2, np.float32), 1.0, k == 0, False, {}))
    with trajrec.record(env, tmp_path / "runs") as recorder:
        recorder.reset(seed=1, options={3: 4, "\ud800": 1, "speed": 2})  # type: ignore[dict-item]
        recorder.step(0)
    report = exported(tmp_path / "runs", tmp_path / "set-v0")
    assert report.account.dropped["options/3: no name of an attribute"] == 1
    assert report.account.dropped["options/\\ud800: no name of an attribute"] == 1
    with h5py.File(tmp_path / "set-v0" / "data" / "main_data.hdf5") as file:
        assert file["episode_0"].attrs["options/speed"] == 2


class OddEnv(gym.Env[Any, Any]):
    """Returns observations of changing shapes, or raises."""

    def __init__(self, kind: str) -> None:
        self.observation_space = gym.spaces.Box(0, 1, (2,))
        self.action_space = gym.spaces.Discrete(2)
        self.kind = kind
        self.n = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.n = 0
        return np.zeros(2), {}

    def step(self, action: Any) -> Any:
        self.n += 1
        if self.kind == "raises" and self.n == 3:
            raise RuntimeError("broken")
        obs = np.zeros(self.n if self.kind == "shapes" else 2)
        reward: Any = {"a": 1.0} if self.kind == "rewards" else 1.0
        info = {"rare": 1} if self.n == 2 else {}
        return obs, reward, self.n == 4, False, info


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("shapes", "observations: arrays of several shapes"),
        ("raises", "an episode with an exception"),
        ("rewards", "rewards: they are no numbers"),
    ],
)
def test_an_episode_that_minari_cannot_hold_is_refused_by_name(
    kind: str, reason: str, tmp_path: Path
) -> None:
    with trajrec.record(OddEnv(kind), tmp_path / "runs") as env, contextlib.suppress(RuntimeError):
        run_episode(env, 1)
    with pytest.raises(CorpusError, match=reason):
        exported(tmp_path / "runs", tmp_path / "set-v0")
    assert not (tmp_path / "set-v0").exists()


def test_infos_that_come_and_go_are_reported_as_lost(tmp_path: Path) -> None:
    with trajrec.record(OddEnv("whole"), tmp_path / "runs", checks=[]) as env:
        run_episode(env, 1)
    report = exported(tmp_path / "runs", tmp_path / "set-v0")
    lost = "infos/rare: not in the info of each step"
    assert report.account.dropped[lost] == 1
    # Its spec is unknown, and its observations are no float32.
    assert any(reason.startswith("env_spec: ") for reason in report.account.dropped)


@pytest.mark.slow
def test_episodes_of_agents_and_of_two_environments_are_refused(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with trajrec.episode(runs, task="t"):
        pass
    with pytest.raises(CorpusError, match="an agent's episode: a dataset of Minari has an environ"):
        exported(runs, tmp_path / "set-v0")
    record_samples("box", runs)
    assert exported(runs, tmp_path / "set-v0").n_episodes == 2
    record_samples("discrete", runs)
    with pytest.raises(CorpusError, match=r"Sample-box-v0 and .*Sample-discrete-v0: select those"):
        exported(runs, tmp_path / "other-v0")
    with pytest.raises(ValueError, match="the folder must have the name of a dataset, NAME-v0"):
        exported(runs, tmp_path / "other")
    (tmp_path / "set-v0" / "of-the-user").touch()
    with pytest.raises(CorpusError, match="exists"):
        exported(runs, tmp_path / "set-v0")


def test_a_dataset_has_a_name_that_minari_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_samples("box", tmp_path / "runs")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    for name in ("x-v0", "ns/x-v0", "ns/of/x-v12"):
        assert exported(tmp_path / "runs", tmp_path / name).n_episodes == 2
    for name in ("n/x-v0", "x-v", "ns/x"):
        with pytest.raises(ValueError, match="namespace of two letters or more"):
            exported(tmp_path / "runs", tmp_path / name)


@pytest.mark.slow
def test_the_commands_write_and_read_a_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record_samples("box", tmp_path / "runs")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    target = tmp_path / "sets" / "box" / "mine-v1"
    target.parent.mkdir(parents=True)
    where = "env_id LIKE '%box%'"
    assert (
        main(["export", str(tmp_path / "runs"), "minari", "-o", str(target), "--where", where]) == 0
    )
    printed = capsys.readouterr()
    assert "2 episodes" in printed.err
    output = printed.out
    assert "dropped 2: times" in output
    fields = json.loads((target / "data" / "metadata.json").read_text())
    assert fields["dataset_id"] == "box/mine-v1"
    assert fields["trajrec"]["lineage"]["where"] == where
    command = ["import", "box/mine-v1", "--format", "minari", "-o", str(tmp_path / "back")]
    assert main(command) == 0
    assert main(command) == 0
    assert "1 file had been imported before, and adds nothing" in capsys.readouterr().out
    assert main(["replay", str(tmp_path / "back")]) == 0


def link_elsewhere(file: Any) -> None:
    del file["episode_0/rewards"]
    file["episode_0/rewards"] = h5py.ExternalLink("other.hdf5", "/rewards")


def name_other_file(file: Any) -> None:
    del file["episode_0/rewards"]
    file["episode_0"].create_dataset("rewards", (4,), "f8", external=[("/etc/hostname", 0, 32)])


def claim_much(file: Any) -> None:
    del file["episode_0/rewards"]
    file["episode_0"].create_dataset("rewards", (1 << 40,), "f8", chunks=(1024,))


def lose_row(file: Any) -> None:
    file["episode_0/actions"].resize((3, 2))


def lose_group(file: Any) -> None:
    del file["episode_0/observations"]


def lose_episode(file: Any) -> None:
    del file["episode_0"]


def lose_last_episode(file: Any) -> None:
    del file["episode_1"]


def change_steps(file: Any) -> None:
    file["episode_0"].attrs["total_steps"] = 3


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (link_elsewhere, "rewards is a link, which is not followed"),
        (name_other_file, "rewards lies in another file, which is not read"),
        (claim_much, "more than the file can hold"),
        (lose_row, r"actions: has the shape \(3, 2\), and not \(4, 2\)"),
        (lose_group, "observations is missing"),
        (lose_episode, "its episodes are not numbered from 0 on"),
        (lose_last_episode, "counts 2 episodes, and the data have 1"),
        (change_steps, "total_steps is 3, and it has 4 rewards"),
    ],
)
def test_a_damaged_dataset_is_refused_with_its_place(
    damage: Callable[[Any], None], reason: str, tmp_path: Path
) -> None:
    dataset = make_dataset(tmp_path)
    with h5py.File(dataset / "data" / "main_data.hdf5", "a") as file:
        damage(file)
    with pytest.raises(ImportFileError, match=reason):
        import_trajectories(dataset, tmp_path / "back").raise_if_failed()
    assert not list((tmp_path / "back").rglob("*.trj*"))


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"observation_space": None}, "observation_space is missing"),
        ({"observation_space": "{"}, "observation_space: is no JSON"),
        ({"observation_space": '{"type": "Graph"}'}, "type 'Graph', which is not read"),
        ({"data_format": "zarr"}, "data_format 'zarr' is not read"),
        ({"env_spec": "[]"}, "env_spec must be an object"),
    ],
)
def test_metadata_that_are_not_read_are_named(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    dataset = make_dataset(tmp_path)
    change_metadata(dataset, **changes)
    with pytest.raises(ImportFileError, match=reason):
        import_trajectories(dataset, tmp_path / "back").raise_if_failed()


@pytest.mark.slow
def test_jpeg_images_are_read_and_never_called_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image: Any = pytest.importorskip("PIL.Image", reason="pip install 'trajrec[minari]'")
    dataset = make_dataset(tmp_path, "image")
    change_metadata(dataset, jpeg_encoding=True)
    with h5py.File(dataset / "data" / "main_data.hdf5", "a") as file:
        for group in file.values():
            frames = group["observations"][()]
            del group["observations"]
            encoded = [jpeg(image, frame) for frame in frames]
            dtype = h5py.vlen_dtype(np.uint8)
            group.create_dataset("observations", (len(encoded),), dtype)
            for row, data in enumerate(encoded):
                group["observations"][row] = np.frombuffer(data, np.uint8)
    other = reads(dataset, monkeypatch)
    with imported(dataset, tmp_path / "back") as back, Replayer() as replayer:
        for episode, theirs in zip(back.episodes(), other.iterate_episodes(), strict=True):
            assert is_same(episode.observations, theirs.observations)
        report = next(iter(replayer.replay_all(back.episodes())))
    assert report.grade == "observed-only"
    assert "JPEG" in report.notes[0]


def jpeg(image: Any, frame: Any) -> bytes:
    """Return an image as JPEG."""
    import io

    buffer = io.BytesIO()
    image.fromarray(frame).save(buffer, format="JPEG")
    return buffer.getvalue()


@suite("imports", fixed=2, drawn=40, whole=2000)
def test_a_changed_dataset_gives_an_error_or_a_whole_import(share: Share, tmp_path: Path) -> None:
    sources = []
    for kind in SPACES if share.name != "fixed" else ("dict",):
        folder = tmp_path / kind
        folder.mkdir()
        sources.append(make_dataset(folder, kind))
    if DATA.is_dir():
        sources += [DATA / "minari" / name / "random-v0" for name in ("frozenlake", "pixels")]
    for number in range(share.size or 0):
        rng = random.Random(f"{share.seed} {number}")
        target = tmp_path / "changed" / "set-v0"
        source = rng.choice(sources)
        shutil.copytree(source, target)
        for path in target.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        files = sorted(path for path in target.rglob("*.*") if path.is_file())
        change_file(rng.choice(files), rng)
        try:
            check_import(target, tmp_path / "changed", source)
        except Exception as exc:
            raise AssertionError(f"{source} changed by seed {share.seed} {number}") from exc
        shutil.rmtree(tmp_path / "changed")
