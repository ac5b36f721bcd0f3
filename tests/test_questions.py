"""The queries of docs/reference/sql-questions.md on a corpus with known answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from conftest import Scripted, run

import trajrec
from trajrec.envs import Shop
from trajrec.envs.scripted import AGENTS, LOOPS
from trajrec.recording.event_log import close_logs

TEXT = (
    Path(__file__).resolve().parent.parent / "docs" / "reference" / "sql-questions.md"
).read_text()
QUESTIONS = dict(re.findall(r"\n([A-Z][^\n]*\?)\n\n```sql\n(.*?)```", TEXT, re.DOTALL))


@trajrec.verifier(id="solved", version="1")
def solved(shop: Shop) -> bool:
    return shop.task_solved()


@trajrec.verifier(id="solved", version="2")
def never(state: Any) -> bool:
    return False


def answer(**_: Any) -> dict[str, Any]:
    return {"model": "m-1", "usage": {"prompt_tokens": 7, "completion_tokens": 2, "cost": 0.25}}


def streamed(**_: Any) -> Any:
    yield {"choices": [{"delta": "a"}]}
    yield {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}, "model": "m-2"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("questions")
    for seed, name in ((1, "good"), (2, "bad")):
        for agent in AGENTS if name == "bad" else ("solver",):
            world = Shop(seed=seed)
            interface = trajrec.interface(base={"model": name})
            with trajrec.episode(
                folder,
                task="refund",
                world=world,
                options={"task": 0},
                checks=[solved],
                interface=interface,
            ) as ep:
                ep.side_effect("weather", lambda: "rain")
                AGENTS[agent](ep, ep.world.ground_truth_calls())
    state = {"n": [0]}
    with trajrec.episode(folder, task="stream", watch=state) as ep:
        ep.model(answer, messages=[{"role": "user", "content": "hello"}])
        list(ep.model(streamed, messages=[]))
        ep.tool(lambda: state["n"].append(1), name="peek", access="read")
        ep.call("peek")
    close_logs()
    env = trajrec.record(gym.make("CartPole-v1"), folder)
    env.reset(seed=0)
    env.step(0)
    env.close()
    rewards = [{"bishop_0": 1.0, "rook_0": -1.0}, {"rook_0": 0.5}]
    env = trajrec.record(Scripted(lambda k: (0, rewards[k], k == 1, False, {})), folder)
    run(env, 2)
    env.close()
    opened = trajrec.open(folder)
    from trajrec.corpus.recheck import recheck

    list(recheck(opened, never, where="task = 'refund'"))
    return opened


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_documented_query_returns_rows(corpus: Any, question: str) -> None:
    assert corpus.sql(QUESTIONS[question]).fetchall()


def ask(corpus: Any, start: str) -> list[tuple[Any, ...]]:
    (query,) = [query for question, query in QUESTIONS.items() if question.startswith(start)]
    answer: list[tuple[Any, ...]] = corpus.sql(query).fetchall()
    return answer


def test_documented_queries_return_the_known_answers(corpus: Any) -> None:
    assert len(QUESTIONS) == 11
    assert ask(corpus, "Which tool fails most")[0] == (
        "refund_order",
        3 + LOOPS + 2,
        LOOPS + 2,
        1,
        10.0,
    )
    assert ask(corpus, "Who retried") == [
        ("refund_order", "agent", True, LOOPS - 1, 0),
        ("refund_order", "agent", False, 1, 1),
    ]
    assert [row[::2] for row in ask(corpus, "Which agents claimed")] == [("refund", "done")] * 2
    assert [row[0] for row in ask(corpus, "Which tools changed")] == ["peek"]
    assert [row[1:] for row in ask(corpus, "On which states")] == [("1", "2", True, False, 2)]
    success = sorted(row[1:] for row in ask(corpus, "How often does each interface"))
    assert success == [(1, pytest.approx(2 / 6), 1), (1, 1.0, 0)]
    costs = {row[0]: row[1:5] for row in ask(corpus, "What do model calls cost")}
    assert costs == {"m-1": (1, 7, 2, 0.25), None: (1, 1, 1, None)}
    assert ask(corpus, "What reward did each") == [
        (None, "bishop_0", 2, 1.0),
        (None, "rook_0", 2, -0.5),
    ]
    assert ask(corpus, "Which values came") == [("weather", 7, '"rain"')]


def test_calls_has_one_row_for_several_attempts(tmp_path: Path) -> None:
    tries = iter([TimeoutError("no answer"), None])

    def flaky() -> str:
        error = next(tries)
        if error is not None:
            raise error
        return "ok"

    with trajrec.episode(tmp_path) as ep:
        ep.tool(flaky)
        for attempt in ep.attempts(2):
            with attempt:
                ep.call("flaky")
    with trajrec.open(tmp_path) as opened:
        query = "SELECT step, call, tool, n_attempts, outcome, result, is_retry FROM calls"
        assert opened.sql(query).fetchall() == [(0, 0, "flaky", 2, "ok", '"ok"', False)]
