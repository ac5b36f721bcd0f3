"""The queries of docs/reference/sql-questions.md on a corpus with known answers."""

from __future__ import annotations

import contextlib
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from counter_runs import record_run
from question_corpus import FORK_STEP, N_LONG_STEPS, make_corpus

import trajrec
from trajrec.corpus.recheck import recheck
from trajrec.envs.scripted import LOOPS

TEXT = (
    Path(__file__).resolve().parent.parent / "docs" / "reference" / "sql-questions.md"
).read_text()
QUESTIONS = dict(re.findall(r"\n([A-Z][^\n]*\?)\n\n```sql\n(.*?)```", TEXT, re.DOTALL))

# Tables that have rows of episodes of several kinds.
MIXED = (
    "steps",
    "agent_rewards",
    "failures",
    "state_changes",
    "checks",
    "attempts",
    "model_calls",
    "messages",
)

# Of these, the questions name the only rows that are wanted, or join them to `episodes`.
ANY_KIND = re.compile(r"kind = 'rollout'|JOIN episodes|FROM episodes|FROM forks")

REFUSED = LOOPS + 2
"""Calls of `refund_order` that were refused: of the agent that loops, and of two others."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_corpus(tmp_path_factory.mktemp("questions"))


def ask(corpus: trajrec.Corpus, start: str) -> list[tuple[Any, ...]]:
    (query,) = [query for question, query in QUESTIONS.items() if question.startswith(start)]
    answer: list[tuple[Any, ...]] = corpus.sql(query).fetchall()
    return answer


ANSWERS: dict[str, Any] = {
    # Wilson's intervals of 2 of 6, 1 of 1 and 2 of 2.
    "What is the success rate": [
        ("bad", 6, 0.333, 0.097, 0.7),
        ("good", 1, 1.0, 0.207, 1.0),
        ("report", 2, 1.0, 0.342, 1.0),
    ],
    "On which tasks do two runs differ": [("refund", 1.0, 1, pytest.approx(2 / 6), 6)],
    "What reward did each": [
        ("conftest.Scripted", "bishop_0", 2, 1.0),
        ("conftest.Scripted", "rook_0", 2, -0.5),
    ],
    "Which episodes say nothing": [("infra", "fetch", "error", 1)],
    "On which states do two versions": [("solved", "1", "2", True, False, 2)],
    "Which checks gave no verdict": [("style", "1", "error", 2)],
    "Who retried": [
        ("refund_order", "agent", True, LOOPS - 1, 0),
        ("refund_order", "agent", False, 1, 1),
    ],
    "How were failures overcome": [("agent", 1, 1.0)],
    "Which tools changed": [("peek", "declared read, changed state")],
    "What happened in the newest": [(0, 0, 0, "one", "{}", "ok", "1")],
    "Do episodes with the same seed": [
        ("CartPole-v1", None, 0, 1, 2),
        ("trajrec.envs.shop:Shop", "refund", 2, 1, 6),
    ],
    "Which values came": [("weather", 7, '"rain"')],
    "How many calls have a known cost": [("m-1", 7, 7, 1.75), (None, 1, 0, None)],
    "How often is each task": [
        ("refund", 6, 2, "unmeasured", "sampling, scaffold, env, budget", {}),
        ("report", 2, 2, "unmeasured", "base, sampling, scaffold, env, budget", {}),
        ("refund", 1, 1, "unmeasured", "sampling, scaffold, env, budget", {}),
    ],
    # Only the base was given.
    "Which factors of": [
        (f"{name}_state", 7) for name in sorted(set(trajrec.run_interface.FIELDS) - {"base"})
    ],
    "Which tasks are in several": [("refund", ["bad", "good"], 7)],
    "How far do": [
        (None, "not replayed", 5),
        ("CartPole-v1", "not replayed", 2),
        ("conftest.Scripted", "not replayed", 3),
        ("trajrec.envs.shop:Shop", "not replayed", 7),
    ],
    "Who says a phrase": [("user", "request", 6, 6)],
}


@pytest.mark.parametrize("question", ANSWERS)
def test_documented_query_returns_the_known_answer(corpus: Any, question: str) -> None:
    assert ask(corpus, question) == ANSWERS[question]


def test_the_first_failures_are_those_that_were_scripted(corpus: Any) -> None:
    place = (1, "refund_order", "tool", "refund must be in (0, 5900] cents")
    # Two of the four agents that failed: the others left a call out.
    assert [row[1:] for row in ask(corpus, "What was the first step")] == [("refund", *place)] * 2
    assert ask(corpus, "Which tool fails most")[0] == ("refund_order", 13, REFUSED, 1, 10.0)
    again = ask(corpus, "Which failures happen")
    error = ("tool", "trajrec.envs.shop.ToolError", "refund must be in (0, 5900] cents")
    assert again[0] == (*error, REFUSED, 3)
    assert ("verifier", "builtins.KeyError", "'no such file'", 2, 2) in again
    assert [row[1:] for row in ask(corpus, "Which calls may")] == [(1, "peek", 1)]
    times = {row[0]: row[1:] for row in ask(corpus, "How long do")}
    assert times["refund_order"][0] == 13
    assert all(0 < median <= p95 for _, median, p95 in times.values())


def test_successes_cost_what_all_episodes_of_their_group_cost(corpus: Any) -> None:
    spent = {row[0]: row[1:] for row in ask(corpus, "How much time")}
    attempts = (
        "SELECT count(*) FROM attempts JOIN episodes USING (episode_id) "
        "WHERE metadata->>'group' = 'bad'"
    )
    ((n_calls,),) = corpus.sql(attempts).fetchall()
    successes, seconds, calls, tokens = spent["bad"]
    # Six episodes with a model call of two tokens each.
    assert (successes, calls, tokens) == (2, n_calls / 2, 6)
    assert seconds > 0
    assert (spent["good"][0], spent["good"][3]) == (1, None)
    costs = {row[0]: row[1:5] for row in ask(corpus, "What do model calls cost")}
    assert costs == {"m-1": (7, 49, 14, 1.75), None: (1, 1, 1, None)}
    success = sorted(row[1:] for row in ask(corpus, "How often does each interface"))
    assert success == [(1, pytest.approx(2 / 6), 1), (1, 1.0, 0), (1, 1.0, 0)]


def test_verdicts_point_at_claims_and_suspects(corpus: Any) -> None:
    assert [row[::2] for row in ask(corpus, "Which agents claimed")] == [("refund", "done")] * 2
    (suspect,) = ask(corpus, "Which successes are suspect")
    assert suspect[1:] == ("report written", "tests untouched", '{"tests":0}')
    task = corpus.sql("SELECT task FROM episodes WHERE episode_id = ?", params=[suspect[0]])
    assert task.fetchall() == [("report",)]


def test_shared_states_are_counted_by_episode(corpus: Any) -> None:
    shared = ask(corpus, "Which states do several")
    # After the look at the order, all six agents of run b are in the state of the reset.
    assert shared[0][1:] == (6, 2, 0)
    assert all(episodes == 2 for _, episodes, *_ in shared[1:])
    forked = ask(corpus, "From which shared states")
    looked = '{"tool":"get_order","arguments":{"order":"O1001"}}'
    assert [row[3:] for row in forked if row[2] == looked] == [(6, 2)]
    refunds = [row[3:] for row in forked if '"order":"O1001","cents":5' in (row[2] or "")]
    # The solver, and the agent that recovered.
    assert refunds == [(2, 2)]
    changes = ask(corpus, "What changed in the database")
    assert (1, "/1", None, "1") in changes
    assert (3, "/is_done", "false", "true") in changes


def test_branches_are_compared_from_the_fork_on(corpus: Any) -> None:
    (better,) = ask(corpus, "Which branches of an episode")
    ((parent, steps),) = corpus.sql(
        "SELECT DISTINCT f.parent_id, p.n_steps FROM forks f JOIN episodes p "
        "ON p.episode_id = f.parent_id"
    ).fetchall()
    assert better[:2] == (parent, FORK_STEP)
    assert better[3:] == (40.0, steps - FORK_STEP)


def test_the_state_of_the_corpus_is_told(corpus: Any) -> None:
    kinds = {row[0]: row[1:] for row in ask(corpus, "How many episodes are there")}
    assert (kinds["copy"][0], kinds["fork"][0]) == (1, 2)
    ((n_rollouts,),) = corpus.sql("SELECT count(*) FROM episodes").fetchall()
    assert kinds["rollout"][0] == n_rollouts == 17
    assert [row[:3] for row in ask(corpus, "Which episodes have no end")] == [
        ("cut", "interrupted", 1)
    ]
    damaged, other = ask(corpus, "Which logs are damaged")
    assert damaged == ("damaged.trj", None, 1)
    assert other[0] == "other.trj"
    assert "not a trajrec log" in other[1]
    ((copy, original),) = ask(corpus, "Which files are copies")
    assert {Path(copy).parent.name, Path(original).parent.name} == {"pole", ""}
    assert "backup.trj" in (copy, original)
    (lost,) = ask(corpus, "Which episodes have lost steps")
    assert lost[2] == N_LONG_STEPS
    assert 0 < lost[3] < N_LONG_STEPS
    assert lost[4] == "damaged.trj"
    worst = ask(corpus, "Which episodes lost most")
    assert (len(worst), worst[0][1:5]) == (5, ("CartPole-v1", 1, 1.0, "abandoned"))


@pytest.mark.slow
def test_contradictions_and_repeated_paths_are_found(tmp_path: Path) -> None:
    turns = itertools.count()

    @trajrec.verifier(id="flaky", version="1")
    def flaky(state: Any) -> bool:
        return next(turns) > 0

    for run in ("a", "b"):
        record_run(tmp_path, run, {"t": [True]})
    with trajrec.open(tmp_path) as corpus:
        for _ in range(2):
            list(recheck(corpus, flaky))
        (contradiction,) = ask(corpus, "Does a check")
        assert contradiction[:2] == ("flaky", "1")
        # Two episodes end in one state, and each was judged twice.
        assert contradiction[3:] == (4, 3)
        assert ask(corpus, "Which episodes of different") == [(1, 2, ["a", "b"])]


def test_each_question_has_a_test_of_its_answer() -> None:
    text = Path(__file__).read_text()
    starts = {*ANSWERS, *re.findall(r"ask\(corpus, \"([^\"]+)\"\)", text)}
    tested = {question for question in QUESTIONS if any(map(question.startswith, starts))}
    assert tested == set(QUESTIONS)
    assert len(QUESTIONS) == 40


@pytest.mark.parametrize("question", QUESTIONS)
def test_each_query_counts_rollouts_alone(question: str) -> None:
    query = QUESTIONS[question]
    tables = re.findall(r"(?:FROM|JOIN) (\w+)", query)
    if set(tables) & set(MIXED):
        assert ANY_KIND.search(query)


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


def test_a_call_has_the_result_of_its_last_attempt_alone(tmp_path: Path) -> None:
    tries = iter([{"error": "busy"}, TimeoutError("no answer")])

    def flaky() -> object:
        answer = next(tries)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with trajrec.episode(tmp_path) as ep:
        ep.tool(flaky)
        with contextlib.suppress(TimeoutError):
            for attempt in ep.attempts(2):
                with attempt:
                    ep.call("flaky")
                    raise ValueError
    with trajrec.open(tmp_path) as opened:
        query = "SELECT n_attempts, outcome, result FROM calls"
        assert opened.sql(query).fetchall() == [(2, "timeout", None)]
