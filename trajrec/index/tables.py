"""The tables, one place: names, columns, what each means. `trajrec schema` prints this."""

from __future__ import annotations

from typing import NamedTuple

INDEX_VERSION = 1
"""Raised whenever the tables change: an index of another version is rebuilt."""


class Table(NamedTuple):
    """A table: what a row is, its key, and its columns as (name, type, meaning)."""

    name: str
    row: str
    key: tuple[str, ...]
    columns: tuple[tuple[str, str, str], ...]

    @property
    def ddl(self) -> str:
        """The columns as SQL."""
        return ", ".join(f"{name} {kind}" for name, kind, _ in self.columns)

    @property
    def names(self) -> list[str]:
        """The columns' names."""
        return [name for name, _, _ in self.columns]


EPISODES = Table(
    "episodes",
    "an episode",
    ("episode_id",),
    (
        ("episode_id", "VARCHAR", "16 hex digits; unique over all logs"),
        ("env_id", "VARCHAR", "Gymnasium id of the environment; NULL where it has none"),
        ("n_steps", "BIGINT", "steps taken, those that raised included"),
        ("total_reward", "DOUBLE", "sum of the rewards; NULL where rewards are not numbers"),
        ("ending", "VARCHAR", "terminated, truncated, abandoned or error; running or interrupted where the log has no end"),
        ("outcome", "VARCHAR", "success or failure by the last check with a verdict; NULL where none gave one"),
        ("terminated", "BOOLEAN", "flag of the last step"),
        ("truncated", "BOOLEAN", "flag of the last step"),
        ("n_failures", "BIGINT", "exceptions recorded in it"),
        ("missing_steps", "BIGINT", "steps that the log has lost to damage"),
        ("started_at", "TIMESTAMP", "when it was reset, UTC"),
        ("ended_at", "TIMESTAMP", "when it ended, UTC"),
        ("seed", "BIGINT", "seed of the reset, NULL where it had none"),
        ("seed_origin", "VARCHAR", "caller, recorder, or none (the generator's state is in the log)"),
        ("parent_id", "VARCHAR", "episode that it was forked from; NULL for a fresh rollout"),
        ("fork_step", "BIGINT", "step at which it was forked"),
        ("state_adapter", "VARCHAR", "how its state was captured; NULL where it was not"),
        ("interface", "JSON", "verifier, base, lineage, optimizer, scaffold, budget as given; NULL where unknown"),
        ("log", "VARCHAR", "log file, relative to the corpus"),
        ("number", "BIGINT", "which episode of its log"),
        ("first_frame", "BIGINT", "first frame of the log that has any of it"),
        ("last_frame", "BIGINT", "last frame of the log that has any of it"),
    ),
)
STEPS = Table(
    "steps",
    "a step that the environment took",
    ("episode_id", "step"),
    (
        ("episode_id", "VARCHAR", "its episode"),
        ("step", "INTEGER", "from 0"),
        ("action", "JSON", "the action; NULL where it is a large array (read it with corpus.episode)"),
        ("reward", "DOUBLE", "the reward; NULL where it is not a number"),
        ("info", "JSON", "the info; NULL where it was empty; large arrays in it are left out"),
        ("state_digest", "UINTEGER", "digest of the state after the step; NULL where no state was captured"),
    ),
)
FAILURES = Table(
    "failures",
    "an exception",
    ("episode_id", "step", "attempt", "phase"),
    (
        ("episode_id", "VARCHAR", "its episode"),
        ("step", "INTEGER", "step that failed; -1 for the reset"),
        ("attempt", "INTEGER", "which try of the step, from 0"),
        ("phase", "VARCHAR", "reset, step, state or check"),
        ("origin", "VARCHAR", "agent, env, tool, scaffold, infra or verifier"),
        ("error_type", "VARCHAR", "class of the exception"),
        ("message", "VARCHAR", "its message"),
        ("traceback", "VARCHAR", "its traceback"),
        ("action", "JSON", "the action that was tried"),
        ("failed_at", "TIMESTAMP", "when, UTC"),
    ),
)
STATE_CHANGES = Table(
    "state_changes",
    "one place of the state that a step changed (where states are stored whole)",
    ("episode_id", "step", "path"),
    (
        ("episode_id", "VARCHAR", "its episode"),
        ("step", "INTEGER", "step that changed it"),
        ("path", "VARCHAR", "where in the state, as a JSON pointer; empty for the state itself"),
        ("before", "JSON", "value before; NULL where there was none"),
        ("after", "JSON", "value after; NULL where there is none"),
    ),
)
CHECKS = Table(
    "checks",
    "one verdict of one version of one verifier on one state",
    ("episode_id", "check_id", "version", "checked_at"),
    (
        ("episode_id", "VARCHAR", "its episode"),
        ("step", "INTEGER", "number of steps taken when it ran"),
        ("check_id", "VARCHAR", "the verifier"),
        ("version", "VARCHAR", "its version"),
        ("family", "VARCHAR", "what kind of verifier"),
        ("phase", "VARCHAR", "step, terminal or post-hoc"),
        ("status", "VARCHAR", "ok, error (the verifier's fault) or not_evaluated"),
        ("verdict", "BOOLEAN", "NULL where it gave none"),
        ("score", "DOUBLE", "NULL where it gave none"),
        ("evidence", "JSON", "what it looked at"),
        ("code_digest", "VARCHAR", "digest of its source; NULL where unknown"),
        ("state_digest", "VARCHAR", "digest of the state that it judged; NULL where unknown"),
        ("checked_at", "TIMESTAMP", "when, UTC"),
    ),
)
LOGS = Table(
    "logs",
    "a log file",
    ("log",),
    (
        ("log", "VARCHAR", "path, relative to the corpus"),
        ("log_id", "VARCHAR", "its id; NULL where it cannot be read"),
        ("size_bytes", "BIGINT", "size when it was read"),
        ("mtime_ns", "BIGINT", "time of its last change when it was read"),
        ("n_frames", "BIGINT", "frames read"),
        ("is_sealed", "BOOLEAN", "whether its writer closed it"),
        ("damage", "JSON", "bytes that could not be read: [offset, size, what, whether it is only a torn end]"),
        ("problem", "VARCHAR", "why it cannot be read at all; NULL where it can"),
        ("header", "JSON", "versions, platform, environment, wrappers"),
    ),
)

TABLES = (EPISODES, STEPS, FAILURES, STATE_CHANGES, CHECKS, LOGS)
