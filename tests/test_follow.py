"""`trajrec show --follow`: an episode is printed while it is recorded, each call once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from conftest import only
from tiers import third_slow

import trajrec
from trajrec.cli.colors import color_of
from trajrec.cli.follow import POLL_S
from trajrec.cli.main import main

pytest.importorskip("fcntl", reason="without locks no reader knows whether a recorder lives")

AGENT = """
import sys, trajrec
with trajrec.episode(sys.argv[1], task="t") as ep:
    look = ep.tool(lambda x: x, name="look", access="read")
    fail = ep.tool(lambda: 1 / 0, name="fail")
    print(ep.id, flush=True)
    for line in sys.stdin:
        if line.strip() == "fail":
            try:
                fail()
            except ZeroDivisionError:
                pass
        elif line.strip() == "stop":
            break
        else:
            look(x=line.strip())
        print("done", flush=True)
"""


def start(folder: Path, program: str) -> tuple[subprocess.Popen[str], str]:
    """Start a recorder that acts as it is told; return it and the id of its episode."""
    command = [sys.executable, "-c", program, str(folder)]
    pipe = subprocess.PIPE
    recorder = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    assert recorder.stdout is not None
    return recorder, recorder.stdout.readline().strip()


def tell(recorder: subprocess.Popen[str], line: str) -> None:
    assert recorder.stdin is not None
    assert recorder.stdout is not None
    recorder.stdin.write(f"{line}\n")
    recorder.stdin.flush()
    if line != "stop":
        assert recorder.stdout.readline() == "done\n"


def follower(folder: Path, episode: str, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "trajrec", "show", str(folder), episode, "--follow", *options]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.slow
def test_the_heading_is_printed_once_however_long_the_wait(tmp_path: Path) -> None:
    recorder, own = start(tmp_path, AGENT)
    with recorder, follower(tmp_path, own) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline().split()[:3] == ["step", "time", "call"]
        # For two more looks.
        time.sleep(3 * POLL_S)
        tell(recorder, "stop")
        rest, _ = reader.communicate(timeout=60)
    assert rest == ""


@pytest.mark.slow
def test_each_call_is_printed_once_while_it_is_recorded(tmp_path: Path) -> None:
    recorder, own = start(tmp_path, AGENT)
    tell(recorder, "one")
    with recorder, follower(tmp_path, own) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline().split()[:3] == ["step", "time", "call"]
        assert '{"x":"one"}' in reader.stdout.readline()
        # The recorder goes on only when the call before was read.
        tell(recorder, "two")
        assert '{"x":"two"}' in reader.stdout.readline()
        tell(recorder, "fail")
        assert re.search(r"fail +\{\} +error +division by zero", reader.stdout.readline())
        tell(recorder, "stop")
        rest, error = reader.communicate(timeout=60)
    assert rest == ""
    assert "the episode has ended: terminated" in error
    assert reader.returncode == 0


@pytest.mark.slow
def test_a_killed_recorder_ends_the_following(tmp_path: Path) -> None:
    recorder, own = start(tmp_path, AGENT)
    tell(recorder, "one")
    with recorder, follower(tmp_path, own, "--json") as reader:
        assert reader.stdout is not None
        row = json.loads(reader.stdout.readline())
        assert (row["tool"], row["arguments"], row["outcome"]) == ("look", {"x": "one"}, "ok")
        os.kill(recorder.pid, signal.SIGKILL)
        rest, error = reader.communicate(timeout=60)
    assert rest == ""
    assert "the episode has ended: interrupted" in error


def test_steps_of_an_environment_are_followed_to_the_end(tmp_path: Path, capsys: Any) -> None:
    env = trajrec.record(gym.make("FrozenLake-v1", is_slippery=False), tmp_path)
    env.reset(seed=1)
    for action in (1, 1, 2, 1, 2, 2):
        env.step(action)
    env.close()
    assert main(["show", str(tmp_path), only(tmp_path).id, "--follow"]) == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["step", "action"],
        *[[str(step), str(action)] for step, action in enumerate((1, 1, 2, 1, 2, 2))],
    ]
    assert "the episode has ended: terminated" in told.err


def test_a_step_and_following_exclude_each_other(tmp_path: Path, capsys: Any) -> None:
    with trajrec.episode(tmp_path) as ep:
        ep.tool(lambda: 1, name="look")()
    trajrec.close_logs()
    assert main(["show", str(tmp_path), ep.id, "--follow", "--step", "0"]) == 2
    assert "give --follow alone" in capsys.readouterr().err


def in_a_terminal(*words: str, **environ: str) -> str:
    """Return what a command prints on a terminal."""
    pty = pytest.importorskip("pty", reason="there are no terminals")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "trajrec", *words]
    env = {**os.environ, "TERM": "xterm", **environ}
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL, env=env) as process:
        os.close(theirs)
        data = b""
        try:
            while piece := os.read(ours, 1 << 16):
                data += piece
        except OSError:
            # Linux ends a terminal so.
            pass
        os.close(ours)
    assert process.returncode == 0
    return data.decode()


@pytest.mark.slow
@third_slow("agents")
def test_a_terminal_shows_colours_and_recorded_text_has_none(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path) as ep:
        fail = ep.tool(lambda text: 1 / 0, name="fail")
        with pytest.raises(ZeroDivisionError):
            fail(text="\x1b[32mgreen")
    trajrec.close_logs()
    words = ("show", str(tmp_path), ep.id)
    for options in ((), ("--follow",)):
        shown = in_a_terminal(*words, *options, NO_COLOR="")
        assert "\x1b[31merror" in shown
        assert "\x1b[32m" not in shown
        assert "\x1b" not in in_a_terminal(*words, *options, NO_COLOR="1")
        assert "\x1b" not in in_a_terminal(*words, *options, NO_COLOR="", TERM="dumb")


def test_a_colour_is_of_the_first_word_of_a_result() -> None:
    assert color_of("outcome", "failure") == color_of("outcome", "error, tried again by agent")
    assert color_of("outcome", "success") != color_of("outcome", "failure")
    assert color_of("task", "failure") == color_of("outcome", "ok") == ""
