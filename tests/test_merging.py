"""Merging folders of logs: nothing twice, nothing lost, nothing removed comes back."""

from __future__ import annotations

import shutil
from pathlib import Path

import gymnasium as gym
import pytest
from conftest import record
from tiers import third_slow

import trajrec
from trajrec.cli.main import main
from trajrec.corpus.merging import merge
from trajrec.corpus.removal import remove
from trajrec.errors import CorpusError
from trajrec.log.compaction import compact


def ids(folder: Path) -> list[str]:
    with trajrec.open(folder) as corpus:
        assert not corpus.problems()
        return sorted(row[0] for row in corpus.sql("SELECT episode_id FROM episodes").fetchall())


@pytest.mark.slow
def test_a_log_is_merged_once_whatever_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = tmp_path / "a"
    b = tmp_path / "b"
    record(gym.make("CartPole-v1"), a, 2)
    path = record(gym.make("CartPole-v1"), b / "inner", 3)
    shutil.copy(path, b / "again.trj")
    # Another log of the same name.
    same = record(gym.make("CartPole-v1"), b, 1)
    same.rename(b / next(a.glob("*.trj")).name)
    out = tmp_path / "out"
    assert main(["merge", str(a), str(b), "-o", str(out)]) == 0
    assert capsys.readouterr().out == "3 logs copied, 1 were there\n"
    assert ids(out) == sorted({*ids(a), *ids(b)})
    assert merge([a, b], out).copied == []
    assert not list(out.rglob("*.tmp"))


def test_an_empty_folder_takes_logs(tmp_path: Path) -> None:
    path = record(gym.make("CartPole-v1"), tmp_path / "a", 1)
    out = tmp_path / "out"
    out.mkdir()
    # As a merge leaves it that was killed while it copied the first log.
    (out / f".{path.name}.tmp").write_bytes(b"half")
    assert merge([tmp_path / "a"], out).copied == [path.name]
    assert [file.name for file in out.iterdir()] == [path.name]
    (tmp_path / "file").write_text("")
    with pytest.raises(CorpusError, match="not a folder"):
        merge([tmp_path / "a"], tmp_path / "file")


@pytest.mark.slow
def test_names_that_differ_in_case_alone_stay_apart(tmp_path: Path) -> None:
    for folder, name in (("a", "run.trj"), ("b", "RUN.trj")):
        path = record(gym.make("CartPole-v1"), tmp_path / folder, 1)
        path.rename(path.with_name(name))
    out = tmp_path / "out"
    copied = merge([tmp_path / "a", tmp_path / "b"], out).copied
    # One file on file systems that do not tell cases apart.
    assert len({name.lower() for name in copied}) == 2
    assert ids(out) == sorted([*ids(tmp_path / "a"), *ids(tmp_path / "b")])


@pytest.mark.slow
def test_what_cannot_be_merged_is_refused_before_a_copy(tmp_path: Path) -> None:
    a = tmp_path / "a"
    path = record(gym.make("CartPole-v1"), a, 40)
    out = tmp_path / "out"
    merge([a], out)
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path / "open")
    env.reset(seed=0)
    env.step(0)
    env.flush()
    with pytest.raises(CorpusError, match="not sealed: close its recorder"):
        merge([tmp_path / "open"], out)
    env.close()
    with pytest.raises(CorpusError, match="no such folder"):
        merge([tmp_path / "nothing"], out)
    compact(path)
    with pytest.raises(CorpusError, match="another form of a log"):
        merge([tmp_path / "open", a], out)
    assert len(list(out.rglob("*.trj"))) == 1


@pytest.mark.slow
@third_slow("imports")
def test_a_removed_episode_does_not_come_back(tmp_path: Path) -> None:
    a = tmp_path / "a"
    record(gym.make("CartPole-v1"), a, 3)
    out = tmp_path / "out"
    merge([a], out)
    remove(out, "number = 1")
    trajrec.close_logs()
    with pytest.raises(CorpusError, match=r"has 1 episodes that were removed from .*out"):
        merge([a], out)
    remove(out, "true")
    trajrec.close_logs()
    with pytest.raises(CorpusError, match=r"has 3 episodes that were removed"):
        merge([a], out)


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_sources_that_disagree_about_removals_are_refused(
    tmp_path: Path, order: tuple[str, str]
) -> None:
    record(gym.make("CartPole-v1"), tmp_path / "a", 1)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    remove(tmp_path / "a", "true")
    trajrec.close_logs()
    sources = [tmp_path / name for name in order]
    with pytest.raises(CorpusError, match=r"b: has 1 episodes that were removed from .*a "):
        merge(sources, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    # The folder that takes the logs may be the one that still has the episode.
    with pytest.raises(CorpusError, match=r"b: has 1 episodes that were removed from .*a "):
        merge([tmp_path / "a"], tmp_path / "b")


def test_merge_that_is_interrupted_leaves_no_part_of_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(gym.make("CartPole-v1"), tmp_path / "runs")

    def interrupted(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:10])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("trajrec.corpus.merging.shutil.copyfile", interrupted)
        with pytest.raises(KeyboardInterrupt):
            merge([tmp_path / "runs"], tmp_path / "all")
    assert list((tmp_path / "all").iterdir()) == []
    assert len(merge([tmp_path / "runs"], tmp_path / "all").copied) == 1


@pytest.mark.slow
def test_release_that_is_interrupted_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(gym.make("CartPole-v1"), tmp_path / "runs")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with trajrec.open(tmp_path / "runs") as corpus:
        with monkeypatch.context() as patch:
            patch.setattr("trajrec.analysis.release._write_digests", interrupted)
            with pytest.raises(KeyboardInterrupt):
                corpus.card(tmp_path / "out")
        assert not (tmp_path / "out").exists()
        corpus.card(tmp_path / "out")
