"""The commands that pages name are commands that there are."""

from __future__ import annotations

import shlex

import pytest

from trajrec.cli.main import build_parser
from trajrec.view.commands import episode_commands, replay_command, step_commands

FOLDER = "my runs; $(ls)"
FILLED = {"NAME=VALUE": "good=true", "JSON": '{"cents":1}', "POLICY": "random"}


@pytest.mark.parametrize("is_agent", [False, True])
def test_each_command_is_understood(is_agent: bool) -> None:
    commands = [
        *episode_commands(FOLDER, "3f2a", is_agent=is_agent),
        *step_commands(FOLDER, "3f2a", 7, is_agent=is_agent, has_call=is_agent),
        ("", replay_command(FOLDER, "3f2a")),
    ]
    for _, command in commands:
        name, *words = shlex.split(command)
        assert name == "trajrec"
        arguments = build_parser().parse_args([FILLED.get(word, word) for word in words])
        assert str(arguments.dir) == FOLDER
