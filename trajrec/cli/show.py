"""What an episode and a step look like on a terminal."""

from __future__ import annotations

import math
from typing import Any

from trajrec.cli.output import print_facts, print_findings, print_json, print_table
from trajrec.cli.transcript import print_agent, print_agent_step
from trajrec.corpus.episode import Episode, Step
from trajrec.errors import CorpusError
from trajrec.values.codec import decode
from trajrec.values.diff import diff
from trajrec.values.json import to_json

SHOWN_STEPS = 8


def print_episode(episode: Episode, *, as_json: bool) -> None:
    """Print what an episode was, its first and last steps, its failures and checks."""
    if episode.is_agent_episode:
        print_agent(episode, as_json=as_json)
        return
    steps = list(episode.steps())
    facts = _facts(episode)
    if as_json:
        print_json(facts)
        for step in steps:
            print_json(_row(step))
        return
    print_facts(facts)
    shown = (
        steps if len(steps) <= 2 * SHOWN_STEPS else [*steps[:SHOWN_STEPS], *steps[-SHOWN_STEPS:]]
    )
    rows = [
        (s.step, to_json(s.action), _reward(s), _observed(s), to_json(s.info) if s.info else None)
        for s in shown
    ]
    if len(shown) < len(steps):
        rows.insert(SHOWN_STEPS, ("…", f"{len(steps) - len(shown)} more", None, None, None))  # type: ignore[arg-type]
    print_table(("step", "action", "reward", "observation", "info"), rows)
    print_findings(episode)


def print_step(episode: Episode, number: int, *, as_json: bool) -> None:
    """Print one step with the states around it.

    Raises:
        ValueError: There is no such step.
    """
    if episode.is_agent_episode:
        print_agent_step(episode, number, as_json=as_json)
        return
    if not episode.first_step <= number < episode.end_step:
        first, last = episode.first_step, episode.end_step - 1
        raise ValueError(
            f"episode {episode.id} has no step {number}: it has steps {first} to {last}"
        )
    row = _row(episode.step_at(number))
    before, after = _state(episode, number), _state(episode, number + 1)
    row["state_before"], row["state_after"] = before, after
    if not isinstance(before, _Unknown) and not isinstance(after, _Unknown):
        row["state_changes"] = [
            {"path": c.path, "before": to_json(c.before), "after": to_json(c.after)}
            for c in diff(before, after)
        ]
    if as_json:
        print_json(
            {
                key: value if isinstance(value, (int, float, list)) else to_json(value)
                for key, value in row.items()
            }
        )
        return
    for name, value in row.items():
        if name == "state_changes":
            for change in value:
                print(
                    f"state changed  {change['path'] or '(all)'}: {change['before']} -> {change['after']}"
                )
        elif value is not None:
            print(f"{name:<13}  {value.reason if isinstance(value, _Unknown) else value}")


class _Unknown:
    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


def _state(episode: Episode, step: int) -> Any:
    try:
        return episode.state(step)
    except (CorpusError, IndexError) as exc:
        return _Unknown(f"({str(exc).partition(': ')[2] or exc})")


def _facts(episode: Episode) -> dict[str, Any]:
    header, start = episode.header, episode.start
    seed = (
        None
        if start is None
        else "the generator's state"
        if start.seed is None
        else f"{start.seed} ({start.seed_origin})"
    )
    runtime = header.runtime
    missing = episode.missing_steps
    return {
        "episode_id": episode.id,
        "parent_id": None if episode.fork is None else episode.fork.parent_id,
        "fork_step": None if episode.fork is None else episode.fork.step,
        "environment": episode.env_id or header.env.class_name,
        "kwargs": to_json(decode(header.env.kwargs_data)) if header.env.kwargs_data else None,
        "wrappers": [name for name, _ in header.env.wrappers],
        "recreatable": header.env.recreatable or "yes",
        "n_steps": episode.n_steps,
        "end_step": None if episode.fork is None else episode.end_step,
        "total_reward": None if math.isnan(episode.total_reward) else episode.total_reward,
        "agent_rewards": episode.agent_rewards or None,
        "ending": episode.ending,
        "outcome": episode.outcome,
        "seed": seed,
        "missing_steps": missing,
        "state": f"{header.state.adapter} version {header.state.version}, {header.state.keep}"
        if header.state.adapter
        else None,
        "python": runtime.get("python"),
        "platform": runtime.get("platform"),
        "interface": None
        if header.interface_data is None
        else to_json(decode(header.interface_data)),
        "log": str(episode.path),
    }


def _row(step: Step) -> dict[str, Any]:
    failure = None if step.failure is None else f"{step.failure.error_type}: {step.failure.message}"
    return {
        "step": step.step,
        "action": to_json(step.action),
        "reward": _reward(step),
        "observation": to_json(step.observation),
        "info": to_json(step.info) if step.info else None,
        "failure": failure,
    }


def _reward(step: Step) -> Any:
    return to_json(step.reward) if isinstance(step.reward, dict) else step.reward


def _observed(step: Step) -> str:
    if step.failure is not None:
        return f"raised {step.failure.error_type}"
    text = to_json(step.observation)
    shape = getattr(step.observation, "shape", None)
    return f"{step.observation.dtype} {shape}" if text == "null" and shape is not None else text
