"""`trajrec capture --verifier`: what judges a command when it has ended."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import only, rows
from model_server import ModelServer, Turn

from trajrec.cli.main import main

JUDGES = """
import pathlib

def paid(folder):
    return (folder / "order.txt").read_text() == "paid"

def untouched(folder):
    return (folder / "order.txt").read_text() == "open"

def ended_well(status):
    return status == 0

def share(folder):
    return 0.5

def unsure(folder):
    return None

def broken(folder):
    raise KeyError("no such order")

name = "no function"
"""


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that commands change, beside a module of verifiers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "capture_judges", raising=False)
    Path("capture_judges.py").write_text(JUDGES)
    Path("shop").mkdir()
    Path("shop/order.txt").write_text("open")
    return tmp_path


def capture(*words: str, script: str = "printf paid > shop/order.txt") -> int:
    return main(["capture", "runs", *words, "--", "sh", "-c", script])


@pytest.mark.slow
def test_the_first_verifier_decides_the_outcome(capsys: pytest.CaptureFixture[str]) -> None:
    verifiers = ["--verifier", "capture_judges:paid", "--verifier", "capture_judges:untouched"]
    assert capture("--watch", "shop", *verifiers) == 0
    said = capsys.readouterr().err.splitlines()
    assert "trajrec: capture_judges:paid: success" in said
    assert "trajrec: capture_judges:untouched: failure" in said
    folder = Path("runs")
    assert rows(folder, "SELECT outcome, stop_reason FROM episodes") == [
        ("success", "exit status 0")
    ]
    checks = "SELECT check_id, verdict, is_primary FROM checks ORDER BY check_id"
    assert rows(folder, checks) == [
        ("capture_judges:paid", True, True),
        ("capture_judges:untouched", False, False),
    ]
    # They judged the state that the log holds.
    (check, _) = only(folder).checks
    assert check.state_digest == only(folder).transcript.state_digest


@pytest.mark.parametrize(("status", "outcome"), [(0, "success"), (3, "failure")])
def test_an_exit_status_is_judged_without_a_watched_path(status: int, outcome: str) -> None:
    ended = capture("--verifier", "capture_judges:ended_well", script=f"exit {status}")
    assert ended == status
    assert rows(Path("runs"), "SELECT outcome FROM episodes") == [(outcome,)]


@pytest.mark.parametrize(
    ("name", "score", "said"), [("share", 0.5, "score 0.5"), ("unsure", None, "no verdict")]
)
def test_a_score_or_none_decides_no_outcome(
    name: str, score: float | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert capture("--watch", "shop", "--verifier", f"capture_judges:{name}") == 0
    assert f"trajrec: capture_judges:{name}: {said}" in capsys.readouterr().err
    assert rows(Path("runs"), "SELECT outcome, fault FROM episodes") == [(None, None)]
    assert rows(Path("runs"), "SELECT verdict, score FROM checks") == [(None, score)]


def test_a_verifier_that_raises_leaves_the_outcome_unknown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert capture("--watch", "shop", "--verifier", "capture_judges:broken") == 0
    own = only(Path("runs"))
    said = capsys.readouterr().err
    assert f"capture_judges:broken: no verdict; why: trajrec show runs {own.id[:8]}" in said
    assert (own.outcome, own.fault) == (None, "verifier")
    assert main(["show", "runs", own.id[:8]]) == 0
    assert "no such order" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("paid", "--verifier must be module:function, got 'paid'"),
        ("capture_judges:gone", "--verifier capture_judges:gone: module 'capture_judges' has no"),
        ("no_such_module:paid", "--verifier no_such_module:paid: No module named 'no_such_module'"),
        ("capture_judges:name", "--verifier capture_judges:name must be callable"),
    ],
)
def test_a_wrong_verifier_is_refused_before_the_command(
    name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert capture("--watch", "shop", "--verifier", name) == 2
    assert message in capsys.readouterr().err
    assert Path("shop/order.txt").read_text() == "open"


def test_an_experiment_asks_for_the_verifier_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import os, urllib.request\n"
        "url = os.environ['OPENAI_BASE_URL'] + '/chat/completions'\n"
        'body = b\'{"model": "m", "messages": [{"role": "user", "content": "a"}]}\'\n'
        "for _ in range(2):\n"
        "    urllib.request.urlopen(urllib.request.Request(url, body)).read()\n"
    )
    judged = ["--verifier", "capture_judges:ended_well"]
    with ModelServer([Turn("yes"), Turn("no")]) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        assert main(["capture", "runs", *judged, "--", sys.executable, "-c", program]) == 0
    experiment = ["whatif", "runs", only(Path("runs")).id, "--at", "1"]
    assert main([*experiment, "--", sys.executable, "-c", program]) == 4
    said = capsys.readouterr().err
    assert "the check capture_judges:ended_well decided the recorded outcome" in said
    assert "name its function again, by --success module:function" in said
