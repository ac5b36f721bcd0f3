"""Imported files have the numbers that independent counts of them have."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from imported import DATA, check_account, counted, lost_leaves, needs_data, sources_of

from trajrec import exchange
from trajrec.exchange.importing import import_trajectories

DOCS = Path(__file__).resolve().parent.parent / "docs"
sys.path.insert(0, str(DOCS))

from import_counts import FOLDERS, PAGE, import_folder, is_counted, page, rows_of  # noqa: E402

pytestmark = [needs_data, pytest.mark.sources]


needs_h5py = pytest.mark.skipif(
    importlib.util.find_spec("h5py") is None, reason="pip install 'trajrec[minari]'"
)

EACH_FOLDER = [
    pytest.param(folder, marks=needs_h5py) if folder == "minari" else folder for folder in FOLDERS
]


@pytest.mark.slow
@pytest.mark.parametrize("folder", EACH_FOLDER)
def test_each_file_has_the_counted_numbers(folder: str, tmp_path: Path) -> None:
    with import_folder(DATA, folder, tmp_path) as corpus:
        rows = rows_of(DATA, folder, corpus)
    assert rows
    assert [row for row in rows if row.counted != row.imported] == []


# Folder or file -> episodes, steps and calls, as tests of the slow tier derive them from the counts.
ONE_OF_EACH = {
    "agentdojo/ap_banking_user_task_0_injection_task_0.json": (1, 2, 2),
    "atif/atif_multiagent.json": (1, 3, 3),
    "claude-code/claude_forked_session.jsonl": (2, 7, 3),
    "codex/codex_golden.jsonl": (1, 2, 1),
    "gemini-cli/gemini_golden.json": (1, 2, 1),
    "harbor-trial/hello-world__cont": (2, 8, 0),
    "hf-messages/trl_messages.jsonl": (2, 4, 4),
    "hf-messages/trl_messages.parquet": (2, 4, 4),
    "inspect/gen_ugly.eval": (5, 12, 12),
    "mini-swe-agent/local.traj.json": (1, 2, 2),
    "openhands/basic_gui_mode.json": (1, 5, 4),
    "openhands-sdk/goal_events.jsonl": (1, 2, 2),
    "otlp/gen_errors.json": (2, 4, 3),
    "swe-agent/humanevalfix-python-0.traj": (1, 5, 5),
    "tau-bench/gpt-4o-airline.slice.json": (6, 118, 47),
    "tau2/gen/mock_scripted.json": (3, 12, 8),
    "who-when/Hand-Crafted_24.json": (1, 5, 0),
}


def test_a_file_of_each_format_is_imported_whole(tmp_path: Path) -> None:
    for number, (name, numbers) in enumerate(ONE_OF_EACH.items()):
        report = import_trajectories(DATA / name, tmp_path / str(number))
        check_account(report)
        (file,) = report.files
        assert (len(file.episodes), file.n_steps, file.n_calls) == numbers, name


@needs_h5py
@pytest.mark.slow
def test_the_page_of_counts_is_up_to_date(tmp_path: Path) -> None:
    rows = []
    for folder in FOLDERS:
        with import_folder(DATA, folder, tmp_path / folder) as corpus:
            rows += rows_of(DATA, folder, corpus)
    assert PAGE.read_text(encoding="utf-8") == page(rows)


# The words of all formats: each is a text in the code that reads it.
LITERALS = {
    node.value
    for file in Path(exchange.__file__).parent.glob("*.py")
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    if isinstance(node, ast.Constant) and isinstance(node.value, str)
}


def names_of_attributes(source: Any) -> set[str]:
    """Return the names of the attributes of traces, which are written as pairs."""
    if isinstance(source, list):
        return set().union(*map(names_of_attributes, source))
    if not isinstance(source, dict):
        return set()
    own = {source["key"]} if source.keys() == {"key", "value"} else set()
    return own.union(*map(names_of_attributes, source.values()))


@pytest.mark.slow
@pytest.mark.parametrize("folder", EACH_FOLDER)
def test_no_text_or_number_of_a_file_is_lost(folder: str, tmp_path: Path) -> None:
    report = import_trajectories(DATA / folder, tmp_path / "all")
    for number, file in enumerate(report.of_status("imported")):
        output = tmp_path / str(number)
        import_trajectories(file.path, output, redact=False)
        source = sources_of(file.path)
        lost = lost_leaves(source, output, words=LITERALS | names_of_attributes(source))
        # Numbers of steps and of stored messages are made anew; an attachment is where it is named.
        made_anew = re.compile(r"\d+|attachment://[0-9a-f]{32}")
        assert [text for text in lost if not made_anew.fullmatch(text)] == [], file.path


@pytest.mark.slow
@pytest.mark.parametrize("folder", EACH_FOLDER)
def test_all_counted_files_are_imported_and_the_others_say_why(folder: str, tmp_path: Path) -> None:
    report = import_trajectories(DATA / folder, tmp_path)
    check_account(report)
    assert report.of_status("failed") == []
    names = {str(file.path.relative_to(DATA / folder)) for file in report.of_status("imported")}
    wanted = {name for name, of_file in counted(folder).items() if is_counted(of_file)}
    wanted = {name for name in wanted if "/subagents/" not in name}
    assert wanted <= names
    assert all(file.reason for file in report.of_status("skipped"))
