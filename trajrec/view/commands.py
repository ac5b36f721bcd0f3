"""Commands that a page names for its episode or step: the pages themselves change nothing."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TypeAlias

Command: TypeAlias = tuple[str, str]
"""What a command does, in words, and the command. Words in capitals are for the reader to fill in."""

ANY_FOLDER = "DIR"
"""The folder in commands of a report: whoever reads it has the folder elsewhere."""


def replay_command(folder: str, episode_id: str) -> str:
    """Return the command that replays an episode.

    >>> replay_command("my runs", "3f2a")
    "trajrec replay 'my runs' 3f2a"
    """
    return shlex.join(["trajrec", "replay", folder, episode_id])


def credit_commands(folder: str, episode_id: str, *, is_agent: bool) -> Sequence[Command]:
    """Return the commands that estimate an episode's credit."""
    start = shlex.join(["trajrec", "credit", folder, episode_id])
    commands = [("estimate the credit of its steps", f"{start} --policy MODULE:POLICY")]
    if is_agent:
        start = shlex.join(["trajrec", "whatif", folder, episode_id])
        words = "find the step that decided it, by running the agent again"
        commands.append((words, f"{start} --find decisive -- COMMAND"))
    return commands


def episode_commands(folder: str, episode_id: str, *, is_agent: bool) -> Sequence[Command]:
    """Return the commands for an episode."""
    tag = shlex.join(["trajrec", "tag", folder, episode_id])
    report = shlex.join(["trajrec", "report", folder, episode_id])
    return [
        ("replay it, and compare every step", replay_command(folder, episode_id)),
        ("label it", f"{tag} NAME=VALUE"),
        *credit_commands(folder, episode_id, is_agent=is_agent),
        ("write it as one file", f"{report} -o episode.html"),
    ]


def step_commands(
    folder: str, episode_id: str, step: int, *, is_agent: bool, has_call: bool
) -> Sequence[Command]:
    """Return the commands for a step.

    Args:
        folder: The folder of logs.
        episode_id: The episode.
        step: The step.
        is_agent: Whether an agent called tools; else an environment was stepped.
        has_call: Whether the step has a call of a tool.
    """
    tag = shlex.join(["trajrec", "tag", folder, episode_id])
    commands = [("label this step", f"{tag} NAME=VALUE --step {step}")]
    if has_call:
        start = shlex.join(["trajrec", "whatif", folder, episode_id, "--at", str(step)])
        words = "run the agent again from here, with other arguments"
        commands.append((words, f"{start} --arguments JSON -- COMMAND"))
    elif not is_agent:
        start = shlex.join(["trajrec", "fork", folder, episode_id, "--at", str(step)])
        commands.append(("continue from here with another policy", f"{start} --policy POLICY"))
    return commands
