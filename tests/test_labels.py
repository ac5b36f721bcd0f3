"""Labels of episodes and steps: appended as logs, in SQL, in files, and as checks of rubrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tiers import third_slow

import trajrec
from trajrec.cli.main import main
from trajrec.corpus.labels import Criterion, LabelLine
from trajrec.errors import CorpusError


def labels(corpus: trajrec.Corpus, columns: str = "step, name, value") -> list[tuple[object, ...]]:
    return corpus.sql(f"SELECT {columns} FROM labels ORDER BY labelled_at, name").fetchall()


@pytest.mark.slow
def test_labels_are_appended_and_leave_the_recording_alone(cartpole: trajrec.Corpus) -> None:
    ids = [episode.id for episode in cartpole.episodes()]
    logs = {path: path.read_bytes() for path in cartpole.path.glob("*.trj")}
    cartpole.tag(ids[0], split="train", reviewed=None)
    cartpole.note(ids[1][:8], "the pole falls to the left", step=3, author="Ada")
    cartpole.label(ids[1], "mistake", step=4, by="judge", author="gpt-5", rationale="too late")
    assert labels(cartpole, "episode_id, kind, step, name, value, given_by, author, rationale") == [
        (ids[0], "rollout", None, "split", '"train"', "person", None, None),
        (ids[0], "rollout", None, "reviewed", None, "person", None, None),
        (ids[1], "rollout", 3, "note", '"the pole falls to the left"', "person", "Ada", None),
        (ids[1], "rollout", 4, "mistake", None, "judge", "gpt-5", "too late"),
    ]
    assert all(path.read_bytes() == data for path, data in logs.items())
    query = "SELECT count(*) FROM episodes JOIN labels USING (episode_id) WHERE name = 'split'"
    assert cartpole.sql(query).fetchall() == [(1,)]


@pytest.mark.slow
def test_a_later_label_stands_beside_the_earlier_one(cartpole: trajrec.Corpus) -> None:
    episode_id = next(cartpole.episodes()).id
    for value in (-1, 0, 1):
        cartpole.label(episode_id, "process", value, step=2, by="person", author="Ada")
    cartpole.label(episode_id, "process", 0, step=2, by="person", author="Bob")
    assert len(labels(cartpole)) == 4
    latest = cartpole.sql("SELECT author, value FROM latest_labels ORDER BY author").fetchall()
    assert latest == [("Ada", "1"), ("Bob", "0")]


@pytest.mark.slow
def test_labels_of_nothing_are_refused(cartpole: trajrec.Corpus) -> None:
    episode = next(cartpole.episodes())
    with pytest.raises(CorpusError, match="no episode 'nobody'"):
        cartpole.tag("nobody", split="train")
    with pytest.raises(CorpusError, match=rf"has no step {episode.end_step}: its steps are 0 to"):
        cartpole.label(episode.id, "mistake", step=episode.end_step)
    with pytest.raises(ValueError, match="a label needs a name"):
        cartpole.label(episode.id, "")
    with pytest.raises(ValueError, match="by must be one of person, judge, program"):
        cartpole.label(episode.id, "x", by="god")  # type: ignore[arg-type]
    good = LabelLine(episode_id=episode.id, name="good")
    with pytest.raises(CorpusError):
        cartpole.add_labels([good, LabelLine(episode_id=episode.id, name="bad", step=-5)])
    # All of them, or none.
    assert labels(cartpole) == []


@pytest.mark.slow
def test_a_secret_in_a_label_does_not_reach_the_log(cartpole: trajrec.Corpus) -> None:
    key = "sk-ant-api03-" + "aB3x" * 20 + "AA"
    episode_id = next(cartpole.episodes()).id
    cartpole.label(episode_id, "note", f"key {key}", rationale=f"with {key}")
    trajrec.close_logs()
    assert not any(key.encode() in path.read_bytes() for path in cartpole.path.glob("*.trj*"))
    ((value, rationale),) = labels(cartpole, "value, rationale")
    assert "redacted" in str(value)
    assert "redacted" in str(rationale)


@pytest.mark.slow
def test_a_file_of_labels_is_read_whole_or_not_at_all(
    cartpole: trajrec.Corpus, tmp_path: Path
) -> None:
    episode_id = next(cartpole.episodes()).id
    lines = [
        {"episode_id": episode_id, "name": "process", "value": k - 1, "step": k, "by": "judge"}
        for k in range(3)
    ]
    file = tmp_path / "labels.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert cartpole.read_labels(file) == 3
    again = tmp_path / "again.jsonl"
    assert cartpole.write_labels(again, "step > 0") == 2
    written = [json.loads(line) for line in again.read_text().splitlines()]
    assert [(line["step"], line["value"], line["by"]) for line in written] == [
        (1, 0, "judge"),
        (2, 1, "judge"),
    ]
    # The file that was written is read as it is.
    assert cartpole.read_labels(again) == 2
    times = cartpole.sql("SELECT count(DISTINCT labelled_at) FROM labels").fetchall()
    assert times[0][0] <= 3
    for broken in (b'{"episode_id": "x"}', b'{"name": "a", "episode_id": "zz"}', b"[]", b"\xff"):
        file.write_bytes(json.dumps(lines[0]).encode() + b"\n" + broken + b"\n")
        with pytest.raises(CorpusError, match=r"labels\.jsonl: line 2: "):
            cartpole.read_labels(file)
    assert len(labels(cartpole)) == 5


@pytest.mark.slow
def test_verdicts_of_a_rubric_are_checks(cartpole: trajrec.Corpus) -> None:
    episode_id = next(cartpole.episodes()).id
    points = cartpole.add_rubric(
        episode_id,
        [
            Criterion(criterion="cites a source", points=3, met=True),
            Criterion(criterion="is short", points=1, met=False, rationale="900 words"),
            Criterion(criterion="invents a fact", points=-2, met=True),
            Criterion(criterion="is kind", points=1, met=None),
        ],
        rubric="answers",
        version="2",
        judge="gpt-5",
    )
    assert points == pytest.approx(1 / 5)
    rows = cartpole.sql(
        "SELECT check_id, version, phase, status, verdict, score, evidence->>'judge', "
        "evidence->>'rationale' FROM checks WHERE family = 'rubric' ORDER BY check_id"
    ).fetchall()
    assert rows == [
        ("answers/0", "2", "post-hoc", "ok", True, 3.0, "gpt-5", ""),
        ("answers/1", "2", "post-hoc", "ok", False, 0.0, "gpt-5", "900 words"),
        ("answers/2", "2", "post-hoc", "ok", True, -2.0, "gpt-5", ""),
        ("answers/3", "2", "post-hoc", "not_evaluated", None, None, "gpt-5", ""),
    ]
    # The verdicts do not decide the recorded outcome.
    assert next(cartpole.episodes()).outcome is None


@pytest.mark.slow
@third_slow("agents")
def test_the_command_tags_and_reads_and_writes(
    cartpole: trajrec.Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = str(cartpole.path)
    episode_id = next(cartpole.episodes()).id
    assert main(["tag", runs, episode_id, "split=train", "good", "n=3", "--note", "odd"]) == 0
    assert capsys.readouterr().out == "4 labels appended\n"
    assert {(name, value) for _, name, value in labels(cartpole)} == {
        ("split", '"train"'),
        ("good", None),
        ("n", "3"),
        ("note", '"odd"'),
    }
    file = tmp_path / "labels.jsonl"
    assert main(["tag", runs, "--write", str(file)]) == 0
    file.write_text("mine\n")
    assert main(["tag", runs, "--write", str(file)]) == 2
    assert "exists; name a new one" in capsys.readouterr().err
    assert file.read_text() == "mine\n"
    assert main(["tag", runs, "--write", str(file), "--overwrite"]) == 0
    capsys.readouterr()
    assert main(["tag", runs, "--read", str(file), "--json"]) == 0
    assert '"labels":4' in capsys.readouterr().out
    assert main(["tag", runs]) == 2
    assert main(["tag", runs, episode_id]) == 2
    assert main(["tag", runs, episode_id, "x", "--step", "9999"]) == 2
    assert "has no step 9999" in capsys.readouterr().err


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    "wrong",
    [
        {"author": None},
        {"rationale": None},
        {"name": 7},
        {"step": True},
        {"time_ns": -1},
        {"time_ns": 2**63},
        {"time_ns": 1.5},
    ],
)
def test_a_label_that_no_reader_could_read_is_refused(
    cartpole: trajrec.Corpus, wrong: dict[str, Any]
) -> None:
    episode = next(cartpole.episodes())
    good = LabelLine(episode_id=episode.id, name="good")
    line = msgspec.structs.replace(good, **wrong)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        cartpole.add_labels([good, line])
    assert cartpole.sql("SELECT * FROM labels").fetchall() == []
    assert cartpole.problems() == []


def test_a_verdict_that_no_reader_could_read_is_refused(cartpole: trajrec.Corpus) -> None:
    episode = next(cartpole.episodes())
    met: Any = 1
    none: Any = None
    with pytest.raises(ValueError, match="met"):
        cartpole.add_rubric(
            episode.id, [Criterion(criterion="cites", points=1, met=met)], rubric="r"
        )
    with pytest.raises(ValueError, match="version must be a text, got None"):
        cartpole.add_rubric(
            episode.id,
            [Criterion(criterion="cites", points=1, met=True)],
            rubric="r",
            version=none,
        )
    assert cartpole.problems() == []


def test_a_line_of_labels_that_is_no_utf8_is_named(
    cartpole: trajrec.Corpus, tmp_path: Path
) -> None:
    file = tmp_path / "labels.jsonl"
    episode = next(cartpole.episodes())
    file.write_bytes(f'{{"episode_id": "{episode.id}", "name": "caf\u00e9"}}'.encode("latin-1"))
    with pytest.raises(CorpusError, match=r"labels\.jsonl: line 1: "):
        cartpole.read_labels(file)
