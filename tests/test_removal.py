"""Removing episodes: their bytes go from every file, the others stay bit for bit."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Scripted, record
from plain_transitions import plain_transitions
from tiers import deep, third_slow

import trajrec
from trajrec.cli.main import main
from trajrec.corpus.removal import remove
from trajrec.errors import CorpusError, ImportFileError, LogError
from trajrec.log.journal import journal_path
from trajrec.log.reader import LogReader
from trajrec.log.removal import LogChunks, episode_digests, remove_episodes
from trajrec.replay import fork_many
from trajrec.values.diff import is_same


def contents(folder: Path) -> dict[str, Any]:
    """Return everything that the episodes of a corpus say, by id."""
    with trajrec.open(folder) as corpus:
        return {
            episode.id: (
                list(episode.steps()),
                episode.stored_observations,
                episode.states,
                episode.state_digests,
                episode.start,
                episode.end,
                [(a.tool, a.arguments, a.result, a.changes) for a in episode.transcript.attempts]
                if episode.is_agent_episode
                else None,
            )
            for episode in corpus.episodes(kind="all")
        }


def holds(folder: Path, data: bytes) -> list[str]:
    """Return the files of a folder that hold some bytes, also in what zstd has compressed."""
    found = []
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        texts = [path.read_bytes()]
        if path.suffix == ".trj":
            for chunk in LogReader(path).chunks():
                texts.append(repr(chunk.record).encode())
                for index in range(len(chunk.columns())):
                    texts += chunk.rows(index).encoded()
        if any(data in text for text in texts):
            found.append(path.name)
    return found


def agents(folder: Path, names: list[str]) -> None:
    """Record an agent's episode for each name; all of them refer to one large value."""
    shared = "shared " * 100
    for name in names:
        with trajrec.episode(folder, task=name, watch={"n": 0}) as ep:
            tool = ep.tool(lambda text, large: {"text": text, "large": large}, name="say")
            tool(text=f"secret-{name}", large=shared)
            tool(text=f"long-{name} " * 60, large=name * 300)
    trajrec.close_logs()


@pytest.mark.slow
def test_the_others_stay_as_they_are(cartpole: trajrec.Corpus) -> None:
    before = contents(cartpole.path)
    (path,) = cartpole.path.glob("*.trj")
    cartpole.close()
    plan = remove(cartpole.path, "number IN (1, 3)", reason="asked")
    after = contents(cartpole.path)
    assert len(plan.episodes) == 2
    assert set(after) == set(before) - set(plan.episodes)
    assert all(is_same(after[key], before[key]) for key in after)
    reader = LogReader(path)
    assert reader.trailer is not None
    assert reader.trailer.generation == 1
    with trajrec.open(cartpole.path) as corpus:
        rows = corpus.sql("SELECT episode_id, reason, length(digest) FROM removals").fetchall()
        assert sorted(rows) == sorted((target, "asked", 32) for target in plan.episodes)
        assert not corpus.problems()
        with pytest.raises(CorpusError, match="no episode is selected by 'number IN"):
            remove(cartpole.path, "number IN (1, 3)")


@pytest.mark.slow
def test_no_file_holds_what_was_removed(tmp_path: Path) -> None:
    agents(tmp_path, ["ada", "bob", "cem"])
    before = contents(tmp_path)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in tmp_path.glob("*.trj"):
        shutil.copy(path, copy)
    assert holds(tmp_path, b"secret-bob")
    assert holds(tmp_path, b"bob" * 300)
    plan = remove(tmp_path, "task = 'bob'")
    assert len(plan.logs) == 2
    for data in (b"secret-bob", b"long-bob", b"bob" * 300):
        assert holds(tmp_path, data) == []
    # A value that another episode has too is its own.
    assert holds(tmp_path, b"shared shared")
    after = contents(tmp_path)
    assert len(after) == 2
    assert all(is_same(after[key], before[key]) for key in after)


