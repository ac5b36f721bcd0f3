"""A disk that is full while a result is written: one sentence that names it, and nothing left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest
from tiers import mostly_deep

import trajrec
from trajrec.cli.main import main

COMMANDS = {
    "merge": ["merge", "runs", "-o", "out"],
    "card": ["card", "runs", "-o", "out"],
    "report": ["report", "runs", "EPISODE", "-o", "out.html"],
    "transitions": ["export", "runs", "transitions", "-o", "out.parquet"],
    "parquet": ["export", "runs", "parquet", "-o", "out"],
    "advantages": ["export", "runs", "grpo", "-o", "out.jsonl"],
    "film": ["film", "runs", "EPISODE", "-o", "out.gif", "--render"],
    "page of replays": ["replay", "runs", "--no-keep", "--html", "out.html"],
}

# No file may grow beyond a kilobyte, as if the disk had no more space.
# Before Python 3.12 the byte code of a module would be cut there, and no later process could import it.
LIMITED = (
    "import json, resource, signal, sys\n"
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))\n"
    "from trajrec.cli.main import main\n"
    "sys.exit(main(json.loads(sys.argv[1])))\n"
)


@mostly_deep("kills", drawn=3)
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no limit of a file's size")
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_result_that_finds_no_space_is_named_and_gone(tmp_path: Path, command: list[str]) -> None:
    with trajrec.record(gym.make("CartPole-v1"), tmp_path / "runs") as env:
        for seed in range(8):
            env.reset(seed=seed)
            for k in range(8):
                env.step(k % 2)
    assert main(["index", str(tmp_path / "runs")]) == 0
    with trajrec.open(tmp_path / "runs") as corpus:
        (episode, *_) = corpus.episodes()
    arguments = [episode.id if part == "EPISODE" else part for part in command]
    done = subprocess.run(
        [sys.executable, "-B", "-c", LIMITED, json.dumps(arguments)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    # Replays have been printed by then.
    assert done.stdout == "" or command[0] == "replay"
    # SDL, which draws pictures, has lines of its own.
    *others, last = done.stderr.splitlines()
    # Commands that run environments have made the path absolute.
    assert last.startswith(("trajrec: out", f"trajrec: {tmp_path / 'out'}"))
    assert "trajrec" not in "".join(others)
    assert "Traceback" not in "".join(others)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and ".trajrec" not in str(path)]
    assert [path.parent.name for path in files] == ["runs"]
