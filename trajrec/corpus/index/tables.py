"""The tables, one place: names, columns, what each means. `trajrec schema` prints this."""

from __future__ import annotations

from typing import NamedTuple

from trajrec.run_interface import FIELDS

INDEX_VERSION = 9
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
        (
            "env_id",
            "VARCHAR",
            "Gymnasium id of the environment, or an agent's world as module:Class; NULL where there is none",
        ),
        ("task", "VARCHAR", "id of the task that an agent had; NULL where it had none"),
        (
            "n_steps",
            "BIGINT",
            "steps taken, those that raised included; of a fork also those before fork_step, its parent's",
        ),
        (
            "total_reward",
            "DOUBLE",
            "sum of the rewards, of a fork those of its own steps; NULL where rewards are not numbers (see agent_rewards)",
        ),
        (
            "ending",
            "VARCHAR",
            "terminated, truncated, abandoned or error; running or interrupted where the log has no end",
        ),
        (
            "outcome",
            "VARCHAR",
            "success or failure by the last check with a verdict; NULL where none gave one",
        ),
        ("stop_reason", "VARCHAR", "why an agent's loop ended, as it said; NULL where unknown"),
        ("claimed_done", "BOOLEAN", "whether an agent said that it was done; NULL where unknown"),
        ("terminated", "BOOLEAN", "flag of the last step"),
        ("truncated", "BOOLEAN", "flag of the last step"),
        ("n_failures", "BIGINT", "failures recorded in it"),
        ("missing_steps", "BIGINT", "steps that the log has lost to damage"),
        ("started_at", "TIMESTAMP", "when it was reset, UTC"),
        ("ended_at", "TIMESTAMP", "when it ended, UTC"),
        ("seed", "BIGINT", "seed of the reset, NULL where it had none"),
        (
            "seed_origin",
            "VARCHAR",
            "caller, recorder, or none (the generator's state is in the log)",
        ),
        ("parent_id", "VARCHAR", "episode that it was forked from; NULL for a fresh rollout"),
        ("fork_step", "BIGINT", "step at which it was forked"),
        (
            "caller_id",
            "VARCHAR",
            "episode that it was begun in, by an agent that calls another; NULL for any other",
        ),
        ("caller_step", "BIGINT", "step of that episode"),
        ("state_adapter", "VARCHAR", "how its state was captured; NULL where it was not"),
        (
            "reset_digest",
            "UINTEGER",
            "digest of the state after the reset; NULL where no state was captured",
        ),
        (
            "interface",
            "JSON",
            "what it ran under, as given (see the view interfaces); NULL where unknown",
        ),
        ("interface_id", "VARCHAR", "digest of the interface; NULL where unknown"),
        ("log", "VARCHAR", "log file, relative to the corpus"),
        ("number", "BIGINT", "which episode of its log"),
        ("first_frame", "BIGINT", "first frame of the log that has any of it"),
        ("last_frame", "BIGINT", "last frame of the log that has any of it"),
    ),
)
STEPS = Table(
    "steps",
    "a step that the environment took, or a decision of an agent",
    ("episode_id", "step"),
    (
        ("episode_id", "VARCHAR", "its episode"),
        ("step", "INTEGER", "from 0"),
        (
            "action",
            "JSON",
            "the action, NULL where it is a large array (read it with corpus.episode); of an agent its calls",
        ),
        ("reward", "DOUBLE", "the reward; NULL where it is not a number"),
        ("info", "JSON", "the info; NULL where it was empty; large arrays in it are left out"),
        (
            "state_digest",
            "UINTEGER",
            "digest of the state after the step; NULL where no state was captured",
        ),
    ),
)
AGENT_REWARDS = Table(
    "agent_rewards",
    "what one of several agents got for a step (of PettingZoo's environments: where rewards are a dict by agent)",
    ("episode_id", "step", "agent"),
    (
        ("episode_id", "VARCHAR", "its episode"),
        ("step", "INTEGER", "from 0"),
        ("agent", "VARCHAR", "the agent; one that has left has no rows"),
        ("reward", "DOUBLE", "its reward for the step; NULL where it is not a number"),
        ("terminated", "BOOLEAN", "its flag after the step; NULL where it has none"),
        ("truncated", "BOOLEAN", "its flag after the step; NULL where it has none"),
    ),
)
FAILURES = Table(
    "failures",
    "an exception, or a tool call that failed",
    ("episode_id", "step", "call", "attempt", "phase"),
    (
        ("episode_id", "VARCHAR", "its episode"),
        ("step", "INTEGER", "step that failed; -1 for the reset"),
        ("call", "INTEGER", "which call of the step, from 0; NULL where it was none"),
        ("attempt", "INTEGER", "which try of the step or call, from 0"),
        (
            "phase",
            "VARCHAR",
            "reset, step, state, check, call (of a tool), model or loop (the agent's own code)",
        ),
        ("kind", "VARCHAR", "of a call: invalid, error, timeout or cancelled; else error"),
        ("origin", "VARCHAR", "agent, env, tool, scaffold, infra or verifier"),
        ("error_type", "VARCHAR", "class of the exception"),
        ("message", "VARCHAR", "its message"),
        ("traceback", "VARCHAR", "its traceback"),
        ("action", "JSON", "the action that was tried"),
        (
            "recovered_at",
            "INTEGER",
            "step at which a call's failure was overcome; NULL where it never was",
        ),
        ("recovered_by", "VARCHAR", "who tried again: agent, scaffold, transport or harness"),
        ("failed_at", "TIMESTAMP", "when, UTC"),
    ),
)
STATE_CHANGES = Table(
    "state_changes",
    "one place of the state that a step changed (where states are stored whole)",
    ("episode_id", "step", "call", "attempt", "part", "path"),
    (
        ("episode_id", "VARCHAR", "its episode"),
        ("step", "INTEGER", "step that changed it"),
        ("call", "INTEGER", "call of the step that changed it; NULL where steps have none"),
        ("attempt", "INTEGER", "which try of the call"),
        ("part", "VARCHAR", "which part of an agent's world; empty where there is only one"),
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
        ("log", "VARCHAR", "log file that has it: of a post-hoc check another than the episode's"),
    ),
)
ATTEMPTS = Table(
    "attempts",
    "one try at a tool call",
    ("episode_id", "step", "call", "attempt"),
    (
        ("episode_id", "VARCHAR", "its episode"),
        ("step", "INTEGER", "its step"),
        ("call", "INTEGER", "which call of the step, from 0"),
        ("attempt", "INTEGER", "which try of the call, from 0"),
        ("tool", "VARCHAR", "the tool"),
        ("call_id", "VARCHAR", "the id that the model gave the call; NULL where it gave none"),
        ("arguments", "JSON", "its arguments"),
        ("access", "VARCHAR", "read, write, external or unknown, as the tool is declared"),
        (
            "invalid",
            "VARCHAR",
            "why it could not be what was meant (unknown tool); NULL where it could",
        ),
        (
            "outcome",
            "VARCHAR",
            "ok, error, timeout, cancelled; open where the log ends before it does",
        ),
        ("result", "JSON", "what it returned; NULL where it raised"),
        ("is_raised", "BOOLEAN", "whether its error was raised rather than returned"),
        ("error_type", "VARCHAR", "class of the exception; NULL where there was none"),
        ("message", "VARCHAR", "what went wrong; NULL where nothing did"),
        ("latency_ms", "DOUBLE", "how long it took; NULL where it is open"),
        ("backoff_ms", "DOUBLE", "how long was waited before it"),
        (
            "retry_by",
            "VARCHAR",
            "who tried again: agent, scaffold, transport or harness; NULL where it repeats nothing",
        ),
        ("retry_of_step", "INTEGER", "step of the try that it repeats"),
        ("retry_of_call", "INTEGER", "call of the try that it repeats"),
        (
            "argument_changes",
            "JSON",
            "how its arguments differ from those of the try that it repeats: [path, before, after]",
        ),
        (
            "state_digest",
            "VARCHAR",
            "digest of what it changed last; NULL where it changed nothing",
        ),
        ("finding", "VARCHAR", "what is remarkable: a tool that is declared to read wrote"),
        ("is_redacted", "BOOLEAN", "whether secrets were taken out of it"),
        ("started_at", "TIMESTAMP", "when it began, UTC"),
    ),
)
MODEL_CALLS = Table(
    "model_calls",
    "one call of a model",
    ("episode_id", "number"),
    (
        ("episode_id", "VARCHAR", "its episode"),
        ("number", "INTEGER", "which of the episode's model calls, from 0"),
        ("step", "INTEGER", "the step that it began"),
        ("model", "VARCHAR", "the model, as it answered, else as it was asked for"),
        ("n_messages", "INTEGER", "messages of the request"),
        ("parameters", "JSON", "the request's plain arguments: temperature, seed, ..."),
        ("answer", "JSON", "what came back; a list of pieces where it was streamed"),
        ("finish_reason", "VARCHAR", "why it stopped; NULL where unknown"),
        ("input_tokens", "BIGINT", "as the answer says; NULL where it does not"),
        ("output_tokens", "BIGINT", "as the answer says; NULL where it does not"),
        (
            "cost",
            "DOUBLE",
            "price of the call, in the provider's currency, as the answer says; NULL where it does not",
        ),
        ("outcome", "VARCHAR", "ok, error, cancelled; open where the log ends before it does"),
        ("error_type", "VARCHAR", "class of the exception; NULL where there was none"),
        ("message", "VARCHAR", "its message"),
        ("retry_by", "VARCHAR", "who tried again; NULL where it repeats nothing"),
        ("latency_ms", "DOUBLE", "how long it took, to the end of a stream; NULL where it is open"),
        ("is_streamed", "BOOLEAN", "whether the answer came in pieces"),
        ("started_at", "TIMESTAMP", "when it began, UTC"),
    ),
)
SIDE_EFFECTS = Table(
    "side_effects",
    "a value that entered from outside the program: clock, random, network",
    ("episode_id", "number"),
    (
        ("episode_id", "VARCHAR", "its episode"),
        ("number", "INTEGER", "which of the episode's, from 0"),
        ("step", "INTEGER", "the step at which it entered, -1 before the first"),
        ("name", "VARCHAR", "what the program calls it"),
        ("arguments", "JSON", "what was asked"),
        ("value", "JSON", "what came; NULL where an exception did"),
        ("error_type", "VARCHAR", "class of the exception; NULL where there was none"),
        ("is_redacted", "BOOLEAN", "whether secrets were taken out of it"),
        ("entered_at", "TIMESTAMP", "when, UTC"),
    ),
)
CREDIT = Table(
    "credit",
    "an estimate of what a step earned or lost, by rollouts from forks; nothing is overwritten, see the view latest_credit",
    ("run_id", "episode_id", "step", "estimator"),
    (
        ("run_id", "VARCHAR", "the run that it comes from"),
        ("episode_id", "VARCHAR", "its episode"),
        ("step", "INTEGER", "its step; of a value the state before it"),
        ("estimator", "VARCHAR", "value, advantage, luck, delta, shapley, pooled, effect, ..."),
        ("estimand", "VARCHAR", "what the number is of, in words"),
        ("value", "DOUBLE", "the number; NULL where nothing is known"),
        ("ci_low", "DOUBLE", "lower end of its 95 % interval"),
        ("ci_high", "DOUBLE", "upper end of its 95 % interval"),
        ("ci_method", "VARCHAR", "how the interval was computed"),
        ("n", "BIGINT", "rollouts, or pairs of rollouts, that it rests on"),
        ("n_discordant", "BIGINT", "pairs that differ; NULL for a single arm"),
        ("n_invalid", "BIGINT", "rollouts that came to nothing, and count for nothing"),
        ("env_steps", "BIGINT", "steps of the environment that were taken for it"),
        ("policy_calls", "BIGINT", "actions that the policy was asked for"),
        ("action", "JSON", "the action that it is of; NULL for a value"),
        ("policy_id", "VARCHAR", "the policy that went on"),
        ("noise", "VARCHAR", "shared, fresh or recorded"),
        ("root", "BIGINT", "what the noise was derived from"),
        ("restore", "VARCHAR", "how steps were reached; each was verified against the recording"),
        ("notes", "JSON", "what must be known to read it"),
        ("created_at", "TIMESTAMP", "when, UTC"),
        ("log", "VARCHAR", "log file that has it: another than the episode's"),
    ),
)
ROLLOUTS = Table(
    "rollouts",
    "a rollout from a fork, run for credit; none is ever counted as an episode",
    ("run_id", "fork_step", "arm", "scenario"),
    (
        ("run_id", "VARCHAR", "the run that it belongs to"),
        ("episode_id", "VARCHAR", "the episode that it was forked from"),
        ("fork_step", "INTEGER", "at which step"),
        (
            "arm",
            "VARCHAR",
            "value: the policy acts; action: the recorded action first; or what the run calls it",
        ),
        ("scenario", "UBIGINT", "whose noise it was under"),
        ("episode_return", "DOUBLE", "sum of its rewards"),
        ("score", "DOUBLE", "what the check said at its end; NULL where there is none"),
        ("length", "BIGINT", "its steps"),
        ("env_steps", "BIGINT", "steps that were taken for it: fewer where it met another"),
        (
            "coalesced_at",
            "BIGINT",
            "step at which it met another rollout and went on as that; NULL where it met none",
        ),
        ("status", "VARCHAR", "ended, cut, unreplayable or error"),
        ("log", "VARCHAR", "log file that has it"),
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
        (
            "damage",
            "JSON",
            "bytes that could not be read: [offset, size, what, whether it is only a torn end]",
        ),
        ("problem", "VARCHAR", "why it cannot be read at all; NULL where it can"),
        ("header", "JSON", "versions, platform, environment, wrappers"),
    ),
)


