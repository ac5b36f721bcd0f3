"""Processes that are killed while they record: all that they had reported is in the log."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import killed
import pytest
from tiers import Share, suite

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.log.journal import journal_path
from trajrec.log.reader import LogReader
from trajrec.log.repair import recover

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

Zygote = subprocess.Popen[str]


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    """A process that forks a recording child for each line it gets."""
    with subprocess.Popen(
        [sys.executable, killed.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def kill_child(zygote: Zygote, kind: str, folder: Path, after_s: float) -> Path:
    """Have a child record, kill it, and return its reports."""
    assert zygote.stdin is not None
    assert zygote.stdout is not None
    folder.mkdir()
    reports = folder / "reports"
    zygote.stdin.write(json.dumps([kind, str(folder), str(reports)]) + "\n")
    zygote.stdin.flush()
    pid = int(zygote.stdout.readline())
    while not reports.exists() or reports.stat().st_size == 0:
        time.sleep(0.002)
        os.kill(pid, 0)
    time.sleep(after_s)
    os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(pid, 0)
            time.sleep(0.001)
    return reports


def read_episodes(folder: Path) -> list[Episode]:
    """Return the episodes of all logs of a folder, none of which may be damaged."""
    episodes = []
    for path in sorted(folder.glob("*.trj")):
        reader = LogReader(path)
        assert not [damage for damage in reader.damage if not damage.is_tail]
        numbers = {event.episode for chunk in reader.chunks() for event in chunk.record.events}
        episodes += [Episode(reader, number) for number in sorted(numbers)]
    return episodes


def check_steps(episodes: list[Episode], reports: dict[str, list[Any]], kind: str) -> None:
    by_seed = {episode.start.seed: episode for episode in episodes if episode.start}
    begun = {(seed, k) for seed, k in reports["<"]}
    ended = {(seed, k): reward for seed, k, reward in reports[">"]}
    rows = {}
    for seed, episode in by_seed.items():
        env = killed.Room(kind)
        env.reset(seed=seed)
        for step in episode.steps():
            truth = env.step(step.action)
            assert trajrec_is_same(step.observation, truth[0])
            assert (step.action, step.reward) == (step.step, truth[1])
            rows[seed, step.step] = step.reward
    assert ended.items() <= rows.items()
    assert rows.keys() <= begun
    assert len(rows.keys() - ended.keys()) <= 1


def trajrec_is_same(a: Any, b: Any) -> bool:
    from trajrec.values.diff import is_same

    return is_same(a, b)


def check_vectors(episodes: list[Episode], reports: dict[str, list[Any]]) -> None:
    for episode in episodes:
        assert len(episode.actions) in (len(reports[">"]), len(reports["<"]))
        assert episode.actions == list(range(len(episode.actions)))


def check_tools(episodes: list[Episode], reports: dict[str, list[Any]]) -> None:
    started = set()
    ended = {}
    for episode in episodes:
        transcript = episode.transcript
        task = transcript.task_start.task if transcript.task_start else ""
        for attempt in transcript.attempts:
            call = (task, attempt.arguments["n"])
            started.add(call)
            if attempt.end is not None:
                ended[call] = attempt.result
                assert attempt.result["n"] == attempt.arguments["n"]
        assert transcript.history.first_unknown() is None
    # The start of a call was recorded before the tool ran.
    assert {(task, n) for task, n in reports["!"]} <= started
    assert {(task, n) for _, task, n in reports[">"]} <= ended.keys()


def check_models(episodes: list[Episode], reports: dict[str, list[Any]]) -> None:
    calls = {}
    for episode in episodes:
        transcript = episode.transcript
        task = transcript.task_start.task if transcript.task_start else ""
        for number, call in enumerate(transcript.model_calls):
            calls[task, number] = call
    for task, n in reports[">"]:
        assert calls[task, n].answer == [f"{n}:{k} " for k in range(n)]
    for task, n in reports["<"][:-1]:
        assert (task, n) in calls


def check_folder(folder: Path, kind: str, reports: dict[str, list[Any]]) -> None:
    episodes = read_episodes(folder)
    if kind in ("numbers", "pixels", "dicts"):
        check_steps(episodes, reports, kind)
    elif kind == "vectors":
        check_vectors(episodes, reports)
    elif kind == "models":
        check_models(episodes, reports)
    elif kind == "lock":
        assert [episode.actions for episode in episodes] == [list(range(300))] * 10
    else:
        check_tools(episodes, reports)
    for episode in episodes:
        episode.reader.close()


def kill_and_check(zygote: Zygote, kind: str, folder: Path, after_s: float) -> None:
    reports = killed.read_reports(kill_child(zygote, kind, folder, after_s))
    check_folder(folder, kind, reports)
    with trajrec.open(folder) as corpus:
        query = "SELECT ending, coalesce(sum(missing_steps), 0) FROM episodes GROUP BY 1"
        missing = dict(corpus.sql(query).fetchall())
        assert set(missing.values()) <= {0}
        assert "running" not in missing
    for path in folder.glob("*.trj"):
        recovery = recover(path)
        assert not recovery.damaged_copy
        assert not journal_path(path).exists()
        assert recover(path).was_sealed
    check_folder(folder, kind, reports)


ALL = [kind for kind in killed.KINDS if kind != "lock"]


@suite("log", fixed=7, drawn=70, whole=2000)
def test_kill_at_any_moment_loses_nothing_that_was_reported(
    share: Share, zygote: Zygote, tmp_path: Path
) -> None:
    kinds = Counter[str]()
    for k, after_s in enumerate(share.rng().uniform(0.0, 0.3, share.size)):
        kind = ALL[k % len(ALL)]
        kinds[kind] += 1
        try:
            kill_and_check(zygote, kind, tmp_path / str(k), float(after_s))
        except AssertionError as exc:
            exc.add_note(f"{kind}, killed after {after_s:.3f} s, folder {k}")
            raise


def test_steps_survive_while_c_code_keeps_the_lock(zygote: Zygote, tmp_path: Path) -> None:
    # The flusher cannot run from the moment of the report on.
    kill_and_check(zygote, "lock", tmp_path / "runs", 1.0)
