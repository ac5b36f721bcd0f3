"""The tables of credit: estimates, and the rollouts that they rest on."""

from __future__ import annotations

from trajrec.corpus.index.import_tables import IMPORTS
from trajrec.corpus.index.label_tables import LABELS, REMOVALS
from trajrec.corpus.index.replay_tables import REPLAYS
from trajrec.corpus.index.table import EPISODE_ID, KIND, Table

CREDIT = Table(
    "credit",
    "an estimate of a step's credit, from rollouts; no run replaces another (see latest_credit)",
    ("run_id", "episode_id", "step", "estimator"),
    (
        ("run_id", "VARCHAR", "run that computed it"),
        EPISODE_ID,
        KIND,
        ("step", "INTEGER", "its step; for a value, the state before the step"),
        ("estimator", "VARCHAR", "value, advantage, luck, delta, shapley, pooled, effect, ..."),
        ("estimand", "VARCHAR", "the estimated quantity, in words"),
        ("value", "DOUBLE", "the estimate; NULL if there is none"),
        ("ci_low", "DOUBLE", "lower end of its 95 % confidence interval"),
        ("ci_high", "DOUBLE", "upper end of its 95 % confidence interval"),
        ("ci_method", "VARCHAR", "method of the interval"),
        ("n", "BIGINT", "rollouts, or pairs of rollouts, that it rests on"),
        (
            "n_discordant",
            "BIGINT",
            "pairs that differ; NULL without pairs: for a single arm, and in fresh noise",
        ),
        ("n_invalid", "BIGINT", "rollouts without a result, which widen the interval"),
        ("env_steps", "BIGINT", "steps of the environment taken for it"),
        ("policy_calls", "BIGINT", "calls of the policy made for it"),
        ("action", "JSON", "the action that it judges; NULL for a value"),
        ("policy_id", "VARCHAR", "policy that continued the rollouts"),
        ("noise", "VARCHAR", "shared, fresh or recorded"),
        ("seed", "BIGINT", "seed of the noise"),
        ("restore", "VARCHAR", "method that reached the steps; each was verified"),
        ("notes", "JSON", "remarks that are needed to read it"),
        ("created_at", "TIMESTAMP", "time of the run, UTC; NULL if unknown"),
        ("log", "VARCHAR", "log file that holds it; not the episode's"),
    ),
)
ROLLOUTS = Table(
    "rollouts",
    "a rollout from a fork, run for credit; no rollout of credit counts as an episode",
    ("run_id", "fork_step", "arm", "scenario"),
    (
        ("run_id", "VARCHAR", "run that it belongs to"),
        ("episode_id", "VARCHAR", "episode that it was forked from"),
        KIND,
        ("fork_step", "INTEGER", "step at which it was forked"),
        (
            "arm",
            "VARCHAR",
            "value: the policy acts; action: the recorded action first; or a name of the run",
        ),
        ("scenario", "UBIGINT", "scenario that its noise comes from (common random numbers)"),
        ("episode_return", "DOUBLE", "sum of its rewards; NaN if they are no numbers"),
        ("score", "DOUBLE", "result of the check at its end; NULL without a check"),
        ("length", "BIGINT", "its steps"),
        ("env_steps", "BIGINT", "steps taken for it; fewer if it merged with another rollout"),
        (
            "coalesced_at",
            "BIGINT",
            "step at which it reached the state of another rollout and merged; NULL if it did not",
        ),
        ("status", "VARCHAR", "ended, cut, unreplayable or error"),
        ("log", "VARCHAR", "log file that holds it"),
    ),
)
# Tables whose rows are in other logs than their episodes; rows of the table `checks` may be.
ANNOTATIONS = (CREDIT, ROLLOUTS, REPLAYS, IMPORTS, LABELS, REMOVALS)
