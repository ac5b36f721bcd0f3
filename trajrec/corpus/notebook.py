"""What a notebook shows of a corpus and of an episode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from trajrec.analysis.source import Rows
from trajrec.corpus.transcript import Transcript
from trajrec.log.schema import Failure
from trajrec.task_options import IS_OF_AGENT
from trajrec.types import Value
from trajrec.values.html_cards import (
    card,
    card_method,
    lines,
    shares_picture,
    steps_picture,
    table,
)

_COUNTS = f"""
SELECT count(*), coalesce(sum(n_steps), 0)::BIGINT, count(*) FILTER (outcome = 'success'),
    count(*) FILTER (outcome = 'failure'),
    (SELECT count(*) FROM episodes WHERE NOT {IS_OF_AGENT})
FROM episodes WHERE {IS_OF_AGENT}
"""

_ENVS = f"""
SELECT coalesce(env_id, 'none'), count(*), count(*) FILTER (outcome = 'success'),
    count(*) FILTER (outcome = 'failure'), count(*) OVER ()
FROM episodes WHERE {IS_OF_AGENT} GROUP BY env_id ORDER BY 2 DESC, 1 LIMIT 8
"""

_FAILURES = f"""
SELECT f.episode_id, f.step, coalesce(f.action->>'tool', f.phase), f.error_type, f.message[:200],
    f.recovered_at
FROM failures f JOIN episodes e USING (episode_id) WHERE {IS_OF_AGENT}
ORDER BY e.started_at DESC NULLS LAST, f.episode_id, f.step DESC, f.call, f.attempt LIMIT 5
"""


class _CardCorpus(Protocol):
    @property
    def path(self) -> Path: ...

    def sql(self, query: str) -> Rows: ...


class _CardEpisode(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def env_id(self) -> str | None: ...
    @property
    def is_agent_episode(self) -> bool: ...
    @property
    def first_step(self) -> int: ...
    @property
    def n_steps(self) -> int: ...
    @property
    def total_reward(self) -> float: ...
    @property
    def outcome(self) -> str | None: ...
    @property
    def ending(self) -> str: ...
    @property
    def fault(self) -> str | None: ...
    @property
    def failures(self) -> Sequence[Failure]: ...
    def transcribe(self, *, is_tolerant: bool = False) -> Transcript: ...


class CorpusCard:
    """The card of a corpus."""

    @card_method
    def _repr_html_(self: _CardCorpus) -> str:
        ((n, n_steps, n_won, n_failed, n_probes),) = self.sql(_COUNTS).fetchall()
        envs = self.sql(_ENVS).fetchall()
        failures = self.sql(_FAILURES).fetchall()
        rows: list[Sequence[Value]] = [
            (env, f"{count:,}", f"{won:,}", f"{lost:,}", shares_picture(won, lost, count))
            for env, count, won, lost, _ in envs
        ]
        latest = [
            (
                episode_id[:10],
                step,
                place,
                _class_name(error or ""),
                message,
                "" if at is None else f"overcome at {at}",
            )
            for episode_id, step, place, error, message, at in failures
        ]
        heads = ("environment or world", "episodes", "succeeded", "failed", "")
        return card(
            f"Corpus {self.path}",
            [
                ("episodes", f"{n:,}"),
                ("steps", f"{n_steps:,}"),
                ("succeeded", f"{n_won:,}"),
                ("failed", f"{n_failed:,}"),
                ("without a verdict", f"{n - n_won - n_failed:,}"),
                ("probes of the checks, besides", f"{n_probes:,}" if n_probes else None),
            ],
            table(heads, rows, n_rows=envs[0][4] if envs else 0),
            lines(["Latest failures"] * bool(latest)),
            table(("episode", "step", "call", "error", "message", ""), latest),
            lines([f"Look at them: trajrec view {self.path}"]),
        )


class EpisodeCard:
    """The card of an episode."""

    @card_method
    def _repr_html_(self: _CardEpisode) -> str:
        reward = self.total_reward if not self.is_agent_episode else math.nan
        rows = _failures(self)
        steps = {row[0] for row in rows if isinstance(row[0], int)}
        words = f"{self.n_steps} steps, of which {len(steps)} had failures"
        places = [step - self.first_step for step in steps]
        picture = steps_picture(self.n_steps, places, words)
        return card(
            f"Episode {self.id}",
            [
                ("environment or world", self.env_id),
                ("outcome", self.outcome or "no verdict"),
                ("steps", f"{self.n_steps:,}"),
                ("reward", None if math.isnan(reward) else f"{reward:g}"),
                ("ending", self.ending),
                ("fault", self.fault),
                ("failures", len(rows)),
            ],
            f'<div style="margin-top:4px">{picture}</div>',
            table(("step", "in", "error", "message", ""), rows[:5], n_rows=len(rows)),
            lines([f"Look at it: `trajrec view` of its folder, at /e/{self.id}"]),
        )


def _failures(episode: _CardEpisode) -> list[Sequence[Value]]:
    """Return the step, place, error, message and recovery of each failure, in order."""
    rows: list[Sequence[Value]] = [
        (failure.step, failure.phase, _class_name(failure.error_type), failure.message, "")
        for failure in episode.failures
    ]
    if episode.is_agent_episode:
        # Of a damaged log, those that can be read.
        for attempt in episode.transcribe(is_tolerant=True).attempts:
            if attempt.end is not None and attempt.has_failed:
                at = attempt.recovered_at
                overcome = "" if at is None else f"overcome at {at}"
                end = attempt.end
                rows.append(
                    (
                        attempt.start.step,
                        attempt.tool,
                        _class_name(end.error_type),
                        end.message,
                        overcome,
                    )
                )
    return sorted(rows, key=lambda row: -1 if row[0] is None else row[0])


def _class_name(error_type: str) -> str:
    return error_type.rpartition(".")[2]
