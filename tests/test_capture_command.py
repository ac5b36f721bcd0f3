"""`trajrec capture` and `trajrec rerun` with agents in other processes and other languages."""

from __future__ import annotations

import http
import json
import os
import pty
import shutil
import signal
import sqlite3
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import only
from model_server import Attempt, ModelServer, Turn
from taken_signals import taken
from tiers import third_slow

import trajrec
from trajrec.cli.main import main
from trajrec.cli.rerun import warn_of_others
from trajrec.proxies.command import Command, RunningCommands

pytestmark = pytest.mark.slow

AGENTS = Path(__file__).parent / "command_agents"
NO_ADDRESS = "http://127.0.0.1:9"

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def trajrec_command(*words: str | Path, url: str = NO_ADDRESS, **options: Any) -> Any:
    """Run a command line in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if "PROXY" not in name.upper()}
    environment |= {
        "OPENAI_BASE_URL": f"{url}/v1",
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "sk-ant-api03-Zx81kPq0aTeVn4Rw7YbM2c",
        **options.pop("env", {}),
    }
    return subprocess.run(
        [sys.executable, "-m", "trajrec", *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


def recorded_bodies(folder: Path) -> list[bytes | None]:
    with trajrec.open(folder) as corpus:
        return [
            exchange.request_body
            for episode in corpus.episodes()
            for exchange in episode.transcript.exchanges
        ]


def check_rerun(folder: Path, ended: Any, attempts: list[Attempt], command: list[Any]) -> None:
    """Check a recording against the server's log, and its rerun without the server."""
    assert ended.returncode == 0, ended.stderr
    assert attempts
    assert sorted(recorded_bodies(folder)) == sorted(attempt.body for attempt in attempts)
    exchanges = only(folder).transcript.exchanges
    by_body = {exchange.request_body: exchange for exchange in exchanges}
    for attempt in attempts:
        assert attempt.status in {e.status for e in exchanges if e.request_body == attempt.body}
        assert by_body[attempt.body].response_body
    again = trajrec_command("rerun", folder, only(folder).id, "--run-tools", "all", "--", *command)
    assert again.returncode == 0, again.stderr
    assert again.stdout == ended.stdout
    n = len(attempts)
    assert f"{n} requests answered" in again.stderr
    assert f"{n} of them the same byte for byte; no difference" in again.stderr
    stored = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"Zx81kPq0aTeVn4Rw7YbM2c" not in stored


@third_slow("agents")
@needs_node
def test_a_node_agent_is_recorded_and_rerun(tmp_path: Path) -> None:
    command = ["node", AGENTS / "agent.mjs"]
    with ModelServer() as server:
        ended = trajrec_command("capture", tmp_path, "--", *command, url=server.url)
        attempts = list(server.attempts)
    assert ended.stderr.splitlines()[-1].startswith(
        "trajrec: 1 episode, 2 model calls (2 HTTP requests) recorded"
    )
    check_rerun(tmp_path, ended, attempts, command)
    changed = trajrec_command(
        "rerun",
        tmp_path,
        only(tmp_path).id,
        "--run-tools",
        "all",
        "--",
        *command,
        "Where is my lamp?",
    )
    assert changed.returncode == 1
    assert 'recorded "Where is order O1001?", now "Where is my lamp?"' in changed.stderr
    assert changed.stdout == ""
    kept = trajrec_command("rerun", tmp_path, only(tmp_path).id, "--", *command)
    assert kept.returncode == 4
    assert "called the tools get_order" in kept.stderr


@third_slow("agents")
@needs_curl
def test_a_shell_agent_is_recorded_and_rerun(tmp_path: Path) -> None:
    command = ["sh", AGENTS / "agent.sh"]
    plan = lambda _request, number: Turn(f"the answer {number}")  # noqa: E731
    with ModelServer(plan) as server:
        ended = trajrec_command(
            "capture", tmp_path, "--one-episode", "--", *command, url=server.url
        )
        attempts = list(server.attempts)
    assert len(attempts) == 2
    check_rerun(tmp_path, ended, attempts, command)