@pytest.mark.parametrize("where", ["number = 1", "true"])
def test_the_journal_that_a_killed_writer_left_goes_too(tmp_path: Path, where: str) -> None:
    journal = journal_path(record(gym.make("CartPole-v1"), tmp_path, 3))
    journal.write_bytes(b"the episodes again")
    remove(tmp_path, where)
    assert not journal.exists()


@pytest.mark.slow
def test_a_value_that_another_episode_shares_moves_to_it(tmp_path: Path) -> None:
    agents(tmp_path, ["ada", "bob"])
    before = contents(tmp_path)
    remove(tmp_path, "task = 'ada'")
    after = contents(tmp_path)
    assert len(after) == 1
    assert all(is_same(after[key], before[key]) for key in after)
    with trajrec.open(tmp_path) as corpus:
        assert not corpus.problems()
        assert len(list(corpus.messages())) == 1


@pytest.mark.slow
@third_slow("kills")
def test_what_depends_on_an_episode_keeps_it(cartpole: trajrec.Corpus) -> None:
    parent = max(cartpole.episodes(), key=lambda episode: episode.n_steps)
    fork_many(parent, at=[3], policy="random", n_branches=2)
    cartpole.tag(parent.id, split="train")
    other = min(cartpole.episodes(), key=lambda episode: episode.n_steps)
    cartpole.label(other.id, "good")
    trajrec.close_logs()
    where = f"episode_id = '{parent.id}'"
    with pytest.raises(CorpusError, match=r"2 forks or nested .* and 1 labels; pass --with-dep"):
        remove(cartpole.path, where)
    plan = remove(cartpole.path, where, dry_run=True)
    assert (len(plan.dependents), plan.annotations) == (2, {"labels": 1})
    assert len(contents(cartpole.path)) == 7
    remove(cartpole.path, where, with_dependents=True)
    with trajrec.open(cartpole.path) as corpus:
        assert len(list(corpus.episodes(kind="all"))) == 4
        assert corpus.sql("SELECT name FROM labels").fetchall() == [("good",)]
        assert corpus.sql("SELECT count(*) FROM removals").fetchall() == [(3,)]


@pytest.mark.slow
def test_forks_alone_are_removed_if_asked(cartpole: trajrec.Corpus) -> None:
    parent = max(cartpole.episodes(), key=lambda episode: episode.n_steps)
    fork_many(parent, at=[3], policy="random", n_branches=2)
    plan = remove(cartpole.path, "true", only_forks=True)
    assert len(plan.episodes) == 2
    with trajrec.open(cartpole.path) as corpus:
        assert len(list(corpus.episodes(kind="all"))) == 5
        with pytest.raises(CorpusError, match="no fork is"):
            remove(cartpole.path, "true", only_forks=True)


