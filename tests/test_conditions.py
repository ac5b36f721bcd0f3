"""Each function and command that takes a condition runs it as SQL of somebody else."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import gymnasium as gym
import pytest
from tiers import mostly_deep, third_slow

import trajrec
from trajrec.analysis.conditions import outcome_columns
from trajrec.cli.main import main
from trajrec.corpus.export_files import export_messages, export_transitions
from trajrec.corpus.recheck import recheck
from trajrec.corpus.removal import remove
from trajrec.errors import QueryError
from trajrec.exchange.exporting import export_atif, export_otlp
from trajrec.exchange.to_minari import export_minari
from trajrec.exchange.to_parquet import export_parquet
from trajrec.recording.event_log import close_logs
from trajrec.replay.credit.estimators.groups import group_advantages
from trajrec.replay.credit.exporting import Kind, export
from trajrec.verifiers import verifier

Condition = Callable[[trajrec.Corpus, str, Path], Any]


@verifier(id="any", version="1")
def any_state(state: Any) -> bool:
    return True


METHODS: dict[str, Condition] = {
    "episodes": lambda corpus, where, out: list(corpus.episodes(where)),
    "transitions": lambda corpus, where, out: corpus.transitions(where),
    "sequences": lambda corpus, where, out: corpus.sequences(where, length=1),
    "agent_transitions": lambda corpus, where, out: list(corpus.agent_transitions(where)),
    "to_arrow": lambda corpus, where, out: corpus.to_arrow(where),
    "messages": lambda corpus, where, out: list(corpus.messages(where)),
    "write_labels": lambda corpus, where, out: corpus.write_labels(out / "labels", where),
    "bands": lambda corpus, where, out: corpus.bands(where),
    "pass_k": lambda corpus, where, out: corpus.pass_k(1, where),
    "plan": lambda corpus, where, out: corpus.plan(0.1, where),
    "support": lambda corpus, where, out: corpus.support(where),
    "recovery": lambda corpus, where, out: corpus.recovery(where),
}
FUNCTIONS: dict[str, Condition] = {
    "order_by": lambda corpus, where, out: list(corpus.episodes(order_by=f"({where})")),
    "group_advantages": lambda corpus, where, out: group_advantages(corpus, where=where),
    "by": lambda corpus, where, out: group_advantages(corpus, by=f"({where})"),
    "recheck": lambda corpus, where, out: list(recheck(corpus, any_state, where=where)),
    "remove": lambda corpus, where, out: remove(corpus.path, where, dry_run=True),
    "export_transitions": lambda corpus, where, out: export_transitions(
        corpus, out / "out.parquet", where
    ),
    "export_messages": lambda corpus, where, out: export_messages(corpus, out / "out.jsonl", where),
    "export_atif": lambda corpus, where, out: export_atif(corpus, out / "atif", where),
    "export_otlp": lambda corpus, where, out: export_otlp(corpus, out / "out.jsonl", where),
    "export_minari": lambda corpus, where, out: export_minari(corpus, out / "out-v0", where),
    "export_parquet": lambda corpus, where, out: export_parquet(corpus, out / "tables", where),
    **{
        f"export {kind}": lambda corpus, where, out, kind=kind: export(
            corpus, kind, out / "out.jsonl", where=where
        )
        for kind in get_args(Kind)
    },
}
COMMANDS = [
    ["ls"],
    ["bands"],
    ["support"],
    ["plan", "--effect", "0.1"],
    ["replay"],
    ["rm", "--dry-run"],
    ["credit", "--group", "rtmc"],
    ["export", "transitions", "-o", "out"],
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conditions") / "runs"
    with trajrec.record(gym.make("FrozenLake-v1"), folder) as env:
        env.reset(seed=1)
        env.step(1)
    with trajrec.episode(folder, task="say"):
        pass
    close_logs()
    (folder.parent / "secret.txt").write_text("a secret file")
    return folder


def test_every_method_with_a_condition_is_listed() -> None:
    methods = inspect.getmembers(trajrec.Corpus, inspect.isfunction)
    listed = {
        name
        for name, method in methods
        if "where" in inspect.signature(method).parameters and not name.startswith("_")
    }
    assert listed == {*METHODS, "to_torch"}  # which needs a package


@mostly_deep("index", drawn=8)
@pytest.mark.mostly_slow(4)
@pytest.mark.parametrize("name", [*METHODS, *FUNCTIONS])
def test_no_condition_reaches_a_file(runs: Path, tmp_path: Path, name: str) -> None:
    ask = {**METHODS, **FUNCTIONS}[name]
    where = f"1 = (SELECT count(*) FROM read_text('{runs.parent}/secret.txt'))"
    with (
        trajrec.open(runs) as corpus,
        pytest.raises((QueryError, ValueError), match=r"Permission Error|selected by outcomes"),
    ):
        ask(corpus, where, tmp_path)


@mostly_deep("index", drawn=8)
@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    "where", ["'abc'", "(SELECT 1 FROM range(9))", "error('x')", "true) UNION SELECT 1 --"]
)
def test_no_condition_is_an_internal_error(
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    where: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([command[0], str(runs), *command[1:], "--where", where]) == 2
    words = "Error|selected by outcomes|must be true or false|no bracket opens before"
    assert re.search(words, capsys.readouterr().err)


@pytest.mark.slow
@third_slow("agents")
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_condition_may_end_in_a_comment(
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    main([command[0], str(runs), *command[1:], "--where", "true -- all of them"])
    assert "Parser Error" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("prompt_b", r"'prompt_b' is no column of episodes; .*'\$.run' = 'prompt_b'"),
        ("prompt_b = 1", 'Referenced column "prompt_b" not found in FROM clause; Candidate'),
        ("task", "must be true or false of each episode, and 'task' is VARCHAR"),
        ("started_at", "must be true or false of each episode, and 'started_at' is TIMESTAMP"),
    ],
)
def test_a_slip_in_a_condition_is_no_outcome(runs: Path, condition: str, words: str) -> None:
    with (
        trajrec.open(runs) as corpus,
        pytest.raises((QueryError, ValueError), match=words),
    ):
        corpus.compare(a=condition, b="task = 'say'")


@pytest.mark.parametrize("condition", ["task = 'say'", "NULL", "1", "task = 'say' -- words"])
def test_a_condition_of_fixed_columns_is_taken(runs: Path, condition: str) -> None:
    with trajrec.open(runs) as corpus:
        assert outcome_columns(corpus, condition) == []


def test_a_refused_selection_says_what_to_select_by(runs: Path) -> None:
    with trajrec.open(runs) as corpus:
        for ask in (corpus.bands, lambda where: corpus.plan(0.1, where)):
            with pytest.raises(
                ValueError, match=r"selected by outcomes \(outcome\): select by columns"
            ):
                ask("outcome = 'success'")


@pytest.mark.parametrize(
    "where", ["n_steps > 3) OR (true", "true) --", "env_id = ')') OR ('a' = 'a'"]
)
def test_a_condition_cannot_leave_its_brackets(runs: Path, where: str) -> None:
    with trajrec.open(runs) as corpus, pytest.raises(QueryError, match="no bracket opens before"):
        list(corpus.episodes(where))
    with pytest.raises(QueryError, match="no bracket opens before"):
        remove(runs, where, dry_run=True)


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    "where",
    [
        "env_id <> ')'",
        "env_id <> ''')'",
        r"env_id <> e'\')'",
        "env_id <> $x$ ) $x$",
        'true AND "env_id" IS NOT NULL -- :-)',
        "(true /* :-) */)",
    ],
)
def test_brackets_in_texts_and_comments_are_none(runs: Path, where: str) -> None:
    with trajrec.open(runs) as corpus:
        # The agent's episode has no environment.
        assert len(list(corpus.episodes(where))) == (1 if "env_id" in where else 2)