@third_slow("agents")
def test_a_python_agent_with_its_own_address_is_recorded(tmp_path: Path) -> None:
    plan = lambda _request, number: Turn(f"answer {number}")  # noqa: E731
    with ModelServer(plan) as server:
        command = [sys.executable, AGENTS / "hard_coded.py", server.url]
        ended = trajrec_command("capture", tmp_path, "--one-episode", "--", *command)
        attempts = list(server.attempts)
    assert len(attempts) == 3
    check_rerun(tmp_path, ended, attempts, command)


CLIENT = """
import os, sys, httpx
from openai import OpenAI
client = OpenAI(api_key="none", max_retries=2)
for k in range(int(sys.argv[1])):
    answer = client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": f"question {k}"}]
    )
    print(answer.choices[0].message.content)
"""


@third_slow("agents")
def test_a_call_through_proxy_and_tap_is_recorded_once(tmp_path: Path) -> None:
    plan = [Turn(status=500, headers={"retry-after-ms": "1"}), Turn("one"), Turn("two")]
    command = [sys.executable, "-c", CLIENT, "2"]
    with ModelServer(plan) as server:
        ended = trajrec_command(
            "capture", tmp_path, "--one-episode", "--", *command, url=server.url
        )
        attempts = list(server.attempts)
    assert len(attempts) == 3
    assert "1 episode, 2 model calls (3 HTTP requests) recorded" in ended.stderr
    check_rerun(tmp_path, ended, attempts, command)


@third_slow("agents")
def test_an_agent_that_fails_at_a_miss_is_ended_at_once(tmp_path: Path) -> None:
    with ModelServer([Turn("one"), Turn("two")]) as server:
        trajrec_command(
            "capture",
            tmp_path,
            "--one-episode",
            "--",
            sys.executable,
            "-c",
            CLIENT,
            "2",
            url=server.url,
        )
    more = CLIENT + "\nimport time; time.sleep(60)"
    began = time.monotonic()
    ended = trajrec_command(
        "rerun", tmp_path, only(tmp_path).id, "--", sys.executable, "-c", more, "3"
    )
    assert ended.returncode == 1
    assert "the recording has no more of them" in ended.stderr
    assert time.monotonic() - began < 30
    fewer = trajrec_command(
        "rerun", tmp_path, only(tmp_path).id, "--", sys.executable, "-c", CLIENT, "1"
    )
    assert fewer.returncode == 1
    assert "the agent ended before" in fewer.stderr


