"""Costs of model calls by the user's prices: exact, or NULL."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from test_messages import chat, send, user

import trajrec
from trajrec.cli.main import main

PRICES = {
    "gpt-5-mini*": {"input": 0.5, "output": 4.0},
    "gpt-5*": {"input": 2.0, "cached": 0.25, "output": 8.0},
    "claude-*": {"input": 3.0, "cached": 0.5, "cache_write": 4.0, "output": 16.0},
    "it's": {"input": 1, "output": 1},
    "free": {"input": 0, "output": 0},
}
CHAT = {"prompt_tokens": 1_000, "completion_tokens": 100}
CACHED = {**CHAT, "prompt_tokens_details": {"cached_tokens": 600}}
CLAUDE = {
    "input_tokens": 100,
    "cache_read_input_tokens": 800,
    "cache_creation_input_tokens": 40,
    "output_tokens": 10,
}
CASES: list[tuple[str | None, Any, float | None]] = [
    ("gpt-5-mini-2026", CHAT, (1_000 * 0.5 + 100 * 4) / 1e6),
    ("gpt-5-mini", CACHED, (1_000 * 0.5 + 100 * 4) / 1e6),
    ("gpt-5", CACHED, (400 * 2 + 600 * 0.25 + 100 * 8) / 1e6),
    # It is unknown how much came from the cache.
    ("gpt-5", CHAT, None),
    ("claude-9", CLAUDE, (100 * 3 + 800 * 0.5 + 40 * 4 + 10 * 16) / 1e6),
    ("claude-9", {"input_tokens": 100, "output_tokens": 10}, None),
    ("other", CHAT, None),
    ("a gpt-5-mini", CHAT, None),
    ("gpt-5-mini", None, None),
    ("gpt-5-mini", {"completion_tokens": 5}, None),
    ("gpt-5-mini", {**CHAT, "cost": 0.125}, 0.125),
    ("it's", CHAT, 1_100 / 1e6),
    ("free", CHAT, 0.0),
    (None, CHAT, None),
]


def record(folder: Path) -> None:
    with trajrec.episode(folder) as ep:
        for model, usage, _ in CASES:
            answer: dict[str, Any] = {**chat("ok"), "model": model, "usage": usage}
            url = "https://models.example/v1/chat/completions"
            if model is not None and model.startswith("claude"):
                url = "https://models.example/v1/messages"
                answer = {"type": "message", "content": [], "model": model, "usage": usage}
            send(ep, {"messages": [user("q")]}, answer, url=url)
        for model, usage, _ in CASES:
            ep.model(lambda **_: {"model": model, "usage": usage}, messages=[user("q")])  # noqa: B023
    trajrec.close_logs()


QUERY = "SELECT cost FROM model_calls ORDER BY number"
EXPECTED = [None if cost is None else pytest.approx(cost) for _, _, cost in CASES] * 2


@pytest.mark.slow
def test_costs_are_exact_or_null(tmp_path: Path) -> None:
    record(tmp_path)
    corpus = trajrec.open(tmp_path, prices=PRICES)
    assert [cost for (cost,) in corpus.sql(QUERY).fetchall()] == EXPECTED
    assert [cost for (cost,) in corpus.sql(QUERY, sandbox=True).fetchall()] == EXPECTED
    again = pickle.loads(pickle.dumps(corpus))
    assert [cost for (cost,) in again.sql(QUERY).fetchall()] == EXPECTED
    # The prices are the corpus's alone: nothing of them is in the index.
    for other in (trajrec.open(tmp_path), trajrec.open(tmp_path, prices={})):
        assert other.sql("SELECT count(cost) FROM model_calls").fetchall() == [(2,)]


def test_new_episodes_of_an_open_corpus_have_costs(tmp_path: Path) -> None:
    record(tmp_path)
    corpus = trajrec.open(tmp_path, prices=PRICES)
    record(tmp_path)
    ((n,),) = corpus.sql("SELECT count(cost) FROM model_calls").fetchall()
    assert n == 2 * sum(cost is not None for cost in EXPECTED)


def test_the_command_line_takes_prices_from_a_file(tmp_path: Path, capsys: Any) -> None:
    record(tmp_path / "runs")
    file = tmp_path / "prices.json"
    file.write_text(json.dumps(PRICES))
    query = ["sql", str(tmp_path / "runs"), QUERY, "--json", "--prices", str(file)]
    assert main(query) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["cost"] for line in lines] == EXPECTED
    file.write_text('{"m": {"input": 1}}')
    assert main(query) == 2
    assert "lacks 'output'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prices", "error"),
    [
        ([], TypeError),
        ({"m": 3}, TypeError),
        ({"m": {"input": "1", "output": 1}}, TypeError),
        ({"m": {"input": True, "output": 1}}, TypeError),
        ({"m": {"input": -1, "output": 1}}, ValueError),
        ({"m": {"input": float("nan"), "output": 1}}, ValueError),
        ({"m": {"output": 1}}, ValueError),
        ({"m": {"input": 1, "output": 1, "reasoning": 1}}, ValueError),
        ({7: {"input": 1, "output": 1}}, TypeError),
    ],
)
def test_other_prices_are_refused(tmp_path: Path, prices: Any, error: type[Exception]) -> None:
    with trajrec.episode(tmp_path):
        pass
    trajrec.close_logs()
    with pytest.raises(error, match=r"price|pattern"):
        trajrec.open(tmp_path, prices=prices)
