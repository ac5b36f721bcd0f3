"""The tables of the index: their rows, keys and columns. `trajrec schema` prints them."""

from __future__ import annotations

from trajrec.corpus.index.agent_tables import ATTEMPTS, MESSAGES, MODEL_CALLS, SIDE_EFFECTS
from trajrec.corpus.index.credit_tables import CREDIT, ROLLOUTS
from trajrec.corpus.index.import_tables import IMPORTS
from trajrec.corpus.index.label_tables import LABELS, REMOVALS
from trajrec.corpus.index.numeric_changes import NUMERIC_CHANGES
from trajrec.corpus.index.replay_tables import REPLAYS
from trajrec.corpus.index.table import EPISODE_ID, KIND, Table

# Raised whenever the tables change. An index of another version is rebuilt.
INDEX_VERSION = 45


ALL_EPISODES = Table(
    "all_episodes",
    "an episode of any kind; the views episodes and forks hold the kinds that most queries want",
    ("log", "number"),
    (
        ("episode_id", "VARCHAR", "16 hex digits; unique, except that copies share the original's"),
        (
            "kind",
            "VARCHAR",
            "fork (of another episode), nested (begun inside another one), copy (its log is a"
            " second file with the id of another log; no other table has its rows), else rollout",
        ),
        (
            "env_id",
            "VARCHAR",
            "Gymnasium id of the environment; if it is not registered, its class, which no process"
            " makes by that name; an agent's world as module:Class; NULL if none",
        ),
        ("task", "VARCHAR", "id of its task; NULL if it had none"),
        ("task_revision", "VARCHAR", "version of the task; NULL if unknown"),
        (
            "metadata",
            "JSON",
            "as given; its keys run, group, trial, family, split, privacy and probe are reserved",
        ),
        ("goal_digest", "VARCHAR", "digest of the agent's goal; NULL if unknown"),
        (
            "tools_digest",
            "VARCHAR",
            "digest of the descriptions of its tools; if it names none itself, of those that its"
            " first model call offers; NULL if there are none",
        ),
        (
            "offered_digest",
            "VARCHAR",
            "digest of the tools that its first model call offers, if it names tools itself too; "
            "else NULL",
        ),
        ("system_digest", "VARCHAR", "digest of its first system message; NULL if it had none"),
        (
            "prompt_digest",
            "VARCHAR",
            "digest of what its first model call asks beside system messages; NULL if unknown",
        ),
        ("n_steps", "BIGINT", "its own steps, with those that raised; without the parent's steps"),
        ("end_step", "BIGINT", "number of its last step plus 1; without a fork equal to n_steps"),
        (
            "total_reward",
            "DOUBLE",
            "sum of the rewards of its own steps; NULL if some are lost to damage or could not be "
            "recorded, or if one is no number, such as a list of several (see agent_rewards)",
        ),
        (
            "ending",
            "VARCHAR",
            "terminated, truncated, abandoned or error; unknown if nothing tells it, as in some captures"
            " and imports; without an end, running or interrupted",
        ),
        (
            "outcome",
            "VARCHAR",
            "success or failure by the primary check; NULL if it gave no verdict",
        ),
        (
            "fault",
            "VARCHAR",
            "component whose fault ended it or left it without a verdict: infra (network, "
            "services; models that were asked and never answered), env (environment, "
            "world, tools) or verifier; NULL if none is known, as after an action that is none of "
            "the environment's",
        ),
        ("stop_reason", "VARCHAR", "reason that the agent gave for its end; NULL if unknown"),
        ("claimed_done", "BOOLEAN", "whether the agent claimed to be done; NULL if unknown"),
        (
            "unseen",
            "VARCHAR",
            "libraries and hosts by which model calls may have gone past the record, so that some "
            "may be missing; NULL if no such way was noticed",
        ),
        (
            "terminated",
            "BOOLEAN",
            "flag of the last step; NULL if the episode has no end yet, or lost it",
        ),
        (
            "truncated",
            "BOOLEAN",
            "flag of the last step; NULL if the episode has no end yet, or lost it",
        ),
        ("n_failures", "BIGINT", "number of its rows in the table failures"),
        (
            "error_types",
            "JSON",
            "the classes of exceptions in its failures, as a sorted array; NULL if it has none",
        ),
        ("tools_called", "JSON", "the tools that it called, as a sorted array; NULL if none"),
        ("missing_steps", "BIGINT", "steps that the log has lost to damage"),
        (
            "redacted_step",
            "BIGINT",
            "first step of which the action or state had a secret, from which on a replay proves "
            "nothing; -1 for the reset, NULL if no step had one",
        ),
        ("started_at", "TIMESTAMP", "time of its reset, UTC; NULL if unknown"),
        ("ended_at", "TIMESTAMP", "time of its end, UTC; NULL if unknown"),
        (
            "seed",
            "BIGINT",
            "seed of the reset; NULL if it had none, or one above 2**63 - 1, which "
            "corpus.episode(id).start.seed has",
        ),
        (
            "seed_origin",
            "VARCHAR",
            "caller, recorder, or none (the generator's state is in the log)",
        ),
        ("options", "JSON", "options of the reset; NULL if it had none"),
        ("parent_id", "VARCHAR", "episode that it was forked from; NULL if it is no fork"),
        ("fork_step", "BIGINT", "step at which it was forked"),
        ("caller_id", "VARCHAR", "episode inside which it was begun; NULL if there was none"),
        ("caller_step", "BIGINT", "last step of that episode before it, -1 before the first"),
        ("state_adapter", "VARCHAR", "adapter that captured its state; NULL if none was captured"),
        (
            "reset_key",
            "UBIGINT",
            "key of the state after the reset, 64 bits: equal for equal states alone; NULL if not"
            " captured",
        ),
        (
            "interface",
            "JSON",
            "interface that it ran under, as given (see the view interfaces); NULL if unknown",
        ),
        ("interface_id", "VARCHAR", "digest of the interface; NULL if unknown"),
        (
            "source",
            "JSON",
            "origin of an imported episode: file, sha256, format, position; NULL if it was recorded",
        ),
        ("reported", "JSON", "totals that an imported record states: tokens, cost; else NULL"),
        ("extra", "JSON", "facts of an imported record without a column; NULL if there are none"),
        ("log", "VARCHAR", "log file, relative to the corpus"),
        ("number", "BIGINT", "number of the episode in its log, from 0"),
        ("first_frame", "BIGINT", "first frame of the log that holds a part of it"),
        ("last_frame", "BIGINT", "last frame of the log that holds a part of it"),
    ),
)
STEPS = Table(
    "steps",
    "a step that the environment took, or a decision of an agent",
    ("episode_id", "step"),
    (
        EPISODE_ID,
        KIND,
        ("step", "INTEGER", "number of the step, from 0"),
        (
            "action",
            "JSON",
            "the action, or an agent's calls; NULL for a large array (corpus.episode reads it), and "
            "for a step of an agent without a call",
        ),
        ("reward", "DOUBLE", "the reward; NULL if it is no number"),
        ("info", "JSON", "the info without large arrays; NULL if it was empty"),
        (
            "state_key",
            "UBIGINT",
            "key of the state after the step, 64 bits: equal for equal states alone; NULL if not"
            " captured, or if the log has only checks (see keep_states)",
        ),
        (
            "state_check",
            "UINTEGER",
            "check of the state after the step, 24 bits, if the log has no keys: two checks that"
            " differ are of two states; it is no key, so do not group or join by it",
        ),
        (
            "extra",
            "JSON",
            "values beside an agent's step: named values, events of an imported record; NULL if none,"
            " and for environments, whose named values are columns of corpus.to_arrow",
        ),
    ),
)
AGENT_REWARDS = Table(
    "agent_rewards",
    "the reward of one of several players for a step (PettingZoo: rewards are a dict by agent), or"
    " the part of one at its place in a list or vector",
    ("episode_id", "step", "agent"),
    (
        EPISODE_ID,
        KIND,
        ("step", "INTEGER", "number of the step, from 0"),
        (
            "agent",
            "VARCHAR",
            "the agent, or the place in a list, from 0; an agent that has left has no rows",
        ),
        ("reward", "DOUBLE", "its reward for the step; NULL if it is no number"),
        ("terminated", "BOOLEAN", "its flag after the step; NULL if it has none"),
        ("truncated", "BOOLEAN", "its flag after the step; NULL if it has none"),
    ),
)
FAILURES = Table(
    "failures",
    "an exception, or a tool call that failed",
    ("episode_id", "step", "call", "attempt", "phase"),
    (
        EPISODE_ID,
        KIND,
        ("step", "INTEGER", "step that failed; -1 for the reset"),
        ("call", "INTEGER", "number of the call in its step, from 0; NULL if it was no call"),
        ("attempt", "INTEGER", "number of the attempt, from 0"),
        (
            "phase",
            "VARCHAR",
            "reset, step, state, check, call (of a tool), model or loop (the agent's own code)",
        ),
        ("failure_kind", "VARCHAR", "for a call: invalid, error, timeout or cancelled; else error"),
        ("origin", "VARCHAR", "agent, env, tool, scaffold, infra or verifier"),
        ("error_type", "VARCHAR", "class of the exception"),
        ("message", "VARCHAR", "its message"),
        ("traceback", "VARCHAR", "its traceback"),
        ("action", "JSON", "the action that was tried"),
        ("recovered_at", "INTEGER", "step at which a retry succeeded; NULL if none did"),
        ("recovered_by", "VARCHAR", "who retried: agent, scaffold, transport or harness"),
        ("failed_at", "TIMESTAMP", "time of the failure, UTC; NULL if unknown"),
    ),
)
STATE_CHANGES = Table(
    "state_changes",
    "one value of the state that a step changed (if states are stored whole)",
    ("episode_id", "step", "call", "attempt", "actor", "part", "path", "keys"),
    (
        EPISODE_ID,
        KIND,
        ("step", "INTEGER", "step that changed it; -1 before the first"),
        (
            "call",
            "INTEGER",
            "call that changed it; NULL if steps have no calls, or if it changed between calls",
        ),
        ("attempt", "INTEGER", "attempt of the call"),
        (
            "actor",
            "VARCHAR",
            "who changed it: agent (by the call), or scaffold: the agent's own program, or another "
            "process, while no recorded call ran",
        ),
        ("part", "VARCHAR", "part of an agent's world; empty if the world has only one"),
        ("path", "VARCHAR", "JSON Pointer (RFC 6901) into the state; empty for the whole state"),
        (
            "keys",
            "JSON",
            'the path as an array of typed keys, which tells the keys 7 and "7" of one path apart;'
            " NULL if a log of format 1 leaves them open",
        ),
        ("before", "JSON", "value before; NULL if there was none"),
        (
            "after",
            "JSON",
            "value after; NULL if there is none; as before if the call, or the program between two"
            " calls, changed it and changed it back (`trajrec view` has each of these changes)",
        ),
        (
            "origin",
            "VARCHAR",
            "observed by the recorder, or reported by an imported record, which proves nothing",
        ),
    ),
)
CHECKS = Table(
    "checks",
    "one verdict of one version of one verifier on one state",
    ("episode_id", "check_id", "version", "checked_at"),
    (
        EPISODE_ID,
        KIND,
        ("step", "INTEGER", "number of steps taken before it ran"),
        ("check_id", "VARCHAR", "the verifier"),
        ("version", "VARCHAR", "its version"),
        ("family", "VARCHAR", "family of the verifier"),
        ("phase", "VARCHAR", "step, terminal or post-hoc"),
        ("status", "VARCHAR", "ok, error (the verifier's fault) or not_evaluated"),
        ("verdict", "BOOLEAN", "its verdict; NULL if it gave none"),
        ("score", "DOUBLE", "its score; NULL if it gave none"),
        ("evidence", "JSON", "values that the verdict rests on"),
        ("code_digest", "VARCHAR", "digest of its source; NULL if unknown"),
        ("state_digest", "VARCHAR", "digest of the state that it judged; NULL if unknown"),
        (
            "is_primary",
            "BOOLEAN",
            "whether it decides the outcome; in a log that does not say so, the first one does",
        ),
        ("checked_at", "TIMESTAMP", "time of the check, UTC; NULL if unknown"),
        ("extra", "JSON", "facts of an imported record without a column; NULL if there are none"),
        ("log", "VARCHAR", "log file that holds it; for a post-hoc check not the episode's"),
    ),
)
LOGS = Table(
    "logs",
    "a log file",
    ("log",),
    (
        ("log", "VARCHAR", "path, relative to the corpus"),
        ("log_id", "VARCHAR", "its id; NULL if it cannot be read"),
        (
            "seal",
            "VARCHAR",
            "digest of its contents: files of one id and one seal are the same; NULL if it is not"
            " sealed",
        ),
        ("generation", "INTEGER", "times that it was rewritten (compact, recover)"),
        ("is_original", "BOOLEAN", "whether its rows are in the tables; FALSE for a copy"),
        ("size_bytes", "BIGINT", "its size when it was read"),
        ("mtime_ns", "BIGINT", "time of its last change when it was read"),
        ("n_frames", "BIGINT", "frames read"),
        ("is_sealed", "BOOLEAN", "whether its writer closed it"),
        (
            "damage",
            "JSON",
            "bytes that could not be read: [offset, size, cause, whether it is only a torn end]",
        ),
        ("problem", "VARCHAR", "why the file cannot be read, or is not used; NULL if it is"),
        ("header", "JSON", "versions, platform, environment, wrappers"),
    ),
)
# Tables whose rows belong to an episode.
OF_EPISODES = (
    STEPS,
    AGENT_REWARDS,
    FAILURES,
    STATE_CHANGES,
    NUMERIC_CHANGES,
    CHECKS,
    ATTEMPTS,
    MODEL_CALLS,
    MESSAGES,
    SIDE_EFFECTS,
    CREDIT,
    ROLLOUTS,
    REPLAYS,
    IMPORTS,
    LABELS,
    REMOVALS,
)

EPISODE_TABLES = (ALL_EPISODES, *OF_EPISODES)
"""Tables whose rows come from the contents of logs."""

TABLES = (*(table for table in EPISODE_TABLES if table is not NUMERIC_CHANGES), LOGS)
"""The tables that users see, besides the views."""
