"""Recorded texts in the output of commands, in CSV, HTML and XML: shown, and never obeyed."""

from __future__ import annotations

import contextlib
import csv
import io
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from test_sandbox import STEERING, is_safe
from tiers import mostly_deep

import trajrec
from trajrec.cli.main import main
from trajrec.corpus.episode import Episode
from trajrec.protocols import Tool
from trajrec.recording.event_log import close_logs
from trajrec.replay import replay_episode
from trajrec.replay.credit.results.table import _action_text, _line
from trajrec.replay.html import write_html
from trajrec.replay.regressions import write_junit

# Each text ends its line, and begins one that looks like the program's own.
FORGED = f"x\nFORGED: all is well\r\nFORGED{STEERING}<script>alert(1)</script>\ud800"

verifiers = f"""
import trajrec

@trajrec.verifier(id={FORGED!r}, version={FORGED!r})
def check(state):
    raise ValueError({FORGED!r})
"""


class World:
    """A world whose every text is hostile."""

    def __init__(self, state: int = 0) -> None:
        self.kwargs: dict[str, Any] = {}
        self.state = {FORGED: state}

    def reset(self, *, seed: int | None = None, options: Any = None) -> str:
        return FORGED

    def tools(self) -> list[Tool]:
        return [Tool.with_args("say", "write", FORGED, text="string")]

    def call(self, name: str, arguments: dict[str, Any], /) -> Any:
        self.state[FORGED] += 1
        if self.state[FORGED] > 1:
            raise ValueError(FORGED)
        return FORGED

    def get_state(self) -> Any:
        return {"s": dict(self.state)}

    def set_state(self, state: Any) -> None:
        self.state = dict(state["s"])


@pytest.fixture(scope="module")
def forged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forged") / "runs"
    for _ in range(2):
        with (
            contextlib.suppress(RuntimeError),
            trajrec.episode(
                folder, task=FORGED, world=World(), metadata={FORGED: FORGED}, interface=FORGED
            ) as ep,
        ):
            for _ in range(2):
                with contextlib.suppress(ValueError):
                    ep.call("say", text=FORGED)
            ep.model(lambda **_: FORGED, messages=[{"role": "user", "content": FORGED}])
            ep.side_effect(FORGED, lambda: FORGED)
            ep.check(trajrec.verifier(id=FORGED, version=FORGED)(lambda world: False))
            ep.stop(FORGED)
            raise RuntimeError(FORGED)
    close_logs()
    (folder.parent / "hostile_checks.py").write_text(verifiers, errors="backslashreplace")
    (folder / "not a log\nFORGED.trj").write_text(FORGED, errors="replace")
    return folder


@pytest.fixture(scope="module")
def episode(forged: Path) -> Iterator[Episode]:
    with trajrec.open(forged) as corpus:
        yield next(iter(corpus.episodes()))


COMMANDS = [
    "ls {runs}",
    "ls {runs} --json",
    "show {runs} {id}",
    "show {runs} {id} --json",
    "show {runs} {id} --step 0",
    "show {runs} {id} --step 1",
    "show {runs} {id} --step 2 --json",
    "sql {runs} {query}",
    "sql {runs} {query} --json",
    "schema {runs}",
    "replay {runs} --env test_shown_texts:World",
    "replay {runs} --env test_shown_texts:other",
    "replay {runs} --env test_shown_texts:other --json",
    "replay {runs}",
    "diff {runs} {id} {other}",
    "recheck {runs} --check hostile_checks:check --dry-run",
    "doctor {runs}",
    "doctor {runs} --json",
    "index {runs}",
    "recover {runs}",
    "compact {runs}",
    "bisect {runs} {id}",
    "fork {runs} {id} --at 1",
    "credit {runs} {id}",
    "export {runs} steps -o {out}",
    "sql {runs} {bad}",
    "show {runs} {bad}",
    "{bad}",
]


def other() -> World:
    return World(5)


@mostly_deep("hostile", drawn=6)
@pytest.mark.mostly_slow(2)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_recorded_text_looks_like_a_line_of_the_program(
    forged: Path,
    episode: Episode,
    tmp_path: Path,
    command: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(forged.parent))
    with trajrec.open(forged) as corpus:
        ids = [each.id for each in corpus.episodes()]
    values = {
        "runs": str(forged),
        "id": ids[0],
        "other": ids[1],
        "out": str(tmp_path / "rows.parquet"),
        "query": "SELECT * FROM attempts, episodes, failures, checks, state_changes, side_effects",
        "bad": f"'{FORGED.replace(chr(0), '').encode(errors='replace').decode()}",
    }
    with contextlib.suppress(SystemExit):
        main([word.format(**values) for word in command.split()])
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert is_safe(text)
        assert not [line for line in text.split("\n") if line.startswith("FORGED")]


@pytest.mark.slow
def test_names_of_columns_are_no_formulas_in_csv(
    forged: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    query = "SELECT 1 AS \"=cmd|'/c calc'!A0\", '\n=1' AS b, 'x'::ENUM('x', '=1') AS c, ['=1'] AS d"
    # 3: a file of the folder is no log.
    assert main(["sql", str(forged), query, "--format", "csv"]) == 3
    names, row = csv.reader(io.StringIO(capfdbinary.readouterr().out.decode(), newline=""))
    assert names == ["'=cmd|'/c calc'!A0", "b", "c", "d"]
    assert row == ["1", "'\n=1", "x", "['=1']"]
    query = "SELECT '=1'::ENUM('x', '=1') AS a, '\uff1d1' AS b, '\"=1\"'::JSON AS c"
    assert main(["sql", str(forged), query, "--format", "csv"]) == 3
    _, row = csv.reader(io.StringIO(capfdbinary.readouterr().out.decode(), newline=""))
    assert row == ["'=1", "'\uff1d1", '"=1"']


def test_an_action_is_no_line_of_a_table_of_credit() -> None:
    estimate: Any = types.SimpleNamespace(action="x\nFORGED\r\u2028y")
    action = _action_text({"value": estimate})
    assert _line(3, action, {"value": estimate}, []) == "   3  x FORGED y"


@pytest.mark.slow
def test_pages_and_reports_hold_texts_as_texts(episode: Episode, tmp_path: Path) -> None:
    report = replay_episode(episode, world=World(5))
    assert report.divergence is not None
    page = tmp_path / "page.html"
    write_html(page, [report], FORGED)
    text = page.read_text("utf-8")
    assert "FORGED" in text
    assert "<script>alert" not in text
    junit = tmp_path / "junit.xml"
    write_junit(junit, [report], FORGED)
    (failure,) = ElementTree.parse(junit).iter("failure")
    assert "FORGED" in failure.attrib["message"]
