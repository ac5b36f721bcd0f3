"""States of a damaged log: the true one, or unknown; never one that stands for a lost change."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import trajrec
from trajrec.errors import StateUnknownError
from trajrec.log.frames import CHUNK
from trajrec.log.reader import LogReader
from trajrec.log.repair import recover
from trajrec.recording.event_log import close_logs, open_event_log
from trajrec.tracking.parts import digest_of_parts
from trajrec.tracking.tree import Tree

N_STEPS = 24


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A log with a frame for every other step, and the state before each step."""
    folder = tmp_path_factory.mktemp("lost") / "runs"
    state = {"a": {"x": 0}, "b": {"y": 0}}
    truth = []
    with trajrec.episode(folder, task="count", watch=state) as ep:
        for step in range(N_STEPS):
            truth.append({name: dict(part) for name, part in state.items()})

            def change(step: int = step) -> int:
                state["a" if step % 5 else "b"]["x" if step % 5 else "y"] = step + 1
                return step

            ep.tool(change)()
            if step % 2:
                open_event_log(folder, "stop-recording", "process").flush()
    truth.append({name: dict(part) for name, part in state.items()})
    close_logs()
    return folder, truth


def frames_of(folder: Path) -> list[Any]:
    (log,) = folder.glob("*.trj")
    with LogReader(log) as reader:
        return [frame for frame in reader.frames if frame.kind == CHUNK]


def digest_of(state: dict[str, Any]) -> str | None:
    """Return the digest of a state as that of an attempt is stored."""
    return digest_of_parts(
        {name: Tree(lambda part=part: part).begin()[1] for name, part in state.items()}
    )


def check(folder: Path, truth: list[Any]) -> int:
    """Check each state that the log still gives; return how many it gives."""
    n_known = 0
    with trajrec.open(folder) as corpus:
        episodes = list(corpus.episodes(kind="all"))
        for episode in episodes:
            for step in range(episode.end_step + 1):
                try:
                    state = episode.state(step)
                except StateUnknownError:
                    continue
                assert state == truth[step], step
                n_known += 1
            for attempt in episode.transcript.attempts:
                try:
                    state = episode.transcript.state_after(attempt)
                except StateUnknownError:
                    continue
                assert state == truth[attempt.start.step + 1]
            for attempt in episode.transcript.attempts:
                expected = digest_of(truth[attempt.start.step + 1])
                assert attempt.state_digest in (None, expected), attempt.start.step
    return n_known


def test_the_whole_log_gives_every_state(recorded: tuple[Path, list[Any]]) -> None:
    folder, truth = recorded
    assert len(frames_of(folder)) >= N_STEPS // 2
    assert check(folder, truth) == N_STEPS + 1


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("is_recovered", [False, True])
@pytest.mark.parametrize("is_sealed", [True, False])
def test_a_lost_frame_gives_no_wrong_state(
    recorded: tuple[Path, list[Any]], tmp_path: Path, is_sealed: bool, is_recovered: bool
) -> None:
    folder, truth = recorded
    frames = frames_of(folder)
    n_known = []
    for number, frame in enumerate(frames):
        damaged = tmp_path / str(number)
        shutil.copytree(folder, damaged, ignore=shutil.ignore_patterns(".trajrec"))
        (log,) = damaged.glob("*.trj")
        data = bytearray(log.read_bytes())
        data[frame.offset + frame.size // 2] ^= 1
        log.write_bytes(data if is_sealed else data[: frames[-1].end])
        if is_recovered:
            recover(log)
        n_known.append(check(damaged, truth))
    # What is behind the next digest of each part is known again.
    assert n_known[0] == 0
    assert min(n_known[1:]) >= 2
    assert max(n_known) >= N_STEPS // 2
