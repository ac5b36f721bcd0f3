"""`trajrec whatif`: experiments on agents that are commands."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from model_server import ModelServer
from tiers import third_slow
from whatif_agents import RIGHT, Script, Support, record_failure

import trajrec
from trajrec.cli.experiments import LISTED
from trajrec.cli.main import main
from trajrec.replay.whatif.ask import plan_experiment
from trajrec.replay.whatif.changes import Arguments, Change
from trajrec.replay.whatif.child import ChildOptions, run_command
from trajrec.replay.whatif.plan import Plan
from trajrec.replay.whatif.programs import run_function
from trajrec.replay.whatif.result import RunResult, Share
from trajrec.replay.whatif.stand_in import RunOptions, StandIn

pytest.importorskip("httpx", reason="httpx is not installed")

TESTS = Path(__file__).parent
RIGHT_AMOUNT = ["--arguments", json.dumps({"cents": 5400})]

PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from whatif_agents import Support
Support(sys.argv[3], Path(sys.argv[2]))()
"""


def trajrec_command(*arguments: Any, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trajrec", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environ},
        timeout=300,
    )


def only_id(folder: Path) -> str:
    with trajrec.open(folder) as corpus:
        return next(iter(corpus.episodes())).id


def program(tmp_path: Path, url: str) -> list[Any]:
    path = tmp_path / "agent.py"
    path.write_text(PROGRAM)
    return [sys.executable, path, TESTS, tmp_path / "runs", url]


@pytest.mark.slow
@third_slow("whatif")
def test_python_program_is_run_from_the_step_on(tmp_path: Path) -> None:
    with ModelServer(Script()) as server:
        command = program(tmp_path, server.url)
        subprocess.run(command, check=True)
        server.attempts.clear()
        runs = tmp_path / "runs"
        given = ("whatif", runs, only_id(runs), "--at", 1)
        ended = trajrec_command(*given, *RIGHT_AMOUNT, "-n", 1, "--json", "--", *command)
        assert ended.returncode == 0, ended.stderr
        result = json.loads(ended.stdout)
        assert (result["unchanged"]["lost"], result["changed"]["won"]) == (1, 1)
        assert result["controls"] == {"equal": 2, "of": 2}
        assert len(server.attempts) == 2
        listed = trajrec_command("whatif", runs, only_id(runs), "--list", "--json")
        assert json.loads(listed.stdout)["changed_won"] == 1
        assert trajrec_command("whatif", runs, "--list", "--json").stdout == listed.stdout


OTHER_PROGRAM = """
import json, sys, urllib.request
asked = {"model": "m", "messages": [{"role": "user", "content": "Another program."}]}
urllib.request.urlopen(sys.argv[1] + "/v1/chat/completions", json.dumps(asked).encode()).read()
"""


@pytest.mark.slow
@third_slow("whatif")
def test_a_program_without_an_episode_asks_no_model(tmp_path: Path) -> None:
    with ModelServer(Script()) as server:
        subprocess.run(program(tmp_path, server.url), check=True)
        server.attempts.clear()
        runs = tmp_path / "runs"
        given = ("whatif", runs, only_id(runs), "--at", 1, *RIGHT_AMOUNT, "-n", 1)
        other = [sys.executable, "-c", OTHER_PROGRAM, server.url]
        ended = trajrec_command(*given, "--", *other)
        assert ended.returncode == 4, ended.stderr
        assert not server.attempts
    assert "before it begins an episode" in ended.stdout + ended.stderr


@pytest.mark.slow
@third_slow("whatif")
def test_wrong_use_and_refusals_have_their_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ModelServer(Script()) as server:
        command = program(tmp_path, server.url)
        subprocess.run(command, check=True)
        runs = tmp_path / "runs"
        own = only_id(runs)
        for arguments, status, said in (
            ([], 2, "name the step: --at STEP"),
            (["--at", 9], 2, "has the steps 0 to 2"),
            (["--at", 1, "--prompt", tmp_path / "agent.py", "--model", "m"], 2, "one change at a"),
            (["--at", 2, *RIGHT_AMOUNT], 4, "step 2 has no call"),
        ):
            words = ["whatif", runs, own, *arguments, "--", *command]
            assert main([str(word) for word in words]) == status
            assert said in capsys.readouterr().err
        other = [*command[:-1], "http://127.0.0.1:9"]
        ended = trajrec_command("whatif", runs, own, "--at", 1, "-n", 1, "--", *other)
        # Controls ask nothing; the live runs cannot reach the server, and have no verdict.
        assert ended.returncode == 0
        assert "unknown: an arm has no run with a verdict" in ended.stdout
        failing = [sys.executable, "-c", "raise SystemExit('I am broken')"]
        ended = trajrec_command("whatif", runs, own, "--at", 1, "--", *failing)
        assert ended.returncode == 4
        assert "began no episode" in ended.stdout
        assert "I am broken" in ended.stdout
        assert main(["whatif", str(runs), own, "--at", "1", "--dry-run", "-n", "4"]) == 0
        assert capsys.readouterr().out.startswith("8 runs and 2 controls")


