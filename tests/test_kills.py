"""Processes that are killed while they record: all that they had reported is in the log."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import killed
import pytest
from conftest import run
from killing import Zygote, forking_process, record_and_kill
from tiers import Share, suite

import trajrec
from trajrec.cli import main as cli
from trajrec.corpus.episode import Episode
from trajrec.log.journal import journal_path
from trajrec.log.reader import LogReader
from trajrec.log.repair import recover
from trajrec.recording.event_log import close_logs
from trajrec.redaction.streams import STEP_CHARS
from trajrec.values.diff import is_same

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with forking_process() as process:
        yield process


def read_episodes(folder: Path) -> list[Episode]:
    """Return the episodes of all logs of a folder, none of which may be damaged."""
    return [episode for path in sorted(folder.glob("*.trj")) for episode in read_log(path)]


def read_log(path: Path) -> list[Episode]:
    """Return the episodes of a log, which may not be damaged."""
    reader = LogReader(path)
    assert not [damage for damage in reader.damage if not damage.is_tail]
    numbers = {event.episode for chunk in reader.chunks() for event in chunk.record.events}
    return [Episode(reader, number) for number in sorted(numbers) if number >= 0]


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
            assert is_same(step.observation, truth[0])
            assert (step.action, step.reward) == (step.step, truth[1])
            rows[seed, step.step] = step.reward
    assert ended.items() <= rows.items()
    assert rows.keys() <= begun
    assert len(rows.keys() - ended.keys()) <= 1


def check_vectors(episodes: list[Episode], reports: dict[str, list[Any]]) -> None:
    for episode in episodes:
        assert len(episode.actions) in (len(reports[">"]), len(reports["<"]))
        assert episode.actions == list(range(len(episode.actions)))


def check_games(episodes: list[Episode], reports: dict[str, list[Any]]) -> None:
    moves: dict[int, list[int]] = {}
    for seed, _, move in reports[">"]:
        moves.setdefault(seed, []).append(move)
    by_seed = {episode.start.seed: episode for episode in episodes if episode.start}
    for seed, made in moves.items():
        recorded = by_seed[seed].actions
        assert recorded[: len(made)] == made
        assert len(recorded) <= len([call for call in reports["<"] if call[0] == seed])


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
        assert calls[task, n].answer == list(killed.pieces(n))
    for task, n in reports["<"][:-1]:
        assert (task, n) in calls
    received: dict[tuple[str, int], list[str]] = {}
    for task, n, piece in reports["+"]:
        received.setdefault((task, n), []).append(piece)
    for place, pieces in received.items():
        # Only the redactor's window may be missing of an answer that was streaming.
        recorded = calls[place].answer or []
        assert recorded[: len(pieces)] == pieces[: len(recorded)]
        assert sum(map(len, pieces[len(recorded) :])) <= 2 * STEP_CHARS


def check_folder(folder: Path, kind: str, reports: dict[str, list[Any]]) -> None:
    episodes = read_episodes(folder)
    if kind in ("numbers", "pixels", "dicts"):
        check_steps(episodes, reports, kind)
    elif kind == "vectors":
        check_vectors(episodes, reports)
    elif kind == "games":
        check_games(episodes, reports)
    elif kind == "models":
        check_models(episodes, reports)
    elif kind == "lock":
        assert [episode.actions for episode in episodes] == [list(range(300))] * 10
    else:
        check_tools(episodes, reports)
    for episode in episodes:
        episode.reader.close()


def kill_and_check(zygote: Zygote, kind: str, folder: Path, after_s: float) -> None:
    reports = killed.read_reports(record_and_kill(zygote, kind, folder, after_s))
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


HAS_GAMES = importlib.util.find_spec("pettingzoo") is not None

ALL = [kind for kind in killed.KINDS if kind != "lock" and (HAS_GAMES or kind != "games")]


@suite("kills", fixed=2, drawn=10, whole=2000, n_tests=8)
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


@pytest.mark.slow
def test_steps_survive_while_c_code_keeps_the_lock(zygote: Zygote, tmp_path: Path) -> None:
    # The flusher cannot run from the moment of the report on.
    kill_and_check(zygote, "lock", tmp_path / "runs", 1.0)


Contents = dict[str, list[Any]]


def contents(folder: Path) -> Contents:
    """Return the events and the steps of each log of a folder."""
    found: Contents = {}
    for path in sorted(folder.glob("*.trj")):
        episodes = read_log(path)
        events: list[Any] = []
        rows = []
        for episode in episodes:
            events = [event for chunk in episode.reader.chunks() for event in chunk.record.events]
            values = (episode.actions, episode.observation_values, episode.reward_values)
            rows.append((episode.id, episode.ending, episode.n_steps, *values))
        if episodes:
            episodes[0].reader.close()
        found[path.name] = [events, rows]
    return found


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with logs of all kinds: as killed writers leave them, and sealed."""
    folder = tmp_path_factory.mktemp("corpus") / "sealed"
    lake = trajrec.record(gym.make("FrozenLake-v1"), folder)
    for k in range(60):
        run(lake, 1, seed=k)
        lake.flush()
    lake.close()
    recorders = [trajrec.record(killed.Room(kind), folder) for kind in ("numbers", "pixels")]
    for env in recorders:
        env.reset(seed=7)
        for k in range(200):
            env.step(k)
            if k == 100:
                env.flush()
    with trajrec.episode(folder, world=killed.Shelf(lambda *_: None), task="shelf") as ep:
        for n in range(60):
            ep.call("put", n=n, episode="")
    shutil.copytree(folder, folder.parent / "killed")
    for env in recorders:
        env.close()
    close_logs()
    return {name: folder.parent / name for name in ("sealed", "killed")}


