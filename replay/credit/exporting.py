"""Credit as training data: step labels for process reward models, preference pairs from forks, advantages of groups.

Rows have the columns that TRL reads (`prompt`, `completions` and `labels`; `prompt`, `chosen` and `rejected`), and more beside
them. A step is text: an agent's calls, or an action, as JSON.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trajrec.corpus.episode import Episode
from trajrec.replay.credit.estimators.groups import Method, group_advantages
from trajrec.values import codec
from trajrec.values.json import to_json

if TYPE_CHECKING:
    from trajrec.corpus.corpus import Corpus

Kind = Literal["prm", "dpo", "grpo"]

COLUMNS: dict[Kind, dict[str, str]] = {
    "prm": {
        "prompt": "VARCHAR",
        "completions": "VARCHAR[]",
        "labels": "BOOLEAN[]",
        "soft_labels": "DOUBLE[]",
        "n": "BIGINT[]",
        "episode_id": "VARCHAR",
        "run_id": "VARCHAR",
        "policy_id": "VARCHAR",
    },
    "dpo": {
        "prompt": "VARCHAR",
        "chosen": "VARCHAR",
        "rejected": "VARCHAR",
        "margin": "DOUBLE",
        "ci_low": "DOUBLE",
        "ci_high": "DOUBLE",
        "episode_id": "VARCHAR",
        "step": "BIGINT",
        "source": "VARCHAR",
    },
    "grpo": {
        "prompt": "VARCHAR",
        "completions": "VARCHAR[]",
        "advantages": "DOUBLE[]",
        "reward": "DOUBLE",
        "episode_id": "VARCHAR",
        "method": "VARCHAR",
    },
}
"""Columns of each kind with their types."""


def export(
    corpus: Corpus,
    kind: Kind,
    file: str | Path,
    *,
    where: str = "true",
    method: Method = "grpo",
    tell: Callable[[str], None] | None = None,
    **how: Any,
) -> int:
    """Write training data from a corpus; return the number of rows.

    Args:
        corpus: From `trajrec.open`.
        kind: "prm": an episode a row, with the steps and for each whether any rollout from after it was won ("labels", the hard
            estimate) and how many were ("soft_labels", NULL where none were run), from the latest scan of it. "dpo": a pair of
            actions at one step a row: of a substitution whose effect is certain, and of forks that came out otherwise than what
            they were forked from. "grpo": an episode a row, with the advantage of each step in its group.
        file: Ends in .parquet or .jsonl; replaced if it is there.
        where: Which episodes, as a condition on the table `episodes`.
        method: Of "grpo": see `group`.
        tell: Is told, in a sentence each, why what is written may not be what is wanted.
        how: Of "grpo": what else `group` takes.

    Raises:
        ValueError: The kind or the file's ending is none of those.
    """
    path = Path(file)
    if kind not in COLUMNS:
        raise ValueError(f"kind must be one of {', '.join(COLUMNS)}, got {kind!r}")
    if path.suffix not in (".parquet", ".jsonl"):
        raise ValueError(f"the file must end in .parquet or .jsonl, got {str(file)!r}")
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent}: no such folder to write into")
    if kind == "prm":
        rows = _labels(corpus, where, tell)
    elif kind == "dpo":
        rows = itertools.chain(_substitutions(corpus, where), _forks(corpus, where, tell))
    else:
        rows = _advantages(corpus, method, {**how, "where": where}, tell)
    return _write(rows, COLUMNS[kind], path)


def _write(rows: Iterator[dict[str, Any]], columns: dict[str, str], path: Path) -> int:
    """Write rows by way of a file of JSON lines that DuckDB makes columns of; the target is replaced when all is there."""
    n = 0
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        lines, done = Path(folder) / "rows.jsonl", Path(folder) / path.name
        with lines.open("w") as out:
            for row in rows:
                out.write(json.dumps(row, allow_nan=False) + "\n")
                n += 1
        if path.suffix == ".jsonl":
            lines.replace(path)
            return n
        types = ", ".join(f"'{name}': '{kind}'" for name, kind in columns.items())
        empty = ", ".join(f"CAST(NULL AS {kind}) AS {name}" for name, kind in columns.items())
        source = (
            f"read_json(?, format='newline_delimited', columns={{{types}}})"
            if n
            else f"(SELECT {empty} WHERE false)"
        )
        import duckdb  # here: the processes that run rollouts import this package, and need no database

        with duckdb.connect(":memory:") as con:
            con.execute(
                f"COPY (SELECT * FROM {source}) TO '{_quoted(done)}' (FORMAT parquet)",
                [str(lines)] if n else [],
            )
        done.replace(path)
    return n


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _labels(
    corpus: Corpus, where: str, tell: Callable[[str], None] | None
) -> Iterator[dict[str, Any]]:
    """Yield step labels: of the rollouts that took a step's action and went on, from each episode's latest run that has
    them."""
    query = f"""
    WITH runs AS (
      SELECT c.episode_id, c.run_id, any_value(c.policy_id) AS policy_id, max(c.created_at) AS made
      FROM credit c JOIN episodes e USING (episode_id) WHERE c.estimator IN ('advantage', 'value') GROUP BY ALL
      HAVING count(DISTINCT c.step) >= any_value(e.n_steps) - coalesce(any_value(e.fork_step), 0)
    ), latest AS (SELECT * FROM runs QUALIFY row_number() OVER (PARTITION BY episode_id ORDER BY made DESC, run_id) = 1)
    SELECT l.episode_id, l.run_id, l.policy_id, r.fork_step, r.arm, count(*) AS n,
      avg(coalesce(r.score, CAST(r.episode_return > 0 AS DOUBLE))) AS share, count(r.score) > 0 AS is_checked
    FROM latest l JOIN rollouts r USING (run_id, episode_id)
    WHERE r.arm IN ('value', 'action') AND r.status IN ('ended', 'cut') AND {_is_of(where, "l")} GROUP BY ALL
    """
    found: dict[str, tuple[str, str, dict[tuple[int, str], tuple[int, float]]]] = {}
    checked, unchecked = (
        set(),
        set(),
    )  # episodes of which a check said what winning is; labels of all others
    for episode_id, run_id, policy_id, step, arm, n, share, is_checked in corpus.sql(
        query
    ).fetchall():
        if is_checked:
            checked.add(episode_id)
        found.setdefault(episode_id, (run_id, policy_id, {}))[2][step, arm] = (n, share)
    for episode in corpus.episodes(
        f"({where}) AND episode_id IN (SELECT episode_id FROM credit)", order_by="episode_id"
    ):
        if episode.id not in found:
            continue
        run_id, policy_id, shares = found[episode.id]
        steps = range(episode.first_step, episode.n_steps)
        # After a step: its action forced, or what the policy makes of the state that it led to.
        after = [shares.get((step, "action")) or shares.get((step + 1, "value")) for step in steps]
        if any(share is None for share in after[:-1]) or not after:
            continue
        if (
            after[-1] is None
        ):  # nothing goes on from the last step: the episode says itself what it came to
            won = (
                episode.outcome == "success"
                if episode.outcome is not None
                else episode.total_reward > 0
            )
            after[-1] = (1, float(won))
        known = [share for share in after if share is not None]
        if episode.id not in checked:
            unchecked |= {share > 0 for _, share in known}
        yield {
            "prompt": prompt_of(episode),
            "completions": [text for _, text in texts_of(episode)],
            "labels": [share > 0 for _, share in known],
            "soft_labels": [share for _, share in known],
            "n": [n for n, _ in known],
            "episode_id": episode.id,
            "run_id": run_id,
            "policy_id": policy_id,
        }
    if tell is not None and len(unchecked) == 1:
        label = str(*unchecked).lower()
        tell(
            f"all labels are {label} where no check was given: won is taken to be a return above 0: --success says otherwise"
        )


def _substitutions(corpus: Corpus, where: str) -> Iterator[dict[str, Any]]:
    """Yield pairs of actions at one step of which one is better, by substitution."""
    certain = "estimator = 'effect' AND action IS NOT NULL AND (ci_low > 0 OR ci_high < 0)"
    query = (
        "SELECT c.episode_id, step, CAST(action AS VARCHAR), value, ci_low, ci_high FROM latest_credit c "
        f"WHERE {certain} AND {_is_of(where, 'c')} ORDER BY ALL"
    )
    found: dict[str, list[tuple[Any, ...]]] = {}
    for row in corpus.sql(query).fetchall():
        found.setdefault(row[0], []).append(row[1:])
    of_these = f"({where}) AND episode_id IN (SELECT episode_id FROM latest_credit WHERE {certain})"
    for episode in corpus.episodes(of_these, order_by="episode_id"):
        texts = dict(texts_of(episode))
        for step, action, value, ci_low, ci_high in found.get(episode.id, ()):
            recorded = texts.get(step)
            if recorded is not None:
                other = _call_text(action) if episode.is_agent_episode else action
                chosen, rejected = (other, recorded) if ci_low > 0 else (recorded, other)
                pair = {
                    "prompt": prompt_of(episode, step),
                    "chosen": chosen,
                    "rejected": rejected,
                    "margin": abs(value),
                }
                yield {
                    **pair,
                    "ci_low": ci_low,
                    "ci_high": ci_high,
                    "episode_id": episode.id,
                    "step": step,
                    "source": "substitution",
                }


def _forks(
    corpus: Corpus, where: str, tell: Callable[[str], None] | None
) -> Iterator[dict[str, Any]]:
    """Yield pairs of actions at one step of which one is better, by what forks came to."""
    if tell is not None:
        unknown = (
            "SELECT count(*), count(*) FILTER (b.outcome IS NULL OR p.outcome IS NULL) FROM branches b "
            f"JOIN episodes p ON p.episode_id = b.parent_id WHERE {_is_of(where, 'p')}"
        )
        ((n, n_unknown),) = corpus.sql(unknown).fetchall()
        if n_unknown:
            tell(
                f"{n_unknown} of {n} forks make no pair: they and their episodes need an outcome, fork_many(checks=...)"
            )
    query = (
        "SELECT b.episode_id, b.parent_id, b.fork_step FROM branches b JOIN episodes p ON p.episode_id = b.parent_id "
        "WHERE b.outcome IS NOT NULL AND p.outcome IS NOT NULL AND b.outcome <> p.outcome "
        f"AND {_is_of(where, 'p')} ORDER BY ALL"
    )
    last = functools.lru_cache(maxsize=1)(
        corpus.episode
    )  # forks of one episode often come together
    for branch_id, parent_id, step in corpus.sql(query).fetchall():
        parent, branch = last(parent_id), corpus.episode(branch_id)
        one, other = dict(texts_of(branch)).get(step), dict(texts_of(parent)).get(step)
        if one is None or other is None or one == other:
            continue
        chosen, rejected = (one, other) if branch.outcome == "success" else (other, one)
        row = {
            "prompt": prompt_of(parent, step),
            "chosen": chosen,
            "rejected": rejected,
            "margin": 1.0,
            "ci_low": None,
            "ci_high": None,
        }
        yield {**row, "episode_id": parent_id, "step": step, "source": f"fork {branch_id}"}


def _advantages(
    corpus: Corpus, method: Method, how: dict[str, Any], tell: Callable[[str], None] | None
) -> Iterator[dict[str, Any]]:
    """Yield the advantages of a group's steps; where one is not known it is 0, which trains nothing."""
    tables = {table.episode_id: table for table in group_advantages(corpus, method, **how)}
    if tell is not None:
        # Of GRPO a row's n is the size of its group; the other methods count something else there.
        sizes = tables.values() if method == "grpo" else group_advantages(corpus, "grpo", **how)
        if n_alone := sum(table[0].n == 1 for table in sizes):
            tell(
                f"{n_alone} of {len(tables)} episodes are alone in their group: there is nothing to compare them with"
            )
    for episode in corpus.episodes(how["where"]):
        if episode.id in tables:
            yield {
                "prompt": prompt_of(episode),
                "completions": [text for _, text in texts_of(episode)],
                "advantages": [
                    0.0 if math.isnan(row.value) else row.value for row in tables[episode.id]
                ],
                "reward": episode.total_reward,
                "episode_id": episode.id,
                "method": method,
            }


