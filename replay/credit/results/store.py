"""Make the table of a run, and append it to the corpus as rows of `credit` and `rollouts`."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.log.annotations import CreditRun
from trajrec.recording.event_log import open_event_log
from trajrec.replay.credit.results.estimates import Estimate
from trajrec.replay.credit.results.remarks import lost_estimand, spread_note
from trajrec.replay.credit.results.table import ArmRollouts, CreditTable, SkillLuckSplit
from trajrec.replay.credit.sampling.conditions import is_single
from trajrec.replay.credit.sampling.rollout import Rollout
from trajrec.replay.credit.sampling.sampler import Sampler
from trajrec.replay.forks.noise_watch import unset_notes
from trajrec.replay.forks.policies import policy_id
from trajrec.types import Array, Value
from trajrec.values import codec


def make_table(
    sampler: Sampler,
    rows: Sequence[Estimate],
    arms: Sequence[ArmRollouts],
    *,
    split: SkillLuckSplit | None = None,
    notes: Sequence[str] = (),
    scouts: Sequence[Rollout] = (),
) -> CreditTable:
    """Return the table of a run, and append it to the corpus.

    Args:
        sampler: The sampler that ran the rollouts.
        rows: The estimates.
        arms: The rollouts of each arm.
        split: The split of the episode's return.
        notes: Facts that a reader of the numbers must know.
        scouts: Rollouts that only showed how far returns spread; they are counted, not stored.

    Raises:
        LogWriteError: The corpus cannot be written.
        ControlError: A control or a repeat shows that the rollouts are void.
    """
    sampler.prove()
    table = CreditTable(
        run_id=secrets.token_hex(8),
        episode_id=sampler.episode.id,
        policy_id=policy_id(sampler.config.policy),
        estimates=[with_estimand_note(row, sampler) for row in rows],
        noise=sampler.noise,
        seed=sampler.config.noise.seed,
        restore=sampler.restore_method,
        split=split,
        notes=(*notes, *_notes(sampler), *spread_note(rows)),
        arms=_with_known_returns(arms, sampler.episode),
        scouts=tuple(scouts),
        controls=sampler.proof.controls,
    )
    folder = sampler.config.folder
    if folder is not None:
        append_run(table, sampler.episode.path.parent if folder == "beside" else folder)
    return table


def _with_known_returns(arms: Sequence[ArmRollouts], episode: Episode) -> list[ArmRollouts]:
    """Return the rollouts, without returns if each step has several rewards: they have no sum."""
    if all(map(is_single, episode.reward_values)):
        return list(arms)
    return [
        arm._replace(rollouts=[r._replace(episode_return=math.nan) for r in arm.rollouts])
        for arm in arms
    ]


def _notes(sampler: Sampler) -> list[str]:
    """Return the conditions under which the rollouts ran, as far as a reader must know them."""
    notes = [note for note in (sampler.config.tolerance_note(),) if note]
    if sampler.config.resample_hidden is not None:
        notes.append(
            "facts that the agent had not seen were redrawn before each rollout: values are given "
            "the agent's knowledge"
        )
    if sampler.restore_method == "env_snapshot":
        notes.append(
            "random numbers drawn in the environment's sandbox are the same in each rollout: "
            "values are given these numbers"
        )
    if not sampler.is_determined and sampler.config.noise.mode != "fresh":
        notes.append(
            "the environment or the policy has randomness that cannot be seeded: the noise is "
            "fresh, not the requested noise, and no rollout was run twice. State that a reset does "
            "not clear looks the same, and would make the numbers wrong"
        )
    notes += unset_notes(_unset_noise(sampler), "rollout")
    notes += sampler.config.remarks
    if not sampler.config.control:
        notes.append("no controls ran among the rollouts")
    return notes


def _unset_noise(sampler: Sampler) -> str | None:
    # If two runs of a rollout differ, its noise is fresh, and not as recorded.
    return sampler.proof.unset.found if sampler.is_determined else None


def with_estimand_note(row: Estimate, sampler: Sampler) -> Estimate:
    """Return an estimate whose estimand says under which conditions it holds."""
    condition = lost_estimand(row, sampler.config.on_error)
    if sampler.config.resample_hidden is not None:
        condition += "; given what had been seen"
    if unset := _unset_noise(sampler):
        condition += f"; given the draws from {unset}"
    return replace(row, estimand=row.estimand + condition) if condition else row


def append_run(table: CreditTable, folder: Path) -> None:
    """Append a run to the logs of a folder."""
    rows = table.estimates
    log = open_event_log(folder, "raise", "process")
    log.add(
        CreditRun(
            episode=-1,
            target=table.episode_id,
            run_id=table.run_id,
            time_ns=time.time_ns(),
            policy=table.policy_id,
            noise=table.noise,
            seed=table.seed,
            restore=table.restore,
            notes=[*table.notes, *([str(table.controls)] if table.controls.n else [])],
            estimates_data=codec.encode(_estimate_columns(rows), opaque=True),
            rollouts_data=codec.encode(_rollout_columns(table.arms), opaque=True),
        )
    )
    log.flush()


def _estimate_columns(rows: Sequence[Estimate]) -> dict[str, Array | list[Value]]:
    """Return the estimates by column."""

    def floats(get: Callable[[Estimate], float]) -> Array:
        return np.array([get(row) for row in rows], np.float64)

    def counts(get: Callable[[Estimate], int]) -> Array:
        return np.array([get(row) for row in rows], np.int64)

    return {
        "step": counts(lambda row: row.step),
        "value": floats(lambda row: row.value),
        "ci_low": floats(lambda row: row.ci_low),
        "ci_high": floats(lambda row: row.ci_high),
        "n": counts(lambda row: row.n),
        "n_invalid": counts(lambda row: row.n_invalid),
        "env_steps": counts(lambda row: row.env_steps),
        "policy_calls": counts(lambda row: row.policy_calls),
        "n_discordant": [row.n_discordant for row in rows],
        "ci_method": [row.ci_method for row in rows],
        "estimator": [row.estimator for row in rows],
        "estimand": [row.estimand for row in rows],
        "noise": [row.noise for row in rows],
        "action": [row.action for row in rows],
    }


def _rollout_columns(arms: Sequence[ArmRollouts]) -> dict[str, Array | list[Value]]:
    """Return the rollouts by column."""
    rows = [(arm.step, arm.arm, rollout) for arm in arms for rollout in arm.rollouts]
    rollouts: list[Rollout] = [rollout for _, _, rollout in rows]
    scores = [math.nan if r.score is None else r.score for r in rollouts]
    return {
        "step": np.array([step for step, _, _ in rows], np.int64),
        "arm": [arm for _, arm, _ in rows],
        "scenario": np.array([r.scenario for r in rollouts], np.uint64),
        "episode_return": np.array([r.episode_return for r in rollouts], np.float64),
        "score": np.array(scores, np.float64),
        "length": np.array([r.length for r in rollouts], np.int64),
        "coalesced_at": np.array([r.coalesced_at for r in rollouts], np.int64),
        "env_steps": np.array([r.env_steps for r in rollouts], np.int64),
        "status": [r.status for r in rollouts],
    }