COMMANDS = {
    "recover": "killed",
    "compact": "sealed",
    "index": "killed",
    "index --rebuild": "sealed",
    "recheck --verifier killed:always": "sealed",
    "fork --at 3 --policy random -n 4": "sealed",
}
"""Command lines without their folder, and the folder on which they are killed."""


def check_contents(before: Contents, folder: Path) -> None:
    """Check that the logs of a folder have what they had; a command may have added others."""
    after = contents(folder)
    for name, content in before.items():
        assert is_same(after[name], content), name


def kill_command(zygote: Zygote, command: str, base: Path, folder: Path, after_s: float) -> None:
    """Kill a command; check that the logs have what they had, and that it can be run again."""
    folder.mkdir()
    runs = Path(shutil.copytree(base, folder / "runs"))
    before = contents(runs)
    words = command.split()
    words.insert(1, str(runs))
    if words[0] == "fork":
        rows = [row for _, rows in before.values() for row in rows]
        words.insert(2, next(row[0] for row in rows if row[2] == 200 and row[4][0].shape == (2,)))
        words += ["--env", "killed:Room", "--allow", "killed"]
    record_and_kill(zygote, json.dumps(words), folder / "child", after_s)
    check_contents(before, runs)
    assert cli.main(words) == 0
    check_contents(before, runs)
    if words[0] in ("recover", "compact"):
        assert {path.name for path in runs.iterdir()} == set(before)
    n_steps = sum(row[2] for _, rows in before.values() for row in rows)
    with trajrec.open(runs) as corpus:
        query = "SELECT count(*) FROM steps WHERE kind <> 'fork'"
        assert corpus.sql(query).fetchall() == [(n_steps,)]
        assert corpus.problems() == []


@suite("kills", fixed=1, drawn=6, whole=500, n_tests=4)
def test_killed_command_loses_nothing_and_can_be_repeated(
    share: Share, zygote: Zygote, corpora: dict[str, Path], tmp_path: Path
) -> None:
    for k, after_s in enumerate(share.rng().uniform(0.0, 0.4, share.size)):
        command = list(COMMANDS)[k % len(COMMANDS)]
        try:
            kill_command(
                zygote, command, corpora[COMMANDS[command]], tmp_path / str(k), float(after_s)
            )
        except BaseException as exc:
            exc.add_note(f"{command}, killed after {after_s:.3f} s, folder {k}")
            raise
