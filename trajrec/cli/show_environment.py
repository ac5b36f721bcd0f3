"""An environment's episode and its steps on a terminal."""

from __future__ import annotations

import math

import numpy as np

from trajrec.cli.output import print_facts, print_findings, print_json, print_table
from trajrec.cli.safe_stream import one_line
from trajrec.corpus.episode import Episode
from trajrec.corpus.step import Step
from trajrec.errors import CorpusError, StateUnknownError
from trajrec.log.schema import EpisodeStart
from trajrec.types import JsonObject, Value
from trajrec.values.codec import decode
from trajrec.values.diff import diff
from trajrec.values.json import to_json_value, to_pointer, to_text, typed_keys, with_keys

# Steps at each end of a long episode: with the facts above they fit on a screen.
SHOWN_STEPS = 8

# Changes of a state: a picture in one has thousands.
SHOWN_CHANGES = 20

COLUMNS = ("step", "action", "reward", "observation", "info")


class UnknownState:
    """A state that the log does not tell, with the reason."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __str__(self) -> str:
        return f"({self.reason})"


def print_episode(episode: Episode, *, as_json: bool) -> None:
    """Print an episode's facts, its first and last steps, its failures and checks."""
    steps = list(episode.steps())
    facts = _facts(episode)
    if as_json:
        print_json(facts)
        for step in steps:
            print_json(json_row(step))
        return
    print_facts(facts)
    shown = steps
    if len(steps) > 2 * SHOWN_STEPS:
        shown = [*steps[:SHOWN_STEPS], *steps[-SHOWN_STEPS:]]
    rows = [step_cells(step) for step in shown]
    if len(shown) < len(steps):
        rows.insert(SHOWN_STEPS, ("…", f"{len(steps) - len(shown)} more", None, None, None))
    print_table(COLUMNS, rows)
    print_findings(episode)


def print_step(episode: Episode, number: int, *, as_json: bool) -> None:
    """Print one step with the states before and after it.

    Raises:
        ValueError: The episode has no such step.
    """
    if not episode.first_step <= number < episode.end_step:
        raise ValueError(
            f"step must be in [{episode.first_step}, {episode.end_step}) "
            f"of episode {episode.id}, got {number}"
        )
    step = episode.step_at(number)
    before = _state(episode, number)
    after = _state(episode, number + 1)
    changes = []
    if not isinstance(before, UnknownState) and not isinstance(after, UnknownState):
        changes = diff(before, after)
    if as_json:
        row = json_row(step)
        states = {"state_before": before, "state_after": after}
        row |= {name: _known(state) for name, state in states.items()}
        row["state_changes"] = [
            {
                "path": to_pointer(change.path),
                "keys": typed_keys(change.path),
                "before": to_json_value(change.before),
                "after": to_json_value(change.after),
            }
            for change in changes
        ]
        row["unknown"] = {
            name: state.reason for name, state in states.items() if isinstance(state, UnknownState)
        }
        print_json(row)
        return
    values = {
        "step": step.step,
        "action": step.action,
        "reward": step.reward,
        "observation": step.observation,
        "info": step.info or None,
        "failure": _failure(step),
        "state_before": before,
        "state_after": after,
    }
    for name, value in values.items():
        if value is not None:
            text = str(value) if isinstance(value, UnknownState) else to_text(value)
            print(f"{name:<13}  {one_line(text)}")
    for change in changes[:SHOWN_CHANGES]:
        path = one_line(with_keys(to_pointer(change.path), typed_keys(change.path)) or "(all)")
        sides = f"{to_text(change.before)} -> {to_text(change.after)}"
        print(f"state changed  {path}: {one_line(sides)}")
    if len(changes) > SHOWN_CHANGES:
        print(f"…              {len(changes) - SHOWN_CHANGES} more changes; --json has all")


def _known(value: Value) -> Value:
    return None if isinstance(value, UnknownState) else to_json_value(value)


def _state(episode: Episode, step: int) -> Value:
    try:
        return episode.state(step)
    except StateUnknownError as exc:
        # Without the episode and step, which are shown already.
        return UnknownState(exc.what)
    except (CorpusError, IndexError) as exc:
        return UnknownState(str(exc))


def _facts(episode: Episode) -> JsonObject:
    header = episode.header
    state = None
    if header.state.adapter:
        state = f"{header.state.adapter} version {header.state.version}, {header.state.keep}"
    kwargs = decode(header.env.kwargs_data) if header.env.kwargs_data else None
    interface = None if header.interface_data is None else decode(header.interface_data)
    return {
        "episode_id": episode.id,
        "parent_id": None if episode.fork is None else episode.fork.parent_id,
        "fork_step": None if episode.fork is None else episode.fork.step,
        "environment": episode.env_id or header.env.class_name,
        "kwargs": to_json_value(kwargs),
        "wrappers": [name for name, _ in header.env.wrappers],
        "recreatable": f"no: {header.env.recreatable}" if header.env.recreatable else "yes",
        "n_steps": episode.n_steps,
        "end_step": episode.end_step,
        "total_reward": None if math.isnan(episode.total_reward) else episode.total_reward,
        "rewards_by_agent": {
            agent: None if math.isnan(total) else total
            for agent, total in episode.rewards_by_agent.items()
        }
        or None,
        "ending": episode.ending,
        "outcome": episode.outcome,
        "task": None if episode.task_start is None else episode.task_start.task or None,
        "seed": _seed(episode.start),
        "options": to_json_value(episode.reset_options),
        "missing_steps": episode.missing_steps,
        "state": state,
        "python": header.runtime.get("python"),
        "platform": header.runtime.get("platform"),
        "interface": to_json_value(interface),
        "log": str(episode.path),
    }


def _seed(start: EpisodeStart | None) -> str | None:
    if start is None:
        return None
    if start.seed is None:
        return "the generator's state"
    return f"{start.seed} ({start.seed_origin})"


def json_row(step: Step) -> JsonObject:
    """Return a step as JSON has it."""
    return {
        "step": step.step,
        "action": to_json_value(step.action),
        "reward": to_json_value(step.reward),
        "observation": to_json_value(step.observation),
        "info": to_json_value(step.info) if step.info else None,
        "failure": _failure(step),
    }


def _failure(step: Step) -> str | None:
    if step.failure is None:
        return None
    return f"{step.failure.error_type}: {step.failure.message}"


def step_cells(step: Step) -> tuple[Value, ...]:
    """Return the values of `COLUMNS`."""
    return (
        step.step,
        to_text(step.action),
        to_text(step.reward) if isinstance(step.reward, (dict, np.ndarray)) else step.reward,
        to_text(step.observation) if step.failure is None else f"raised {step.failure.error_type}",
        to_text(step.info) if step.info else None,
    )
