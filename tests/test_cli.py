"""The command line: its output, its exit status, and one sentence for each error."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shlex
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from conftest import Scripted, record
from tiers import mostly_deep, third_slow

import trajrec
from trajrec.cli.exit_status import MEANINGS, ExitStatus
from trajrec.cli.main import build_parser, main
from trajrec.cli.output import Progress
from trajrec.corpus.lone_episode import read_episode
from trajrec.envs import Bank
from trajrec.log import frames
from trajrec.recording.event_log import close_logs
from trajrec.replay import first_difference, fork_many


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    record(gym.make("CartPole-v1"), tmp_path / "runs", 5)
    return tmp_path / "runs"


def run(line: str) -> int:
    """Run a command line of trajrec; return its exit status."""
    return main(shlex.split(line))


def first_id(folder: Path) -> str:
    with trajrec.open(folder) as corpus:
        return str(corpus.sql("SELECT episode_id FROM episodes ORDER BY number").fetchall()[0][0])


def test_record_ls_show_sql_replay_and_index_work_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "runs")
    assert main(["record", "Taxi-v4", "-o", folder, "-n", "3", "--seed", "1"]) == 0
    assert main(["ls", folder, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["env_id"] for row in rows] == ["Taxi-v4"] * 3
    name = rows[0]["episode_id"]
    assert main(["show", folder, name, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[0])
    assert facts["end_step"] == facts["n_steps"] == rows[0]["n_steps"]
    assert main(["show", folder, name[:6]]) == 0
    assert name in capsys.readouterr().out
    assert main(["show", folder, name[:6], "--step", "3", "--json"]) == 0
    step = json.loads(capsys.readouterr().out)
    assert step["step"] == 3
    assert {"action", "reward", "observation", "state_before", "state_after"} <= step.keys()
    assert main(["sql", folder, "SELECT count(*) AS n FROM steps", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"n": 600}
    assert main(["replay", folder, name[:6]]) == 0
    assert main(["replay", folder, "--where", "n_steps = 200", "--json"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert {json.loads(line)["grade"] for line in lines} == {"exact"}
    assert main(["index", folder, "--rebuild"]) == 0
    assert "all_episodes 3" in capsys.readouterr().out
    assert main(["recover", folder]) == 0
    assert main(["compact", folder]) == 0
    assert main(["replay", folder]) == 0


@pytest.mark.slow
def test_a_policy_is_imported_from_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "policies.py").write_text("def left(observation):\n    return 0\n")
    options = ["-o", "runs", "--policy", "policies:left"]
    command = [sys.executable, "-m", "trajrec", "record", "CartPole-v1", *options]
    subprocess.run(command, cwd=tmp_path, check=True)
    with trajrec.open(tmp_path / "runs") as corpus:
        assert set(next(corpus.episodes()).actions) == {0}


FAILING = (
    "import gymnasium as gym\n"
    "from gymnasium.envs.classic_control import CartPoleEnv\n"
    "class Failing(CartPoleEnv):\n"
    "    n = n_resets = 0\n"
    "    def reset(self, **options):\n"
    "        self.n = 0\n"
    "        self.n_resets += 1\n"
    "        if self.n_resets == 3:\n"
    "            raise OSError('no ground')\n"
    "        return super().reset(**options)\n"
    "    def step(self, action):\n"
    "        self.n += 1\n"
    "        if self.n == 5 and self.n_resets % 2:\n"
    "            raise KeyError('boom at 4')\n"
    "        return super().step(action)\n"
    "gym.register('Failing-v0', entry_point='failing_env:Failing', max_episode_steps=7)\n"
)


def test_record_goes_to_the_next_episode_after_an_exception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "failing_env.py").write_text(FAILING)
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "runs"
    assert run(f"record failing_env:Failing-v0 -o {folder} -n 4 --seed 1") == 1
    *failures, last = capsys.readouterr().err.splitlines()
    assert failures == [
        "episode 1: step 4 raised KeyError: 'boom at 4' (it is recorded)",
        "episode 3: the reset raised OSError: no ground (it is recorded)",
    ]
    assert last.startswith("4 episodes, 18 steps in ")
    with trajrec.open(folder) as corpus:
        rows = corpus.sql("SELECT ending, n_failures FROM episodes ORDER BY number").fetchall()
    assert rows == [("error", 1), ("truncated", 0), ("error", 1), ("truncated", 0)]


ACTING = (
    "class Drawing:\n"
    "    def act(self, observation, rng):\n"
    "        return int(rng.integers(2))\n"
    "drawing = Drawing()\n"
    "def draw(observation, rng):\n"
    "    return int(rng.integers(2))\n"
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["drawing", "draw"])
def test_a_policy_with_a_generator_records_and_forks(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "acting.py").write_text(ACTING)
    monkeypatch.syspath_prepend(str(tmp_path))
    actions = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        assert run(f"record CartPole-v1 -o {folder} --seed 1 --policy acting:{name}") == 0
        with trajrec.open(folder) as corpus:
            actions.append(list(next(corpus.episodes()).actions))
    assert actions[0] == actions[1]
    assert set(actions[0]) == {0, 1}
    folder = tmp_path / "a"
    assert run(f"fork {folder} {first_id(folder)} --at 1 --policy acting:{name} -n 2") == 0


def test_env_kwargs_reach_the_environment(tmp_path: Path) -> None:
    kwargs = '{"is_slippery": false}'
    assert main(["record", "FrozenLake-v1", "-o", str(tmp_path), "--env-kwargs", kwargs]) == 0
    with trajrec.open(tmp_path) as corpus:
        header = corpus.sql("SELECT header->'kwargs'->>'is_slippery' FROM logs").fetchall()
    assert header == [("false",)]


@pytest.mark.slow
@third_slow("replay")
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_sql_writes_csv_and_parquet(kind: str, runs: Path, tmp_path: Path) -> None:
    import duckdb

    query = "SELECT episode_id, step FROM steps"
    command = [sys.executable, "-m", "trajrec", "sql", str(runs), query, "--format", kind]
    file = tmp_path / f"answer.{kind}"
    file.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    with trajrec.open(runs) as corpus:
        expected = corpus.sql("SELECT count(*) FROM steps").fetchall()
    assert duckdb.sql(f"SELECT count(*) FROM '{file}'").fetchall() == expected


def test_json_output_holds_each_value_as_json_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with trajrec.episode(tmp_path, task="t", goal={"pay": 100}, world=Bank()) as ep:
        ep.call("deposit", amount=100)
        ep.stop("done", claimed_done=True)
    close_logs()
    folder = str(tmp_path)
    assert main(["show", folder, ep.id, "--step", "0", "--json"]) == 0
    call = json.loads(capsys.readouterr().out)
    assert call["arguments"] == {"amount": 100}
    assert call["result"] == {"balance": 100}
    assert call["changes"] == [
        {"part": "", "path": "/balance", "keys": ["balance"], "before": 0, "after": 100}
    ]
    assert main(["sql", folder, "SELECT arguments, result FROM attempts", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row == {"arguments": {"amount": 100}, "result": {"balance": 100}}


def test_exit_statuses_are_documented_with_one_meaning_each() -> None:
    assert set(MEANINGS) == set(ExitStatus)
    assert len(set(MEANINGS.values())) == len(MEANINGS)
    assert all(text in (build_parser().epilog or "") for text in MEANINGS.values())


@pytest.mark.slow
def test_schema_describes_every_table_and_column(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["schema", str(runs)]) == 0
    out = capsys.readouterr().out
    with trajrec.open(runs) as corpus:
        for table in ("episodes", "steps", "failures", "state_changes", "checks", "logs"):
            assert f"{table}: one row is" in out
            for column in corpus.sql(f"SELECT * FROM {table} LIMIT 0").columns:
                assert column in out


@pytest.mark.slow
def test_schema_as_json_counts_the_rows_of_a_folder(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["schema", "--json", str(runs)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    counted = {line["table"]: line["rows"] for line in lines if "table" in line}
    with trajrec.open(runs) as corpus:
        for table, n_rows in counted.items():
            assert corpus.sql(f"SELECT count(*) FROM {table}").fetchall() == [(n_rows,)]
    assert main(["schema", "--json"]) == 0
    assert all("rows" not in json.loads(line) for line in capsys.readouterr().out.splitlines())


# Ways to damage a corpus.


def newer(folder: Path) -> None:
    (path,) = folder.glob("*.trj")
    head = struct.pack("<8sI", frames.MAGIC, 7)
    path.write_bytes(head + struct.pack("<I", zlib.crc32(head)) + path.read_bytes()[16:])


def truncated(folder: Path) -> None:
    (path,) = folder.glob("*.trj")
    (folder / "cut.trj").write_bytes(path.read_bytes()[:50])


def foreign(folder: Path) -> None:
    (folder / "foreign.trj").write_bytes(b"%PDF-1.7 this is something else entirely")


WRONG = {
    "a missing folder": (None, ["ls", "{}/nowhere"], 2, "no such folder"),
    "a folder without logs": (None, ["ls", "{}/.."], 2, "no logs"),
    "an unknown episode": (None, ["show", "{}", "zzz"], 2, "no episode 'zzz'"),
    "an unknown step": (None, ["show", "{}", "ID", "--step", "9999"], 2, "step must be in [0, "),
    "a fork without an action": (
        None,
        ["fork", "{}", "ID", "--at", "0"],
        2,
        "(--action) or policy=",
    ),
    "an unknown environment": (None, ["record", "NoSuch-v0", "-o", "{}"], 4, "no such environment"),
    "a deprecated environment": (None, ["record", "Taxi-v3", "-o", "{}"], 4, "no such environment"),
    "a missing package": (
        None,
        ["record", "not_there:X-v0", "-o", "{}"],
        4,
        "neither in this folder nor installed",
    ),
    "unknown arguments of an environment": (
        None,
        ["record", "CartPole-v1", "-o", "{}", "--env-kwargs", '{"no": 1}'],
        4,
        "does not take these arguments",
    ),
    "a missing policy": (
        None,
        ["record", "CartPole-v1", "-o", "{}", "--policy", "no:where"],
        2,
        "--policy no:where",
    ),
    "wrong SQL": (None, ["sql", "{}", "SELECT rewrd FROM steps"], 2, '"reward"'),
    "SQL that is not a query": (None, ["sql", "{}", "this is not sql"], 2, "syntax error"),
    "a wrong condition": (None, ["ls", "{}", "--where", "lenght > 3"], 2, "lenght"),
    "a log of a newer format": (newer, ["ls", "{}"], 3, "format version 7 is newer"),
    "a truncated log": (truncated, ["ls", "{}"], 3, "cut.trj"),
    "a foreign file among good ones": (
        foreign,
        ["ls", "{}"],
        3,
        "foreign.trj: at byte 0: not a trajrec log",
    ),
    "an episode beside --group": (
        None,
        ["credit", "{}", "3f2a", "--group"],
        2,
        "give no EPISODE, or no --group",
    ),
    "a plot of --group": (
        None,
        ["credit", "{}", "--group", "--plot", "credit.png"],
        2,
        "--group runs no rollouts and draws nothing: leave out --plot",
    ),
    "an empty condition": (None, ["ls", "{}", "--where", " "], 2, "got an empty text"),
    "a condition without --group": (
        None,
        ["credit", "{}", "3f2a", "--policy", "random", "--where", "n_steps > 3"],
        2,
        "--where chooses the episodes of --group",
    ),
    "a missing path": (None, ["recover", "{}/nowhere"], 2, "no such file"),
}


@third_slow("replay")
@pytest.mark.mostly_slow(6)
@pytest.mark.parametrize(("harm", "command", "status", "text"), WRONG.values(), ids=WRONG.keys())
def test_an_error_is_one_sentence_with_its_status(
    harm: object,
    command: list[str],
    status: int,
    text: str,
    runs: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if harm is not None:
        harm(runs)  # type: ignore[operator]
    (runs.parent / "empty").mkdir()
    name = first_id(runs) if "ID" in command else ""
    folder = runs.parent / "empty" if "no logs" in text else runs
    arguments = [
        name if part == "ID" else part.replace("{}/..", "{}").replace("{}", str(folder))
        for part in command
    ]
    logs = {path: path.read_bytes() for path in runs.glob("*.trj")}
    assert main(arguments) == status
    error = capfd.readouterr().err
    assert text in error
    assert "Traceback" not in error
    assert len([line for line in error.splitlines() if line.startswith("trajrec: ")]) == 1
    assert {path: path.read_bytes() for path in runs.glob("*.trj")} == logs


# Each command that reads a folder -> arguments with which it does its work on a whole one.
READING = {
    "ls": "",
    "sql": "'SELECT 1'",
    "schema": "",
    "show": "ID",
    "diff": "ID ID",
    "replay": "",
    "fork": "ID --at 1 --policy random",
    "recheck": "--verifier builtins:callable",
    "credit": "--group grpo",
    "bisect": "ID --policy random -n 2 --success truncated",
    "export": "grpo -o OUT/advantages.jsonl",
    "index": "",
    "compare": "--a 'number = 0' --b 'number > 0'",
    "bands": "",
    "support": "",
    "card": "-o OUT/release",
    "report": "ID -o OUT/episode.html",
    "film": "ID -o OUT/sheet.png --render --steps :2",
    "tag": "ID split=train",
    "rm": "--where 'number = 0' --dry-run",
}


def commands() -> dict[str, argparse.ArgumentParser]:
    choices = next(a for a in build_parser()._actions if a.dest == "COMMAND" or a.choices).choices
    assert choices is not None
    return dict(choices)  # type: ignore[call-overload, no-any-return]


def test_every_command_that_reads_a_folder_is_tried() -> None:
    reading = {
        name
        for name, parser in commands().items()
        if any(action.dest == "dir" for action in parser._actions)
    }
    # The demo and capture only write their folder; the doctor's findings are its result
    # (test_doctor.py); rerun, whatif and mcp take an agent's episode (test_capture_command.py,
    # test_mcp_relay.py), and plan a pilot with verdicts (test_bands.py); view shows the damage on
    # its pages (test_view.py); push copies a log as it is, and names those that it leaves
    # (test_object_storage.py).
    others = {"demo", "doctor", "capture", "rerun", "whatif", "mcp", "plan", "view", "push"}
    assert reading - others == READING.keys()


@mostly_deep("hostile", drawn=5)
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("command", READING)
def test_every_command_reports_a_damaged_log(
    command: str, runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = READING[command].replace("ID", first_id(runs)).replace("OUT", str(tmp_path))
    line = f"{command} {shlex.quote(str(runs))} {options}"
    # A random policy cannot balance the pole, which is a finding of bisect and stays one.
    expected = ExitStatus.FINDING if command == "bisect" else ExitStatus.OK
    assert run(line) == expected
    assert "foreign.trj" not in capfd.readouterr().err
    foreign(runs)
    # A release is written into a new folder.
    assert run(line.replace(str(tmp_path / "release"), str(tmp_path / "second"))) == (
        expected or ExitStatus.LOG
    )
    assert "foreign.trj: at byte 0: not a trajrec log" in capfd.readouterr().err


@pytest.mark.parametrize(
    "line", ["replay DIR", "recheck DIR --verifier builtins:callable"], ids=["replay", "recheck"]
)
def test_a_folder_of_damaged_logs_is_not_called_empty(
    line: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    foreign(tmp_path)
    assert run(line.replace("DIR", shlex.quote(str(tmp_path)))) == ExitStatus.LOG
    assert "foreign.trj" in capfd.readouterr().err


@pytest.mark.slow
def test_an_episode_that_is_not_found_may_be_in_the_damaged_log(
    runs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    foreign(runs)
    assert main(["show", str(runs), "zzz"]) == ExitStatus.USAGE
    error = capfd.readouterr().err
    assert "no episode 'zzz'" in error
    assert "foreign.trj" in error


@pytest.mark.slow
@third_slow("replay")
def test_a_diverged_episode_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "drifting.py").write_text(
        "import time, gymnasium as gym\n"
        "from gymnasium.envs.classic_control.cartpole import CartPoleEnv\n"
        "class Drifting(CartPoleEnv):\n"
        "    def step(self, action):\n"
        "        o, r, *rest = super().step(action)\n"
        "        return (o, time.time(), *rest)\n"
        "gym.register('Drifting-v0', entry_point='drifting:Drifting', max_episode_steps=500)\n"
    )

    def run_in_folder(line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "trajrec", *shlex.split(line)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )

    assert run_in_folder("record drifting:Drifting-v0 -o runs").returncode == 0
    assert run_in_folder("replay runs").returncode == 4
    diverged = run_in_folder("replay runs --allow drifting")
    assert diverged.returncode == 1, diverged.stderr
    assert "step 0, reward" in diverged.stdout
    assert "likely cause: clock" in diverged.stdout


def test_the_help_of_each_command_has_an_example(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in commands():
        with pytest.raises(SystemExit) as caught:
            main([name, "--help"])
        assert caught.value.code == 0
        out = capsys.readouterr().out
        assert "Example:" in out
        assert f"trajrec {name}" in out
        assert "Exit status:" in out


def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["replay"], ["nonsense"], ["record", "CartPole-v1", "-o", "x", "-n", "0"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    assert "usage: trajrec" in capsys.readouterr().err


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"trajrec {trajrec.__version__}\n"


@pytest.mark.slow
@third_slow("replay")
def test_the_demo_replays_exactly_and_answers_a_query(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", str(tmp_path / "demo")]) == 0
    out = capsys.readouterr().out
    assert "exact: every observation" in out
    assert "mean_reward" in out
    assert main(["demo", str(tmp_path / "demo")]) == 0


@pytest.mark.slow
def test_a_closed_pipe_is_no_error(runs: Path) -> None:
    command = f"{sys.executable} -m trajrec sql {runs} 'SELECT * FROM range(200000)' | head -1"
    completed = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert completed.returncode == 0
    assert "Traceback" not in completed.stderr


@pytest.mark.slow
@third_slow("replay")
def test_fork_diff_and_check_determinism_work_together(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = first_id(runs)
    assert run(f"fork {runs} {name} --at 3 --action 1 --policy random -n 3 --json") == 0
    branches = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["index"], row["restore"], row["ending"]) for row in branches] == [
        (k, "snapshot", "terminated") for k in range(3)
    ]
    child = branches[0]["episode_id"]
    assert main(["show", str(runs), child, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (facts["parent_id"], facts["fork_step"]) == (name, 3)
    assert (facts["n_steps"], facts["total_reward"]) == (
        branches[0]["n_steps"],
        branches[0]["total_reward"],
    )
    assert run(f"fork {runs} {name} --at 3 --action 0 --max-steps 1 --restore os_fork") == 0
    assert "cut off" in capsys.readouterr().out
    assert main(["diff", str(runs), name, child]) == 1
    assert "action: np.int64(" in capsys.readouterr().out
    assert main(["diff", str(runs), name, name]) == 0
    assert "are the same" in capsys.readouterr().out
    assert main(["diff", str(runs), name, child, "--json"]) == 1
    fields = [json.loads(line)["field"] for line in capsys.readouterr().out.splitlines()]
    assert {field.partition("/")[0] for field in fields} >= {"action", "end"}
    assert main(["replay", str(runs), "--forks"]) == 0
    assert "9 exact" in capsys.readouterr().out
    assert main(["check-determinism", "CartPole-v1", "--steps", "40", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["restore"]["snapshot"]["granted"]


@pytest.mark.slow
def test_diff_sees_a_change_in_infos_or_flags_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def recorded(name: str, info: dict[str, Any], truncated: bool = False) -> str:
        env = Scripted(lambda k: (0, 0.0, k == 2, truncated and k == 2, info if k == 1 else {}))
        return str(read_episode(record(env, tmp_path / name), 0).id)

    first = recorded("first", {"score": 1})
    for other, line in (
        (recorded("typed", {"score": 1.0}), "step 1, info/score: 1 | 1.0"),
        (recorded("cut", {"score": 1}, True), "step 3, end/truncated: False | True"),
    ):
        assert main(["diff", str(tmp_path), first, other]) == 1
        assert capsys.readouterr().out.splitlines() == [line]
    assert main(["diff", str(tmp_path), first, recorded("same", {"score": 1})]) == 0


def test_a_fork_after_an_exception_is_compared_step_by_step(tmp_path: Path) -> None:
    class Fragile(gym.Env[Any, Any]):
        """Adds up its actions; refuses 7."""

        observation_space = gym.spaces.Discrete(1000)
        action_space = gym.spaces.Discrete(8)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self.n = 0
            return 0, {}

        def step(self, action: Any) -> Any:
            if action == 7:
                raise ValueError("not 7")
            self.n = self.n * 2 + int(action)
            return self.n, float(self.n), False, False, {"n": self.n}

    env = trajrec.record(Fragile(), tmp_path, state=lambda env: env.unwrapped.n)
    env.reset(seed=0)
    actions = [0, 7, 1, 2, 0, 1, 2, 0, 1]
    for action in actions:
        with contextlib.suppress(ValueError):
            env.step(action)
    env.close()
    with trajrec.open(tmp_path) as corpus:
        (parent,) = corpus.episodes()
        branches = []
        for branch_actions in (actions[4:], [0, 1, 1, 0, 1]):
            branches += fork_many(
                parent,
                at=[4],
                actions=branch_actions,
                env=Fragile,
                state=lambda env: env.unwrapped.n,
            )
        same, other = (corpus.episode(str(branch.episode_id)) for branch in branches)
        fields = {d.field.partition("/")[0] for d in first_difference(parent, same)}
        assert fields <= {"end"}
        steps = {d.field.partition("/")[0]: d.step for d in first_difference(parent, other)}
        for field in ("action", "observation", "reward", "info", "state"):
            assert steps[field] == 6, field


@pytest.mark.slow
def test_an_impossible_fork_is_one_clear_sentence(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = first_id(runs)
    for arguments, text in (
        (["fork", str(runs), name, "--at", "999", "--policy", "random"], "step must be in [0, "),
        (["fork", str(runs), name, "--at", "1"], "needs actions, a policy, or both"),
        (["fork", str(runs), name, "--at", "1", "--policy", "nowhere:f"], "--policy nowhere:f"),
        (
            ["fork", str(runs), name, "--at", "1", "--policy", "random", "--env", "x:y"],
            "--env x:y: No module named 'x'",
        ),
    ):
        assert main(arguments) == 2, arguments
        assert text in capsys.readouterr().err
    assert main(["check-determinism", "Nothing-v0"]) == 4
    assert "no such environment" in capsys.readouterr().err


def test_a_recheck_of_no_episode_is_wrong_usage(
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "my_checks.py").write_text("def fine(state):\n    return True\n")
    monkeypatch.chdir(tmp_path)
    command = ["recheck", str(runs), "--verifier", "my_checks:fine", "--where", "1 = 0"]
    assert main(command) == 2
    assert "--where selects no episode; nothing was appended" in capsys.readouterr().out


def test_an_exception_of_a_probed_environment_has_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "falling.py").write_text(
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "class Falling(CartPoleEnv):\n"
        "    def step(self, action):\n"
        "        raise RuntimeError('no floor')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["check-determinism", "falling:Falling"]) == 2
    err = capsys.readouterr().err
    assert "falling:Falling raised while it was probed: RuntimeError: no floor" in err
    assert "falling.py, line 4" in err
    assert "probe fewer steps (--steps)" in err


FACTORIES = (
    "from trajrec.envs import Bank\n"
    "def nothing():\n"
    "    return None\n"
    "def failing():\n"
    "    raise KeyError('no key')\n"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factory", "text"),
    [
        (
            "nothing",
            "factories:nothing must make a gymnasium.Env: it returned None, no environment",
        ),
        ("failing", "factories:failing made nothing: it raised KeyError: 'no key' ("),
        ("Bank", "a world; trajrec.envs.ToolTextEnv makes an environment of one"),
    ],
)
def test_a_factory_that_makes_no_environment_is_reported_in_a_line(
    factory: str,
    text: str,
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "factories.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    episode = f"{runs} {first_id(runs)}"
    env = f"factories:{factory}"
    for command in (
        f"replay {runs} --env {env}",
        f"check-determinism {env}",
        f"fork {episode} --at 1 --policy random --env {env}",
        f"credit {episode} --policy random -n 2 --env {env}",
    ):
        assert run(command) == 2, command
        (line,) = capsys.readouterr().err.splitlines()
        assert text in line, command


@pytest.mark.slow
@third_slow("replay")
def test_an_env_id_gets_the_recorded_arguments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path)
    kwargs = '{"is_slippery": false, "map_name": "8x8", "render_mode": "ansi"}'
    assert run(f"record FrozenLake-v1 -o {folder} --env-kwargs '{kwargs}' --seed 1 -n 2") == 0
    capsys.readouterr()
    for jobs in ("1", "2"):
        assert main(["replay", folder, "--env", "FrozenLake-v1", "--jobs", jobs]) == 0
        printed = capsys.readouterr()
        assert "2 exact" in printed.out
        assert printed.err == ""
    episode = f"{folder} {first_id(tmp_path)}"
    assert run(f"fork {episode} --at 2 --policy random --env FrozenLake-v1") == 0
    capsys.readouterr()
    assert main(["replay", folder, "--env", "Taxi-v4", "--where", "number = 0"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "trajrec: recorded with {'map_name': '8x8', 'is_slippery': False}, which Taxi-v4 does not take: "
        "replayed without these arguments"
    )


@pytest.mark.slow
@third_slow("replay")
def test_an_env_id_keeps_the_arguments_of_its_registration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "lake")
    assert main(["record", "FrozenLake-v1", "-o", folder, "--seed", "1"]) == 0
    capsys.readouterr()
    # The recorded map comes from the registration, so it is no wish for the other environment.
    assert main(["replay", folder, "--env", "FrozenLake8x8-v1"]) == 1
    assert capsys.readouterr().err == ""


def test_an_agents_episode_needs_a_world_to_replay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with trajrec.episode(tmp_path, task="t", world=Bank()) as ep:
        ep.call("deposit", amount=100)
        ep.stop("done", claimed_done=True)
    close_logs()
    assert main(["replay", str(tmp_path), "--env", "CartPole-v1"]) == 2
    assert (
        "'CartPole-v1' must make a world for an agent's episode, which has reset, tools"
        in capsys.readouterr().err
    )


@pytest.mark.slow
@third_slow("replay")
def test_named_modules_are_imported_from_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "my_grid.py").write_text(
        "import gymnasium as gym\n"
        "from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv as Grid\n"
        "gym.register('my/Grid-v0', entry_point='my_grid:Grid', max_episode_steps=20)\n"
    )

    def run_in_folder(line: str) -> subprocess.CompletedProcess[str]:
        # As the installed program: without the working folder in the path.
        script = (
            "import sys; sys.path.pop(0); from trajrec.cli.main import main; "
            "sys.exit(main(sys.argv[1:]))"
        )
        command = [sys.executable, "-c", script, *shlex.split(line)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert run_in_folder("record my_grid:my/Grid-v0 -o runs --seed 1").returncode == 0
    assert run_in_folder("replay runs").returncode == 4
    allowed = run_in_folder("replay runs --allow my_grid --jobs 2")
    assert (allowed.returncode, "1 exact" in allowed.stdout) == (0, True), allowed
    checked = run_in_folder("check-determinism my_grid:Grid --steps 40")
    assert checked.returncode == 0, checked.stdout
    missing = run_in_folder("check-determinism not_there:my/Grid-v0")
    assert "neither in this folder nor installed" in missing.stderr
    unnamed = run_in_folder("check-determinism my/Other-v0")
    assert "is given as module:my/Other-v0" in unnamed.stderr


@pytest.mark.parametrize("command", ["export DIR grpo -o DIR/rows.jsonl", "credit DIR --group"])
def test_a_condition_that_selects_nothing_is_wrong_usage(
    command: str, runs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = command.replace("DIR", shlex.quote(str(runs)))
    assert run(f"{line} --where 'n_steps > 10000'") == ExitStatus.USAGE
    assert "--where selects no episode: n_steps > 10000" in capfd.readouterr().err
    assert not (runs / "rows.jsonl").exists()


def test_a_factory_is_no_id_to_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_own_arena.py").write_text("def make():\n    raise AssertionError\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["record", "my_own_arena:make", "-o", "runs"]) == 4
    assert "by trajrec.record(make(), folder)" in capsys.readouterr().err


@pytest.mark.parametrize("report", ["--junit", "--html"])
def test_a_report_without_a_folder_is_refused_before_the_replay(
    report: str, runs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = runs / "nowhere" / "report"
    assert main(["replay", str(runs), report, str(file)]) == ExitStatus.USAGE
    output = capfd.readouterr()
    assert f"{file}: No such file or directory" in output.err
    assert output.out == ""


@pytest.mark.slow
def test_replaying_no_episode_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["record", "CartPole-v1", "-o", str(tmp_path), "--seed", "1"]) == 0
    assert main(["replay", str(tmp_path), "--where", "n_steps > 10000"]) == 2
    assert "nothing to replay" in capsys.readouterr().out


@pytest.mark.slow
def test_fork_and_credit_take_an_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gymnasium.envs.classic_control.cartpole import CartPoleEnv

    env = trajrec.record(gym.wrappers.TimeLimit(CartPoleEnv(), 60), tmp_path)
    env.reset(seed=1)
    while not env.step(0)[2]:
        pass
    env.close()
    episode = next(trajrec.open(tmp_path).episodes())
    fork = f"fork {tmp_path} {episode.id} --policy random"
    assert run(f"{fork} --at 2") == 4
    assert "--env MODULE:FACTORY" in capsys.readouterr().err
    assert run(f"{fork} --at 2 --env CartPole-v1") == 0
    assert run(f"{fork} --at {episode.n_steps} --env CartPole-v1") == 2
    assert "was over after step" in capsys.readouterr().err
    credit = f"credit {tmp_path} {episode.id} --policy random -n 2 --env CartPole-v1 --json"
    assert run(f"{credit} --steps 1:4 --estimator value") == 0
    assert [json.loads(line)["step"] for line in capsys.readouterr().out.splitlines()] == [1, 2, 3]


def test_fork_gives_branches_the_verdict_of_a_verifier(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lake_checks.py").write_text(
        "import trajrec\n\n@trajrec.verifier(id='at-goal', version='1')\n"
        "def at_goal(env):\n    return int(env.unwrapped.s) == 15\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    runs = tmp_path / "runs"
    with trajrec.record(gym.make("FrozenLake-v1", is_slippery=False), runs) as env:
        env.reset(seed=1)
        for action in (2, 2, 1, 1, 1, 0):
            env.step(action)
    episode = next(trajrec.open(runs).episodes())
    to_the_goal = f"fork {runs} {episode.id} --at 5 --action 2 --verifier lake_checks:at_goal"
    assert run(f"{to_the_goal} --json") == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "success"
    assert run(to_the_goal.replace("--action 2", "--action 0 --action 0")) == 0
    assert "failure" in capsys.readouterr().out
    with trajrec.open(runs) as corpus:
        query = "SELECT outcome, count(*) FROM forks GROUP BY 1 ORDER BY 1"
        assert corpus.sql(query).fetchall() == [("failure", 1), ("success", 1)]
    assert run(f"fork {runs} {episode.id} --at 5 --action 2 --verifier lake_checks:nothing") == 2
    assert "--verifier" in capsys.readouterr().err


def test_progress_bar_leaves_nothing_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr("trajrec.cli.output.PROGRESS_AFTER_S", 0.0)
    monkeypatch.setattr("trajrec.cli.output.PROGRESS_EVERY_S", 0.0)
    with Progress("indexing") as progress:
        progress(1, 2)
    drawn = screen.getvalue()
    assert drawn.endswith("\r\033[K")
    progress(2, 2)  # the index is brought up to date once more, behind the results
    assert screen.getvalue() == drawn


@pytest.mark.parametrize(
    ("message", "told"), [("the model is away", "the model is away"), ("", "ConnectionError")]
)
def test_show_tells_why_a_model_call_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], message: str, told: str
) -> None:
    def refuse(**_: Any) -> Any:
        raise ConnectionError(message)

    with trajrec.episode(tmp_path, wire=False) as ep, contextlib.suppress(ConnectionError):
        ep.model(refuse, messages=[{"role": "user", "content": "Go."}])
    close_logs()
    assert main(["show", str(tmp_path), ep.id]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if " model " in line]
    assert line.split("  ")[-1].removeprefix("builtins.") == told
    assert "1 message " in line
