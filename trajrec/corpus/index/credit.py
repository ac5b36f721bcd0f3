"""Runs of credit to rows: columns by name in the record, a row an estimate and a rollout in the tables."""

from __future__ import annotations

import json
import math
from typing import Any

from trajrec.corpus.index.rows import Rows, when
from trajrec.log.events import CreditRun
from trajrec.log.schema import RESTORE_WORDS
from trajrec.values import codec
from trajrec.values.json import to_json


def add_credit(event: CreditRun, log: str, rows: Rows) -> None:
    """Add what a run says of the steps of an episode, and its rollouts."""
    of_run = (
        event.policy,
        event.noise,
        event.root,
        RESTORE_WORDS.get(event.level, event.level),
        json.dumps(event.notes),
        when(event.time_ns),
        log,
    )
    e = _lists(codec.decode(event.estimates_data))
    numbers = zip(e["value"], e["lo"], e["hi"], strict=True)
    for k, (value, lo, hi) in enumerate(numbers):
        what = event.run_id, event.target, e["step"][k], e["estimator"][k], e["estimand"][k]
        counts = (
            e["n"][k],
            e["n_discordant"][k],
            e["n_lost"][k],
            e["env_steps"][k],
            e["policy_calls"][k],
        )
        action = None if e["action"][k] is None else to_json(e["action"][k])
        policy, noise, *rest = of_run
        rows.credit.append(
            (
                *what,
                _known(value),
                lo,
                hi,
                e["ci_method"][k],
                *counts,
                action,
                policy,
                e["noise"][k] or noise,
                *rest,
            )
        )
    r = _lists(codec.decode(event.rollouts_data))
    for k, scenario in enumerate(r["universe"]):
        met = r["coalesced_at"][k]
        rows.rollouts.append(
            (
                event.run_id,
                event.target,
                r["step"][k],
                r["arm"][k],
                scenario,
                r["returned"][k],
                _known(r["score"][k]),
                r["length"][k],
                r["env_steps"][k],
                None if met < 0 else met,
                r["status"][k],
                log,
            )
        )


def _lists(columns: dict[str, Any]) -> dict[str, list[Any]]:
    return {
        name: column if isinstance(column, list) else column.tolist()
        for name, column in columns.items()
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
