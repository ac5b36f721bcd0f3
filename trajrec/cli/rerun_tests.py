"""Writes an episode as a test for pytest, which reruns it."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path

_FUNCTION = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)\Z")

_OF_FUNCTION = '''"""Reruns a recorded episode: the agent must ask the same, given the same answers."""

from pathlib import Path

import trajrec
from {module} import {function}

RUNS = Path(__file__).parent / {folder!r}


def test_the_agent_asks_what_it_asked_when_it_was_recorded():
    with trajrec.open(RUNS) as corpus:
        episode = corpus.episode({episode!r})
    with trajrec.rerun(episode{ignore}):
        {function}()
'''

_OF_COMMAND = '''"""Reruns a recorded episode: the command must ask the same, given the same answers."""

import subprocess
import sys
from pathlib import Path

RUNS = Path(__file__).parent / {folder!r}
COMMAND = {command!r}
COMMAND_FOLDER = Path(__file__).parent / {place!r}


def test_the_command_asks_what_it_asked_when_it_was_recorded():
    rerun = [sys.executable, "-m", "trajrec", "rerun", str(RUNS), {episode!r}{options}, "--"]
    words = [*rerun, *COMMAND]
    ended = subprocess.run(words, cwd=COMMAND_FOLDER, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
'''


def function_of(command: Sequence[str]) -> re.Match[str] | None:
    """Return the module and the name if a command is a function, as module:function."""
    return _FUNCTION.match(command[0]) if len(command) == 1 else None


def write_test(path: Path, arguments: argparse.Namespace, episode_id: str) -> None:
    """Write the test.

    Args:
        path: The file. Its tests find the folder of logs from where it stands.
        arguments: The command line of `trajrec rerun`.
        episode_id: The episode.

    Raises:
        FileExistsError: The file exists.
    """
    folder = os.path.relpath(arguments.dir.resolve(), path.resolve().parent)
    patterns = [pattern.pattern for pattern in arguments.ignore]
    function = function_of(arguments.command)
    if function is not None:
        text = _OF_FUNCTION.format(
            module=function[1],
            function=function[2],
            folder=folder,
            episode=episode_id,
            ignore=(f", ignore={patterns!r}" if patterns else "")
            + (', run_tools="all"' if arguments.run_tools else ""),
        )
    else:
        options = [f"--ignore={pattern}" for pattern in patterns]
        options += ["--run-tools", "all"] if arguments.run_tools else []
        text = _OF_COMMAND.format(
            folder=folder,
            # Words of the command may be paths, from here.
            place=os.path.relpath(Path.cwd(), path.resolve().parent),
            command=list(arguments.command),
            episode=episode_id,
            options="".join(f", {option!r}" for option in options),
        )
    # Never over a file that somebody has written.
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
