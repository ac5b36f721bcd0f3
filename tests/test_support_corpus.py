"""The corpus of the support agent: what it holds, and that its script makes it again."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import trajrec

SAMPLES = Path(__file__).resolve().parent.parent / "sample_trajectories"

pytestmark = [
    pytest.mark.sources,
    pytest.mark.skipif(not SAMPLES.exists(), reason="the samples are not installed"),
]

# Everything but ids, times, ports and credit.
QUERIES = (
    "SELECT task, outcome, n_steps, n_failures FROM episodes ORDER BY log, number",
    """
    SELECT e.task, e.number, c.step, attempt, tool, arguments, c.outcome, result, message
    FROM attempts c JOIN episodes e USING (episode_id) ORDER BY e.log, e.number, c.step, attempt
    """,
    """
    SELECT e.number, m.step, input_tokens, output_tokens
    FROM model_calls m JOIN episodes e USING (episode_id) ORDER BY e.log, e.number, m.step
    """,
    """
    SELECT metadata->>'$.what_if.arm' AS arm, (metadata->'$.what_if.number')::INT AS number,
        outcome, n_steps, metadata->>'$.what_if.change'
    FROM forks ORDER BY arm, number
    """,
    "SELECT grade, count(*) FROM replays GROUP BY ALL ORDER BY ALL",
)


def rows(folder: Path) -> list[list[Any]]:
    with trajrec.open(folder) as corpus:
        return [corpus.sql(query).fetchall() for query in QUERIES]


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """Return a copy, so that no index is written beside the samples."""
    (tmp_path / "stored").mkdir()
    for log in (SAMPLES / "support").glob("*.trj"):
        shutil.copy(log, tmp_path / "stored")
    return tmp_path / "stored"


def test_support_corpus_shows_which_step_lost_and_that_it_would_have_won(stored: Path) -> None:
    assert sum(log.stat().st_size for log in stored.glob("*.trj")) < 200_000
    with trajrec.open(stored) as corpus:
        outcomes = dict(corpus.sql("SELECT outcome, count(*) FROM episodes GROUP BY 1").fetchall())
        assert outcomes["failure"] >= 2
        assert outcomes["success"] >= 5
        assert corpus.sql("SELECT count(*) > 5 FROM failures").fetchall() == [(True,)]
        assert corpus.sql("SELECT grade, count(*) FROM replays GROUP BY 1").fetchall() == [
            ("exact", 12)
        ]
        arms = corpus.sql(
            "SELECT metadata->>'$.what_if.arm', count(*) FILTER (outcome = 'success') FROM forks "
            "GROUP BY 1"
        )
        won = dict(arms.fetchall())
        assert won["changed"] - won["unchanged"] >= 5
        decisive = corpus.sql(
            "SELECT step, ci_high < 0 FROM credit WHERE estimator = 'decisive'"
        ).fetchall()
        assert decisive == [(1, True)]


@pytest.mark.slow
def test_support_corpus_is_made_again_by_its_script(stored: Path, tmp_path: Path) -> None:
    pytest.importorskip("httpx", reason="httpx is not installed")
    # Credit takes half a minute; the other test holds what it found.
    script = [sys.executable, SAMPLES / "make_support.py", tmp_path / "again", "--without-credit"]
    subprocess.run(script, check=True, stdout=subprocess.DEVNULL)
    assert rows(tmp_path / "again") == rows(stored)
