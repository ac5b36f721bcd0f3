"""The card of a release: it says what SQL says, and names each unknown."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import gymnasium as gym
import pytest
from counter_runs import counts, interface, record_one, record_run
from question_corpus import make_corpus
from tiers import deep, third_slow

import trajrec
from trajrec.analysis.card import About, make_card
from trajrec.analysis.card_text import code, escape
from trajrec.analysis.croissant import REQUIRED
from trajrec.analysis.release import TABLES
from trajrec.cli.main import main
from trajrec.corpus.index.tables import TABLES as ALL_TABLES
from trajrec.corpus.index.views import VIEWS
from trajrec.errors import CorpusError
from trajrec.recording.event_log import close_logs
from trajrec.replay import replay_episode
from trajrec.replay.verdicts import RECORDED, VerdictLog
from trajrec.run_interface import missing

SAMPLES = Path(__file__).resolve().parent.parent / "sample_trajectories"

ABOUT = {
    "name": "Counters",
    "description": "Rollouts of a scripted counter.",
    "license": "apache-2.0",
    "url": "https://example.org/counters",
    "creator": "The counters",
}


def record(folder: Path) -> None:
    """Record rollouts of two splits, with outages, and with an interface that is partly unknown."""
    results: dict[str, list[bool | str]] = {**counts(t0=(3, 8)), "t1": [True, "infra", "verifier"]}
    record_run(folder, "a", results)
    teacher = {"generator": "script", "teacher": missing("unknown")}
    for split in ("train", "held-out"):
        for k in range(2):
            record_one(
                folder,
                True,
                task=f"{split} {k}",
                metadata={"split": split, "run": "b"},
                interface=interface(lineage=teacher),
            )
    close_logs()


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[trajrec.Corpus, Path]]:
    folder = tmp_path_factory.mktemp("release")
    record(folder / "runs")
    with trajrec.open(folder / "runs") as corpus:
        assert corpus.card(folder / "out", **ABOUT).lacking == ()  # type: ignore[arg-type]
        yield corpus, folder / "out"


def read(folder: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((folder / "card.json").read_text())
    return card


@pytest.mark.slow
def test_the_counts_of_a_card_are_those_of_sql(release: tuple[trajrec.Corpus, Path]) -> None:
    corpus, folder = release
    card = read(folder)
    of_tables: dict[str, int] = {}
    for file in card["files"]:
        path = folder / "tables" / file["table"] / f"{file['split']}.parquet"
        ((n,),) = duckdb.sql(f"SELECT count(*) FROM '{path}'").fetchall()
        assert n == file["rows"]
        of_tables[file["table"]] = of_tables.get(file["table"], 0) + n
    for name, n in of_tables.items():
        assert corpus.sql(f"SELECT count(*) FROM {name}").fetchall() == [(n,)], name
    assert card["counts"]["episodes"] == of_tables["episodes"] == 15
    assert card["counts"]["outcomes"] == {"failure": 5, "no verdict": 6, "success": 4}
    assert card["success"][0]["excluded"] == {"infra": 1, "verifier": 1}
    # The columns are the same, value by value; JSON is text.
    path = folder / "tables" / "episodes" / "held_out.parquet"
    rows = duckdb.sql(f"SELECT episode_id, task, metadata FROM '{path}' ORDER BY 1").fetchall()
    condition = "metadata->>'split' = 'held-out'"
    query = f"SELECT episode_id, task, metadata FROM episodes WHERE {condition} ORDER BY 1"
    assert rows == corpus.sql(query).fetchall()


@pytest.mark.slow
def test_each_unknown_of_a_release_is_named(release: tuple[trajrec.Corpus, Path]) -> None:
    _, folder = release
    text = (folder / "README.md").read_text()
    missing_fields = read(folder)["missing"]
    (named,) = [line for line in missing_fields if line.startswith("interface")]
    assert "lineage.teacher unknown, in 4 episodes" in named
    for start in (
        "coverage: lineage.teacher, in 4 episodes",
        "coverage: split, in 11 episodes",
        "trace: verified replay, or labels of steps, in 15 episodes",
        "revision of the task, in 15 episodes",
        "verdict of a primary check, in 6 episodes",
    ):
        assert start in missing_fields
        assert escape(start) in text
    assert "**coverage**: the contents and splits are as declared" in text
    assert "| 0 of 15 | unlicensed" in text


@pytest.mark.slow
def test_the_front_matter_lists_a_config_for_each_table(
    release: tuple[trajrec.Corpus, Path],
) -> None:
    _, folder = release
    text = (folder / "README.md").read_text()
    front = text.split("---\n")[1]
    assert 'license: "apache-2.0"' in front
    assert 'size_categories: ["n<1K"]' in front
    # Hugging Face takes no dash in the name of a split.
    assert '- split: "held_out"\n    path: "tables/episodes/held_out.parquet"' in front
    assert read(folder)["splits_renamed"] == {"held-out": "held_out"}
    listed = front.count("- config_name")
    assert listed == len({file["table"] for file in read(folder)["files"]})


def test_the_description_has_what_croissant_requires(release: tuple[trajrec.Corpus, Path]) -> None:
    _, folder = release
    description = json.loads((folder / "croissant.json").read_text())
    assert all(description[name] for name in REQUIRED)
    assert description["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    for file in description["distribution"]:
        data = (folder / file["contentUrl"]).read_bytes()
        assert file["sha256"] == hashlib.sha256(data).hexdigest()
    (claims,) = [item for item in description["recordSet"] if item["@id"] == "claims"]
    assert [row["claims/of"] for row in claims["data"]] == [15] * 4
    assert description["rai:dataLimitations"] == read(folder)["missing"]


def test_the_digests_are_those_of_all_other_files(release: tuple[trajrec.Corpus, Path]) -> None:
    _, folder = release
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    listed = dict(reversed(line.split("  ")) for line in lines)
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert listed.keys() == files - {"SHA256SUMS"}
    for name, digest in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    # The logs answer the same questions.
    with trajrec.open(folder / "logs") as corpus:
        assert corpus.sql("SELECT count(*) FROM episodes").fetchall() == [(15,)]


@pytest.mark.slow
def test_facts_that_nobody_gave_are_missing_and_not_guessed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(SAMPLES, tmp_path / "samples", ignore=shutil.ignore_patterns("support"))
    assert main(["card", str(tmp_path / "samples"), "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "13 episodes" in said.out
    assert "Croissant requires; release again with --description, --license" in said.err
    text = (tmp_path / "out" / "README.md").read_text()
    assert "license:" not in text.split("---\n")[1]
    assert "| licence | **not given** |" in text
    assert "refused: the interface is unknown" in text
    # Exceptions of environments are failures too.
    assert "Failures outside of calls" in text
    assert read(tmp_path / "out")["about"]["license"] is None
    assert main(["card", str(tmp_path / "samples"), "-o", str(tmp_path / "out")]) == 2
    assert "not empty" in capsys.readouterr().err


@pytest.mark.slow
def test_private_episodes_are_not_published_by_accident(tmp_path: Path) -> None:
    record_one(tmp_path / "runs", True, task="t", metadata={"privacy": "internal"})
    close_logs()
    with trajrec.open(tmp_path / "runs") as corpus:
        with pytest.raises(ValueError, match="marks 1 episodes as 'internal'"):
            corpus.card(tmp_path / "out")
        assert not (tmp_path / "out").exists()
        corpus.card(tmp_path / "out", allows_private=True)
        with pytest.raises(ValueError, match="tables must be among"):
            corpus.card(tmp_path / "other", tables=["secrets"])


@pytest.mark.slow
def test_recorded_text_writes_no_markdown_of_its_own(tmp_path: Path) -> None:
    hostile = "a|b\n# Title <script>alert(1)</script> ![x](http://x)"
    record_one(
        tmp_path / "runs",
        True,
        task=hostile,
        metadata={"split": "x", "run": hostile},
        interface=interface(scaffold={"prompt": hostile, "tick": "`"}),
    )
    close_logs()
    with trajrec.open(tmp_path / "runs") as corpus:
        corpus.card(tmp_path / "out", name=hostile, description=hostile)
    text = (tmp_path / "out" / "README.md").read_text()
    assert text.count("\n# ") == 1
    body = text.split("---\n", 2)[2]
    # Outside of code each sign is escaped.
    outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", body)
    assert "<script>" not in outside
    assert "](http" not in outside.replace("\\](", "")


@pytest.mark.slow
def test_a_leak_contradicts_the_claim_of_coverage(tmp_path: Path) -> None:
    lineage = {"generator": "g", "teacher": "t", "filter": "f", "decontamination": "exact"}
    whole = interface(lineage=lineage)
    held = record_one(
        tmp_path / "runs", True, task="t", metadata={"split": "test"}, interface=whole
    )
    metadata = {"split": "train", "parents": [held]}
    record_one(tmp_path / "runs", True, task="u", metadata=metadata, interface=whole)
    close_logs()
    with trajrec.open(tmp_path / "runs") as corpus:
        assert corpus.support().claims["coverage"].verdict == "licensed"
        card = corpus.card(tmp_path / "out").card
    verdict = card["claims"]["coverage"]["verdict"]
    assert verdict.startswith("contradicted (1 episode from held-out data")
    assert verdict.replace("(", "\\(")[:12] in (tmp_path / "out" / "README.md").read_text()


def test_each_table_is_published_or_left_out_on_purpose() -> None:
    names = {table.name for table in ALL_TABLES} | {view.name for view in VIEWS}
    derived = {"calls", "branches", "latest_credit", "latest_labels", "latest_replay"}
    # The kinds of episodes are tables of their own; the last two name files and removed episodes.
    assert names - set(TABLES) == derived | {"all_episodes", "imports", "removals"}
    assert set(TABLES) <= names


@deep("attribution")
# mlcroissant uses names of rdflib and pandas that these have replaced.
@pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The inplace keyword")
@pytest.mark.parametrize("kind", ["counters", "samples", "shops"])
def test_the_tools_of_others_load_every_table(
    release: tuple[trajrec.Corpus, Path], tmp_path: Path, kind: str
) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    datasets = pytest.importorskip("datasets")
    _, folder = release
    if kind != "counters":
        folder = tmp_path / "out"
        if kind == "samples":
            shutil.copytree(SAMPLES, tmp_path / "samples", ignore=shutil.ignore_patterns("support"))
            corpus = trajrec.open(tmp_path / "samples")
        else:
            # With forks, copies, damaged and foreign files.
            corpus = make_corpus(tmp_path / "shops")
            close_logs()
        with corpus:
            corpus.card(folder, **ABOUT)  # type: ignore[arg-type]
    described = mlcroissant.Dataset(jsonld=str(folder / "croissant.json"))
    issues = described.metadata.ctx.issues
    assert not issues.errors
    # How to cite it and its version are recommended; nobody gave them.
    assert all("is recommended, but does not exist" in text for text in issues.warnings)
    files = {(file["table"], file["split"]): file["rows"] for file in read(folder)["files"]}
    for (table, split), n in files.items():
        assert sum(1 for _ in described.records(f"{table}-{split}")) == n
        rows = datasets.load_dataset(
            str(folder), table, split=split, cache_dir=str(tmp_path / "cache")
        )
        assert len(rows) == n
    assert sum(1 for _ in described.records("claims")) == 4


@pytest.mark.slow
def test_each_source_of_a_check_has_its_own_flakes(tmp_path: Path) -> None:
    @trajrec.verifier(id="reached", version="1")
    def changes_its_mind(state: dict[str, Any]) -> bool:
        return next(verdicts)

    @trajrec.verifier(id="reached", version="1")
    def is_sure(state: dict[str, Any]) -> bool:
        return True

    verdicts = iter([True, False] * 3)
    for check in (changes_its_mind, is_sure):
        for _ in range(4):
            record_one(tmp_path / "runs", True, task="t", checks=[check], interface=interface())
    close_logs()
    with trajrec.open(tmp_path / "runs") as corpus:
        card = corpus.card(tmp_path / "out", name="n").card
        rates = {flake.check[-9:-1]: flake.rate.value for flake in corpus.disagreement().flakes}
    assert len(card["checks"]) == 2
    for check in card["checks"]:
        assert check["flake"]["rate"]["value"] == rates[check["code_digest"][:8]]
    assert sorted(rates.values())[0] == 0.0 < sorted(rates.values())[1]


@pytest.mark.slow
def test_a_task_in_two_splits_contradicts_the_coverage(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        record_one(
            tmp_path,
            True,
            task="both",
            metadata={"split": split},
            interface=interface(
                lineage=dict.fromkeys(("generator", "teacher", "filter", "decontamination"), "none")
            ),
        )
    close_logs()
    about = About(name="n", published=datetime.date(2026, 1, 1))
    with trajrec.open(tmp_path) as corpus:
        card = make_card(corpus, about)
        named = make_card(corpus, dataclasses.replace(about, held_out=("validation",)))
    verdict = card["claims"]["coverage"]["verdict"]
    assert verdict.startswith("contradicted (1 task, goal or first state is in several splits")
    assert "held-out split: no episode is in test; name yours (--held-out)" in card["missing"]
    assert "is held out and not" in named["claims"]["coverage"]["verdict"]
    assert not any(line.startswith("held-out split") for line in named["missing"])


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("other", ["a_b", "A-B"])
def test_splits_whose_files_would_be_one_are_refused(tmp_path: Path, other: str) -> None:
    for split in ("a-b", other):
        record_one(tmp_path / "runs", True, metadata={"split": split})
    close_logs()
    with (
        trajrec.open(tmp_path / "runs") as corpus,
        pytest.raises(ValueError, match=r"the splits .* would have the same file"),
    ):
        corpus.card(tmp_path / "out", name="n")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_first_state_stands_only_for_tasks_without_names(tmp_path: Path) -> None:
    # Two tasks begin in one world, and two environments in the number 0.
    for split in ("train", "test"):
        record_one(tmp_path, True, task=f"of {split}", metadata={"split": split})
        env_id = {"train": "FrozenLake-v1", "test": "CliffWalking-v1"}[split]
        for names in ({}, {"task": split}):
            options: Any = {"metadata": {"split": split}, "state": lambda env: 0, **names}
            with trajrec.record(gym.make(env_id), tmp_path, **options) as env:
                env.reset(seed=0)
                env.step(0)
    close_logs()
    with trajrec.open(tmp_path) as corpus:
        shared = corpus.overlap().shared
        card = make_card(corpus, About(name="n", published=datetime.date(2026, 1, 1)))
    assert [(item.by, item.is_task) for item in shared] == [("first state", False)]
    assert card["claims"]["coverage"]["contradicted"] == []


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("split", ["", "x" * 101])
def test_a_split_that_names_no_file_is_refused(tmp_path: Path, split: str) -> None:
    record_one(tmp_path / "runs", True, metadata={"split": split})
    close_logs()
    with (
        trajrec.open(tmp_path / "runs") as corpus,
        pytest.raises(ValueError, match="the name of a split must have 1 to 100 characters"),
    ):
        corpus.card(tmp_path / "out")


def test_texts_of_a_card_are_visible_and_short() -> None:
    for text in ("a\x1b[31mb\u202ec", "x" * 1_000_000):
        for shown in (escape(text), code(text)):
            assert "\x1b" not in shown
            assert "\u202e" not in shown
            assert len(shown) < 2_200
    assert "more characters in card.json" in code("x" * 1_000_000)


@pytest.mark.parametrize("text", ["a`b", "``", "a``b`c", "`"])
def test_no_backtick_ends_the_code_that_it_is_in(text: str) -> None:
    shown = code(text)
    fence = shown[: len(shown) - len(shown.lstrip("`"))]
    inner = shown[len(fence) : -len(fence)]
    assert inner.strip(" ") == text
    # A run of backticks of its own length ends a piece of code, and no other one.
    assert fence not in re.findall("`+", inner)


@pytest.mark.slow
@third_slow("attribution")
def test_release_has_the_episodes_that_a_killed_writer_left(tmp_path: Path) -> None:
    program = (
        "import os, trajrec\n"
        "with trajrec.episode('runs', task='t') as ep:\n"
        "    ep.tool(lambda: 1, name='look', access='read')\n"
        "    ep.call('look')\n"
        "    os._exit(1)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False)
    with trajrec.open(tmp_path / "runs") as corpus:
        card = corpus.card(tmp_path / "out").card
        attempts = corpus.sql("SELECT * EXCLUDE (started_at) FROM attempts").fetchall()
    assert card["counts"]["episodes"] == 1
    with trajrec.open(tmp_path / "out" / "logs") as released:
        query = "SELECT * EXCLUDE (started_at) FROM attempts"
        assert released.sql(query).fetchall() == attempts
    assert len(attempts) == 1


@pytest.mark.slow
@third_slow("attribution")
def test_log_that_is_being_written_is_not_released(tmp_path: Path) -> None:
    record_one(tmp_path / "runs", True, task="t")
    with trajrec.open(tmp_path / "runs") as corpus:
        with pytest.raises(CorpusError, match=r"is being written: close its recorder first"):
            corpus.card(tmp_path / "out")
        assert not (tmp_path / "out").exists()
        close_logs()
        corpus.card(tmp_path / "out")


@pytest.mark.slow
def test_refused_replays_are_no_failed_ones(tmp_path: Path) -> None:
    for _ in range(3):
        state = {"n": 0}
        with trajrec.episode(tmp_path / "runs", task="t", watch=state) as ep:
            ep.tool(state.update, name="set", access="write")
            ep.call("set", n=1)
    trajrec.close_logs()
    # No world was given, so nothing can be executed again.
    assert main(["replay", str(tmp_path / "runs")]) == 4
    with trajrec.open(tmp_path / "runs") as corpus:
        (replays,) = corpus.fidelity()
        card = corpus.card(tmp_path / "release").card
    assert (replays.grades, replays.n_replayed, replays.reproduced) == ({"refused": 3}, 0, None)
    assert "replay, of 3 episodes" in card["missing"]


@pytest.mark.slow
def test_replays_in_another_environment_are_told_apart(tmp_path: Path) -> None:
    with trajrec.record(gym.make("CartPole-v1"), tmp_path / "runs") as env:
        env.reset(seed=0)
        env.step(1)
    with trajrec.open(tmp_path / "runs") as corpus:
        (episode,) = corpus.episodes()
        for against in (RECORDED, "Acrobot-v1"):
            env = None if against == RECORDED else functools.partial(gym.make, against)
            with contextlib.closing(VerdictLog(tmp_path / "runs", against)) as log:
                log.add(replay_episode(episode, env=env, explain=False))
        corpus.card(tmp_path / "release", name="n")
    lines = (tmp_path / "release" / "README.md").read_text().splitlines()
    replays = [line for line in lines if line.startswith("| `CartPole-v1`") and "exact" in line]
    others = [line for line in lines if line.startswith("| `CartPole-v1`") and "diverged" in line]
    assert "| the recorded one | 1 | 1 |" in replays[0]
    assert "| `Acrobot-v1` | 1 | 1 |" in others[0]
