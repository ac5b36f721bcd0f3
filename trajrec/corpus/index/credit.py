"""Runs of credit to rows: one for each estimate, and one for each rollout."""

from __future__ import annotations

import json
import math

from trajrec.corpus.index.cells import to_timestamp
from trajrec.corpus.index.row_batch import Rows
from trajrec.corpus.index.rows import CreditRow, RolloutRow
from trajrec.errors import DecodeError
from trajrec.log.annotations import CreditRun
from trajrec.types import JsonObject, Value
from trajrec.values import codec
from trajrec.values.json import to_json


def add_credit(event: CreditRun, rows: Rows) -> None:
    """Add the estimates and the rollouts of a run.

    Raises:
        DecodeError: A column is missing, shorter than others, or of another type.
    """
    try:
        estimates = _estimates(event)
        rollouts = _rollouts(event)
    except (LookupError, TypeError, AttributeError) as exc:
        raise DecodeError(f"the columns of a credit run: {exc}") from exc
    rows.credit += estimates
    rows.rollouts += rollouts


def _estimates(event: CreditRun) -> list[CreditRow]:
    notes = json.dumps(event.notes)
    created_at = to_timestamp(event.time_ns)
    e = _lists(codec.decode_map(event.estimates_data))
    rows = []
    for k, value in enumerate(e["value"]):
        action = e["action"][k]
        rows.append(
            CreditRow(
                run_id=event.run_id,
                episode_id=event.target,
                step=e["step"][k],
                estimator=str(e["estimator"][k]),
                estimand=str(e["estimand"][k]),
                value=_known(value),
                ci_low=e["ci_low"][k],
                ci_high=e["ci_high"][k],
                ci_method=str(e["ci_method"][k]),
                n=e["n"][k],
                n_discordant=e["n_discordant"][k],
                n_invalid=e["n_invalid"][k],
                env_steps=e["env_steps"][k],
                policy_calls=e["policy_calls"][k],
                action=None if action is None else to_json(action),
                policy_id=event.policy,
                noise=str(e["noise"][k] or event.noise),
                seed=event.seed,
                restore=event.restore,
                notes=notes,
                created_at=created_at,
            )
        )
    return rows


def _rollouts(event: CreditRun) -> list[RolloutRow]:
    r = _lists(codec.decode_map(event.rollouts_data))
    rows = []
    for k, scenario in enumerate(r["scenario"]):
        coalesced_at = r["coalesced_at"][k]
        rows.append(
            RolloutRow(
                run_id=event.run_id,
                episode_id=event.target,
                fork_step=r["step"][k],
                arm=str(r["arm"][k]),
                scenario=scenario,
                episode_return=r["episode_return"][k],
                score=_known(r["score"][k]),
                length=r["length"][k],
                env_steps=r["env_steps"][k],
                coalesced_at=None if coalesced_at < 0 else coalesced_at,
                status=str(r["status"][k]),
            )
        )
    return rows


def _lists(columns: JsonObject) -> dict[str, list[Value]]:
    return {
        name: column if isinstance(column, list) else column.tolist()
        for name, column in columns.items()
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
