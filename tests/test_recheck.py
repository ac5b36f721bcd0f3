"""New versions of verifiers on old episodes append verdicts, and overwrite none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import trajrec
from trajrec.cli.main import main
from trajrec.corpus.index.file import INDEX_NAME
from trajrec.corpus.recheck import recheck
from trajrec.envs import Shop
from trajrec.log.frames import CHUNK
from trajrec.log.reader import LogReader
from trajrec.recording.event_log import close_logs, open_event_log


@trajrec.verifier(id="refunded", version="1")
def refunded(shop: Shop) -> bool:
    return shop._database["orders"]["O1001"]["refunded"] > 0


@trajrec.verifier(id="refunded", version="2")
def refunded_in_full(state: dict[str, Any]) -> trajrec.Verdict:
    order = state["database"]["orders"]["O1001"]
    return trajrec.Verdict(order["refunded"] == order["cents"], evidence=order["refunded"])


def record(folder: Path) -> None:
    for cents in (100, 5000):
        with trajrec.episode(
            folder, task=str(cents), world=Shop(seed=7), options={"task": 0}, checks=[refunded]
        ) as ep:
            ep.call("refund_order", order="O1001", cents=cents)
    close_logs()


CHECKS = (
    "SELECT task, version, phase, verdict, evidence "
    "FROM checks JOIN episodes USING (episode_id) ORDER BY ALL"
)


@pytest.mark.slow
def test_a_recheck_is_appended_and_the_outcome_stays(tmp_path: Path) -> None:
    record(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.trj")}
    with trajrec.open(tmp_path) as corpus:
        said = {
            graded.status: graded.verdict.passed
            for graded in recheck(corpus, refunded_in_full, where="task = '100'")
        }
        assert said == {"ok": False}
        assert [
            g.verdict.passed for g in recheck(corpus, refunded_in_full, where="task = '5000'")
        ] == [True]
        assert list(recheck(corpus, refunded_in_full, where="task = 'none'")) == []
        expected = [
            ("100", "1", "terminal", True, None),
            ("100", "2", "post-hoc", False, "100"),
            ("5000", "1", "terminal", True, None),
            ("5000", "2", "post-hoc", True, "5000"),
        ]
        assert corpus.sql(CHECKS).fetchall() == expected
        assert corpus.sql("SELECT DISTINCT outcome FROM episodes").fetchall() == [("success",)]
        # Two versions that disagree on the same state share its digest.
        disagree = (
            "FROM checks a JOIN checks b USING (episode_id, state_digest) "
            "WHERE a.version = '1' AND b.version = '2'"
        )
        assert corpus.sql(
            f"SELECT count(*), count(*) FILTER (a.verdict <> b.verdict) {disagree}"
        ).fetchall() == [(2, 1)]
    close_logs()
    assert all((tmp_path / name).read_bytes() == data for name, data in before.items())
    (tmp_path / INDEX_NAME).unlink()
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql(CHECKS).fetchall() == expected
        # The log with the new verdicts may go again: what was recorded stays.
        (log,) = {
            row[0]
            for row in corpus.sql("SELECT log FROM checks WHERE phase = 'post-hoc'").fetchall()
        }
        (tmp_path / log).unlink()
        assert len(corpus.sql(CHECKS).fetchall()) == 2
    with trajrec.open(tmp_path) as corpus:
        assert len(corpus.sql(CHECKS).fetchall()) == 2


@pytest.mark.slow
def test_a_running_episode_keeps_its_post_hoc_checks(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path, watch={"n": 1}) as ep:
        ep.tool(lambda: 1, name="one")
        ep.call("one")
        open_event_log(tmp_path, "stop-recording", "process").flush()
        with trajrec.open(tmp_path) as corpus:
            assert len(list(recheck(corpus, lambda state: True, where="true"))) == 1
            ep.call("one")
            open_event_log(tmp_path, "stop-recording", "process").flush()
            assert corpus.sql("SELECT count(*) FROM checks").fetchall() == [(1,)]
            assert corpus.sql("SELECT count(*) FROM attempts").fetchall() == [(2,)]
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT count(*) FROM checks").fetchall() == [(1,)]


@pytest.mark.slow
def test_errors_and_unknown_states_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path)
    with trajrec.record(gymnasium.make("CartPole-v1"), tmp_path, state=False) as env:
        env.reset(seed=0)
        env.step(0)
    (tmp_path / "my_checks.py").write_text(
        "def broken(state): return state['nothing']\ndef fine(state): return True\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["recheck", ".", "--verifier", "my_checks:broken", "--dry-run"]) == 1
    assert "error: builtins.KeyError: 'nothing'" in capsys.readouterr().out
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT count(*) FROM checks WHERE phase = 'post-hoc'").fetchall() == [
            (0,)
        ], "it was only tried"
    assert main(["recheck", ".", "--verifier", "my_checks:broken"]) == 1
    printed = capsys.readouterr().out
    assert "error: builtins.KeyError: 'nothing'" in printed
    assert "3 episodes: 2 error, 1 not_evaluated" in printed
    assert (
        main(["recheck", ".", "--verifier", "my_checks:fine", "--json", "--where", "task = '100'"])
        == 0
    )
    assert json.loads(capsys.readouterr().out)["verdict"] is True
    assert main(["recheck", ".", "--verifier", "my_checks"]) == 2
    assert main(["recheck", ".", "--verifier", "my_checks:none"]) == 2


def test_a_lost_state_is_not_judged(tmp_path: Path) -> None:
    record(tmp_path)
    (log,) = tmp_path.glob("*.trj")
    with trajrec.open(tmp_path) as corpus:
        corpus.sql("SELECT 1").fetchall()
    with LogReader(log) as reader:
        frame = next(frame for frame in reader.frames if frame.kind == CHUNK)
    data = bytearray(log.read_bytes())
    data[frame.offset + frame.size // 2] ^= 1
    log.write_bytes(data)
    # The index has the episodes of before: the log is of the same size, with the same seal.
    with trajrec.open(tmp_path) as corpus:
        found = list(recheck(corpus, lambda state: True, append=False))
    assert [(one.status, one.verdict.passed) for one in found] == [("not_evaluated", None)] * 2
    assert "the log has lost the start of its task" in found[0].message