class View(NamedTuple):
    """A view over the tables: what a row is, its columns as (name, meaning), and its query."""

    name: str
    row: str
    columns: tuple[tuple[str, str], ...]
    query: str


def _field_columns() -> str:
    """Return a column of JSON and one with its digest for each field of an interface; what is missing has no digest."""
    parts = []
    for name in FIELDS:
        value = f"json_extract(interface, '$.{name}')"
        parts.append(f"any_value({value}) AS {name}")
        is_missing = f"{value} IS NULL OR json_exists({value}, '$.missing')"
        parts.append(
            f"any_value(CASE WHEN {is_missing} THEN NULL ELSE md5({value}::VARCHAR) END) AS {name}_digest"
        )
    return ", ".join(parts)


INTERFACES = View(
    "interfaces",
    "an interface that episodes ran under",
    (
        ("interface_id", "its digest"),
        ("n_episodes", "episodes that ran under it"),
        *((name, "as it was given") for name in FIELDS),
        *(
            (
                f"{name}_digest",
                f"digest of {name}; NULL where it is missing, so that unknown never equals unknown",
            )
            for name in FIELDS
        ),
    ),
    f"SELECT interface_id, count(*) AS n_episodes, {_field_columns()} FROM episodes WHERE interface_id IS NOT NULL GROUP BY 1",
)
CALLS = View(
    "calls",
    "a tool call, with all its tries",
    (
        ("episode_id", "its episode"),
        ("step", "its step"),
        ("call", "which call of the step, from 0"),
        ("tool", "the tool"),
        ("n_attempts", "tries, at least 1"),
        ("outcome", "of the last try: ok, error, timeout, cancelled, open"),
        ("arguments", "of the last try"),
        ("result", "of the last try"),
        ("latency_ms", "of all tries together"),
        ("is_retry", "whether the agent repeats with it a call that failed"),
    ),
    "SELECT episode_id, step, call, any_value(tool) AS tool, count(*) AS n_attempts, arg_max(outcome, attempt) AS outcome, "
    "arg_max(arguments, attempt) AS arguments, arg_max(result, attempt) AS result, sum(latency_ms) AS latency_ms, "
    "bool_or(attempt = 0 AND retry_by IS NOT NULL) AS is_retry FROM attempts GROUP BY ALL",
)
LATEST_CREDIT = View(
    "latest_credit",
    "of each estimand, policy and noise the latest estimate of a step",
    tuple((name, meaning) for name, _, meaning in CREDIT.columns),
    "SELECT * FROM credit QUALIFY row_number() OVER (PARTITION BY episode_id, step, estimator, estimand, policy_id, noise "
    "ORDER BY created_at DESC, run_id) = 1",
)
BRANCHES = View(
    "branches",
    "an episode that goes on from another one",
    (
        ("episode_id", "the branch"),
        ("parent_id", "what it was forked from"),
        ("root_id", "the fresh rollout that it goes back to"),
        ("depth", "forks between the two, at least 1"),
        ("fork_step", "step at which it was forked from its parent"),
        ("n_steps", "steps up to its end, its parents' among them"),
        ("total_reward", "sum of its own rewards"),
        ("ending", "how it ended"),
        ("outcome", "success or failure by its last check with a verdict"),
    ),
    "WITH RECURSIVE up AS (SELECT episode_id, parent_id AS root_id, 1 AS depth FROM episodes WHERE parent_id IS NOT NULL "
    "UNION ALL SELECT up.episode_id, e.parent_id, up.depth + 1 FROM up JOIN episodes e ON e.episode_id = up.root_id "
    "WHERE e.parent_id IS NOT NULL) SELECT b.episode_id, b.parent_id, arg_max(up.root_id, up.depth) AS root_id, "
    "max(up.depth) AS depth, b.fork_step, b.n_steps, b.total_reward, b.ending, b.outcome "
    "FROM up JOIN episodes b USING (episode_id) GROUP BY ALL",
)
VIEWS = (INTERFACES, CALLS, LATEST_CREDIT, BRANCHES)
OF_EPISODES = (
    STEPS,
    AGENT_REWARDS,
    FAILURES,
    STATE_CHANGES,
    CHECKS,
    ATTEMPTS,
    MODEL_CALLS,
    SIDE_EFFECTS,
    CREDIT,
    ROLLOUTS,
)
TABLES = (EPISODES, *OF_EPISODES, LOGS)
APPENDED = (CREDIT, ROLLOUTS)
"""Tables whose rows lie in other logs than the episodes that they are of."""
