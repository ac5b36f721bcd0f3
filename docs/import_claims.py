"""The numbers of each format that are compared: as `COUNTS.json` has them, and as SQL has them after the import."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trajrec

Counts = dict[str, Any]
Claims = dict[str, tuple[Any, Any]]


class File:
    """The imported episodes of one file."""

    def __init__(self, corpus: trajrec.Corpus, path: Path) -> None:
        self._corpus = corpus
        self._path = path
        self.position = ""

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query, in which the names of tables in braces stand for the file's rows."""
        path = str(self._path).replace("'", "''")
        log = f"(SELECT log FROM imports WHERE file = '{path}')"
        inner = f"source->>'$.position' = '{self.position}'"
        mine = inner if self.position else f"log IN {log}"
        if not self.position:
            # Those of the agents inside of it are counted by themselves.
            mine += " AND source->>'$.position' NOT LIKE 'subagents/%'"
        for table in ("attempts", "model_calls", "messages", "checks", "failures", "steps"):
            of_file = f"(SELECT * FROM {table} WHERE episode_id IN (SELECT episode_id FROM all_episodes WHERE {mine}))"
            query = query.replace(f"{{{table}}}", of_file)
        query = query.replace("{imports}", f"(SELECT * FROM imports WHERE log IN {log})")
        for kind, condition in (("all_episodes", "true"), ("episodes", "kind = 'rollout'")):
            of_file = f"(SELECT * FROM all_episodes WHERE {condition} AND {mine})"
            query = query.replace(f"{{{kind}}}", of_file)
        return self._corpus.sql(query).fetchall()

    def value(self, query: str) -> Any:
        """Return the only value of a query."""
        ((value,),) = self.rows(query)
        return value

    def values(self, query: str) -> list[Any]:
        """Return the first column of a query."""
        return [row[0] for row in self.rows(query)]

    def count(self, table: str, condition: str = "true") -> int:
        """Return the number of rows of a table."""
        return int(self.value(f"SELECT count(*) FROM {{{table}}} WHERE {condition}"))


def atif(counts: Counts, file: File) -> Claims:
    """ATIF: fresh steps of the agent, calls, the version, the reported cost."""
    claims: Claims = {
        "episodes": (counts["episodes"], file.count("episodes")),
        "calls": (counts.get("tool_calls_fresh", counts["tool_calls"]), file.count("attempts")),
    }
    if "agent_steps_fresh" in counts:
        cost = file.value("SELECT (reported->'$.total_cost_usd')::DOUBLE FROM {episodes}")
        claims["steps"] = (
            counts["agent_steps_fresh"],
            file.value("SELECT n_steps FROM {episodes}"),
        )
        claims["cost"] = (counts["cost_usd"], cost)
    return claims


def harbor(counts: Counts, file: File) -> Claims:
    """Trials of Harbor: rewards, and the exception that ended them."""
    rewards = dict(file.rows("SELECT check_id, score FROM {checks}")) or None
    exception = next(iter(file.values("SELECT error_type FROM {failures}")), None)
    return {
        "episodes": (counts["episodes"], file.count("episodes")),
        "rewards": (counts["rewards"], rewards),
        "exception": (counts["exception"], exception),
    }


def inspect(counts: Counts, file: File) -> Claims:
    """Inspect: samples, model and tool events, errors of tools and samples, scores."""
    has_events = counts["events"] > 0
    scores = {
        f"{task.rpartition('/')[2]}/{json.loads(metadata)['trial']}": {}
        for task, metadata in file.rows("SELECT task, metadata FROM {episodes}")
    }
    letters = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
    for task, metadata, name, score in file.rows(
        "SELECT task, metadata, check_id, score FROM {checks} JOIN {episodes} USING (episode_id)"
    ):
        scores[f"{task.rpartition('/')[2]}/{json.loads(metadata)['trial']}"][name] = score
    counted = {
        sample: {name: letters.get(value, value) for name, value in of_sample.items()}
        for sample, of_sample in counts["scores"].items()
    }
    errors = counts["tool_errors"] if has_events else counts["message_tool_errors"]
    failed = file.count("failures", "phase = 'loop'")
    claims: Claims = {
        "episodes": (counts["episodes"], file.count("episodes")),
        "calls that failed": (errors, file.count("failures", "phase = 'call'")),
        "scores": (counted, scores),
        "errors of samples": (counts["sample_errors"] + counts["error_retries"], failed),
        "limits": (counts["limits"], file.count("episodes", "ending = 'truncated'")),
    }
    if has_events:
        claims["model calls"] = (counts["model_events"], file.count("model_calls"))
        claims["calls"] = (counts["tool_events"], file.count("attempts"))
    return claims


