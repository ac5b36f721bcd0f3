"""Rows of training data from logs with damage, unknown returns, and texts of any kind and size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from conftest import Scripted
from test_datasets import damaged
from test_messages import chat, send, user

import trajrec
from trajrec.errors import CorpusError
from trajrec.log.reader import LogReader
from trajrec.recording.event_log import close_logs
from trajrec.replay import credit, fork_many


def passes(env: Any) -> bool:
    return True


def fails(env: Any) -> bool:
    return False


def counting(k: int) -> Any:
    return np.array([k, 2 * k], np.float32), 1.0, k == 11, False, {}


def record_in_chunks(folder: Path) -> Path:
    """Record an episode of twelve steps in three chunks."""
    recorder = trajrec.record(Scripted(counting), folder, task="t", checks=[passes])
    recorder.reset(seed=0)
    for step in range(12):
        recorder.step(step)
        if step % 4 == 3:
            recorder.flush()
    recorder.close()
    return recorder.path


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("kind", ["grpo", "dpo"])
def test_an_episode_with_lost_steps_is_no_training_data(
    kind: Any, number: int, tmp_path: Path
) -> None:
    path = record_in_chunks(tmp_path / "runs")
    with trajrec.open(tmp_path / "runs") as corpus:
        (episode,) = corpus.episodes()
        fork_many(
            episode, at=[11], actions=[7], env=lambda: Scripted(counting), checks=[fails], jobs=1
        )
        assert episode.is_whole
        assert credit.export(corpus, kind, tmp_path / "rows.jsonl", measure="outcome") == 1
    chunks = [chunk.index for chunk in LogReader(path).chunks() if chunk.n_steps]
    damaged(path, chunks[number])
    with trajrec.open(tmp_path / "runs") as corpus:
        (episode,) = corpus.episodes()
        assert not episode.is_whole
        assert episode.outcome == "success"
        with pytest.raises(CorpusError, match="episodes left out: 1; the log has lost a part"):
            credit.export(corpus, kind, tmp_path / "lost.jsonl", measure="outcome")


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("reward", [float("nan"), float("inf"), None])
def test_an_unknown_return_is_null_beside_advantages(reward: Any, tmp_path: Path) -> None:
    def result(k: int) -> Any:
        return np.zeros(2), reward, k == 1, False, {}

    for check in (passes, fails):
        with trajrec.record(Scripted(result), tmp_path, task="t", checks=[check]) as env:
            env.reset(seed=0)
            env.step(0)
            env.step(0)
    with trajrec.open(tmp_path) as corpus:
        for suffix in ("jsonl", "parquet"):
            target = tmp_path / f"rows.{suffix}"
            assert credit.export(corpus, "grpo", target, measure="outcome") == 2
    rows = duckdb.sql(f"SELECT reward, advantages[1] > 0 FROM '{target}' ORDER BY 2").fetchall()
    assert rows == [(None, False), (None, True)]
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["reward"] for line in lines] == [None, None]


@pytest.mark.parametrize(
    "text",
    ["half of a pair: \ud800", pytest.param("x" * (1 << 24), marks=pytest.mark.slow)],
    ids=["surrogate", "long"],
)
def test_any_text_of_an_agent_becomes_parquet(text: str, tmp_path: Path) -> None:
    with trajrec.episode(
        tmp_path / "runs", task="t", goal=text, watch={"part": {}}, checks=[passes]
    ) as ep:
        ep.tool(lambda x: x, name="echo")(x=text)
    close_logs()
    target = tmp_path / "rows.parquet"
    with trajrec.open(tmp_path / "runs") as corpus:
        assert credit.export(corpus, "grpo", target, measure="outcome", messages=True) == 1
    rows = duckdb.sql(f"SELECT prompt[1].content FROM '{target}'").fetchall()
    assert rows == [(text.replace("\ud800", "\\ud800"),)]


@pytest.mark.parametrize("messages", [False, True])
def test_a_step_without_a_record_shifts_no_advantage(messages: bool, tmp_path: Path) -> None:
    for check in (passes, fails):
        with trajrec.episode(
            tmp_path / "runs", task="t", goal="g", watch={"part": {}}, checks=[check]
        ) as ep:
            echo = ep.tool(lambda x: x, name="echo")
            for step in range(4):
                with ep.step():
                    if step != 1:
                        echo(x=step)
    close_logs()
    target = tmp_path / "rows.jsonl"
    with trajrec.open(tmp_path / "runs") as corpus:
        credit.export(corpus, "grpo", target, measure="outcome", messages=messages)
    for line in target.read_text().splitlines():
        row = json.loads(line)
        assert len(row["completions"]) == len(row["advantages"]) == 3
        texts = [json.dumps(completion) for completion in row["completions"]]
        assert all(f"{step}}}" in text for step, text in zip((0, 2, 3), texts, strict=True))


def test_a_number_that_json_lacks_is_null_in_tools(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"x": float("nan")}}}
    with trajrec.episode(tmp_path / "runs", task="t", watch={"part": {}}, checks=[passes]) as ep:
        ep.model(lambda **request: chat("two"), messages=[user("one")], tools=[tool])
    close_logs()
    targets = tmp_path / "rows.jsonl", tmp_path / "rows.parquet"
    with trajrec.open(tmp_path / "runs") as corpus:
        for target in targets:
            credit.export(corpus, "grpo", target, measure="outcome", messages=True)
    written = [json.loads(targets[0].read_text())["tools"]]
    written += [
        json.loads(row[0]) for row in duckdb.sql(f"SELECT tools FROM '{targets[1]}'").fetchall()
    ]
    assert [tools[0]["function"]["parameters"] for tools in written] == [{"x": None}] * 2


@pytest.mark.slow
def test_an_outage_is_no_member_of_a_group(tmp_path: Path) -> None:
    def record(answers: list[Any], check: Any) -> None:
        with trajrec.episode(tmp_path / "runs", task="t", watch={"a": 1}, checks=[check]) as ep:
            for status, answer in answers:
                send(ep, {"model": "m", "messages": [user("Go.")]}, answer, status=status)

    busy = (503, {"error": {"message": "overloaded"}})
    for check in (passes, passes, fails):
        record([busy, (200, chat("Done."))], check)
    record([busy, busy], fails)  # the program caught the exception of its client
    record([], fails)
    close_logs()
    target = tmp_path / "rows.jsonl"
    told: list[str] = []
    with trajrec.open(tmp_path / "runs") as corpus:
        faults = corpus.sql("SELECT fault FROM episodes ORDER BY number").fetchall()
        options: dict[str, Any] = {"method": "rloo", "measure": "outcome", "tell": told.append}
        credit.export(corpus, "grpo", target, messages=True, **options)
    assert faults == [(None,), (None,), (None,), ("infra",), (None,)]
    rows = [json.loads(line)["advantages"][0] for line in target.read_text().splitlines()]
    assert rows == pytest.approx([0.5, 0.5, -1.0])
    assert [remark[:36] for remark in told] == ["2 of 5 episodes are in no group: the"]