def _is_of(where: str, table: str) -> str:
    """Return the condition that a row of a table is of one of the episodes that were asked for."""
    return f"{table}.episode_id IN (SELECT episode_id FROM episodes WHERE {where})"


def _call_text(action: str) -> str:
    """Return an action in a world, [tool, arguments] or several of them, as text of its calls."""
    calls = json.loads(action)
    found = [
        {"tool": tool, "arguments": arguments}
        for tool, arguments in ([calls] if isinstance(calls[0], str) else calls)
    ]
    return to_json(found[0] if len(found) == 1 else found)


def texts_of(episode: Episode) -> list[tuple[int, str]]:
    """Return what was done at each step, as text: an action, or an agent's calls, as JSON."""
    if not episode.is_agent_episode:
        return [
            (int(step), to_json(action))
            for step, action in zip(episode.step_numbers, episode.actions, strict=True)
        ]
    calls: dict[int, list[Any]] = {step: [] for step in range(episode.first_step, episode.n_steps)}
    for attempt in episode.transcript.attempts:
        if attempt.start.attempt == 0:
            calls[attempt.start.step].append({"tool": attempt.tool, "arguments": attempt.arguments})
    return [(step, to_json(made[0] if len(made) == 1 else made)) for step, made in calls.items()]


def prompt_of(episode: Episode, step: int | None = None) -> str:
    """Return what an agent had to go by at the beginning, or before a step: the goal or first observation, then what was
    done and what came of it, a line each."""
    if episode.is_agent_episode:
        task = episode.transcript.task_start
        goal = None if task is None or task.goal_data is None else codec.decode(task.goal_data)
        lines = [goal if isinstance(goal, str) else to_json(goal)]
        for attempt in episode.transcript.attempts:
            if step is not None and attempt.start.step < step:
                came = (
                    attempt.result
                    if not attempt.has_failed or attempt.end is None
                    else attempt.end.message
                )
                lines += [
                    to_json({"tool": attempt.tool, "arguments": attempt.arguments}),
                    to_json(came),
                ]
        return "\n".join(lines)
    observations = episode.observation_values
    lines = [to_json(observations[0])] if observations else [""]
    if step is not None:
        for (number, text), observation in zip(texts_of(episode), observations[1:], strict=False):
            if number < step:
                lines += [text, to_json(observation)]
    return "\n".join(lines)
