"""The page of the log format, a slow reader written from it, and trajrec agree on every value."""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from compare_readers import compare_log
from random_agents import record_agents
from random_damage import damaged
from random_logs import record_env, record_forks, record_players, record_vector
from random_values import Rng, pick
from slow_reader import contents, expected, lines
from slow_schema import EVENTS
from slow_values import TYPES, DamageError
from tiers import Share, suite

import trajrec
from trajrec.errors import LogError
from trajrec.log.compaction import compact
from trajrec.log.journal import journal_path
from trajrec.log.reader import LogReader
from trajrec.log.writer import LogWriter

pytestmark = pytest.mark.sources

ROOT = Path(__file__).resolve().parent.parent
LOGS = sorted((ROOT / "tests" / "golden").rglob("*.trj"))
SLOW = sorted((ROOT / "tests").glob("slow_*.py"))
PAGE = ROOT / "docs" / "reference" / "log-format.md"

Record = Callable[[Path, Rng], None]


def golden(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.mostly_slow(7)
@pytest.mark.parametrize("path", LOGS, ids=golden)
def test_slow_reader_gives_the_stored_values(path: Path) -> None:
    stored = path.with_suffix(".json").read_text()
    assert "\n".join(lines(expected(path))) + "\n" == stored


@pytest.mark.mostly_slow(7)
@pytest.mark.parametrize("path", LOGS, ids=golden)
def test_both_readers_agree_on_golden_logs(path: Path) -> None:
    assert_agree(path)


def assert_agree(path: Path) -> int:
    """Compare what both readers give; return the number of values."""
    comparison = compare_log(path)
    assert not comparison.differences, "\n".join([str(path), *comparison.differences])
    return comparison.n_values


def compare_recordings(record: Record, share: Share, folder: Path) -> None:
    """Make random recordings and compare both readers on each log, as written and compacted."""
    rng = share.rng()
    n_values = 0
    for number in range(share.size or 0):
        own = folder / str(number)
        record(own, rng)
        for path in sorted(own.rglob("*.trj")):
            n_values += assert_agree(path)
            if rng.random() < 0.3:
                compact(path)
                n_values += assert_agree(path)
    print(f"{n_values} values compared")


@suite("log", fixed=15, drawn=150, whole=10_000)
def test_both_readers_agree_on_random_environments(share: Share, tmp_path: Path) -> None:
    compare_recordings(record_env, share, tmp_path)


@suite("log", fixed=8, drawn=150, whole=10_000)
def test_both_readers_agree_on_random_agents(share: Share, tmp_path: Path) -> None:
    compare_recordings(record_agents, share, tmp_path)


@suite("log", fixed=1, drawn=10, whole=200)
def test_both_readers_agree_on_vector_environments(share: Share, tmp_path: Path) -> None:
    compare_recordings(record_vector, share, tmp_path)


@suite("log", fixed=1, drawn=10, whole=200)
def test_both_readers_agree_on_forks(share: Share, tmp_path: Path) -> None:
    compare_recordings(record_forks, share, tmp_path)


RECORDS: list[Record] = [record_env, record_env, record_agents, record_vector, record_forks]


@pytest.mark.usefixtures("no_flusher")
@suite("log", fixed=5, drawn=80, whole=10_000)
def test_both_readers_agree_on_logs_with_a_journal(
    share: Share, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = share.rng()
    live: list[Path] = []
    make, close = LogWriter.__init__, LogWriter.close

    def make_with_any_half(writer: LogWriter, *args: Any, **options: Any) -> None:
        make(writer, *args, **options | {"half_bytes": int(pick(rng, [1 << 12, 1 << 17]))})

    def copy_and_close(writer: LogWriter) -> None:
        if not writer.is_closed:
            live.append(copy_live(writer.path, tmp_path / str(len(live))))
        close(writer)

    monkeypatch.setattr(LogWriter, "__init__", make_with_any_half)
    monkeypatch.setattr(LogWriter, "close", copy_and_close)
    n_values = n_items = 0
    for number in range(share.size or 0):
        live.clear()
        RECORDS[number % len(RECORDS)](tmp_path / f"run {number}", rng)
        trajrec.close_logs()
        for path in live:
            n_values += assert_agree(path)
            n_items += contents(path).get("journal", 0)
            shutil.rmtree(path.parent)
    print(f"{n_values} values compared, {n_items} items of journals")
    assert n_items > 10 * (share.size or 0)


def copy_live(log: Path, folder: Path) -> Path:
    """Copy a log and its journal, as a killed writer would leave them."""
    folder.mkdir()
    shutil.copy(journal_path(log), folder)
    return Path(shutil.copy(log, folder))


@pytest.mark.skipif(importlib.util.find_spec("pettingzoo") is None, reason="needs PettingZoo")
@suite("log", fixed=2, drawn=10, whole=200)
def test_both_readers_agree_on_games(share: Share, tmp_path: Path) -> None:
    compare_recordings(record_players, share, tmp_path)


@suite("log", fixed=60, drawn=500, whole=20_000)
def test_both_readers_agree_on_damaged_logs(share: Share, tmp_path: Path) -> None:
    rng = share.rng()
    logs = {path: path.read_bytes() for path in LOGS}
    # Frames of format 1 do not tell to which log they belong.
    others = [data for path, data in logs.items() if path.parent.name != "format-1"]
    path = tmp_path / "damaged.trj"
    n_refused = 0
    for _ in range(share.size or 0):
        data = pick(rng, list(logs.values()))
        other = pick(rng, others)
        if rng.random() < 0.7:
            # Without footer and trailer, most damage is found by scanning.
            data = data[: len(data) * 3 // 4]
        path.write_bytes(damaged(data, other, rng))
        try:
            slow = contents(path)
        except DamageError:
            n_refused += 1
            with pytest.raises(LogError):
                LogReader(path).close()
            continue
        comparison = compare_log(path, slow=slow)
        assert not comparison.differences, "\n".join(comparison.differences)
    assert n_refused < (share.size or 0) / 2


@pytest.mark.parametrize("path", SLOW, ids=lambda path: path.stem)
def test_slow_reader_shares_no_code_with_trajrec(path: Path) -> None:
    own = {path.stem for path in SLOW} | {"numpy", "zstandard"}
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            room = name.partition(".")[0]
            assert room in own or room not in ("trajrec", "msgspec", "gymnasium", "conftest"), name


def test_page_lists_the_types_of_expected_values() -> None:
    section = PAGE.read_text().partition("## Expected values")[2]
    assert re.findall(r'^\| `\{"(\w+)"', section, re.MULTILINE) == list(TYPES)


def test_slow_reader_knows_each_tag_of_the_page() -> None:
    assert set(re.findall(r"\(tag `(\w+)`\)", PAGE.read_text())) == set(EVENTS[2])
