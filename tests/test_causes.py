"""Causes: each broken environment, recorded in another process, is diagnosed."""

from __future__ import annotations

import datetime
import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import broken
import pytest
from tiers import spread, third_slow

import trajrec
from trajrec.agents.freeze import stopped_clocks
from trajrec.recording import provenance
from trajrec.replay import replay_episode, replay_episodes

CAUSES = {
    "Clock": "clock",
    "GlobalRandom": "global random",
    "Coin": "global random",
    "HashOrder": "hash order: the environment depends on the order of a set or on hash() of texts; PYTHONHASHSEED=7",
    "UnseededGenerator": "unseeded generator",
    "Address": "addresses",
    "Threads": "threads: the order of a reduction depends on OMP_NUM_THREADS; OMP_NUM_THREADS=7",
    "wrapper_rng": "unseeded generator: the environment or a wrapper",
    "Network": "network: the environment connected to 127.0.0.1:",
}


def record(folder: Path, name: str, **settings: str) -> Any:
    """Record in another process, under its own hash seed and number of threads."""
    script = Path(broken.__file__)
    env = {**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "7", **settings}
    subprocess.run(
        [sys.executable, str(script), str(folder), name], check=True, env=env, cwd=script.parent
    )
    return trajrec.open(folder)


@pytest.mark.parametrize("name", spread("replay", list(CAUSES), drawn=3))
def test_cause_of_a_divergence_is_named(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "Address" and sys.platform != "linux":
        pytest.skip("addresses can be held still on Linux only")
    server = broken.serve()
    monkeypatch.setenv("TRAJREC_TEST_PORT", str(server.server_address[1]))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    try:
        (episode, *_) = record(tmp_path, name).episodes(order_by="number")
        report = replay_episode(episode, env=getattr(broken, name))
    finally:
        server.shutdown()
        server.server_close()
    assert report.grade == "diverged"
    assert report.divergence.field.startswith("observation/")
    assert report.divergence.cause.startswith(CAUSES[name]), report.divergence.cause


@pytest.mark.slow
@third_slow("replay")
def test_other_threads_reading_the_time_hide_no_cause(tmp_path: Path) -> None:
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            time.time()
            time.sleep(0.0001)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        (episode, *_) = record(tmp_path, "Clock").episodes(order_by="number")
        report = replay_episode(episode, env=broken.Clock)
    finally:
        ended.set()
        thread.join()
    assert report.divergence.cause.startswith("clock"), report.divergence.cause


@pytest.mark.slow
@third_slow("replay")
def test_measured_collections_of_garbage_hide_no_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Littering(broken.Clock):
        def step(self, action: Any) -> Any:
            cycles: list[Any] = [[] for _ in range(int(os.urandom(1)[0]))]
            for cycle in cycles:
                cycle.append(cycle)
            return super().step(action)

    def measure(*_: Any) -> None:
        time.perf_counter()

    threshold = gc.get_threshold()
    gc.set_threshold(50)
    gc.callbacks.append(measure)
    try:
        (episode, *_) = record(tmp_path, "Clock").episodes(order_by="number")
        report = replay_episode(episode, env=Littering)
    finally:
        gc.set_threshold(*threshold)
        assert measure in gc.callbacks
        gc.callbacks.remove(measure)
    assert report.divergence.cause.startswith("clock"), report.divergence.cause


def test_a_module_imported_meanwhile_keeps_no_stopped_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "late_clock.py").write_text(
        "import time\nfrom datetime import datetime\nfrom time import time_ns, monotonic as now\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with stopped_clocks(1_000_000_000, tick_s=0.5):
        import late_clock  # type: ignore[import-not-found]

        assert late_clock.time_ns() == 1_000_000_000 * 10**9
    monkeypatch.delitem(sys.modules, "late_clock")
    assert late_clock.now is time.monotonic
    assert late_clock.time_ns is time.time_ns
    assert late_clock.datetime is datetime.datetime


@pytest.mark.slow
def test_state_leak_between_episodes_is_no_divergence(tmp_path: Path) -> None:
    episodes = list(record(tmp_path, "StateLeak").episodes(order_by="number"))
    report = replay_episode(episodes[2], env=broken.StateLeak)
    assert report.grade == "exact"
    assert (
        report.notes[-1]
        == "only after the 2 episodes before it: it carries state over between episodes"
    )


@pytest.mark.slow
@third_slow("replay")
def test_changed_version_is_named_as_the_cause(tmp_path: Path) -> None:
    class Newer(broken.Sound):
        def extra(self) -> float:
            return 1.0

    (episode, *_) = record(tmp_path, "Sound").episodes()
    installed = {**episode.header.runtime["packages"], "numpy": "99.0"}
    with mock.patch.object(provenance, "_packages", return_value=installed):
        report = replay_episode(episode, env=Newer)
    then = episode.header.runtime["packages"]["numpy"]
    assert f"version drift: changed since: numpy {then} -> 99.0" in report.divergence.cause


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("has_new_version", [False, True])
def test_float_drift_needs_something_that_drifted(tmp_path: Path, has_new_version: bool) -> None:
    class Nudged(broken.Sound):
        def step(self, action: Any) -> Any:
            observation, reward, *others = super().step(action)
            return observation, reward * (1 + 1e-12), *others

    (episode, *_) = record(tmp_path, "Sound").episodes()
    installed = dict(episode.header.runtime["packages"])
    if has_new_version:
        installed["numpy"] = "99.0"
    with mock.patch.object(provenance, "_packages", return_value=installed):
        report = replay_episode(episode, env=Nudged)
    cause = report.divergence.cause
    assert cause.startswith("float drift") == has_new_version
    assert ("its code or data changed" in cause) == (not has_new_version)
    assert "the values agree to rounding" in cause


@pytest.mark.slow
def test_sound_environment_replays_exactly(tmp_path: Path) -> None:
    env = trajrec.record(broken.Sound(), tmp_path)
    for _ in range(1000):
        env.reset()
        done = False
        while not done:
            _, _, done, _, _ = env.step(1)
    env.close()
    with trajrec.open(tmp_path) as corpus:
        reports = list(
            replay_episodes(corpus.episodes(order_by="hash(episode_id)"), env=broken.Sound)
        )
    assert len(reports) == 1000
    assert {(report.grade, *report.notes) for report in reports} == {
        ("exact", "state not compared: none was recorded")
    }


class Zone(broken.Sound):
    """Shows whether a time zone is set, and set to nothing."""

    def extra(self) -> float:
        return {None: 1.0, "": 2.0}.get(os.environ.get("TZ"), 3.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("recorded", "live", "remedy"),
    [(None, "UTC", "TZ unset"), ("", "UTC", "TZ="), ("UTC", None, "TZ=UTC"), ("", None, "TZ=")],
)
def test_unset_variable_is_not_an_empty_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recorded: str | None,
    live: str | None,
    remedy: str,
) -> None:
    def set_zone(value: str | None) -> None:
        monkeypatch.delenv("TZ", raising=False)
        if value is not None:
            monkeypatch.setenv("TZ", value)

    set_zone(recorded)
    episode = record_here(tmp_path, Zone)
    set_zone(live)
    cause = replay_episode(episode, env=Zone).divergence.cause
    assert f"depends on TZ; {remedy}, as it was recorded with, gives it again" in cause


