"""Comparisons of runs: known answers on real logs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from counter_runs import counts, interface, of_run, reached, record_run

import trajrec
from trajrec.analysis.comparison import Comparison
from trajrec.cli.main import main
from trajrec.run_interface import missing

SOME = counts(t0=(0, 2), t1=(1, 2), t2=(2, 2))
MORE = counts(t0=(1, 2), t1=(2, 2), t2=(2, 2))


@trajrec.verifier(id="reached", version="1")
def changed_without_a_word(state: dict[str, Any]) -> bool:
    return bool(state["count"] >= 2)


# Runs of one corpus: name -> (results, interface, verifier).
RUNS: dict[str, tuple[dict[str, list[bool | str]], dict[str, Any], Callable[..., Any]]] = {
    "base": (SOME, interface(), reached),
    "again": (SOME, interface(), reached),
    "prompt": (MORE, interface(scaffold={"prompt": "B", "tools": 1}), reached),
    "two": (MORE, interface(scaffold={"prompt": "B"}, budget={"steps": 9}), reached),
    "unknown budget": (MORE, interface(budget=missing("unknown")), reached),
    "prompt and unknown": (
        MORE,
        interface(scaffold={"prompt": "B", "tools": 1}, budget=missing("unknown")),
        reached,
    ),
    "nested unknown": (
        SOME,
        interface(lineage={"train": "x", "teacher": missing("unknown")}),
        reached,
    ),
    "nested again": (
        MORE,
        interface(lineage={"train": "x", "teacher": missing("unknown")}),
        reached,
    ),
    "undeclared": (MORE, interface(), changed_without_a_word),
    "verifier": (MORE, interface(verifier={"id": "reached", "version": "2"}), reached),
    "model": (MORE, interface(base={"model": "other"}), reached),
    "none": (counts(**{f"k{k}": (0, 4) for k in range(5)}), interface(), reached),
    "all": (counts(**{f"k{k}": (4, 4) for k in range(5)}), interface(), reached),
    "few": (counts(easy=(2, 2), easier=(2, 2), hard=(0, 2)), interface(), reached),
    "many": (counts(easy=(2, 2), easier=(2, 2), hard=(0, 16)), interface(), reached),
    "sound": (counts(**{f"e{k}": (0, 3) for k in range(8)}), interface(), reached),
    "faulty": (
        {
            f"e{k}": [*([True] * (1 if k < 6 else 3)), *(["infra"] * 2 if k < 6 else [])]
            for k in range(8)
        },
        interface(),
        reached,
    ),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[trajrec.Corpus]:
    folder = tmp_path_factory.mktemp("runs")
    for name, (results, of, verifier) in RUNS.items():
        record_run(folder, name, results, of=of, checks=[verifier])
    with trajrec.open(folder) as opened:
        yield opened


def compare(corpus: trajrec.Corpus, a: str, b: str, **options: Any) -> Comparison:
    options = {"check": "reached@1", **options}
    return corpus.compare(a=of_run(a), b=of_run(b), **options)


@pytest.mark.slow
def test_equal_interfaces_give_the_noise_floor(corpus: trajrec.Corpus) -> None:
    comparison = compare(corpus, "base", "again")
    assert (comparison.claim, comparison.reasons) == ("noise floor", ())
    assert comparison.difference is not None
    assert comparison.difference.value == 0.0
    # Every task agrees in both runs, and yet the interval has a width.
    assert comparison.difference.ci_low < -0.3
    assert comparison.difference.ci_high > 0.3


@pytest.mark.slow
def test_one_differing_path_is_attributable_and_named(corpus: trajrec.Corpus) -> None:
    comparison = compare(corpus, "base", "prompt")
    assert comparison.claim == "attributable"
    assert comparison.differing_paths == ('scaffold.prompt "A" -> "B"',)
    assert comparison.factors["optimizer"].status == "not_applicable"
    assert comparison.difference is not None
    assert comparison.difference.value == pytest.approx(1 / 3)
    assert comparison.statement().startswith("attributable to scaffold; the interval holds 0")
    assert "would be shown with a chance of 80 %" in comparison.statement()
    assert [task.task for task in comparison.tasks] == ["t2", "t0", "t1"]


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("a", "b", "claim", "reason"),
    [
        ("base", "two", "confounded", "2 factors differ: scaffold, budget"),
        ("base", "unknown budget", "unlicensed", "budget is unknown (budget, budget.steps)"),
        ("base", "prompt and unknown", "unlicensed", "budget is unknown (budget, budget.steps)"),
        ("nested unknown", "nested again", "unlicensed", "lineage is unknown (lineage.teacher)"),
        ("base", "verifier", "verifier", "the verifier differs"),
        ("base", "model", "attributable (artefacts)", "base comes out of training"),
    ],
)
def test_a_claim_follows_from_the_interfaces(
    corpus: trajrec.Corpus, a: str, b: str, claim: str, reason: str
) -> None:
    comparison = compare(corpus, a, b)
    assert comparison.claim == claim
    assert comparison.reasons[0].startswith(reason)
    # The numbers are given, whatever may be said of them.
    assert comparison.difference is not None


def test_an_undeclared_change_of_a_check_is_found(corpus: trajrec.Corpus) -> None:
    comparison = compare(corpus, "base", "undeclared")
    assert comparison.claim == "verifier"
    (difference,) = comparison.factors["verifier"].differences
    assert (difference.path, difference.is_declared) == ("verifier.check_code", False)
    assert difference.a != difference.b


def test_five_certain_tasks_leave_the_known_interval(corpus: trajrec.Corpus) -> None:
    difference = compare(corpus, "none", "all").difference
    assert difference is not None
    ends = (difference.value, round(difference.ci_low, 3), difference.ci_high)
    assert ends == (1.0, 0.142, 1.0)


@pytest.mark.parametrize("check", ["reached@1", None])
def test_unequal_numbers_of_rollouts_change_no_rate(
    corpus: trajrec.Corpus, check: str | None
) -> None:
    comparison = compare(corpus, "few", "many", check=check)
    assert comparison.difference is not None
    assert comparison.difference.value == 0.0
    # Pooled, the rates would be 4 of 6 and 4 of 20.
    text = json.dumps(comparison.as_dict())
    assert "0.2," not in text
    # Nobody declared 16 rollouts of the hard task, so it may have been tried until it passed.
    assert "only the first rollout of each task counts" in comparison.notes[0]
    assert {(task.n_a, task.n_b) for task in comparison.tasks} == {(1, 1)}


def test_exclusions_that_can_reverse_a_gain_unlicense_it(corpus: trajrec.Corpus) -> None:
    comparison = compare(corpus, "sound", "faulty")
    assert comparison.difference is not None
    assert comparison.difference.ci_low > 0
    assert comparison.b.excluded == {"infra": 12}
    # With all 12 failed, 6 tasks gain 1/3 and 2 gain 1: still a gain.
    assert comparison.bounds == (pytest.approx(0.5), pytest.approx(1.0))
    assert comparison.claim == "noise floor"


@pytest.mark.slow
def test_exclusions_are_counted_with_the_tasks_that_they_empty(tmp_path: Path) -> None:
    tasks = [f"e{k}" for k in range(9)]
    hard = {task: ["infra", "infra"] for task in tasks[:6]}
    record_run(tmp_path, "a", {task: [False, False] for task in tasks})
    record_run(tmp_path, "b", {**hard, **{task: [True, True] for task in tasks[6:]}})
    with trajrec.open(tmp_path) as corpus:
        comparison = compare(corpus, "a", "b")
    assert comparison.claim == "unlicensed"
    assert comparison.dropped == tuple(tasks[:6])
    assert comparison.bounds == (pytest.approx(1 / 3), 1.0)
    assert comparison.reasons[0] == (
        "the 3 shared tasks are 33 % of one run's tasks (at least 80 % are needed)"
    )


@pytest.mark.slow
def test_faults_on_hard_tasks_unlicense_by_their_bounds(tmp_path: Path) -> None:
    # 12 tasks: b passes where it ran, and an outage hid half of its rollouts.
    tasks = [f"e{k}" for k in range(12)]
    record_run(tmp_path, "a", {task: [True, False, False, False] for task in tasks})
    record_run(tmp_path, "b", {task: [True, "infra", "infra", "infra"] for task in tasks})
    with trajrec.open(tmp_path) as corpus:
        comparison = compare(corpus, "a", "b")
    assert comparison.difference is not None
    assert comparison.difference.ci_low > 0
    assert comparison.bounds == (pytest.approx(0.0), pytest.approx(0.75))
    assert comparison.claim == "unlicensed"
    assert comparison.reasons == (
        "exclusions: 36 rollouts without a result can reverse the difference [+0.000, +0.750]",
    )


SELECTED = [
    ("task IN (SELECT task FROM bands WHERE band = 'always_fail')", "bands"),
    ("outcome = 'failure'", "outcome"),
    ("total_reward > 0", "total_reward"),
    ("task IN (SELECT task FROM episodes GROUP BY task HAVING count(outcome) > 1)", "outcome"),
    # An alias must not lend its name to a column of outcomes.
    ("EXISTS (SELECT task AS outcome FROM logs) AND outcome = 'failure'", "outcome"),
    ("COLUMNS('out.*') = 'failure'", "*"),
    ("episodes::VARCHAR LIKE '%failure%'", "episodes"),
    # By its place, by a name that a subquery gives to a place, and by a join.
    ("#14 = 'failure'", "#14"),
    ("task IN (SELECT kind FROM episodes AS e(kind))", "kind"),
    ("task IN (SELECT a.task FROM episodes a JOIN episodes b USING (outcome))", "outcome"),
    ("task IN (SELECT a.task FROM episodes a NATURAL JOIN episodes b)", "NATURAL JOIN"),
]


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(("condition", "name"), SELECTED)
def test_runs_that_are_selected_by_outcomes_are_refused(
    corpus: trajrec.Corpus, condition: str, name: str
) -> None:
    from trajrec.analysis.conditions import outcome_columns

    assert name in outcome_columns(corpus, f"{of_run('base')} AND {condition}")


def test_a_refused_comparison_has_no_number(corpus: trajrec.Corpus) -> None:
    comparison = corpus.compare(a=f"{of_run('base')} AND outcome = 'failure'", b=of_run("prompt"))
    assert (comparison.claim, comparison.difference) == ("unlicensed", None)
    assert comparison.reasons == ("the runs are selected by outcomes (outcome)",)
    assert comparison.as_dict()["difference"] is None
    with pytest.raises(ValueError, match="nothing was compared"):
        comparison.holds("no-loss", margin=0.1)


def test_runs_that_share_episodes_are_refused(corpus: trajrec.Corpus) -> None:
    with pytest.raises(ValueError, match="6 episodes are in both runs"):
        corpus.compare(a=of_run("base"), b="task IN ('t0', 't1', 't2')")
    with pytest.raises(ValueError, match="no episode is selected"):
        compare(corpus, "base", "nothing")


@pytest.mark.slow
def test_a_gate_says_how_many_tasks_would_do(
    corpus: trajrec.Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compare", str(corpus.path), "--check", "reached@1"]
    loss = [*command, "--a", of_run("all"), "--b", of_run("none")]
    same = [*command, "--a", of_run("base"), "--b", of_run("again")]
    assert main([*same, "--require", "no-loss", "--margin", "0.05"]) == 1
    said = capsys.readouterr()
    assert "tasks like these would do with a chance of 80 %" in said.err
    assert main([*same, "--require", "no-loss", "--margin", "0.9"]) == 0
    assert main([*same, "--require", "no-shown-loss"]) == 0
    assert main([*loss, "--require", "no-shown-loss", "--json"]) == 1
    said = capsys.readouterr()
    assert "the interval ends at -0.142, below -0.000" in said.err
    record = json.loads(said.out.splitlines()[-1])
    assert record["difference"]["value"] == -1.0
    assert (record["claim"], record["n_units"]) == ("noise floor", 5)


@pytest.mark.slow
def test_the_terminal_shows_claim_effect_and_a_plot(
    corpus: trajrec.Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compare", str(corpus.path), "--a", of_run("base"), "--b", of_run("prompt")]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert 'differs   scaffold.prompt "A" -> "B"' in lines
    (claim,) = [line for line in lines if line.startswith("claim")]
    assert claim.startswith("claim     attributable to scaffold; the interval holds 0")
    (task,) = [line for line in lines if line.startswith("t0")]
    assert task.split()[:5] == ["t0", "0", "2", "0.5", "2"]
    assert set(task.split()[-1]) == {".", "-", "o", "|"}


def test_plot_of_a_comparison_is_whole_on_a_narrow_terminal(
    corpus: trajrec.Corpus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compare", str(corpus.path), "--a", of_run("base"), "--b", of_run("prompt")]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "72")
    assert main(command) == 0
    tasks = capsys.readouterr().out.rpartition("\n\n")[2].splitlines()
    assert max(map(len, tasks)) <= 72
    assert not any("…" in line for line in tasks)
    plots = {len(line.split()[-1]) for line in tasks[1:]}
    assert len(plots) == 1
    assert plots.pop() % 2 == 1


@pytest.mark.slow
def test_two_folders_are_compared_and_copies_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    record_run(tmp_path / "a", "x", SOME)
    record_run(tmp_path / "b", "x", MORE)
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["difference"]["value"] == pytest.approx(1 / 3)
    assert record["a"]["where"] == str(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "c")]) == 2
    assert "both runs have the same" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "a")]) == 2


@pytest.mark.slow
def test_rollouts_that_were_declared_and_not_recorded_are_counted(tmp_path: Path) -> None:
    results = {f"t{k}": [k > 0, True, False] for k in range(4)}
    of = interface(eval_protocol={"trials": 4})
    record_run(tmp_path, "three of four", results, of=of)
    record_run(
        tmp_path, "four", {task: [*of_task, True] for task, of_task in results.items()}, of=of
    )
    with trajrec.open(tmp_path) as corpus:
        comparison = corpus.compare(a=of_run("three of four"), b=of_run("four"))
    assert dict(comparison.a.excluded) == {"not recorded": 4}
    assert dict(comparison.b.excluded) == {}
    # One more rollout of each task of A may have passed or failed.
    assert comparison.bounds == pytest.approx((0.0, 0.25))


@pytest.mark.slow
def test_an_unknown_factor_is_named_once(tmp_path: Path) -> None:
    for run in ("a", "b"):
        record_run(tmp_path, run, SOME, of=trajrec.interface(base={"model": "counter"}))
    with trajrec.open(tmp_path) as corpus:
        comparison = corpus.compare(a=of_run("a"), b=of_run("b"))
    assert "sampling is unknown" in comparison.reasons
