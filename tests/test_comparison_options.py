"""Units, scores, plans and observed interfaces of comparisons: known answers on real logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counter_runs import counts, interface, of_run, reached, record_one, record_run
from test_messages import chat, send, user
from tiers import third_slow

import trajrec
from trajrec.analysis import forest_plot
from trajrec.analysis.cells import Cell
from trajrec.analysis.comparison import Comparison
from trajrec.analysis.estimate import Estimate
from trajrec.analysis.intervals import UNIT_RANGE
from trajrec.analysis.planned import apply_plan
from trajrec.analysis.planning import tasks_needed, variance_of_both
from trajrec.cli.main import main
from trajrec.corpus.recheck import recheck
from trajrec.recording import provenance
from trajrec.recording.event_log import close_logs
from trajrec.run_interface import missing
from trajrec.statistics.intervals import welch
from trajrec.statistics.paired_rates import hull_difference

TASKS = {"t0": (1, 2), "t1": (0, 2), "t2": (2, 2), "t3": (1, 2)}
FAMILIES = {"t0": "left", "t1": "left", "t2": "right", "t3": "right"}


@trajrec.verifier(id="points", version="1")
def points(state: dict[str, Any]) -> trajrec.Verdict:
    return trajrec.Verdict(None, score=float(state["count"]))


def trained(run: str) -> dict[str, Any]:
    """Return the interface of a checkpoint of a training run."""
    recipe = "new" if run.startswith("b") else "old"
    return interface(
        base={"model": "counter", "revision": f"checkpoint {run}"},
        lineage={"training_run": run, "data": "same"},
        optimizer={"name": recipe},
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[trajrec.Corpus]:
    folder = tmp_path_factory.mktemp("options")
    for name in ("plain", "plain again"):
        record_run(folder, name, counts(**TASKS), families=FAMILIES, checks=[reached, points])
    for run, passed in zip(("a1", "a2", "a3", "b1", "b2", "b3"), (0, 1, 2, 2, 3, 4), strict=True):
        results = counts(**{f"t{k}": (passed, 4) for k in range(3)})
        record_run(folder, f"recipe {run[0]}", results, of=trained(run))
    record_run(folder, "revised", counts(**TASKS), task_revision="2")
    record_run(folder, "first", counts(**TASKS), task_revision="1")
    with trajrec.open(folder) as opened:
        yield opened


def compare(corpus: trajrec.Corpus, a: str, b: str, **options: Any) -> Any:
    return corpus.compare(a=of_run(a), b=of_run(b), **options)


@pytest.mark.slow
def test_families_are_the_units_of_a_cluster(corpus: trajrec.Corpus) -> None:
    by_task = compare(corpus, "plain", "plain again")
    by_family = compare(corpus, "plain", "plain again", cluster="family")
    assert (by_task.n_units, by_family.n_units, by_family.unit) == (4, 2, "family")
    assert {task.task for task in by_family.tasks} == {"left", "right"}
    assert by_family.a.rate.value == by_task.a.rate.value == 0.5
    assert (by_task.claim, by_family.claim) == ("noise floor", "unlicensed")
    assert by_family.reasons == ("2 families of tasks (at least 3 are needed)",)
    with pytest.raises(ValueError, match="a key of the metadata must be"):
        compare(corpus, "plain", "plain again", cluster="a' OR 1")


@pytest.mark.slow
def test_an_interval_over_these_tasks_says_so(corpus: trajrec.Corpus) -> None:
    comparison = compare(corpus, "plain", "plain again", over="these")
    assert "these tasks alone" in comparison.notes[0]
    # q = (y + 1/2) / (n + 1) in eight cells of two rollouts, two arms alike.
    shares = [(y + 0.5) / 3 for y, _ in TASKS.values()]
    variance = 2 * sum(q * (1 - q) / 2 for q in shares) / 16
    assert comparison.difference.ci_high == pytest.approx(2.306004 * variance**0.5, rel=1e-5)
    with pytest.raises(ValueError, match="over must be"):
        compare(corpus, "plain", "plain again", over="all")


def test_scores_need_a_range_if_most_tasks_do_not_differ(corpus: trajrec.Corpus) -> None:
    options = {"check": "points@1", "score": True}
    refused = compare(corpus, "plain", "plain again", **options)
    assert (refused.difference, refused.claim) == (None, "unlicensed")
    assert "more than half of the tasks do not differ at all" in refused.reasons[0]
    ranged = compare(corpus, "plain", "plain again", range=(0, 3), **options)
    assert ranged.difference.value == 0.0
    assert ranged.difference.ci_low < 0 < ranged.difference.ci_high
    # Half of the rollouts end at 3 and half at 1.
    assert ranged.a.rate.value == 2.0
    with pytest.raises(ValueError, match="range is \\[0, 2\\], and task 't0' has a score of 3"):
        compare(corpus, "plain", "plain again", range=(0, 2), **options)
    none = compare(corpus, "plain", "plain again", check="points@1")
    assert none.a.excluded == {"no verdict": 8}
    with pytest.raises(ValueError, match="give score=True too"):
        compare(corpus, "plain", "plain again", range=(0, 3))


def test_a_difference_of_scores_is_not_split(corpus: trajrec.Corpus) -> None:
    scores = compare(corpus, "plain", "plain again", check="points", score=True, range=(0, 3))
    assert "verdicts alone are split" in scores.cross_grade().reason


@pytest.mark.slow
def test_training_runs_are_the_units_of_a_recipe(corpus: trajrec.Corpus) -> None:
    comparison = compare(corpus, "recipe a", "recipe b")
    assert comparison.claim == "attributable"
    # Checkpoints differ between any two training runs, so only the optimizer tells.
    assert comparison.differing_paths == ('optimizer.name "old" -> "new"',)
    expected = welch(np.array([0.5, 0.75, 1.0]), np.array([0.0, 0.25, 0.5]))
    assert comparison.method == "Welch over training runs (3 and 3)"
    assert comparison.smallest_visible > half_width(comparison)
    assert comparison.difference.value == pytest.approx(expected.value)
    assert comparison.difference.ci_low == pytest.approx(expected.ci_low)
    two = corpus.compare(
        a=f"{of_run('recipe a')} AND interface->>'$.lineage.training_run' <> 'a1'",
        b=of_run("recipe b"),
    )
    assert two.claim == "attributable (artefacts)"
    assert "fewer than 3 training runs a side" in two.reasons[0]


@pytest.mark.slow
def test_equal_training_runs_have_no_sure_rate(tmp_path: Path) -> None:
    for run in ("a1", "a2", "a3", "b1", "b2", "b3"):
        n_won = 1 if run < "b3" else 0
        results = counts(t0=(1, 1), t1=(n_won, 1), t2=(0, 1))
        record_run(tmp_path, f"recipe {run[0]}", results, of=trained(run))
    with trajrec.open(tmp_path) as opened:
        comparison = compare(opened, "recipe a", "recipe b")
    assert comparison.method == "Welch over training runs (3 and 3)"
    equal = comparison.a.rate
    assert (equal.ci_low, equal.ci_high) == (0.0, 1.0)
    assert 0.0 < comparison.b.rate.ci_low < comparison.b.rate.value


@pytest.mark.slow
def test_training_runs_of_unplanned_rollouts_allow_no_claim(tmp_path: Path) -> None:
    for run, n in zip(("a1", "a2", "a3", "b1", "b2", "b3"), (1, 1, 1, 1, 1, 4), strict=True):
        results = counts(t0=(1, 1), t1=(0, n), t2=(1, 1))
        record_run(tmp_path, f"recipe {run[0]}", results, of=trained(run))
    with trajrec.open(tmp_path) as opened:
        comparison = compare(opened, "recipe a", "recipe b")
    # The difference is that of first rollouts, and not one over training runs.
    assert comparison.method == "hull of paired MOVER and t"
    assert comparison.claim == "unlicensed"
    assert "numbers were not planned" in comparison.reasons[0]


def test_tasks_of_another_revision_are_no_shared_tasks(corpus: trajrec.Corpus) -> None:
    comparison = compare(corpus, "first", "revised")
    assert comparison.claim == "unlicensed"
    assert comparison.reasons == ("4 tasks do not have the same revision in both runs",)
    assert not comparison.holds("no-loss", margin=1.0)


@pytest.mark.slow
def test_check_that_no_episode_has_is_refused_by_name(corpus: trajrec.Corpus) -> None:
    for ask in (
        lambda name: compare(corpus, "plain", "plain again", check=name),
        lambda name: corpus.bands(check=name),
        lambda name: corpus.pass_k(1, check=name),
        lambda name: corpus.plan(0.1, check=name),
    ):
        for name in ("reach", "reached@9"):
            with pytest.raises(
                ValueError, match=f"no episode has the check '{name}'; checks: .*reached@1"
            ):
                ask(name)
        ask("reached@1")


def half_width(comparison: Comparison) -> float:
    assert comparison.difference is not None
    return (comparison.difference.ci_high - comparison.difference.ci_low) / 2


def test_more_variants_widen_the_interval(corpus: trajrec.Corpus) -> None:
    alone = compare(corpus, "plain", "plain again").difference
    many = compare(corpus, "plain", "plain again", variants=10)
    assert many.difference.value == alone.value
    assert many.difference.ci_high > alone.ci_high
    assert "one of 99.5 % (Bonferroni)" in many.notes[0]
    # An interval excludes only differences beyond its half width, with a chance of 80 % larger ones.
    assert many.smallest_visible > half_width(many)
    assert many.tasks_for(0.1) > compare(corpus, "plain", "plain again").tasks_for(0.1)
    with pytest.raises(ValueError, match="variants must be at least 1"):
        compare(corpus, "plain", "plain again", variants=0)


@pytest.mark.slow
@third_slow("attribution")
def test_a_comparison_is_drawn_with_each_task(corpus: trajrec.Corpus, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    comparison = compare(corpus, "plain", "plain again")
    picture = comparison.plot(tmp_path / "tasks.svg").read_text()
    assert picture.count("<!-- t") >= 4
    assert "mean of 4" in picture
    assert comparison.plot(tmp_path / "again.svg").read_text().count("<path") > 10
    for suffix in (".svg", ".pdf", ".png"):
        twice = [comparison.plot(tmp_path / f"{name}{suffix}").read_bytes() for name in "ab"]
        assert twice[0] == twice[1]
    assert comparison.plot(tmp_path / "tasks.png").stat().st_size > 10_000
    command = ["compare", str(corpus.path), "--a", of_run("plain"), "--b", of_run("plain again")]
    assert main([*command, "--variants", "2", "--plot", str(tmp_path / "cli.png")]) == 0
    assert (tmp_path / "cli.png").exists()
    assert main([*command, "--plot", str(tmp_path / "tasks.gif")]) == 2
    with pytest.raises(ValueError, match="there is nothing to plot"):
        compare(corpus, "plain", "plain again", check="points", score=True).plot("x.png")


def cell(n: int, n_excluded: int = 0) -> Cell:
    return Cell(
        unit="t",
        family=None,
        n=n,
        total=0,
        deviations=0,
        is_binary=True,
        n_excluded=n_excluded,
    )


def test_declared_trials_plan_unequal_numbers() -> None:
    unequal = {"t0": cell(2), "t1": cell(4)}
    assert apply_plan(unequal, None)[1] is not None
    assert apply_plan(unequal, {"t0": 2, "t1": 4}) == (unequal, None)
    # A rollout that was planned and is not there may have had any result.
    completed, note = apply_plan(unequal, 4)
    assert (note, completed["t0"].n_excluded) == (None, 2)
    _, note = apply_plan(unequal, 2)
    assert note == "1 tasks have more rollouts than eval_protocol.trials says"
    # Outages that were made up for leave equal numbers of graded rollouts.
    made_up = {"t0": cell(4, n_excluded=1), "t1": cell(4)}
    assert apply_plan(made_up, None) == (made_up, None)
    assert UNIT_RANGE == (0.0, 1.0)


@trajrec.verifier(id="reached", version="1")
def reached_later(state: dict[str, Any]) -> bool:
    return bool(state["count"] >= 2)


@pytest.mark.slow
def test_two_versions_in_one_run_are_no_one_measure(tmp_path: Path) -> None:
    # Both runs have both versions of each task, so their sets are equal.
    for run in ("a", "b"):
        for verifier in (reached, reached_later):
            record_run(tmp_path, run, counts(t0=(1, 1), t1=(1, 1), t2=(1, 1)), checks=[verifier])
    with trajrec.open(tmp_path) as corpus:
        comparison = compare(corpus, "a", "b", check="reached@1")
        assert comparison.claim == "unlicensed"
        assert comparison.reasons == ("verifier varies within a run (verifier.check_code)",)
        with pytest.raises(ValueError, match="must be graded by one version"):
            comparison.cross_grade()


@pytest.mark.slow
def test_other_versions_of_packages_are_a_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = provenance.describe_runtime
    tasks = counts(t0=(1, 1), t1=(1, 1), t2=(1, 1))
    for folder, version in (("a", "2.0"), ("b", "2.1")):
        runtime = real()
        changed = {**runtime, "packages": {**runtime["packages"], "numpy": version}}
        monkeypatch.setattr(provenance, "describe_runtime", lambda found=changed: found)
        record_run(tmp_path / folder, "x", tasks)
    with trajrec.open(tmp_path / "a") as a, trajrec.open(tmp_path / "b") as b:
        comparison = a.compare(b)
    assert comparison.differing_paths == ("env.packages.numpy 2.0 -> 2.1 (undeclared)",)


def record_models(folder: Path, run: str, *, model: str, temperature: float, system: str) -> None:
    """Record a call of a model in each of three episodes, with nothing declared of `sampling`."""
    for task in ("t0", "t1", "t2"):
        state = {"count": 3}
        with trajrec.episode(
            folder,
            task=task,
            watch=state,
            checks=[reached],
            metadata={"run": run},
            interface=interface(sampling=missing("unknown")),
        ) as ep:
            messages = [{"role": "system", "content": system}]
            answer: Callable[..., Any] = lambda **_: {"model": model, "choices": []}  # noqa: E731
            ep.model(answer, messages=messages, temperature=temperature, seed=hash(run) % 100)
    close_logs()


@pytest.mark.slow
def test_recorded_models_and_prompts_correct_the_interface(tmp_path: Path) -> None:
    same: dict[str, Any] = {"model": "m-1", "temperature": 0.0, "system": "Count."}
    for run, change in {
        "a": {},
        "again": {},
        "model": {"model": "m-2"},
        "warm": {"temperature": 1.0},
        "prompt": {"system": "Count to three."},
    }.items():
        record_models(tmp_path, run, **{**same, **change})
    record_one(tmp_path, True, task="t0", metadata={"run": "silent"}, checks=[reached])
    with trajrec.open(tmp_path) as corpus:
        found = {run: compare(corpus, "a", run) for run in ("again", "model", "warm", "prompt")}
    # Nobody declared the sampling, and the requests hold it.
    assert (found["again"].claim, found["again"].factors["sampling"].status) == (
        "noise floor",
        "same",
    )
    assert found["model"].differing_paths == ("base.model m-1 -> m-2 (undeclared)",)
    (warm,) = found["warm"].factors["sampling"].differences
    assert (warm.a, warm.b) == ('{"temperature": 0.0}', '{"temperature": 1.0}')
    assert found["warm"].claim == "attributable"
    (prompt,) = found["prompt"].factors["scaffold"].differences
    assert (prompt.path, prompt.is_declared) == ("scaffold.system_digest", False)


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("name", ["model", "system", "instructions", "input", "prompt_cache_key"])
def test_content_of_a_request_is_no_setting_of_its_sampling(tmp_path: Path, name: str) -> None:
    for run in ("a", "b"):
        for task in ("t0", "t1", "t2"):
            state = {"count": 3}
            with trajrec.episode(
                tmp_path,
                task=task,
                watch=state,
                checks=[reached],
                metadata={"run": run},
                interface=interface(base={"model": run}),
            ) as ep:
                request = {"temperature": 0.7, name: run}
                ep.model(lambda run=run, **_: {"model": run, "choices": []}, **request)
    close_logs()
    with trajrec.open(tmp_path) as corpus:
        comparison = compare(corpus, "a", "b")
    assert comparison.factors["sampling"].status == "same"
    # A system prompt is told apart by its digest.
    changed = [factor for factor, told in comparison.factors.items() if told.differences]
    assert set(changed) <= {"base", "scaffold"}
    if name == "model":
        assert comparison.claim == "attributable (artefacts)"
        assert changed == ["base"]


@trajrec.verifier(id="reached", version="2")
def passes_all(state: dict[str, Any]) -> bool:
    return True


@pytest.mark.slow
@third_slow("attribution")
def test_a_gate_is_not_passed_by_an_easier_check(tmp_path: Path) -> None:
    lost = {f"t{k}": [False] * 4 for k in range(10)}
    record_run(tmp_path, "a", lost)
    easier = interface(verifier={"id": "reached", "version": "2"})
    record_run(tmp_path, "b", lost, of=easier, checks=[passes_all])
    sides = ["--a", of_run("a"), "--b", of_run("b")]
    with trajrec.open(tmp_path) as corpus:
        comparison = corpus.compare(a=of_run("a"), b=of_run("b"))
        assert comparison.is_gain_shown
        assert comparison.claim == "verifier"
        assert "verifier.version 1 -> 2" in comparison.changed_measure
        for gate in ("gain", "no-loss"):
            assert not comparison.holds(gate, margin=0.05)
        assert main(["compare", str(tmp_path), *sides, "--require", "gain"]) == 1
        # Graded by one check after all, the declared versions do not matter.
        list(recheck(corpus, passes_all))
        again = corpus.compare(a=of_run("a"), b=of_run("b"), check="reached@2")
        assert again.changed_measure == ""
        assert again.holds("no-loss", margin=0.5)


@pytest.mark.parametrize("margin", [-0.1, float("nan"), float("inf")])
def test_a_margin_is_a_finite_number(corpus: trajrec.Corpus, margin: float) -> None:
    with pytest.raises(ValueError, match="margin must be at least 0 and finite"):
        compare(corpus, "plain", "plain again").holds("no-loss", margin=margin)


def without_source() -> Callable[..., Any]:
    """Return the same check, made of a text that is in no file."""
    scope: dict[str, Any] = {}
    exec("def check(state): return state['count'] >= 3", scope)
    made: Callable[..., Any] = trajrec.verifier(id="reached", version="1")(scope["check"])
    return made


@pytest.mark.slow
def test_a_check_of_unknown_source_equals_none(tmp_path: Path) -> None:
    """One task of run b was graded by a check whose source nobody knows."""
    results = counts(**TASKS)
    record_run(tmp_path, "a", results)
    record_run(tmp_path, "b", {task: results[task] for task in ("t1", "t2", "t3")})
    record_run(tmp_path, "b", {"t0": results["t0"]}, checks=[without_source()])
    with trajrec.open(tmp_path) as corpus:
        comparison = compare(corpus, "a", "b")
    assert comparison.reasons == ("verifier is unknown (verifier.check_code)",)
    assert "unknown" in comparison.changed_measure


@pytest.mark.slow
def test_a_task_in_several_families_allows_no_claim(tmp_path: Path) -> None:
    results = counts(**TASKS)
    record_run(tmp_path, "a", results, families=FAMILIES)
    record_run(tmp_path, "b", results, families={**FAMILIES, "t0": "right"})
    with trajrec.open(tmp_path) as corpus:
        comparison = compare(corpus, "a", "b", cluster="family")
    assert comparison.claim == "unlicensed"
    assert "1 tasks are in several families: a task belongs to one" in comparison.problems


@trajrec.verifier(id="size", version="1")
def size(state: dict[str, float]) -> trajrec.Verdict:
    return trajrec.Verdict(None, score=state["score"])


def record_scores(folder: Path, run: str, scale: float) -> None:
    for k in range(4):
        state = {"score": scale * (k + 1)}
        given = {"task": f"t{k}", "metadata": {"run": run}, "interface": interface()}
        with trajrec.episode(folder, watch=state, checks=[size], **given):
            pass
    close_logs()


@pytest.mark.slow
def test_scores_of_any_size_are_spelled_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run, scale in {"small": 1e-9, "smaller": 0.5e-9, "large": 1e200, "larger": 2e200}.items():
        record_scores(tmp_path, run, scale)
    with trajrec.open(tmp_path) as corpus:
        text = compare(corpus, "smaller", "small", score=True).difference.text
        assert text.startswith("+1.25e-09 [")
        assert "0.000" not in text
        with pytest.raises(ValueError, match="task 't0' has a score of 1e"):
            compare(corpus, "large", "larger", score=True)
        for ends in ((0.0, float("inf")), (float("-inf"), 1.0), (float("nan"), 1.0)):
            with pytest.raises(ValueError, match="two growing finite numbers"):
                compare(corpus, "smaller", "small", score=True, range=ends)
    command = ["compare", str(tmp_path), "--a", of_run("smaller"), "--b", of_run("small")]
    assert main([*command, "--score", "--require", "gain", "--margin", "1e-7"]) == 1
    assert "not above +1e-07" in capsys.readouterr().err


def test_a_plan_says_that_its_pilot_is_of_several_interfaces(tmp_path: Path) -> None:
    results = {f"t{k}": [True, k > 1] for k in range(4)}
    record_run(tmp_path, "old", results)
    record_run(tmp_path, "new", results, of=interface(scaffold={"prompt": "B"}))
    with trajrec.open(tmp_path) as corpus:
        assert "the pilot has 2 interfaces" in corpus.plan(0.1).note
        assert "interfaces" not in corpus.plan(0.1, of_run("old")).note


def test_tasks_that_nobody_recorded_are_named_as_the_reason(corpus: trajrec.Corpus) -> None:
    with pytest.raises(ValueError, match="no episode of these tasks is selected"):
        compare(corpus, "plain", "plain again", tasks=["no such task"])


def task_half_width(folder: Path, offset: float) -> float:
    for run, own in {"a": (1.0, 2.0, 4.0), "b": (2.0, 4.0, 5.0)}.items():
        for task in ("t0", "t1"):
            for score in own:
                given = {"task": task, "metadata": {"run": run}, "interface": interface()}
                with trajrec.episode(
                    folder, watch={"score": offset + score}, checks=[size], **given
                ):
                    pass
    close_logs()
    with trajrec.open(folder) as corpus:
        difference = compare(corpus, "a", "b", score=True).tasks[0].difference
    return difference.ci_high - difference.ci_low


@pytest.mark.slow
def test_scores_far_from_zero_have_the_same_interval(tmp_path: Path) -> None:
    near = task_half_width(tmp_path / "near", 0.0)
    assert task_half_width(tmp_path / "far", 1e9) == pytest.approx(near, rel=1e-5)


@pytest.mark.slow
def test_tasks_without_a_family_or_a_score_are_counted_once(tmp_path: Path) -> None:
    for run in ("a", "b"):
        record_run(tmp_path, run, {f"t{k}": [True] for k in range(4)})
    with trajrec.open(tmp_path) as opened:
        by_family = compare(opened, "a", "b", cluster="family")
        by_score = compare(opened, "a", "b", score=True, range=(0, 1))
    assert "4 tasks have no family; each counts as its own" in by_family.notes
    assert dict(by_score.a.excluded) == {"no score": 4}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("low", "high", "effect"), [(0.05, 0.15, 0.1), (0.3, 0.6, 0.1), (0.7, 0.9, -0.1)]
)
def test_a_planned_number_of_tasks_shows_the_effect(low: float, high: float, effect: float) -> None:
    rng = np.random.default_rng(5)
    n_rollouts, spread, n_runs = 4, 0.05, 600
    rates = rng.uniform(low, high, 10_000)
    within = float(np.mean(rates * (1 - rates)))
    both = variance_of_both(within, float(rates.mean()), abs(effect))
    n_tasks = tasks_needed(np.sqrt(both / n_rollouts + spread**2), abs(effect))
    n_shown = 0
    for _ in range(n_runs):
        of_a = rng.uniform(low, high, n_tasks)
        of_b = np.clip(of_a + rng.normal(effect, spread, n_tasks), 0, 1)
        a, b = (rng.binomial(n_rollouts, of_run) / n_rollouts for of_run in (of_a, of_b))
        limits = hull_difference(a, b, n_rollouts * n_tasks, n_rollouts * n_tasks)
        n_shown += bool(limits.ci_low > 0 or limits.ci_high < 0)
    # Three standard errors below 80 %.
    assert n_shown / n_runs > 0.8 - 3 * np.sqrt(0.8 * 0.2 / n_runs)


@pytest.mark.parametrize(("result", "word"), [(False, "failed"), (True, "passed")])
def test_plan_from_a_flat_pilot_shows_the_effect(tmp_path: Path, result: bool, word: str) -> None:
    effect, n_runs = 0.1, 300
    record_run(tmp_path, "pilot", {f"t{k}": [result] * 2 for k in range(4)})
    with trajrec.open(tmp_path) as opened:
        plan = opened.plan(effect)
    assert f"all rollouts of the pilot {word}" in plan.note
    rng = np.random.default_rng(5)
    for row in plan.rows:
        size = row.n_rollouts * row.n_tasks
        # Some tasks change by twice the effect, and the others not at all.
        rates = rng.choice([0.0, 2 * effect], (n_runs, row.n_tasks))
        changed = rng.binomial(row.n_rollouts, rates) / row.n_rollouts
        limits = hull_difference(np.zeros((n_runs, row.n_tasks)), changed, size, size)
        assert (limits.ci_low > 0).mean() > 0.8 - 3 * np.sqrt(0.8 * 0.2 / n_runs), row


def test_plan_says_which_change_cannot_be_so_large(tmp_path: Path) -> None:
    record_run(tmp_path, "pilot", counts(t0=(1, 2), t1=(2, 2)))
    with trajrec.open(tmp_path) as opened:
        assert opened.plan(0.3).note.endswith("the numbers hold for no gain: the largest is 0.25")
        assert "hold for no" not in opened.plan(0.2).note
        assert opened.plan(0.8).note.endswith("hold for no loss: the largest is 0.75")


@pytest.mark.slow
def test_visible_difference_is_one_that_there_can_be(tmp_path: Path) -> None:
    # Tasks that change by as much, up and down: the mean is sure of these tasks alone.
    for run, is_up in (("a", False), ("b", True)):
        record_run(tmp_path, run, {f"t{k}": [is_up == k % 2] * 4 for k in range(4)})
    for run in ("few", "few again"):
        record_run(tmp_path, run, {f"t{k}": [True] for k in range(3)})
    with trajrec.open(tmp_path) as opened:
        few = compare(opened, "few", "few again")
        these = compare(opened, "a", "b", over="these")
        likes = compare(opened, "a", "b")
    assert few.smallest_visible == np.inf
    assert few.as_dict()["smallest_visible"] is None
    assert "not even the largest difference would be shown" in few.statement()
    width = these.difference.ci_high - these.difference.ci_low
    assert width / 2 < these.smallest_visible < width
    assert these.smallest_visible < likes.smallest_visible


def test_a_drawn_interval_ends_where_it_ends() -> None:
    figure = pytest.importorskip("matplotlib.figure")
    axes = figure.Figure().subplots()
    mean = Estimate(value=0.2, ci_low=0.007, ci_high=0.4)
    forest_plot._draw(axes, [], mean, n_tasks=0)
    assert {line.get_solid_capstyle() for line in axes.lines if line.get_linewidth() == 4} == {
        "butt"
    }


@pytest.mark.slow
def test_a_tool_described_in_other_words_is_a_difference(tmp_path: Path) -> None:
    for name, words in (("a", "Clear an order."), ("b", "Clear an order. Never undo.")):
        function = {"name": "purge", "description": words, "parameters": {"type": "object"}}
        request = {"model": "m", "tools": [{"type": "function", "function": function}]}
        for _ in range(2):
            state = {"count": 3}
            with trajrec.episode(
                tmp_path,
                task="t",
                # The program describes its tools without the words that the model reads.
                tools=[trajrec.Tool.with_args("purge", "write")],
                watch=state,
                checks=[reached],
                interface=interface(),
                metadata={"run": name},
            ) as ep:
                send(ep, {**request, "messages": [user("Clear.")]}, chat("Done."))
    trajrec.close_logs()
    with trajrec.open(tmp_path) as corpus:
        scaffold = corpus.compare(a=of_run("a"), b=of_run("b")).factors["scaffold"]
    assert [(item.path, item.is_declared) for item in scaffold.differences] == [
        ("scaffold.offered_digest", False)
    ]