def record_here(folder: Path, env: Any) -> Any:
    """Record in this process, without the fixed hash seed of `record`."""
    recorder = trajrec.record(env(), folder)
    recorder.reset(seed=1)
    for _ in range(6):
        recorder.step(1)
    recorder.close()
    return next(trajrec.open(folder).episodes())


SWITCHED = False


class Switched(broken.Sound):
    """Shows a variable of its module."""

    def extra(self) -> float:
        return float(SWITCHED)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_variable_that_the_program_changed_is_no_hash_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    episode = record_here(tmp_path, Switched)
    monkeypatch.setattr(sys.modules[__name__], "SWITCHED", True)
    cause = replay_episode(episode, env=Switched).divergence.cause
    assert cause.startswith("this process: in a process of its own"), cause


class Changed(broken.StateLeak):
    """Carries state over as it did, and rewards its ninth step in another way."""

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        return (observation, reward - (self.n == 9), *rest)


class SwitchedLeak(broken.StateLeak):
    """Carries state over, and rewards its ninth step by a variable of its module."""

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        return (observation, reward - (self.n == 9 and SWITCHED), *rest)


@pytest.mark.slow
def test_change_behind_a_state_leak_is_named_where_it_is(tmp_path: Path) -> None:
    episodes = list(record(tmp_path, "StateLeak").episodes(order_by="number"))
    for report in (
        replay_episode(episodes[2], env=Changed),
        list(replay_episodes(episodes, env=Changed))[2],
    ):
        assert (report.divergence.step, report.divergence.field) == (8, "reward")
        assert report.divergence.cause.startswith("the environment repeats itself")
        assert (
            "compared after the 2 episodes before it: it carries state over between episodes, "
            "and alone it differs from step 4 on" in report.notes
        )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_cause_behind_a_state_leak_is_found_after_the_same_episodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = trajrec.record(SwitchedLeak(), tmp_path)
    for _ in range(3):
        recorder.reset(seed=1)
        for _ in range(12):
            recorder.step(1)
    recorder.close()
    episode = list(trajrec.open(tmp_path).episodes(order_by="number"))[2]
    monkeypatch.setattr(sys.modules[__name__], "SWITCHED", True)
    divergence = replay_episode(episode, env=SwitchedLeak).divergence
    assert (divergence.step, divergence.field) == (8, "reward")
    assert divergence.cause.startswith("this process: in a process of its own"), divergence.cause


