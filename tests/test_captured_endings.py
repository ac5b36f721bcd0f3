"""How an episode of a capture ended: a capture sees model calls, and says only what they tell."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from conftest import rows
from model_server import Call, ModelServer, Turn
from test_capture_command import trajrec_command
from tiers import third_slow

import trajrec
from trajrec.agents.routing import router
from trajrec.taps import patching
from trajrec.wire.exchange import HttpRequest

ENDINGS = "SELECT DISTINCT ending, stop_reason FROM all_episodes"

ASKING = "import httpx, os, sys, trajrec\n{capture}httpx.post({url!r}, json={json!r})\n"

# A program in the background may have been told to ignore the signal.
INTERRUPTED = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
os.kill(os.getpid(), signal.SIGINT)
"""


def ask(server: ModelServer) -> None:
    request = {"model": "m", "messages": [{"role": "user", "content": "Where is it?"}]}
    httpx.post(f"{server.url}/v1/chat/completions", json=request)


def program(server: ModelServer, end: str, *, capture: Path | None = None) -> list[str]:
    """Return the words of a program that asks the model once, and then ends in some way."""
    text = ASKING.format(
        capture="" if capture is None else f"trajrec.capture({str(capture)!r})\n",
        url=f"{server.url}/v1/chat/completions",
        json={"model": "m", "messages": [{"role": "user", "content": "Where is it?"}]},
    )
    return [sys.executable, "-c", text + end]


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        (Turn("There."), ("terminated", "capture ended")),
        (Turn("", calls=[Call("look", {})]), ("unknown", "capture ended")),
        (Turn(status=500), ("unknown", "capture ended")),
    ],
)
def test_a_conversation_that_stops_in_its_middle_has_no_known_end(
    tmp_path: Path, turn: Turn, expected: tuple[str, str]
) -> None:
    with ModelServer([turn]) as server, trajrec.capture(tmp_path):
        ask(server)
    assert rows(tmp_path, ENDINGS) == [expected]


def test_of_requests_at_once_the_last_one_must_be_answered(tmp_path: Path) -> None:
    url = "http://h/v1/chat/completions"
    body = b'{"model": "m", "messages": [{"role": "user", "content": "Where?"}]}'
    answer = b'{"choices": [{"message": {"role": "assistant", "content": "There."}}]}'
    with trajrec.capture(tmp_path, task="t"):
        first, _ = [
            router.begin_marked(HttpRequest("POST", url, [], body), "sample") for _ in range(2)
        ]
        assert first is not None
        first.responded(200, [("content-type", "application/json")])
        first.received(answer)
        first.ended(None)
    assert rows(tmp_path, ENDINGS) == [("unknown", "capture ended")]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyError("lamp"), ("unknown", "KeyError")),
        (SystemExit(3), ("unknown", "SystemExit")),
        (SystemExit(0), ("terminated", "capture ended")),
    ],
)
def test_a_block_that_raises_does_not_end_its_conversations_well(
    tmp_path: Path, error: BaseException, expected: tuple[str, str]
) -> None:
    def run(server: ModelServer) -> None:
        with trajrec.capture(tmp_path):
            ask(server)
            raise error

    with ModelServer([Turn("There.")]) as server, pytest.raises(type(error)):
        run(server)
    assert rows(tmp_path, ENDINGS) == [expected]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("", ("terminated", "capture ended")),
        ("{}['lamp']\n", ("unknown", "KeyError")),
        (INTERRUPTED, ("unknown", "KeyboardInterrupt")),
    ],
)
def test_a_program_that_crashes_does_not_end_its_conversations_well(
    tmp_path: Path, end: str, expected: tuple[str, str]
) -> None:
    with ModelServer([Turn("There.")]) as server:
        words = program(server, end, capture=tmp_path)
        subprocess.run(words, check=False, capture_output=True, timeout=60)
    assert rows(tmp_path, ENDINGS) == [expected]


@third_slow("agents")
@pytest.mark.parametrize("options", [[], ["--one-episode"]])
@pytest.mark.parametrize(
    ("end", "status"), [("", 0), ("sys.exit(3)\n", 3), ("os.kill(os.getpid(), 9)\n", 137)]
)
def test_a_command_that_fails_does_not_end_its_episodes_well(
    tmp_path: Path, options: list[str], end: str, status: int
) -> None:
    with ModelServer([Turn("There.")]) as server:
        words = program(server, end)
        assert trajrec_command("capture", tmp_path, *options, "--", *words).returncode == status
    ended_well = "exit status 0" if options else "capture ended"
    expected = ("unknown", f"exit status {status}") if status else ("terminated", ended_well)
    assert rows(tmp_path, ENDINGS) == [expected]


def test_an_interrupted_capture_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch = patching._patch_library

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(patching, "_patch_library", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trajrec.capture(tmp_path)
    monkeypatch.setattr(patching, "_patch_library", patch)
    with ModelServer([Turn("There.")] * 2) as server:
        ask(server)
        with trajrec.capture(tmp_path):
            ask(server)
    patching.uninstall()
    assert rows(tmp_path, "SELECT count(*) FROM model_calls") == [(1,)]