def claude_code(counts: Counts, file: File) -> Claims:
    """Claude Code: messages of the model, calls, their errors."""
    calls = file.value("SELECT count(DISTINCT call_id) FROM {attempts}")
    return {
        "messages of the model": (counts["assistant_messages"], file.count("model_calls")),
        "calls": (counts["tool_calls"], calls),
        "calls that failed": (counts["tool_errors"], file.count("failures", "phase = 'call'")),
    }


def codex(counts: Counts, file: File) -> Claims:
    """Codex: calls, results, calls without a result."""
    return {
        "calls": (counts["function_calls"], file.count("attempts")),
        "results": (counts["outputs"], file.count("attempts", "result IS NOT NULL")),
        "calls without a result": (
            counts["calls_without_output"],
            file.count("attempts", "outcome = 'open'"),
        ),
        "broken off": (counts["aborted"], file.count("episodes", "stop_reason IS NOT NULL")),
    }


def tau_bench(counts: Counts, file: File) -> Claims:
    """tau-bench: turns, calls, errors that are texts, rewards, the cost of the user."""
    position = "CAST(regexp_extract(source->>'$.position', '[0-9]+') AS INTEGER)"
    rewards = file.values(
        "SELECT score FROM {checks} JOIN {episodes} USING (episode_id) "
        f"WHERE check_id = 'reward' ORDER BY {position}"
    )
    return {
        "episodes": (counts["episodes"], file.count("episodes")),
        "turns": (counts["assistant"], file.count("model_calls")),
        "calls": (counts["tool_calls"], file.count("attempts")),
        "results": (counts["tool_results"], file.count("attempts", "result IS NOT NULL")),
        "calls that failed": (counts["tool_errors_by_text"], file.count("failures")),
        "rewards": (counts["rewards"], rewards),
        "cost of the user": (
            counts["user_cost"],
            round(file.value("SELECT sum((reported->'$.user_cost')::DOUBLE) FROM {episodes}"), 7),
        ),
    }


def tau2(counts: Counts, file: File) -> Claims:
    """tau2: turns, model calls, calls, errors, rewards and endings of each simulation."""
    order = "ORDER BY e.source->>'$.position'"

    def each(column: str, table: str, condition: str = "true") -> list[Any]:
        query = (
            f"SELECT {column} FROM {{episodes}} e LEFT JOIN (SELECT * FROM {{{table}}} t "
            f"WHERE {condition}) t ON t.episode_id = e.episode_id "
            f"GROUP BY e.episode_id, e.source, e.stop_reason, e.n_steps {order}"
        )
        return file.values(query)

    return {
        "episodes": (counts["episodes"], file.count("episodes")),
        "turns": (counts["agent_messages"], each("e.n_steps", "attempts")),
        "model calls": (counts["agent_model_calls"], each("count(t.number)", "model_calls")),
        "calls": (counts["tool_calls"], each("count(t.tool)", "attempts")),
        "calls that failed": (counts["tool_errors"], each("count(t.step)", "failures")),
        "rewards": (
            counts["rewards"],
            each("any_value(t.score)", "checks", "check_id = 'reward'"),
        ),
        "endings": (counts["termination"], each("e.stop_reason", "attempts")),
    }


def hf_messages(counts: Counts, file: File) -> Claims:
    """Tables: each row is an episode, one of a preference two."""
    rows = file.value(
        "SELECT count(DISTINCT split_part(source->>'$.position', ' ', 2)) FROM {episodes}"
    )
    return {"rows": (counts["rows"], rows)}


def otlp(counts: Counts, file: File) -> Claims:
    """OTLP: roots, calls of models and tools, errors."""
    operations = counts["operations"]
    return {
        "roots": (counts["roots"], file.count("episodes")),
        "model calls": (
            operations.get("chat", 0) + operations.get("LLM", 0),
            file.count("model_calls"),
        ),
        "calls": (
            operations.get("execute_tool", 0) + operations.get("TOOL", 0),
            file.count("attempts"),
        ),
        "errors": (counts["errors"], file.count("failures")),
    }


