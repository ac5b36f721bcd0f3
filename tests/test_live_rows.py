"""The rows of a log that is being written are those of a corpus that is opened anew."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from conftest import record
from tiers import seed_of, third_slow

import trajrec
from trajrec.corpus.index import live as live_index
from trajrec.corpus.index.tables import TABLES
from trajrec.corpus.index.tails import Tails
from trajrec.log.annotations import PostHocCheck
from trajrec.recording.event_log import close_logs, open_event_log


def rows(corpus: trajrec.Corpus) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of each table, but the bytes of logs that are being written."""
    return {
        table.name: sorted(corpus.sql(f"SELECT * FROM {table.name}").fetchall(), key=repr)
        for table in TABLES
        if table.name != "logs"
    }


@trajrec.verifier(id="any", version="1")
def passes(world: Any) -> bool:
    """Return that anything will do."""
    return True


def act(episode: Any, rng: random.Random) -> None:
    """Add events to an episode: calls, failures, retries, changes of the state, checks."""
    for _ in range(rng.randrange(3)):
        try:
            episode.call("put", key=rng.choice("ab"), value=rng.choice([1, 2, "x" * 400]))
        except ValueError:
            continue
    if rng.random() < 0.2:
        episode.check(passes)


@pytest.mark.slow
@third_slow("index")
@pytest.mark.parametrize("number", range(2))
def test_rows_of_a_live_log_are_those_of_a_fresh_corpus(tmp_path: Path, number: int) -> None:
    rng = random.Random(seed_of("live rows") + number)

    def begin() -> Any:
        state: dict[str, Any] = {}

        def put(key: str, value: Any) -> None:
            if rng.random() < 0.3:
                raise ValueError(key)
            state[key] = value

        episode = trajrec.episode(tmp_path, task=f"t{rng.randrange(3)}", watch=state)
        episode.__enter__()
        episode.tool(put, name="put")
        return episode

    episodes = [begin()]
    with trajrec.open(tmp_path) as corpus:
        for _ in range(16):
            choice = rng.random()
            if choice < 0.3:
                episodes.append(begin())
            elif choice < 0.5 and episodes:
                episodes.pop(rng.randrange(len(episodes))).__exit__(None, None, None)
            elif choice < 0.55:
                ((ended,),) = corpus.sql("SELECT min(episode_id) FROM episodes").fetchall()
                corpus.tag(ended, good=rng.random() < 0.5)
            elif choice < 0.6:
                close_logs()
                episodes = [begin()]
            else:
                for episode in episodes:
                    act(episode, rng)
            found = rows(corpus)
            with trajrec.open(tmp_path) as fresh:
                for name, expected in rows(fresh).items():
                    assert found[name] == expected, name
    for episode in episodes:
        episode.__exit__(None, None, None)
    close_logs()


class Interrupting(dict[str, Any]):
    """A dict that Ctrl-C leaves unread."""

    def items(self) -> Any:
        raise KeyboardInterrupt


@pytest.mark.slow
def test_rows_come_after_a_query_that_ctrl_c_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(gym.make("CartPole-v1"), tmp_path, 1)
    live = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    live.reset(seed=0)
    live.step(0)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with trajrec.open(tmp_path) as corpus:
        query = "SELECT count(*) FROM episodes"
        assert corpus.sql(query).fetchall() == [(2,)]
        moments = {
            "build.CATALOG": Interrupting(),
            "live.is_being_written": interrupted,
            "tails.journal_path": interrupted,
        }
        for n, (name, stand_in) in enumerate(moments.items(), 3):
            record(gym.make("CartPole-v1"), tmp_path, 1)
            with monkeypatch.context() as patch:
                patch.setattr(f"trajrec.corpus.index.{name}", stand_in)
                with pytest.raises(KeyboardInterrupt):
                    corpus.sql(query)
            assert corpus.sql(query).fetchall() == [(n,)]
    live.close()


@pytest.mark.slow
def test_a_first_verdict_in_a_journal_has_its_kind(tmp_path: Path) -> None:
    record(gym.make("CartPole-v1"), tmp_path, 1)
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes()
        corpus.label(episode.id, "good")
        live = trajrec.record(gym.make("CartPole-v1"), tmp_path)
        live.reset(seed=0)
        live.step(0)
        assert corpus.sql("SELECT kind FROM labels").fetchall() == [("rollout",)]
        # Not flushed: the journal alone has it.
        open_event_log(tmp_path, "raise", "process").add(
            PostHocCheck(
                episode=-1,
                target=episode.id,
                step=1,
                time_ns=1,
                check_id="late",
                version="1",
                family="program",
                status="ok",
                verdict=True,
                score=None,
                evidence_data=None,
                code_digest=None,
                state_digest=None,
            )
        )
        assert corpus.sql("SELECT kind FROM checks").fetchall() == [("rollout",)]
    live.close()


def test_a_query_sees_no_half_of_another_threads_refresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(gym.make("CartPole-v1"), tmp_path, 1)
    live = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    live.reset(seed=0)
    live.step(0)
    refresh = Tails.refresh
    run_own = live_index.run_own
    is_halfway = threading.Event()
    may_end = threading.Event()

    def refresh_in_parts(*args: Any) -> None:
        # The rows of journals are gone here, and are read again.
        is_halfway.set()
        may_end.wait(10)
        refresh(*args)

    def run_meanwhile(*args: Any) -> Any:
        monkeypatch.undo()
        monkeypatch.setattr(Tails, "refresh", refresh_in_parts)
        record(gym.make("CartPole-v1"), tmp_path, 1)
        other = threading.Thread(target=corpus.refresh)
        other.start()
        assert is_halfway.wait(10)
        rows = run_own(*args).fetchall()
        may_end.set()
        other.join()
        return rows

    with trajrec.open(tmp_path) as corpus:
        query = "SELECT count(*) FROM episodes"
        assert corpus.sql(query).fetchall() == [(2,)]
        monkeypatch.setattr(live_index, "run_own", run_meanwhile)
        rows: Any = corpus.sql(query)
        assert rows == [(2,)]
        monkeypatch.undo()
        assert corpus.sql(query).fetchall() == [(3,)]
    live.close()
