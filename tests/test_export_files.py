"""Exported transitions and conversations: the rows, and where they come from."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest
from test_messages import assistant, chat, send, user

import trajrec
from trajrec.cli.main import main
from trajrec.corpus.export_files import export_messages, export_transitions
from trajrec.errors import CorpusError


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
    elif kind not in ("messages", "otlp"):  # those have no rows here
        assert main([*command, "--overwrite"]) == 0
        assert output.read_bytes() != b"old\n"


def test_an_empty_file_holds_no_export(cartpole: trajrec.Corpus, tmp_path: Path) -> None:
    command = ["export", str(cartpole.path), "dpo", "-o", str(tmp_path / "pairs.jsonl")]
    assert [main(command), main(command)] == [0, 0]
    file = tmp_path / "labels.jsonl"
    file.touch()
    assert cartpole.write_labels(file) == 0
    cartpole.tag(next(cartpole.episodes()).id, good=True)
    assert cartpole.write_labels(file) == 1
    with pytest.raises(CorpusError, match="exists; name a new one"):
        cartpole.write_labels(file)


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