@pytest.mark.slow
def test_a_log_that_is_written_is_refused(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    env.reset(seed=0)
    env.step(0)
    with pytest.raises(CorpusError, match="not sealed: close its recorder"):
        remove(tmp_path, "true")
    env.close()
    (path,) = tmp_path.glob("*.trj")
    damaged = path.with_name(path.name + ".damaged")
    shutil.copy(path, damaged)
    with pytest.raises(CorpusError, match=r"\.damaged: may hold the same episodes"):
        remove(tmp_path, "true")
    damaged.unlink()
    remove(tmp_path, "true")
    # Nothing was left of the log.
    assert not path.exists()


@pytest.mark.slow
@third_slow("kills")
def test_a_dry_run_foretells_each_refusal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = record(gym.make("CartPole-v1"), tmp_path, 3)
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    env.reset(seed=0)
    env.step(0)
    (unsealed,) = {*tmp_path.glob("*.trj")} - {damaged}
    copy = damaged.with_name(damaged.name + ".damaged")
    shutil.copy(damaged, copy)
    entry = LogReader(damaged).frames[1]
    data = bytearray(damaged.read_bytes())
    # In a column that the index does not decode.
    data[entry.offset + entry.size - 9] ^= 1
    damaged.write_bytes(data)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.trj*")}
    plan = remove(tmp_path, "true", dry_run=True)
    reasons = ["not sealed: close its recorder", "may hold the same", "only an undamaged sealed"]
    assert len(plan.refusals) == 3
    for path, reason in zip((unsealed, copy, damaged), reasons, strict=True):
        assert any(str(path) in line and reason in line for line in plan.refusals)
    main(["rm", str(tmp_path), "--where", "true", "--dry-run"])
    assert capsys.readouterr().out.count("it would be refused: ") == 3
    for path in (unsealed, copy):
        with pytest.raises(CorpusError, match=re.escape(str(path))):
            remove(tmp_path, "true")
        env.close()
        if path == copy:
            copy.unlink()
    with pytest.raises(CorpusError, match="only an undamaged sealed log"):
        remove(tmp_path, "true")
    assert damaged.read_bytes() == before[damaged.name]


@pytest.mark.slow
def test_a_damaged_log_of_labels_keeps_all_others(tmp_path: Path) -> None:
    path = record(gym.make("CartPole-v1"), tmp_path, 2)
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes("number = 0")
        corpus.tag(episode.id, good=True)
    trajrec.close_logs()
    (labels,) = {*tmp_path.glob("*.trj")} - {path}
    entry = LogReader(labels).frames[-1]
    data = bytearray(labels.read_bytes())
    data[entry.offset + entry.size - 9] ^= 1
    before = path.read_bytes()
    plan = remove(tmp_path, "number = 0", dry_run=True)
    assert labels.name in plan.logs
    labels.write_bytes(data)
    with pytest.raises((CorpusError, LogError)):
        remove(tmp_path, "number = 0", with_dependents=True)
    assert path.read_bytes() == before


@pytest.mark.slow
def test_a_damaged_log_is_refused(tmp_path: Path) -> None:
    path = record(gym.make("CartPole-v1"), tmp_path, 3)
    entry = LogReader(path).frames[1]
    data = bytearray(path.read_bytes())
    data[entry.offset + entry.size - 9] ^= 1
    path.write_bytes(data)
    with pytest.raises(LogError, match="only an undamaged sealed log is rewritten"):
        remove_episodes(path, [0], [])
    assert path.read_bytes() == bytes(data)


@pytest.mark.slow
def test_rows_of_every_kind_of_column_are_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def result(k: int) -> Any:
        observation = {
            "pixels": np.full((30, 40), k % 3, np.uint8),
            "noise": rng.random((20, 20)),
            "text": f"t{rng.integers(3)}",
            "wild": rng.random(int(rng.integers(1, 4))),
        }
        info = {"k": k} if k % 3 == 0 else {}
        return observation, [0, 0.5, np.float32(2)][k % 3], k == 9, False, info

    path = record(Scripted(result), tmp_path, 12)
    before = contents(tmp_path)
    remove_episodes(path, [0, 3, 4, 11], [])
    shutil.rmtree(tmp_path / ".trajrec")
    after = contents(tmp_path)
    assert len(after) == 8
    assert all(is_same(after[key], before[key]) for key in after)


@pytest.mark.slow
def test_training_data_skip_what_was_removed(cartpole: trajrec.Corpus) -> None:
    cartpole.transitions(cache=True)
    remove(cartpole.path, "number = 2")
    with trajrec.open(cartpole.path) as corpus:
        n_steps = sum(len(plain_transitions(episode)) for episode in corpus.episodes())
        assert len(corpus.transitions(cache=True)) == n_steps
        assert len(corpus.transitions()) == n_steps


@pytest.mark.parametrize(
    "n_kills",
    [pytest.param(6, marks=pytest.mark.slow), pytest.param(200, marks=deep("kills"))],
)
def test_a_removal_that_is_killed_is_made_again(tmp_path: Path, n_kills: int) -> None:
    source = tmp_path / "source"
    for _ in range(3):
        record(gym.make("CartPole-v1"), source, 30)
    before = contents(source)
    with trajrec.open(source) as corpus:
        gone = {
            row[0]
            for row in corpus.sql("SELECT episode_id FROM episodes WHERE number % 3 = 0").fetchall()
        }
    rng = random.Random(0)
    n_cut = 0
    code = "import sys; from trajrec.corpus.removal import remove; print(1, flush=True); remove(sys.argv[1], 'number % 3 = 0')"
    whole_s = 0.0
    for number in range(n_kills + 1):
        folder = tmp_path / str(number)
        shutil.copytree(source, folder)
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        start = time.monotonic()
        if number:
            time.sleep(rng.random() * whole_s)
            process.kill()
        process.wait()
        # The first one is not killed: it tells how long a removal takes on this machine.
        whole_s = whole_s or time.monotonic() - start
        process.stdout.close()
        middle = contents(folder)
        assert set(before) - gone <= set(middle)
        n_cut += set(middle) != set(before) - gone
        main(["recover", str(folder)])
        if set(middle) & gone:
            remove(folder, "number % 3 = 0 AND episode_id IN (FROM episodes SELECT episode_id)")
        after = contents(folder)
        assert set(after) == set(before) - gone
        assert all(is_same(after[key], before[key]) for key in after)
        trajrec.close_logs()
        with trajrec.open(folder) as corpus:
            told = corpus.sql("SELECT episode_id FROM removals").fetchall()
        assert sorted(row[0] for row in told) == sorted(gone)
        shutil.rmtree(folder)
    assert n_cut


@pytest.mark.slow
def test_the_command_lists_and_removes(
    cartpole: trajrec.Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = str(cartpole.path)
    cartpole.close()
    where = "number = 1"
    assert main(["rm", runs, "--where", where, "--dry-run"]) == 0
    assert "would be removed" in capsys.readouterr().out
    assert main(["rm", runs, "--where", where, "--json"]) == 0
    assert '"removed":true' in capsys.readouterr().out
    assert main(["rm", runs, "--where", where]) == 2
    assert len(contents(cartpole.path)) == 4


@pytest.mark.slow
def test_a_digest_is_that_of_the_rows_and_events(tmp_path: Path) -> None:
    path = record(gym.make("CartPole-v1"), tmp_path, 4)
    digests = episode_digests(LogChunks(LogReader(path), path))
    removal = remove_episodes(path, [1], [])
    assert removal.digests == {1: digests[1]}
    after = episode_digests(LogChunks(LogReader(path), path))
    assert after == {number: digest for number, digest in digests.items() if number != 1}
    # A second call changes nothing.
    data = path.read_bytes()
    assert remove_episodes(path, [1], []).digests == {}
    assert path.read_bytes() == data


@pytest.mark.slow
def test_copies_of_labels_are_removed_too(tmp_path: Path) -> None:
    agents(tmp_path, ["kept", "removed"])
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes("task = 'removed'")
        corpus.tag(episode.id, why="a private word")
    trajrec.close_logs()
    for path in list(tmp_path.glob("*.trj")):
        shutil.copy(path, path.with_name(f"copy-{path.name}"))
    remove(tmp_path, "task = 'removed'", with_dependents=True)
    assert holds(tmp_path, b"a private word") == []


@pytest.mark.slow
def test_an_import_does_not_bring_back_what_was_removed(tmp_path: Path) -> None:
    step = {"step_id": 1, "source": "user", "message": "Go."}
    document = {"schema_version": "ATIF-v1.7", "agent": {"name": "a", "version": "1"}}
    path = tmp_path / "t.json"
    path.write_text(json.dumps({**document, "steps": [step]}))
    runs = tmp_path / "runs"
    trajrec.import_trajectories(path, runs)
    remove(runs, "true")
    with pytest.raises(ImportFileError, match="has removed all of its episodes"):
        trajrec.import_trajectories(path, runs)
    assert trajrec.import_trajectories(path, tmp_path / "other").files[0].status == "imported"
