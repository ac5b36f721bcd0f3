"""Keeps what was found: appended to the corpus as a record of a log of its own, in SQL the tables `credit` and `rollouts`."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trajrec.log.events import CreditRun
from trajrec.log.schema import STORED_RESTORE_WORDS
from trajrec.recording.event_log import open_event_log
from trajrec.replay.credit.results.estimates import CreditTable, Estimate, SkillLuckSplit
from trajrec.replay.credit.sampling.options import RolloutOptions
from trajrec.replay.credit.sampling.rollout import Rollout
from trajrec.replay.credit.sampling.sampler import Sampler
from trajrec.replay.forks.policies import policy_id
from trajrec.values import codec

Arms = Sequence[tuple[int, str, Sequence[Rollout]]]


def make_table(
    prober: Sampler,
    rows: list[Estimate],
    arms: Arms,
    how: RolloutOptions,
    *,
    split: SkillLuckSplit | None = None,
    notes: Sequence[str] = (),
) -> CreditTable:
    """Return what a run found, and append it to the corpus.

    Args:
        prober: What ran the rollouts.
        rows: The estimates.
        arms: (step, which arm, rollouts).
        how: Says in which folder it is kept.
        split: Where the return came from.
        notes: What must be known to read it.

    Raises:
        LogWriteError: The corpus cannot be written.
    """
    notes = list(notes)
    rows = [with_estimand_note(row, prober) for row in rows]
    if prober.setting.resample_hidden is not None:
        notes.append(
            "what the agent had not seen was drawn anew in each rollout: values are of what it knew"
        )
    if prober.restore_method == "env_snapshot":
        notes.append(
            "what is drawn in the environment's sandbox is the same in each rollout: values are given it"
        )
    if not prober.is_determined:
        notes.append(
            "there is randomness that no scenario can be given: the noise is fresh, whatever was asked for"
        )
    found = CreditTable(
        secrets.token_hex(8),
        prober.episode.id,
        policy_id(prober.setting.policy),
        rows,
        prober.noise,
        prober.setting.noise.seed,
        prober.restore_method,
        split,
        tuple(notes),
        list(arms),
    )
    folder = how.get("folder", "beside")
    if folder is not None:
        append_run(found, prober.episode.path.parent if folder == "beside" else Path(folder))
    return found


def with_estimand_note(row: Estimate, prober: Sampler) -> Estimate:
    """Return an estimate that says what it is given, where that is not the whole state."""
    if prober.setting.resample_hidden is None:
        return row
    return replace(row, estimand=f"{row.estimand}; given what had been seen")


def append_run(credit: CreditTable, folder: Path) -> None:
    """Append a run to a folder's logs."""
    rows = credit.estimates
    # Format 1 names the columns lo, hi, n_lost, universe and returned; the index gives them their names.
    columns: dict[str, Any] = {
        "step": np.array([e.step for e in rows], np.int64),
        "value": np.array([e.value for e in rows], np.float64),
        "lo": np.array([e.ci_low for e in rows], np.float64),
        "hi": np.array([e.ci_high for e in rows], np.float64),
        "n": np.array([e.n for e in rows], np.int64),
        "n_lost": np.array([e.n_invalid for e in rows], np.int64),
        "env_steps": np.array([e.env_steps for e in rows], np.int64),
        "policy_calls": np.array([e.policy_calls for e in rows], np.int64),
        **{
            name: [getattr(e, name) for e in rows]
            for name in ("n_discordant", "ci_method", "estimator", "estimand", "noise")
        },
        "action": [e.action for e in rows],
    }
    flat = [(step, arm, r) for step, arm, rollouts in credit.arms for r in rollouts]
    rollouts: dict[str, Any] = {
        "step": np.array([step for step, _, _ in flat], np.int64),
        "arm": [arm for _, arm, _ in flat],
        "universe": np.array([r.scenario for _, _, r in flat], np.uint64),
        "returned": np.array([r.episode_return for _, _, r in flat], np.float64),
        "score": np.array(
            [math.nan if r.score is None else r.score for _, _, r in flat], np.float64
        ),
        **{
            name: np.array([getattr(r, name) for _, _, r in flat], np.int64)
            for name in ("length", "coalesced_at", "env_steps")
        },
        "status": [r.status for _, _, r in flat],
    }
    sink = open_event_log(folder, "raise", "process")
    sink.add(
        CreditRun(
            episode=-1,
            target=credit.episode_id,
            run_id=credit.run_id,
            time_ns=time.time_ns(),
            policy=credit.policy_id,
            noise=credit.noise,
            root=credit.seed,
            level=STORED_RESTORE_WORDS.get(credit.restore, credit.restore),
            notes=list(credit.notes),
            estimates_data=codec.encode(columns, opaque=True),
            rollouts_data=codec.encode(rollouts, opaque=True),
        ),
        200 * len(rows) + 60 * len(flat),
    )
    sink.flush()