def test_all_experiments_of_a_corpus_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    support = Path(__file__).parents[1] / "sample_trajectories" / "support"
    assert main(["whatif", str(support), "--list", "--json"]) == 0
    listed = capsys.readouterr().out
    with trajrec.open(support) as corpus:
        parents = corpus.sql("SELECT DISTINCT parent_id FROM forks").fetchall()
    own = []
    for (parent,) in parents:
        assert main(["whatif", str(support), parent, "--list", "--json"]) == 0
        own.append(capsys.readouterr().out)
    assert sorted(listed.splitlines()) == sorted("".join(own).splitlines())
    assert {json.loads(line)["episode_id"] for line in listed.splitlines()} <= {
        p for (p,) in parents
    }
    assert main(["whatif", str(support), "--at", "1"]) == 2
    assert "name the episode" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["whatif", "--at", "1", "--", "python", "agent.py"], "name the episode"),
        (["rerun", "--", "python", "agent.py"], "required: EPISODE"),
        (["capture", "npm", "--", "--fast"], "'npm' must come after --, with the COMMAND\n"),
        (["whatif", "3f2a", "--dry-run", "all", "--", "x"], "; --dry-run takes no value"),
        (["rerun", "3f2a", "--watch", "a.db", "--", "x"], "; --watch is no option"),
    ],
)
def test_words_after_two_dashes_are_the_command_alone(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(__file__).parents[1] / "sample_trajectories" / "support"
    name, *others = arguments
    status = 0
    try:
        status = main([name, str(folder), *others])
    except SystemExit as exc:
        status = int(exc.code or 0)
    assert (status, said in capsys.readouterr().err) == (2, True)


SUCCESS = """
def refunded(folder):
    return (folder / "refunds.txt").read_text().endswith("5400\\n")
"""


@pytest.mark.slow
@third_slow("whatif")
@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_node_program_is_run_from_its_beginning_and_live_from_the_step(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    ledger.mkdir()
    (tmp_path / "judges.py").write_text(SUCCESS)
    runs = tmp_path / "runs"
    command = ["node", TESTS / "command_agents" / "refund.mjs", ledger]
    with ModelServer(Script()) as server:
        bases = ("--openai-base", f"{server.url}/v1")
        recorded = trajrec_command(
            "capture", runs, "--task", "t1", "--watch", ledger, *bases, "--", *command
        )
        assert recorded.returncode == 0, recorded.stderr
        server.attempts.clear()
        with trajrec.open(runs) as corpus:
            episode = corpus.episode(only_id(runs))
            (step,) = [a.start.step for a in episode.transcript.attempts if a.tool == "refund"]
        (ledger / "refunds.txt").write_text("mine\n")
        given = ["whatif", runs, episode.id, "--at", step, *RIGHT_AMOUNT, "-n", 2, *bases]
        success = ["--success", "judges:refunded", "--json"]
        path = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
        refused = trajrec_command(*given, *success, "--", *command, **path)
        assert refused.returncode == 4
        assert "give the same paths" in refused.stderr
        refused = trajrec_command(*given, *success, "--watch", ledger, "--", *command, **path)
        assert "allow it by --run-tools all" in refused.stderr
        leave = ["--watch", ledger, "--run-tools", "all"]
        ended = trajrec_command(*given, *success, *leave, "--", *command, **path)
        assert ended.returncode == 0, ended.stderr + ended.stdout
        result = json.loads(ended.stdout)
        assert (result["unchanged"]["lost"], result["changed"]["won"]) == (2, 2), result
        assert result["controls"] == {"equal": 2, "of": 2}
        # As it was found, and the model was asked after the step alone.
        assert (ledger / "refunds.txt").read_text() == "mine\n"
        assert {len(json.loads(a.body)["messages"]) for a in server.attempts} == {6}


@pytest.mark.slow
@third_slow("whatif")
def test_runs_at_the_same_time_give_the_same_result(tmp_path: Path) -> None:
    with ModelServer(Script()) as server:
        command = program(tmp_path, server.url)
        subprocess.run(command, check=True)
        runs = tmp_path / "runs"
        given = ("whatif", runs, only_id(runs), "--at", 1, *RIGHT_AMOUNT, "-n", 2, "--json")
        results = []
        for jobs in (1, 4):
            ended = trajrec_command(*given, "--jobs", jobs, "--", *command)
            assert ended.returncode == 0, ended.stderr
            result = json.loads(ended.stdout)
            told = [
                (run["arm"], run["number"], run["status"], run["won"]) for run in result["runs"]
            ]
            results.append((told, result["difference"], result["controls"]))
        assert results[0] == results[1]
        assert results[0][2] == {"equal": 2, "of": 2}


STORED = """
import sys
from pathlib import Path
import trajrec
with trajrec.episode(sys.argv[1], task="t", watch=Path(sys.argv[2])) as ep:
    ep.tool(lambda: None, name="look", access="read")()
"""


@pytest.mark.slow
def test_runs_at_the_same_time_share_no_folder(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    command = [sys.executable, "-c", STORED, tmp_path / "runs", tmp_path / "shop"]
    subprocess.run(command, check=True)
    own = only_id(tmp_path / "runs")
    given = ("whatif", tmp_path / "runs", own, "--at", 0, "--jobs", 2, "--", *command)
    ended = trajrec_command(*given)
    assert ended.returncode == 4
    assert "runs at the same time would share folder" in ended.stderr


HANGING = """
import subprocess, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from whatif_agents import RIGHT, Support
agent = Support(sys.argv[3], Path(sys.argv[2]))
agent()
if agent.state["refunds"] == [RIGHT]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (Path(sys.argv[2]).parent / f"{child.pid}.child").touch()
    time.sleep(600)
"""


def is_alive(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")
def test_run_whose_time_is_over_is_killed_with_its_children(tmp_path: Path) -> None:
    told = tmp_path / "child"
    command = ["sh", "-c", f"sleep 600 & echo $! > {told}.part; mv {told}.part {told}; wait"]
    options = ChildOptions(corpus="", episode="", plan={}, folder="")
    plan = Plan(experiment="e", at=1, call=0, change=Change(), arm="changed", number=3)
    for timeout_s in (0.2, 2, 20):  # a busy machine starts it late
        run = run_command(command, options, plan, os.environ, timeout_s=timeout_s)
        if told.exists():
            break
    assert (run.status, run.arm, run.number, run.won) == ("timeout", "changed", 3, None)
    assert run.reason == f"took longer than {timeout_s:g} s (--run-seconds), and was killed"
    child = int(told.read_text())
    deadline = time.monotonic() + 20
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_alive(child)


@pytest.mark.slow
def test_run_whose_time_is_over_is_counted_without_verdict(tmp_path: Path) -> None:
    with ModelServer(Script()) as server:
        agent = Support(server.url, tmp_path / "runs")
        episode = record_failure(agent)
        experiment = plan_experiment(
            episode,
            at=1,
            call=None,
            change=Arguments({"cents": RIGHT}),
            n=2,
            success="",
            folder=None,
            accept=False,
        )
        options = RunOptions(folder=experiment.folder)

        def run_one(plan: Plan) -> RunResult:
            stand_in = StandIn(episode, plan, experiment.attempt, options)
            run = run_function(agent, stand_in)
            if plan.arm == "changed" and plan.number == 1:
                # It was killed behind its check, and could not name its fork.
                return dataclasses.replace(run, status="timeout", episode_id="", reason="too long")
            return run

        result = experiment.run(run_one)
    assert result.changed == Share(1, 0, 1)
    assert "1 run without a verdict: too long" in str(result)
    assert [run["status"] for run in result.to_json()["runs"]].count("timeout") == 1
    with trajrec.open(tmp_path / "runs") as corpus:
        rows = corpus.sql(
            "SELECT value, outcome, metadata->'$.what_if.number' "
            "FROM labels JOIN forks USING (episode_id)"
        ).fetchall()
        listed = corpus.sql(LISTED, params={"episode": episode.id}).fetchall()
    assert rows == [('"too long"', "success", "1")]
    assert listed[0][6:] == (0, 2, 1, 2, 2, 2)


@pytest.mark.slow
@third_slow("whatif")
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")
def test_interrupt_keeps_the_runs_and_kills_those_that_go_on(tmp_path: Path) -> None:
    path = tmp_path / "agent.py"
    path.write_text(HANGING)
    runs = tmp_path / "runs"
    with ModelServer(Script()) as server:
        command = [sys.executable, path, TESTS, runs, server.url]
        subprocess.run(command, check=True)
        given = ("whatif", runs, only_id(runs), "--at", 1, *RIGHT_AMOUNT, "-n", 1, "--jobs", 2)
        words = [sys.executable, "-m", "trajrec", *map(str, given), "--", *map(str, command)]
        # What a shell starts in the background ignores SIGINT, and so would this process.
        heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, preexec_fn=heed) as process:
            deadline = time.monotonic() + 60
            while not list(tmp_path.glob("*.child")) and time.monotonic() < deadline:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "ended early: interrupted" in out
    (child,) = [int(file.stem) for file in tmp_path.glob("*.child")]
    assert not is_alive(child)


TELLER = """
import json, os, sys
from trajrec.replay.whatif.child import PLAN_VARIABLE, _read_options
from pathlib import Path
options = _read_options(Path(os.environ[PLAN_VARIABLE]))
arguments = options.plan["change"]["arguments"]
Path(options.result).write_text(json.dumps({
    "arm": "changed", "number": 0, "status": "stopped", "reason": repr(arguments) + "\\ud800"
}))
"""


@pytest.mark.slow
def test_odd_values_of_a_change_reach_the_run() -> None:
    given = {"text": "a\ud800b", "amount": float("nan"), "large": 2**70, "limit": float("inf")}
    plan = Plan(experiment="e", at=1, call=0, change=Arguments(given), arm="changed", number=0)
    options = ChildOptions(corpus="", episode="", plan={}, folder="")
    run = run_command([sys.executable, "-c", TELLER], options, plan, os.environ)
    assert run.reason == f"{given!r}\ud800"