@third_slow("agents")
def test_a_rerun_goes_on_live_as_a_fork(tmp_path: Path) -> None:
    with ModelServer([Turn("one")]) as server:
        trajrec_command(
            "capture", tmp_path, "--", sys.executable, "-c", CLIENT, "1", url=server.url
        )
        episode = only(tmp_path).id
    with ModelServer([Turn("live two"), Turn("live three")]) as server:
        words = ["--on-miss", "live", "--", sys.executable, "-c", CLIENT, "3"]
        ended = trajrec_command("rerun", tmp_path, episode, *words, url=server.url)
        assert len(server.attempts) == 2
    assert ended.stdout.split("\n")[:3] == ["one", "live two", "live three"]
    assert ended.returncode == 1
    assert "may be missing" not in ended.stderr
    with trajrec.open(tmp_path) as corpus:
        ((parent, fork, unseen),) = corpus.sql(
            "SELECT parent_id, episode_id, unseen FROM all_episodes WHERE kind = 'fork'"
        ).fetchall()
        assert parent == episode
        # The proxy itself looks the server up, for requests that it records.
        assert unseen is None
        assert len(corpus.episode(fork).transcript.model_calls) == 2
    shown = trajrec_command("show", tmp_path, fork).stdout
    assert "live three" in shown
    # Nothing was watched.
    assert "watched state" not in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--watch", "notes.txt"], "--watch notes.txt: watch must be the path of a folder or of a"),
        (["--metadata", "run=1.5"], "--metadata: metadata['run'] must be a text or a whole number"),
        (
            ["--interface", "notes.txt"],
            "--interface notes.txt: must be an object of fields, got [1]",
        ),
    ],
)
def test_options_that_no_episode_takes_are_refused_first(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("[1]")
    assert main(["capture", "runs", *words, "--", "touch", "has-run"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("has-run").exists()
    if words[0] == "--watch":
        assert main(["mcp", "runs", *words, "--", "touch", "has-run"]) == 2
        assert message in capsys.readouterr().err


@third_slow("agents")
def test_watched_state_is_recorded_before_and_after(tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    folder.mkdir()
    (folder / "a.txt").write_text("before")
    database = tmp_path / "shop.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, state TEXT)")
    connection.close()
    program = (
        "import sqlite3, sys, pathlib\n"
        "pathlib.Path(sys.argv[1], 'a.txt').write_text('after')\n"
        "c = sqlite3.connect(sys.argv[2]); c.execute(\"INSERT INTO orders VALUES (1, 'paid')\")\n"
        "c.commit()\n" + CLIENT.replace("int(sys.argv[1])", "1")
    )
    runs = tmp_path / "runs"
    with ModelServer([Turn("done")]) as server:
        ended = trajrec_command(
            "capture",
            runs,
            "--task",
            "fix-1",
            "--metadata",
            "trial=3",
            "--watch",
            folder,
            "--watch",
            database,
            "--",
            sys.executable,
            "-c",
            program,
            folder,
            database,
            url=server.url,
        )
    assert ended.returncode == 0, ended.stderr
    assert "1 episode, 1 model call (1 HTTP request)" in ended.stderr
    (folder / "a.txt").write_text("before")
    again = trajrec_command(
        *("rerun", runs, only(runs).id, "--", sys.executable, "-c"),
        *(program.replace("INSERT", "INSERT OR REPLACE"), folder, database),
    )
    assert again.returncode == 0, again.stderr
    with trajrec.open(runs) as corpus:
        changes = corpus.sql("SELECT part, path, before, after FROM state_changes").fetchall()
        ((task, trial),) = corpus.sql("SELECT task, metadata->>'trial' FROM episodes").fetchall()
    assert (task, trial) == ("fix-1", "3")
    assert any(part == str(folder) and "a.txt" in path for part, path, _, _ in changes), changes
    assert any(part == str(database) for part, *_ in changes), changes


@third_slow("agents")
def test_exit_status_and_signals_pass_through(tmp_path: Path) -> None:
    python = [sys.executable, "-c"]
    assert trajrec_command("capture", tmp_path, "--", *python, "exit(7)").returncode == 7
    killed = "import os; os.kill(os.getpid(), 9)"
    assert trajrec_command("capture", tmp_path, "--", *python, killed).returncode == 137
    missing = trajrec_command("capture", tmp_path, "--", "no-such-program-anywhere")
    assert missing.returncode == 127
    assert "no-such-program-anywhere: No such file" in missing.stderr
    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(21))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    words = [sys.executable, "-m", "trajrec", "capture", str(tmp_path), "--", *python, program]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=-3)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 21
    process.stdout.close()


def test_a_signal_reaches_a_command_that_is_just_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Signalled(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(subprocess, "Popen", Signalled)
    words = [sys.executable, "-c", "import time; time.sleep(60)"]
    started_at = time.monotonic()
    assert Command(words, os.environ).run() == 128 + signal.SIGTERM
    assert time.monotonic() - started_at < 30


def test_an_interrupt_at_its_start_leaves_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    words = [sys.executable, "-c", "import time; time.sleep(60)"]
    with taken(signal.SIGINT), pytest.raises(KeyboardInterrupt):
        RunningCommands().run(Command(words, os.environ, in_background=True))
    assert [process.poll() for process in started] == [-signal.SIGTERM]


def test_a_command_that_begins_after_the_stop_does_not_run() -> None:
    running = RunningCommands()
    running.stop()
    words = [sys.executable, "-c", "import time; time.sleep(60)"]
    started_at = time.monotonic()
    assert running.run(Command(words, os.environ, in_background=True)) == 128 + signal.SIGTERM
    assert time.monotonic() - started_at < 30


def test_a_command_ignores_the_signals_that_its_caller_ignores(tmp_path: Path) -> None:
    program = (
        "import signal, sys, time\n"
        "print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, flush=True)\n"
        "sys.stdin.read()\n"
        "sys.exit(21)\n"
    )
    words = ["trajrec", "capture", str(tmp_path), "--", sys.executable, "-c", program]
    ignoring = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", sys.executable, "-m", *words]
    with subprocess.Popen(
        ignoring, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        process.send_signal(signal.SIGHUP)
        process.stdin.close()
        assert process.wait() == 21


def test_a_command_on_a_terminal_reads_it_and_gets_its_interrupt(tmp_path: Path) -> None:
    program = (
        "import signal, sys, time\n"
        "print('read', input(), flush=True)\n"
        "n = 0\n"
        "def handle(*_):\n"
        "    global n\n"
        "    n += 1\n"
        "signal.signal(signal.SIGINT, handle)\n"
        "print('ready', flush=True)\n"
        "time.sleep(1.5)\n"
        "time.sleep(0.5)\n"
        "sys.exit(20 + n)\n"
    )
    words = [sys.executable, "-m", "trajrec", "capture", str(tmp_path), "--", sys.executable]
    child, terminal = pty.fork()
    if child == 0:
        os.execv(words[0], [*words, "-c", program])
    seen = b""

    def read_until(text: bytes) -> None:
        nonlocal seen
        while text not in seen:
            seen += os.read(terminal, 1000)

    os.write(terminal, b"hello\n")
    read_until(b"ready")
    os.write(terminal, b"\x03")
    read_until(b"no model call was recorded")
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    assert b"read hello" in seen
    # Once: the terminal sends it to both, and it is not passed on again.
    assert os.waitstatus_to_exitcode(status) == 21


def test_a_command_without_a_model_call_is_said_to_have_none(tmp_path: Path) -> None:
    ended = trajrec_command("capture", tmp_path, "--", "true")
    assert ended.returncode == 0
    assert "no model call was recorded" in ended.stderr.splitlines()[-1]


def test_requests_that_are_refused_are_told_with_the_reason(tmp_path: Path) -> None:
    program = (
        "import os, socket, urllib.parse\n"
        "parts = urllib.parse.urlsplit(os.environ['OPENAI_BASE_URL'])\n"
        "for _ in range(2):\n"
        "    with socket.create_connection((parts.hostname, parts.port)) as connection:\n"
        "        line = f'POST {parts.path}/chat/completions HTTP/1.0'\n"
        "        connection.sendall(f'{line}\\r\\nContent-Length: 2\\r\\n\\r\\n{{}}'.encode())\n"
        "        print(connection.recv(1000)[:12])\n"
    )
    ended = trajrec_command("capture", tmp_path, "--", sys.executable, "-c", program)
    assert ended.stdout == "b'HTTP/1.1 505'\n" * 2
    assert "2 requests refused; the first: only HTTP/1.1 is spoken here" in ended.stderr
    # It did send some.
    assert ended.stderr.splitlines()[-1] == "trajrec: no model call was recorded"


def test_an_episode_without_a_model_call_is_told(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    runs = tmp_path / "runs"
    ended = trajrec_command("capture", runs, "--watch", tmp_path / "repo", "--", "true")
    *_, reason, last = ended.stderr.splitlines()
    assert "no model call was recorded" in reason
    assert last == f"trajrec: 1 episode recorded; list them: trajrec ls {runs}"


@third_slow("agents")
def test_requests_that_are_no_model_calls_are_told(tmp_path: Path) -> None:
    program = (
        "import os, urllib.request\n"
        "for path in ('/files', '/chat/completions'):\n"
        '    data = b\'{"messages": [{"role": "user", "content": "a"}]}\'\n'
        "    request = urllib.request.Request(os.environ['OPENAI_BASE_URL'] + path, data)\n"
        "    try: print(urllib.request.urlopen(request).status)\n"
        "    except Exception as error: print(error)\n"
    )
    command = [sys.executable, "-c", program]
    plan = lambda _request, number: Turn("fine")  # noqa: E731
    with ModelServer(plan) as server:
        ended = trajrec_command("capture", tmp_path, "--", *command, url=server.url)
        first = f"POST {server.url}/v1/files"
    assert ended.stdout == "200\n200\n"
    assert f"1 request to no model passed unrecorded; the first: {first}" in (ended.stderr)
    again = trajrec_command("rerun", tmp_path, only(tmp_path).id, "--", *command)
    # Newer versions of Python name the status otherwise.
    assert again.stdout == f"HTTP Error 422: {http.HTTPStatus(422).phrase}\n200\n"
    assert "1 request to no model refused" in again.stderr


def test_a_hidden_sitecustomize_still_runs(tmp_path: Path) -> None:
    hidden = tmp_path / "site"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import builtins\nbuiltins.HIDDEN = 'ran'\n")
    program = (
        "import sys, sitecustomize; print(HIDDEN, sitecustomize.__file__); "
        "print([p for p in sys.path if 'python_children' in p], 'msgspec' in sys.modules)"
    )
    words = ["capture", tmp_path / "runs", "--", sys.executable, "-c", program]
    path = os.pathsep.join([str(hidden), os.environ.get("PYTHONPATH", "")])
    ended = trajrec_command(*words, env={"PYTHONPATH": path})
    assert ended.stdout.splitlines() == [
        f"ran {hidden / 'sitecustomize.py'}",
        # Out of the way of the program, which does not load the recorder either.
        "[] False",
    ]


def test_a_program_without_trajrec_is_tapped_as_well(tmp_path: Path) -> None:
    # As in an environment of its own: nothing but the folder of the taps is on its path.
    plan = lambda _request, number: Turn(f"answer {number}")  # noqa: E731
    link = tmp_path / "installed" / "trajrec"
    link.parent.mkdir()
    link.symlink_to(Path(trajrec.__file__).parent)
    with ModelServer(plan) as server:
        program = "import os, sys; sys.path[:] = [p for p in sys.path if p]; import runpy; "
        program += f"sys.argv = ['a', {server.url!r}]; "
        program += f"runpy.run_path({str(AGENTS / 'hard_coded.py')!r})"
        command = ["env", "-u", "NOTHING", sys.executable, "-c", program]
        ended = trajrec_command("capture", tmp_path / "runs", "--one-episode", "--", *command)
        attempts = list(server.attempts)
    assert "3 model calls" in ended.stderr, ended.stderr
    assert len(attempts) == 3


def test_a_test_that_would_be_refused_is_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with trajrec.episode(tmp_path / "runs") as ep:
        ep.tool(lambda: 1, name="look")()
    trajrec.close_logs()
    file = tmp_path / "test_agent.py"
    words = ["rerun", str(tmp_path / "runs"), ep.id, "--save-test", str(file)]
    assert main([*words, "--", "true"]) == 4
    assert "called the tools look" in capsys.readouterr().err
    assert not file.exists()
    assert main([*words, "--run-tools", "all", "--", "true"]) == 0
    assert "'--run-tools', 'all'" in file.read_text()


@third_slow("agents")
@pytest.mark.parametrize("kind", ["command", "function"])
def test_an_episode_becomes_a_test(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_agent.py").write_text(
        "import sys\nimport httpx\n"
        "def ask(text='question'):\n"
        "    body = {'model': 'm', 'messages': [{'role': 'user', 'content': text}]}\n"
        "    return httpx.post(URL, json=body).json()\n"
        "URL = open(__file__.replace('my_agent.py', 'url')).read()\n"
        "if __name__ == '__main__':\n    ask()\n"
    )
    program = str(tmp_path / "my_agent.py")
    runs = tmp_path / "runs"
    with ModelServer([Turn("done")]) as server:
        (tmp_path / "url").write_text(f"{server.url}/v1/chat/completions")
        trajrec_command("capture", runs, "--", sys.executable, program)
    command = [sys.executable, "my_agent.py"] if kind == "command" else ["my_agent:ask"]
    file = tmp_path / "tests" / "test_agent.py"
    file.parent.mkdir()
    words = ["rerun", runs, only(runs).id, "--save-test", file, "--", *command]
    monkeypatch.chdir(tmp_path)
    refused = trajrec_command(*words[:3], "--on-miss", "live", *words[3:])
    assert (refused.returncode, "leave out --on-miss" in refused.stderr) == (2, True)
    assert trajrec_command(*words).returncode == 0
    assert trajrec_command(*words).returncode == 2
    monkeypatch.chdir(file.parent)
    pytest_words = [sys.executable, "-m", "pytest", "-q", "-p", "trajrec.pytest_plugin", str(file)]
    settings = {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        # The plugins of other packages take seconds to import.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    run = {"env": {**os.environ, **settings}, "cwd": file.parent, "check": False}
    assert subprocess.run(pytest_words, **run).returncode == 0
    agent = tmp_path / "my_agent.py"
    agent.write_text(agent.read_text().replace("'question'", "'another question'"))
    assert subprocess.run(pytest_words, **run, stdout=subprocess.DEVNULL).returncode == 1


def test_rules_of_a_file_hold_in_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps({"card": r"\b\d{4} \d{4} \d{4} \d{4}\b"}))
    monkeypatch.setenv("TRAJREC_REDACTION_RULES", str(rules))
    program = CLIENT.replace("question", "My card is 4111 1111 1111 1111, question")
    command = [sys.executable, "-c", program, "1"]
    runs = tmp_path / "runs"
    with ModelServer([Turn("done")]) as server:
        ended = trajrec_command("capture", runs, "--", *command, url=server.url)
        sent = server.attempts[0].body
    assert b"4111 1111" in sent
    assert ended.returncode == 0, ended.stderr
    ((text,),) = trajrec.open(runs).sql("SELECT text FROM messages WHERE role = 'user'").fetchall()
    assert "My card is [redacted card " in text
    ended = trajrec_command("rerun", runs, only(runs).id, "--", *command)
    assert (ended.returncode, "no difference" in ended.stderr) == (0, True), ended.stderr
    rules.write_text("[]")
    ended = trajrec_command("capture", runs, "--", *command)
    assert (ended.returncode, "must be a JSON object" in ended.stderr) == (2, True), ended.stderr


@pytest.mark.parametrize("on_miss", ["stop", "report"])
def test_program_that_records_itself_is_not_recorded_by_its_rerun(
    tmp_path: Path, on_miss: str
) -> None:
    runs = tmp_path / "runs"
    program = f"import trajrec\nwith trajrec.episode({str(runs)!r}):\n    exec({CLIENT!r})"
    command = [sys.executable, "-c", program, "1"]
    with ModelServer([Turn("done")]) as server:
        environment = {**os.environ, "OPENAI_BASE_URL": f"{server.url}/v1"}
        subprocess.run(command, env=environment, check=True)
    recorded = only(runs)
    for words, status in ((command, 0), ([*command[:-1], "2"], 1)):
        ended = trajrec_command("rerun", runs, recorded.id, "--on-miss", on_miss, "--", *words)
        assert ended.returncode == status, ended.stderr
    with trajrec.open(runs) as corpus:
        assert corpus.sql("SELECT count(*) FROM all_episodes").fetchall() == [(1,)]
    assert len(list(runs.glob("*.trj*"))) == 1


@pytest.mark.parametrize(("now", "status"), [(1, 0), (3, 3), (0, 0)])
def test_rerun_of_a_command_that_failed_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: int, status: int
) -> None:
    program = f"{CLIENT}\nsys.exit(int(os.environ['MY_STATUS']))\n"
    command = [sys.executable, "-c", program, "1"]
    runs = tmp_path / "runs"
    with ModelServer([Turn("done")]) as server:
        monkeypatch.setenv("MY_STATUS", "1")
        ended = trajrec_command("capture", runs, "--one-episode", "--", *command, url=server.url)
    assert (ended.returncode, "1 model call" in ended.stderr) == (1, True)
    monkeypatch.setenv("MY_STATUS", str(now))
    again = trajrec_command("rerun", runs, only(runs).id, "--", *command)
    assert "no difference" in again.stderr
    assert again.returncode == status
    expected = {
        1: "the command ended with exit status 1, as when it was recorded",
        3: "the command ended with exit status 3, and with 1 when it was recorded",
        0: "the command ended with exit status 0, and with 1 when it was recorded",
    }
    assert expected[now] in again.stderr


def test_wrong_options_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capture", str(tmp_path), "--watch", str(tmp_path / "no"), "--", "true"]) == 2
    assert "there is no such file or folder" in capsys.readouterr().err
    assert main(["capture", str(tmp_path)]) == 2
    assert "trajrec capture runs -- node my_agent.js" in capsys.readouterr().err
    assert main(["capture", str(tmp_path), "--openai-base", "ftp://a", "--", "true"]) == 2
    with pytest.raises(SystemExit):
        main(["capture", str(tmp_path), "--metadata", "trial", "--", "true"])


def test_a_folder_that_cannot_be_made_ends_the_capture_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "runs"):
        ended = trajrec_command("capture", folder, "--", "touch", tmp_path / "done")
        assert ended.returncode == 3
        assert f"{folder}: cannot make the folder of logs" in ended.stderr
    assert not (tmp_path / "done").exists()


def test_a_log_that_fails_later_leaves_the_exit_status(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    program = f"import os\nos.rmdir({str(runs)!r})\nopen({str(runs)!r}, 'w').close()\n{CLIENT}"
    with ModelServer([Turn("one")]) as server:
        words = [sys.executable, "-c", program, "1"]
        ended = trajrec_command("capture", runs, "--", *words, url=server.url)
    assert (ended.returncode, ended.stdout) == (0, "one\n")
    assert "1 request to a model passed unrecorded" in ended.stderr
    assert ended.stderr.splitlines()[-1] == "trajrec: no model call was recorded"


def test_a_watched_folder_must_not_hold_the_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("repo").mkdir()
    for runs, watched in (("runs", "."), ("repo/a/runs", "repo"), ("repo", "repo")):
        assert main(["capture", runs, "--watch", watched, "--", "touch", "done"]) == 2
        assert main(["mcp", runs, "--watch", watched, "--", "touch", "done"]) == 2
        assert f"the folder of logs {runs} lies in it" in capsys.readouterr().err
    assert not Path("done").exists()
    assert main(["capture", "repo2", "--watch", "repo", "--", "true"]) == 0
    # An experiment puts the watched folder back, which would remove its own runs.
    words = ["whatif", "repo2", only(Path("repo2")).id, "--at", "0", "-o", "repo/out"]
    assert main([*words, "--watch", "repo", "--", "true"]) == 2
    assert "the folder of logs repo/out lies in it" in capsys.readouterr().err


def test_an_address_with_a_password_is_refused_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for url in ("http://bob:hunter2@localhost/v1", "http://localhost/v1?key=hunter2"):
        assert main(["capture", str(tmp_path), "--openai-base", url, "--", "true"]) == 2
        told = capsys.readouterr().err
        assert "--openai-base must be an address" in told
        assert "without a user, a password or a query" in told
        assert "hunter2" not in told


def test_only_conversations_of_the_same_command_are_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own: dict[int, str] = {}
    for n_conversations in (2, 1):
        for k in range(n_conversations):
            # The user's own name of the run, which both commands have.
            metadata = {"run": "a", "command": ["sh", "agent.sh"]}
            with trajrec.episode(tmp_path, task=f"t{k}", metadata=metadata) as ep:
                own[n_conversations] = ep.id
        trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        warn_of_others(corpus, corpus.episode(own[1]))
        assert capsys.readouterr().err == ""
        warn_of_others(corpus, corpus.episode(own[2]))
        assert "the recorded command had 1 more conversation, whose" in capsys.readouterr().err


@third_slow("agents")
def test_a_rerun_reports_a_damaged_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CLIENT, "1"]
    with ModelServer([Turn("one")]) as server:
        trajrec_command("capture", tmp_path, "--", *command, url=server.url)
    (tmp_path / "foreign.trj").write_bytes(b"no log")
    ended = trajrec_command("rerun", tmp_path, only(tmp_path).id, "--", *command)
    assert ended.returncode == 3
    assert "foreign.trj: at byte 0: not a trajrec log" in ended.stderr


@third_slow("agents")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_server_with_tls_is_checked_and_recorded(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    certificate = tmp_path / "certificate.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-keyout",
            str(key),
            "-out",
            str(certificate),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    runs = tmp_path / "runs"
    with ModelServer([Turn("over TLS"), Turn("a stream of words")]) as server:
        inner = server._server
        inner.socket = context.wrap_socket(inner.socket, server_side=True)
        url = f"https://localhost:{server.port}"
        trusted = {"SSL_CERT_FILE": str(certificate)}
        command = ["sh", AGENTS / "agent.sh"]
        words = ["capture", runs, "--one-episode", "--", *command]
        ended = trajrec_command(*words, url=url, env=trusted)
        assert ended.returncode == 0, ended.stderr
        assert len(server.attempts) == 2
        assert len(recorded_bodies(runs)) == 2
        # Without the certificate, nothing is sent.
        refused = trajrec_command("capture", tmp_path / "others", "--", *command, url=url)
        assert refused.returncode != 0
        assert "CERTIFICATE_VERIFY_FAILED" in refused.stderr
        assert len(server.attempts) == 2


@third_slow("agents")
@needs_node
def test_the_sdks_of_node_are_recorded_and_rerun(tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    project = tmp_path / "project"
    project.mkdir()
    shutil.copy(AGENTS / "sdk.mjs", project)
    install = ["npm", "install", "--no-audit", "--no-fund", "openai", "@anthropic-ai/sdk"]
    try:
        subprocess.run(install, cwd=project, check=True, capture_output=True, timeout=100)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip("npm cannot install openai and @anthropic-ai/sdk")
    busy = {0: 500, 2: 429, 4: 500}

    def plan(_request: dict[str, Any], number: int) -> Turn:
        if number in busy:
            return Turn(status=busy[number], headers={"retry-after-ms": "1"})
        return Turn(f"the answer {number}")

    command = ["node", project / "sdk.mjs"]
    runs = tmp_path / "runs"
    with ModelServer(plan) as server:
        ended = trajrec_command("capture", runs, "--one-episode", "--", *command, url=server.url)
        attempts = list(server.attempts)
    assert len(attempts) == 7
    assert "4 model calls (7 HTTP requests)" in ended.stderr
    check_rerun(runs, ended, attempts, command)
