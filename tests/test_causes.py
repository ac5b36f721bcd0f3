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
from tiers import spread

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


@pytest.mark.parametrize("name", spread("replay", list(CAUSES), drawn=4))
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
