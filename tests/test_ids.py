"""The file of ids finds episodes as a query does, and nothing in it is believed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from conftest import record
from tiers import third_slow

import trajrec
from trajrec.corpus.index import ids
from trajrec.corpus.index.file import update_index
from trajrec.corpus.index.ids import IDS_NAME, IdFile
from trajrec.corpus.index.live import LiveIndex
from trajrec.errors import CorpusError
from trajrec.log.compaction import compact
from trajrec.log.folder import INDEX_FOLDER


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus of four logs with a file of ids."""
    monkeypatch.setattr(ids, "_MIN_EPISODES", 1)
    for k in range(4):
        record(gym.make("CartPole-v1"), tmp_path / "runs" / str(k), 3 + k)
    update_index(tmp_path / "runs")
    return tmp_path / "runs"


def file_of(folder: Path) -> Path:
    return folder / INDEX_FOLDER / IDS_NAME


def episode_ids(folder: Path) -> list[str]:
    with trajrec.open(folder) as corpus:
        return [row[0] for row in corpus.sql("SELECT episode_id FROM episodes").fetchall()]


@pytest.fixture
def n_scans(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An item for each time that a folder is looked at."""
    scans: list[int] = []
    refresh = LiveIndex.refresh

    def note(index: LiveIndex, **options: Any) -> None:
        scans.append(1)
        refresh(index, **options)

    monkeypatch.setattr(LiveIndex, "refresh", note)
    return scans


@pytest.mark.slow
def test_each_id_is_found_without_a_query(folder: Path, n_scans: list[int]) -> None:
    every = episode_ids(folder)
    assert IdFile(file_of(folder)).n == len(every) == 18
    with trajrec.open(folder) as corpus:
        n_scans.clear()
        found = [corpus.episode(episode_id) for episode_id in every]
        assert not n_scans
    file_of(folder).unlink()
    with trajrec.open(folder) as corpus:
        for episode in found:
            other = corpus.episode(episode.id)
            assert (other.id, other.path, other.number) == (
                episode.id,
                episode.path,
                episode.number,
            )
            assert other.total_reward == episode.total_reward


def test_ids_that_are_none_are_not_found(folder: Path) -> None:
    with trajrec.open(folder) as corpus:
        for name in ("", "0" * 16, "f" * 16, "no hexadecimal n", "-000000000000001"):
            with pytest.raises(CorpusError, match="no episode"):
                corpus.episode(name)


@third_slow("agents")
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("change", ["compact", "move", "delete", "replace", "new"])
def test_old_file_of_ids_gives_no_wrong_episode(folder: Path, change: str) -> None:
    every = episode_ids(folder)
    old = file_of(folder).read_bytes()
    (log,) = (folder / "1").glob("*.trj")
    (other,) = (folder / "2").glob("*.trj")
    gone = 0
    if change == "compact":
        # Compacting finds nothing to merge in a log of one frame, but its seal is another one.
        compact(log)
    elif change == "move":
        log.rename(folder / "moved.trj")
    elif change == "delete":
        log.unlink()
        gone = 4
    elif change == "replace":
        shutil.copy(other, log)
        gone = 4
    else:
        record(gym.make("CartPole-v1"), folder, 9)
    update_index(folder, scan="full")
    file_of(folder).write_bytes(old)
    with trajrec.open(folder) as corpus:
        missing = 0
        for episode_id in every:
            try:
                episode = corpus.episode(episode_id)
            except CorpusError:
                missing += 1
            else:
                assert episode.id == episode_id
                assert len(episode.rewards) == episode.n_steps > 0
        assert missing == gone
    if change == "new":
        assert len({*episode_ids(folder)} - {*every}) == 9


@third_slow("agents")
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("size", [0, 5, 31, 32, 100, 700])
def test_truncated_file_of_ids_is_passed_over(folder: Path, size: int) -> None:
    data = file_of(folder).read_bytes()
    assert size < len(data)
    file_of(folder).write_bytes(data[:size])
    assert IdFile(file_of(folder)).n == 0
    with trajrec.open(folder) as corpus:
        assert len([corpus.episode(episode_id) for episode_id in episode_ids(folder)]) == 18
    update_index(folder)
    assert IdFile(file_of(folder)).n == 18


@pytest.mark.slow
def test_changed_file_of_ids_gives_no_wrong_episode(folder: Path) -> None:
    every = episode_ids(folder)
    data = file_of(folder).read_bytes()
    for at in range(8, len(data), 3):
        changed = bytearray(data)
        changed[at] ^= 0x41
        file_of(folder).write_bytes(changed)
        found = IdFile(file_of(folder))
        for episode_id in every[:3]:
            found.find(episode_id)
    for at in range(40, len(data), 97):
        changed = bytearray(data)
        changed[at] ^= 0x01
        file_of(folder).write_bytes(changed)
        with trajrec.open(folder) as corpus:
            for episode_id in every[::5]:
                assert corpus.episode(episode_id).id == episode_id


@pytest.mark.slow
def test_file_of_ids_names_no_log_outside(folder: Path, tmp_path: Path) -> None:
    every = episode_ids(folder)
    data = file_of(folder).read_bytes()
    (log,) = (folder / "1").glob("*.trj")
    inside = f"1/{log.name}".encode()
    outside = f"../{log.name[1:]}".encode()
    assert inside in data
    assert len(inside) == len(outside)
    shutil.copy(log, tmp_path / outside.decode().removeprefix("../"))
    file_of(folder).write_bytes(data.replace(inside, outside))
    with trajrec.open(folder) as corpus:
        for episode_id in every:
            assert corpus.episode(episode_id).path.is_relative_to(folder)
            assert ".." not in corpus.episode(episode_id).path.parts
