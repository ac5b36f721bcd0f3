"""`trajrec doctor` names each bad file of a folder and the command that mends it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from conftest import record
from fuzz_parts import put_together, take_apart
from test_hostile_files import make_bad_name, make_loop, make_socket, needs_posix
from tiers import third_slow

import trajrec
from trajrec.cli.main import main
from trajrec.corpus.doctor import Finding, examine
from trajrec.corpus.index.file import INDEX_NAME
from trajrec.errors import CorpusError
from trajrec.log.frames import FORMAT2
from trajrec.log.journal import journal_path
from trajrec.log.reader import LogReader
from trajrec.log.repair import recover


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of three episodes."""
    return record(gym.make("FrozenLake-v1"), tmp_path_factory.mktemp("good"), 3)


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A folder with a good log."""
    runs = tmp_path / "runs"
    runs.mkdir()
    shutil.copy(good, runs / "good.trj")
    return runs


def other_log(path: Path) -> None:
    made = record(gym.make("FrozenLake-v1"), path.parent / "other", 1)
    made.rename(path)
    path.parent.joinpath("other").rmdir()


def make_damaged(path: Path) -> None:
    other_log(path)
    with LogReader(path) as reader:
        offset = reader.frames[1].end - 1
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def make_contradiction(path: Path) -> None:
    other_log(path)
    log = take_apart(path.read_bytes())
    events = log.chunks()[0].record[4]
    events.append(next(event for event in events if event[0] == "end"))
    path.write_bytes(put_together(log))


def make_torn(path: Path) -> None:
    other_log(path)
    with LogReader(path) as reader:
        end = reader.frames[-1].end
    path.write_bytes(path.read_bytes()[: end - 3])


def make_unsealed(path: Path) -> None:
    other_log(path)
    with LogReader(path) as reader:
        end = reader.frames[-1].end
    path.write_bytes(path.read_bytes()[:end])


def make_newer(path: Path) -> None:
    log = take_apart((path.parent / "good.trj").read_bytes())
    log.version = 9
    data = put_together(log)
    path.write_bytes(data)


def make_other_state(path: Path) -> None:
    data = (path.parent / "good.trj").read_bytes()
    with LogReader(path.parent / "good.trj") as reader:
        path.write_bytes(data[: reader.frames[-1].end])


def make_journal(path: Path) -> None:
    other_log(path)
    journal_path(path).write_bytes(bytes(100))


def copy_good(path: Path) -> None:
    shutil.copy(path.parent / "good.trj", path)


BAD: dict[str, tuple[Callable[[Path], Any], list[tuple[str, str, bool]]]] = {
    "damaged frame": (make_damaged, [("x.trj", "damaged", True)]),
    "contradiction": (make_contradiction, [("x.trj", "contradictory", False)]),
    "torn tail": (make_torn, [("x.trj", "unsealed", True)]),
    "no end": (make_unsealed, [("x.trj", "unsealed", True)]),
    "newer version": (make_newer, [("x.trj", "newer", False)]),
    "text": (lambda path: path.write_text("hello"), [("x.trj", "not a log", True)]),
    "empty": (lambda path: path.touch(), [("x.trj", "not a log", True)]),
    "copy": (copy_good, [("x.trj", "copy", True)]),
    "link": (lambda path: path.symlink_to("good.trj"), [("x.trj", "copy", True)]),
    "hard link": (
        lambda path: path.hardlink_to(path.parent / "good.trj"),
        [("x.trj", "copy", True)],
    ),
    "other state": (make_other_state, [("x.trj", "unsealed", True), ("x.trj", "copy", False)]),
    "journal of a sealed log": (make_journal, [("x.trj", "left-over", True)]),
    "journal of no log": (
        lambda path: journal_path(path).write_bytes(bytes(9)),
        [("x.trj.journal", "left-over", True)],
    ),
    "temporary file": (
        lambda path: path.with_name(".good.trj.tmp").touch(),
        [(".good.trj.tmp", "left-over", True)],
    ),
    "fifo": (lambda path: os.mkfifo(path), [("x.trj", "not a file", True)]),
    "socket": (make_socket, [("x.trj", "not a file", True)]),
    "loop": (make_loop, [("x.trj", "not a file", True)]),
    "link to nothing": (lambda path: path.symlink_to("nothing"), [("x.trj", "not a file", True)]),
    "link to a folder": (lambda path: path.symlink_to("."), [("x.trj", "not a file", True)]),
    "device": (lambda path: path.symlink_to("/dev/zero"), [("x.trj", "not a file", True)]),
    "bad name": (make_bad_name, [(r"\xff.trj", "unreadable", False)]),
}


def contents(folder: Path) -> Iterator[tuple[str, os.stat_result, bytes]]:
    for path in sorted(folder.rglob("*")):
        data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        yield str(path), os.lstat(path), data


@third_slow("agents")
@pytest.mark.mostly_slow(1)
@needs_posix
@pytest.mark.parametrize("name", BAD)
def test_each_bad_file_is_named_with_its_remedy(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, expected = BAD[name]
    make(folder / "x.trj")
    before = [(path, status.st_mtime_ns, data) for path, status, data in contents(folder)]
    n_logs, findings = examine(folder)
    assert n_logs in (1, 2)
    assert [(f.file, f.kind) for f in findings] == [(file, kind) for file, kind, _ in expected]
    assert main(["doctor", str(folder)]) == 1
    out = capsys.readouterr().out
    for finding in findings:
        assert finding.command in out
        assert finding.problem in out
    # It has changed nothing.
    after = [(path, status.st_mtime_ns, data) for path, status, data in contents(folder)]
    assert after == before
    for finding, (_, _, is_mended) in zip(findings, expected, strict=True):
        if is_mended:
            run(finding)
    left = [f.kind for f in examine(folder)[1]]
    assert left == [kind for _, kind, is_mended in expected if not is_mended]


def run(finding: Finding) -> None:
    """Type the command of a finding."""
    words = shlex.split(finding.command)
    if words[0] == "trajrec":
        words = [sys.executable, "-m", *words]
    subprocess.run(words, check=True, capture_output=True)


def test_folder_without_bad_files_is_well(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(folder)]) == 0
    assert capsys.readouterr().out == "1 log, all is well\n"
    assert main(["doctor", str(folder), "--json"]) == 0
    assert capsys.readouterr().out == ""


def test_log_that_is_being_written_is_well(folder: Path) -> None:
    env = trajrec.record(gym.make("FrozenLake-v1"), folder)
    env.reset(seed=0)
    env.step(0)
    env.flush()
    env.step(1)
    assert examine(folder) == (2, [])
    env.close()
    assert examine(folder) == (2, [])


def test_a_start_lost_before_recovery_is_no_finding(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("FrozenLake-v1"), tmp_path)
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(2):  # a chunk of each step
        env.step(0)
        env.flush()
    env.close()
    with LogReader(env.path) as reader:
        offset = reader.frames[1].offset
    data = bytearray(env.path.read_bytes())
    data[offset + 60] ^= 1  # the record of the first chunk, which has the start
    env.path.write_bytes(data)
    assert recover(env.path).bytes_lost
    assert examine(tmp_path) == (1, [])
    with trajrec.open(tmp_path) as corpus:
        assert corpus.problems() == []
        (episode,) = corpus.episodes()
        assert not episode.has_reset
        assert episode.n_steps == 2
        assert list(episode.missing_steps) == [(0, 1)]


def test_findings_as_json_have_place_and_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_damaged(folder / "x.trj")
    assert main(["doctor", str(folder), "--json"]) == 1
    finding = json.loads(capsys.readouterr().out)
    with LogReader(folder / "x.trj") as reader:
        frame = reader.frames[1]
    assert finding.keys() == set(Finding._fields)
    assert frame.offset <= finding["offset"] < finding["offset"] + finding["size"] <= frame.end
    assert finding["command"] == f"trajrec recover {folder / 'x.trj'}"


@pytest.mark.slow
def test_names_are_quoted_for_the_shell(folder: Path) -> None:
    (folder / "it's here").mkdir()
    make_torn(folder / "it's here" / "a b.trj")
    (finding,) = examine(folder)[1]
    run(finding)
    assert not examine(folder)[1]


def test_damage_of_a_running_log_waits_for_its_writer(folder: Path) -> None:
    env = trajrec.record(gym.make("FrozenLake-v1"), folder)
    env.reset(seed=0)
    env.step(0)
    env.flush()
    with LogReader(env.path) as reader:
        frame = reader.frames[1]
    with open(env.path, "rb+") as file:
        file.seek(frame.offset + FORMAT2.frame_size + 2)
        file.write(b"\xff\xff")
    (finding,) = examine(folder)[1]
    assert finding.kind == "damaged"
    assert "when its writer has ended" in finding.advice
    env.close()


def test_folder_without_logs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no logs"):
        examine(tmp_path)
    with pytest.raises(CorpusError, match="cannot be searched"):
        examine(tmp_path / "nowhere")
    assert main(["doctor", str(tmp_path)]) == 2


def test_index_of_an_earlier_version_may_be_deleted(folder: Path) -> None:
    trajrec.open(folder).close()
    shutil.copy(folder / INDEX_NAME, folder / "index.duckdb")
    (folder / "b").mkdir()
    (folder / "b" / "index.duckdb").write_text("a file of somebody else")
    _, findings = examine(folder)
    assert [(finding.file, finding.kind) for finding in findings] == [("index.duckdb", "left-over")]
    assert findings[0].command == f"rm {folder / 'index.duckdb'}"


@needs_posix
@pytest.mark.parametrize("name", ["", "index.duckdb"])
def test_a_link_in_the_place_of_the_index_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    link = folder / INDEX_NAME.partition("/")[0] / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / "elsewhere")
    _, (finding,) = examine(folder)
    assert finding.kind == "not a file"
    assert "neither read nor written" in finding.problem
    subprocess.run(shlex.split(finding.command), check=True)
    assert examine(folder)[1] == []
    assert not (tmp_path / "elsewhere").exists()
