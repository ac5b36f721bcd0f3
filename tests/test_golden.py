"""Golden logs: each format that was ever written stays readable, with the same rows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from slow_reader import contents

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.errors import LogError
from trajrec.log.compaction import compact
from trajrec.log.journal import journal_path
from trajrec.log.reader import LogReader
from trajrec.log.repair import recover

pytestmark = pytest.mark.sources

GOLDEN = Path(__file__).resolve().parent / "golden"
FORMATS = sorted(GOLDEN.glob("format-?"))
FOLDERS = sorted(GOLDEN.glob("format-*"))
LOGS = sorted(GOLDEN.rglob("*.trj"))


def copy(folder: Path, tmp_path: Path) -> Path:
    """Copy the golden logs of a format, without the files of expected values."""
    return Path(shutil.copytree(folder, tmp_path / folder.name))


def assert_rows(folder: Path, expected: Path) -> None:
    """Compare the tables of a corpus with those that the writer of the logs once gave."""
    with trajrec.open(folder) as corpus:
        for table, content in json.loads(expected.read_text()).items():
            columns = ", ".join(f'"{name}"' for name in content["columns"])
            rows = corpus.sql(f"SELECT {columns} FROM {table}").fetchall()
            texts = [[None if value is None else str(value) for value in row] for row in rows]
            assert sorted(texts, key=repr) == content["rows"], table


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_golden_logs_give_the_rows_of_their_own_program(folder: Path, tmp_path: Path) -> None:
    assert_rows(copy(folder, tmp_path), folder / "rows.json")


@pytest.mark.parametrize("folder", FORMATS, ids=lambda folder: folder.name)
def test_golden_environments_replay_exactly(folder: Path, tmp_path: Path) -> None:
    with trajrec.open(copy(folder, tmp_path)) as corpus:
        episodes = list(corpus.episodes("env_id IN ('FrozenLake-v1', 'Pendulum-v1')", kind="all"))
        assert len(episodes) == 7
        reports = list(trajrec.replay.replay_episodes(episodes))
        assert {report.grade for report in reports} == {"exact"}


@pytest.mark.mostly_slow(12)
@pytest.mark.parametrize("path", LOGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_recovered_golden_log_has_the_same_episodes(path: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copy(path, tmp_path))
    if journal_path(path).exists():
        shutil.copy(journal_path(path), tmp_path)
    # A log of a killed writer: the footer and the trailer are cut off.
    with LogReader(copied) as reader:
        whole = reader.slice(0, reader.frames[-1].end)
    copied.write_bytes(whole)
    recover(copied)
    for _ in range(2):
        with LogReader(path) as before, LogReader(copied) as after:
            assert after.is_sealed
            assert not after.damage
            assert after.header == before.header
            assert events(after) == events(before)
            has_unknown = bool(after.unknown_tags)
        if has_unknown:
            with pytest.raises(LogError, match="upgrade trajrec to compact it"):
                compact(copied)
        else:
            compact(copied)


def test_recover_keeps_records_of_later_programs(tmp_path: Path) -> None:
    path = Path(shutil.copy(GOLDEN / "format-2" / "unknown.trj", tmp_path))
    before = contents(path)
    recover(path)
    after = contents(path)
    assert (before["unknown_events"], after["unknown_events"]) == (1, 1)
    assert [frame[2] for frame in before["frames"]] == [1, 9, 2]
    assert [frame[2] for frame in after["frames"]] == [1, 9, 2, 3]


def events(reader: LogReader) -> list[object]:
    return [event for chunk in reader.chunks() for event in chunk.record.events]


@pytest.mark.parametrize("path", sorted(GOLDEN.rglob("keydoor.trj")), ids=lambda p: p.parent.name)
def test_golden_episode_has_its_values(path: Path) -> None:
    with LogReader(path) as reader:
        assert not reader.damage
        episode = Episode(reader, 0)
        assert (episode.n_steps, episode.ending, float(episode.total_reward)) == (
            13,
            "terminated",
            1.0,
        )
        assert episode.actions == [0, 0, 0, 0, 2, 1, 1, 1, 1, 1, 1, 1, 3]
        assert episode.observations[-1].tolist() == [7, 1, 0, 13]


@pytest.mark.slow
def test_program_that_makes_golden_logs_makes_each_of_them(tmp_path: Path) -> None:
    folder = tmp_path / "format-2"
    make = GOLDEN / "make.py"
    environment = os.environ | {"PYTHONPATH": f"{GOLDEN.parent}{os.pathsep}{GOLDEN.parent.parent}"}
    subprocess.run([sys.executable, make, folder], check=True, env=environment)
    for made in (folder, folder.with_name("format-2-journal")):
        stored = {path.name for path in (GOLDEN / made.name).iterdir()}
        assert {path.name for path in made.iterdir()} == stored