class NoisyLeak(broken.StateLeak):
    """Carries state over, and shows noise that nobody seeds two steps after that state."""

    def see(self) -> Any:
        observation = super().see()
        observation[1] += broken.system_random.random() if self.n == 7 else 0.0
        return observation


@pytest.mark.slow
def test_noise_behind_a_state_leak_is_named_where_it_is(tmp_path: Path) -> None:
    episodes = list(record(tmp_path, "StateLeak").episodes(order_by="number"))
    report = replay_episode(episodes[2], env=NoisyLeak)
    assert (report.divergence.step, report.divergence.field) == (6, "observation/1")
    assert report.divergence.cause.startswith("unseeded generator"), report.divergence.cause


class ChangedAtOnce(broken.StateLeak):
    """Carries state over as it did, and rewards the step that shows it in another way."""

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        return (observation, reward - (self.n == 5), *rest)


@pytest.mark.slow
def test_change_at_the_step_of_a_state_leak_is_named(tmp_path: Path) -> None:
    episodes = list(record(tmp_path, "StateLeak").episodes(order_by="number"))
    report = replay_episode(episodes[2], env=ChangedAtOnce)
    assert (report.divergence.step, report.divergence.field) == (4, "reward")


class Newer(broken.HashOrder):
    """Depends on the hash seed as it did, and on a newer version."""

    def extra(self) -> float:
        return super().extra() + 2_000_000


@pytest.mark.slow
def test_seed_that_was_recorded_is_no_cause_if_it_changes_nothing(tmp_path: Path) -> None:
    (episode, *_) = record(tmp_path, "HashOrder").episodes(order_by="number")
    cause = replay_episode(episode, env=Newer).divergence.cause
    assert not cause.startswith("hash order"), cause


class Picky(broken.Sound):
    """Ends its process under one hash seed."""

    def extra(self) -> float:
        if os.environ.get("PYTHONHASHSEED") == "0":
            os._exit(3)
        return float(SWITCHED)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_experiment_that_ends_its_process_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    episode = record_here(tmp_path, Picky)
    monkeypatch.setattr(sys.modules[__name__], "SWITCHED", True)
    cause = replay_episode(episode, env=Picky).divergence.cause
    assert "an experiment in another process failed" in cause
