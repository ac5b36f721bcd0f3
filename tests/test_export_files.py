"""Exported transitions and conversations: the rows, and where they come from."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest
from conftest import Scripted
from test_datasets import damaged, endless, in_chunks
from test_messages import assistant, chat, send, user
from tiers import third_slow

import trajrec
from trajrec.cli.exit_status import ExitStatus
from trajrec.cli.main import main
from trajrec.corpus.export_files import export_messages, export_transitions
from trajrec.corpus.scratch import replacing
from trajrec.errors import CorpusError
from trajrec.log.reader import LogReader


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
@pytest.mark.mostly_slow(1)
def test_exported_transitions_are_read_by_others(
    cartpole: trajrec.Corpus, tmp_path: Path, suffix: str
) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    file = tmp_path / f"steps{suffix}"
    where = "number < 3"
    n_rows = export_transitions(cartpole, file, where)
    (batch,) = cartpole.transitions(where, shuffle=False, batch_size=999)
    assert n_rows == len(batch["step"])
    if suffix == ".parquet":
        table = parquet.read_table(file)
        total = duckdb.sql(f"SELECT count(*), sum(reward) FROM '{file}'").fetchall()
        assert total == [(n_rows, batch["reward"].sum())]
    else:
        table = pa.ipc.open_stream(pa.memory_map(str(file))).read_all()
    assert table["next_obs"].to_pylist() == batch["next_obs"].tolist()
    lineage = json.loads(table.schema.metadata[b"trajrec"])
    assert (lineage["where"], lineage["n_episodes"]) == (where, 3)
    assert lineage["digest"] == cartpole.transitions(where).digest
    assert lineage["digest"] != cartpole.transitions().digest
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [file.name]


def test_steps_without_a_transition_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = in_chunks(tmp_path / "runs", Scripted(endless), [4, 4, 4])
    chunks = [chunk.index for chunk in LogReader(path).chunks() if chunk.n_steps]
    damaged(path, chunks[1])
    target = tmp_path / "steps.parquet"
    status = main(["export", str(tmp_path / "runs"), "transitions", "-o", str(target)])
    assert status == ExitStatus.LOG
    remark = "steps left out: 1 of which the log has lost the observation before, and 0 that follow"
    assert remark in capsys.readouterr().err
    lineage = json.loads(parquet.read_schema(target).metadata[b"trajrec"])
    assert (lineage["n_dropped"], lineage["n_after_failure"]) == (1, 0)


def test_exported_messages_are_lines_with_their_lineage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    for task in ("a", "b"):
        with trajrec.episode(runs, task=task) as ep:
            send(ep, {"messages": [user(f"{task}1")]}, chat("one"))
            send(ep, {"messages": [user(f"{task}1"), assistant("one"), user("2")]}, chat("two"))
    trajrec.close_logs()
    file = tmp_path / "talks.jsonl"
    assert main(["export", str(runs), "messages", "-o", str(file), "--where", "task = 'a'"]) == 0
    (line,) = map(json.loads, file.read_text().splitlines())
    assert [message["content"] for message in line["messages"]] == ["a1", "one", "2", "two"]
    lineage = json.loads((tmp_path / "talks.jsonl.lineage.json").read_text())
    assert (lineage["where"], lineage["n_episodes"], len(lineage["digest"])) == (
        "task = 'a'",
        1,
        32,
    )
    assert "1 row\n" in capsys.readouterr().err


OUTPUTS = {
    "prm": "rows.jsonl",
    "dpo": "rows.parquet",
    "grpo": "rows.parquet",
    "transitions": "rows.arrow",
    "messages": "rows.jsonl",
    "atif": "documents",
    "otlp": "rows.jsonl",
    "minari": "cartpole-v0",
    "parquet": "tables",
}


@third_slow("imports")
@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.mostly_slow(2)
def test_no_export_takes_the_place_of_another(
    cartpole: trajrec.Corpus, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / OUTPUTS[kind]
    command = ["export", str(cartpole.path), kind, "-o", str(output)]
    if output.suffix:
        output.write_text("old\n")
        held = output
    else:
        output.mkdir()
        held = output / "of-the-user"
        held.write_text("old\n")
    assert main(command) == 2
    assert "exists; name a new one, or pass" in capsys.readouterr().err
    assert held.read_text() == "old\n"
    if not output.suffix:
        assert main([*command, "--overwrite"]) == 2
        assert "no export has written this folder" in capsys.readouterr().err
        assert held.read_text() == "old\n"
    elif kind not in ("prm", "dpo", "messages", "otlp"):  # those have no rows here
        assert main([*command, "--overwrite"]) == 0
        assert output.read_bytes() != b"old\n"


def test_an_empty_file_holds_no_export(cartpole: trajrec.Corpus, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.touch()
    assert main(["export", str(cartpole.path), "grpo", "-o", str(file)]) == 0
    assert file.read_bytes()


@pytest.mark.slow
def test_labels_replace_what_the_same_call_wrote(tmp_path: Path) -> None:
    with trajrec.episode(tmp_path / "runs", task="t") as ep:
        pass
    trajrec.close_logs()
    file = tmp_path / "labels.jsonl"
    with trajrec.open(tmp_path / "runs") as corpus:
        for n_labels in (1, 2):
            corpus.tag(ep.id, good=n_labels)
            assert corpus.write_labels(file) == n_labels
        with pytest.raises(CorpusError, match="exists; name a new one"):
            corpus.write_labels(file, "value = '1'")
        file.write_text("mine\n")
        with pytest.raises(CorpusError, match="exists; name a new one"):
            corpus.write_labels(file)
        with pytest.raises(CorpusError, match="no label is"):
            corpus.write_labels(tmp_path / "none.jsonl", "value = '3'")
    assert file.read_text() == "mine\n"
    assert not (tmp_path / "none.jsonl").exists()


@third_slow("imports")
@pytest.mark.parametrize("kind", ["parquet", "transitions", "grpo", "minari"])
@pytest.mark.mostly_slow(1)
def test_an_export_replaces_what_the_same_command_wrote(
    cartpole: trajrec.Corpus, tmp_path: Path, kind: str
) -> None:
    runs = cartpole.path
    output = tmp_path / OUTPUTS[kind]
    command = ["export", str(runs), kind, "-o", str(output)]
    assert [main(command), main(command)] == [0, 0]
    assert main([*command, "--where", "number >= 0"]) == 2
    shutil.copytree(runs, tmp_path / "copy")
    assert main(["export", str(tmp_path / "copy"), *command[2:]]) == 2
    assert main(command) == 0
    edited = output / "of-the-user" if output.is_dir() else output
    with edited.open("a") as opened:
        opened.write("mine\n")
    assert main(command) == 2
    assert edited.read_bytes().endswith(b"mine\n")
    assert main([*command, "--overwrite"]) == 0
    assert main(command) == 0


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("n_replaced", [0, 1, 2])
def test_an_export_killed_at_any_rename_is_run_again(
    tmp_path: Path, n_replaced: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    with trajrec.episode(runs, task="a") as ep:
        send(ep, {"messages": [user("a1")]}, chat("one"))
    trajrec.close_logs()
    file = tmp_path / "talks.jsonl"
    replace = os.replace
    with trajrec.open(runs) as corpus:
        assert export_messages(corpus, file) == 1
        with trajrec.episode(runs, task="b") as ep:
            send(ep, {"messages": [user("b1")]}, chat("two"))
        trajrec.close_logs()
        done: list[Path] = []

        def replace_or_die(source: Path, target: Path) -> None:
            # Memory, file and lineage take their places in this order.
            if len(done) == n_replaced:
                raise KeyboardInterrupt
            replace(source, target)
            done.append(target)

        with monkeypatch.context() as patch:
            patch.setattr("trajrec.corpus.scratch.os.replace", replace_or_die)
            with pytest.raises(KeyboardInterrupt):
                export_messages(corpus, file)
        assert (done[1:] == [file]) == (n_replaced == 2)
        assert export_messages(corpus, file) == 2
        assert len(file.read_text().splitlines()) == 2


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("is_done", [False, True])
def test_an_interrupt_between_two_renames_keeps_the_folder(
    tmp_path: Path, at: int, is_done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table"
    path.mkdir()
    (path / "old").touch()
    replace = os.replace
    calls = itertools.count()

    def replace_or_die(source: Path, target: Path) -> None:
        is_at = next(calls) == at
        if is_done or not is_at:
            replace(source, target)
        if is_at:
            raise KeyboardInterrupt

    def export() -> None:
        with replacing(path, replaces_folder=True) as temporary:
            temporary.mkdir()
            (temporary / "new").touch()

    monkeypatch.setattr("trajrec.corpus.scratch.os.replace", replace_or_die)
    with pytest.raises(KeyboardInterrupt):
        export()
    name = "new" if (at, is_done) == (1, True) else "old"
    assert list(tmp_path.rglob("*")) == [path, path / name]


def test_numbers_that_json_lacks_are_null_in_conversations(tmp_path: Path) -> None:
    @trajrec.verifier(id="odd", version="1")
    def odd(state: Any) -> trajrec.Verdict:
        return trajrec.Verdict(None, score=float("inf"))

    with trajrec.episode(tmp_path / "runs", task="a", watch={"n": 1}, checks=[odd]) as ep:
        send(ep, {"messages": [user("a1")]}, chat("one"))
    trajrec.close_logs()
    file = tmp_path / "talks.jsonl"
    with trajrec.open(tmp_path / "runs") as corpus:
        assert export_messages(corpus, file) == 1
    (check,) = json.loads(file.read_text())["checks"]
    assert (check["check_id"], check["score"]) == ("odd", None)


def test_a_file_written_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trajrec.episode(tmp_path / "runs", task="a") as ep:
        send(ep, {"messages": [user("a1")]}, chat("one"))
    trajrec.close_logs()
    file = tmp_path / "talks.jsonl"
    with trajrec.open(tmp_path / "runs") as corpus:
        messages = corpus.messages

        def slow_messages(where: str) -> Any:
            yield from messages(where)
            file.write_text("of the user\n")

        monkeypatch.setattr(corpus, "messages", slow_messages)
        with pytest.raises(CorpusError, match="exists; name a new one"):
            export_messages(corpus, file)
    assert file.read_text() == "of the user\n"


@pytest.mark.parametrize("kind", ["prm", "dpo", "messages", "otlp", "atif"])
@pytest.mark.mostly_slow(1)
def test_an_export_without_rows_leaves_no_file(
    cartpole: trajrec.Corpus, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / OUTPUTS[kind]
    assert main(["export", str(cartpole.path), kind, "-o", str(output)]) == 2
    assert capsys.readouterr().err.startswith("trajrec: ")
    assert list(tmp_path.iterdir()) == [cartpole.path]


@pytest.mark.slow
def test_an_export_of_nothing_leaves_the_file_alone(
    cartpole: trajrec.Corpus, tmp_path: Path
) -> None:
    file = tmp_path / "talks.jsonl"
    file.write_text("old\n")
    with pytest.raises(CorpusError, match="no conversation"):
        export_messages(cartpole, file, overwrite=True)
    assert file.read_text() == "old\n"
    with pytest.raises(ValueError, match=r"\.parquet or \.arrow"):
        export_transitions(cartpole, tmp_path / "steps.csv")
    with pytest.raises(ValueError, match=r"written to \.jsonl"):
        export_messages(cartpole, tmp_path / "talks.csv")
    assert len(list(tmp_path.iterdir())) == 2