def swe_agent(counts: Counts, file: File) -> Claims:
    """SWE-agent: steps, calls in the history, the reason of the end, the cost."""
    cost = file.value("SELECT (reported->'$.instance_cost')::DOUBLE FROM {episodes}")
    claims: Claims = {
        "steps": (counts["steps"], file.value("SELECT n_steps FROM {episodes}")),
        "reason of the end": (
            counts["exit_status"],
            file.value("SELECT stop_reason FROM {episodes}"),
        ),
        "cost": (counts["cost"] or None, cost or None),
    }
    if counts["history_tool_calls"]:
        claims["calls"] = (counts["history_tool_calls"], file.count("attempts"))
    return claims


def mini_swe_agent(counts: Counts, file: File) -> Claims:
    """mini-swe-agent: turns, messages."""
    return {
        "turns": (counts["assistant"], file.count("model_calls")),
        "messages": (counts["messages"], file.count("messages")),
    }


def openhands(counts: Counts, file: File) -> Claims:
    """OpenHands: actions of the agent, commands with an exit code that is not 0."""
    code = "(a.extra->'$.result.extras.metadata.exit_code')::INTEGER"
    return {
        "actions of the agent": (
            counts["agent_actions"],
            file.value("SELECT n_steps FROM {episodes}"),
        ),
        "exit codes that are not 0": (
            counts["nonzero_exit"],
            file.value(f"SELECT count(*) FROM {{attempts}} a WHERE {code} <> 0"),
        ),
    }


def openhands_sdk(counts: Counts, file: File) -> Claims:
    """OpenHands' SDK: actions, and results."""
    return {
        "actions": (counts["kinds"]["ActionEvent"], file.count("attempts")),
        "results": (
            counts["kinds"]["ObservationEvent"],
            file.count("messages", "role = 'tool'"),
        ),
    }


def agentdojo(counts: Counts, file: File) -> Claims:
    """AgentDojo: messages, calls, errors, and the two verdicts."""
    resisted = "SELECT verdict FROM {checks} WHERE check_id = 'injection-resisted'"
    return {
        "messages": (counts["messages"], file.count("messages")),
        "calls": (counts["tool_calls"], file.count("attempts")),
        "calls that failed": (counts["tool_errors"], file.count("failures")),
        "utility": (
            counts["utility"],
            file.value("SELECT verdict FROM {checks} WHERE check_id = 'utility'"),
        ),
        "injection resisted": (
            not counts["security"] if counts["injected"] else None,
            file.value(resisted),
        ),
    }


def who_when(counts: Counts, file: File) -> Claims:
    """Who&When: turns, and the step and the agent of the mistake."""
    step, agent = file.rows(
        "SELECT step, evidence->>'$.mistake_agent' FROM {checks} WHERE check_id = 'mistake'"
    )[0]
    return {
        "turns": (counts["turns"], file.value("SELECT n_steps FROM {episodes}")),
        "step of the mistake": (int(counts["mistake_step"]), step),
        "agent of the mistake": (counts["mistake_agent"], agent),
    }


def minari(counts: Counts, file: File) -> Claims:
    """Minari: episodes and observations, and of HDF5 steps, returns and flags."""
    claims = {"episodes": (counts["episodes"], file.count("episodes"))}
    n_steps = file.value("SELECT sum(n_steps)::BIGINT FROM {episodes}")
    if "rows" in counts:
        return {**claims, "observations": (counts["rows"], n_steps + file.count("episodes"))}
    return {
        **claims,
        "steps": (counts["steps"], n_steps),
        "return": (counts["return"], file.value("SELECT sum(total_reward) FROM {episodes}")),
        "terminated": (counts["terminated"], file.count("episodes", "terminated")),
        "truncated": (counts["truncated"], file.count("episodes", "truncated")),
    }


FOLDERS: dict[str, Callable[[Counts, File], Claims]] = {
    "atif": atif,
    "harbor-trial": harbor,
    "inspect": inspect,
    "claude-code": claude_code,
    "codex": codex,
    "tau-bench": tau_bench,
    "tau2": tau2,
    "hf-messages": hf_messages,
    "otlp": otlp,
    "swe-agent": swe_agent,
    "mini-swe-agent": mini_swe_agent,
    "openhands": openhands,
    "openhands-sdk": openhands_sdk,
    "agentdojo": agentdojo,
    "who-when": who_when,
    "minari": minari,
}
"""Folder of DATA -> the claims about each of its files."""
