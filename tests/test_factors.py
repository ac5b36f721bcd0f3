"""Several factors, recovery, overlap and lineage: known answers on real logs."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from counter_runs import counts, interface, of_run, reached, record_one, record_run

import trajrec
from trajrec.recording.event_log import close_logs
from trajrec.run_interface import missing

OLD = {"scaffold": {"prompt": "A"}, "budget": {"steps": 5}}
NEW = {"scaffold": {"prompt": "B"}, "budget": {"steps": 9}}
# Successes of 10 rollouts of each task: rates .2 .5 .4 .9.
CELLS = {"none": 2, "scaffold": 5, "budget": 4, "both": 9}


def record_cells(folder: Path, names: list[str]) -> list[str]:
    """Record runs with rates as in CELLS; return their conditions."""
    for name in names:
        changed = ["scaffold", "budget"] if name == "both" else [name]
        fields = {**OLD, **{key: NEW[key] for key in changed if key in NEW}}
        tasks = {f"t{k}": (CELLS[name], 10) for k in range(3)}
        record_run(folder, name, counts(**tasks), of=interface(**fields))
    return [of_run(name) for name in names]


@pytest.mark.slow
def test_effects_of_two_factors_are_those_of_the_cells(tmp_path: Path) -> None:
    runs = record_cells(tmp_path, list(CELLS))
    with trajrec.open(tmp_path) as corpus:
        found = corpus.factors(runs)
        chain = corpus.factors([runs[0], runs[1], runs[3]])
        pair = corpus.factors([runs[0], runs[3]])
        with pytest.raises(ValueError, match="at least 2 runs"):
            corpus.factors(runs[:1])
        refused = corpus.factors([runs[0], f"{runs[3]} AND outcome = 'success'"])
    assert (found.changed, found.missing, found.reason) == (("budget", "scaffold"), (), "")
    effects = {
        name: [round(part.value, 12) for part in (effect.first, effect.last, effect.shapley)]
        for name, effect in found.effects.items()
    }
    assert effects == {"scaffold": [0.3, 0.5, 0.4], "budget": [0.2, 0.4, 0.3]}
    interaction = found.interactions["budget", "scaffold"]
    assert interaction.value == pytest.approx(0.2, abs=1e-12)
    assert found.total is not None
    total = sum(effect.shapley.value for effect in found.effects.values())
    assert found.total.value == pytest.approx(total, abs=1e-12)
    # All tasks agree, and yet no interval has zero width.
    assert interaction.ci_high - interaction.ci_low > 0.1
    # Only a chain: in this order, and the missing run is named.
    assert chain.missing == (("budget",),)
    assert chain.effects == {}
    links = [(link.changed, round(link.effect.value, 12)) for link in chain.chain]
    assert links == [(("scaffold",), 0.3), (("budget",), 0.4)]
    assert pair.missing == (("budget",), ("scaffold",))
    assert refused.reason == "the runs are selected by outcomes (outcome)"


@pytest.mark.slow
def test_factors_refuse_unknown_and_third_values(tmp_path: Path) -> None:
    runs = record_cells(tmp_path, ["none", "both"])
    tasks = {f"t{k}": (5, 10) for k in range(3)}
    other = interface(**{**OLD, "scaffold": {"prompt": "C"}})
    record_run(tmp_path, "third", counts(**tasks), of=other)
    record_run(tmp_path, "unknown", counts(**tasks), of=interface(**OLD, base=missing("unknown")))
    with trajrec.open(tmp_path) as corpus:
        third = corpus.factors([*runs, of_run("third")])
        unknown = corpus.factors([*runs, of_run("unknown")])
    assert third.reason == "run 2 has a third value of scaffold"
    assert unknown.reason.startswith("base is unknown")


@pytest.mark.slow
def test_factors_refuse_runs_whose_tasks_are_not_the_same(tmp_path: Path) -> None:
    tasks = counts(**{f"t{k}": (1, 2) for k in range(3)})
    changed = interface(scaffold={"prompt": "B"})
    record_run(tmp_path, "first", tasks, task_revision="1")
    record_run(tmp_path, "revised", tasks, of=changed, task_revision="2")
    more = tasks | counts(**{f"u{k}": (1, 2) for k in range(3)})
    record_run(tmp_path, "more", more, of=changed, task_revision="1")
    with trajrec.open(tmp_path) as corpus:
        revised = corpus.factors([of_run("first"), of_run("revised")])
        few = corpus.factors([of_run("first"), of_run("more")])
    assert revised.reason == "3 tasks do not have the same revision in runs 0 and 1"
    assert revised.total is None
    assert "the 3 shared tasks are 50 % of one run's tasks" in few.reason


def record_calls(folder: Path, run: str, outcomes: list[tuple[bool, bool]]) -> None:
    """Record episodes of a call each: (whether it fails at first, whether the goal is met)."""
    for k, (fails, wins) in enumerate(outcomes):
        record_call(folder, run, f"t{k % 3}", fails=fails, wins=wins)
    close_logs()


def record_call(folder: Path, run: str, task: str, *, fails: bool, wins: bool) -> None:
    state: dict[str, Any] = {"count": 0}
    failures = [ValueError("not now")] if fails else []

    def add(n: int) -> None:
        if failures:
            raise failures.pop()
        state["count"] += n

    with trajrec.episode(
        folder, task=task, watch=state, checks=[reached], metadata={"run": run}
    ) as ep:
        ep.tool(add, access="write")
        with contextlib.suppress(ValueError):
            ep.call("add", n=3 if wins else 1)
        if fails:
            ep.call("add", n=3 if wins else 1)


@pytest.mark.slow
def test_a_cleaned_copy_of_a_run_is_told_from_the_original(tmp_path: Path) -> None:
    whole = [(k % 2 == 0, k % 3 != 0) for k in range(60)]
    record_calls(tmp_path, "original", whole)
    record_calls(
        tmp_path, "cleaned", [(False, True) for fails, wins in whole if wins and not fails]
    )
    record_calls(tmp_path, "short", [(False, True)] * 3)
    with trajrec.open(tmp_path) as corpus:
        found = corpus.recovery()
        alone = corpus.recovery(of_run("original"))
    runs = {run.run: run.looks_cleaned for run in found.runs}
    # Three episodes without a failure prove nothing.
    assert runs == {"original": False, "cleaned": True, "short": False}
    assert [run.looks_cleaned for run in alone.runs] == [False]
    (kind,) = alone.kinds
    assert (kind.tool, kind.n, kind.n_recovered, kind.retried_by) == ("add", 30, 30, {"agent": 30})
    assert kind.recovered.ci_low < 1.0 == kind.recovered.value
    assert [(group.failures, group.n) for group in alone.success] == [
        ("none", 30),
        ("all overcome", 30),
    ]


def test_data_that_descends_from_a_held_out_episode_is_found(tmp_path: Path) -> None:
    ids: dict[str, str] = {}

    def add(name: str, split: str, parents: list[str], task: str) -> None:
        metadata = {"split": split, "parents": parents}
        ids[name] = record_one(tmp_path, True, task=task, metadata=metadata)

    add("test", "test", [], task="held out")
    add("first", "train", [ids["test"]], task="a")
    add("second", "train", [ids["first"]], task="b")
    add("third", "train", ["model-7"], task="held out")
    close_logs()
    with trajrec.open(tmp_path) as corpus:
        found = corpus.overlap(edges=[("model-7", ids["second"], "distilled")])
        assert [leak.path for leak in found.leaks if leak.episode_id == ids["third"]] == [
            (ids["third"], "model-7", ids["second"], ids["first"], ids["test"])
        ]
        assert len(found.leaks) == 3
        (shared,) = (item for item in found.shared if item.by == "task")
        assert (shared.value, shared.splits, shared.n) == ("held out", ("test", "train"), 2)
        (path,) = found.paths
        assert (path.n, path.tasks) == (4, ("a", "b", "held out"))
        with pytest.raises(ValueError, match=r"the lineage has a cycle: .*model-7 -> "):
            corpus.overlap(edges=[("model-7", ids["second"]), (ids["test"], ids["third"])])


def test_agents_that_end_with_an_answer_share_paths(tmp_path: Path) -> None:
    def record(*calls: int) -> None:
        with trajrec.episode(tmp_path, task="t") as ep:
            ep.tool(lambda x: x, name="add")
            for x in calls:
                ep.model(lambda **_: {"choices": []}, messages=[])
                ep.call("add", x=x)
            ep.model(lambda **_: {"choices": []}, messages=[])

    for calls in ((1, 2), (1, 2), (2,), (), ()):
        record(*calls)
    close_logs()
    with trajrec.open(tmp_path) as corpus:
        (path,) = corpus.overlap().paths
        assert (path.n_actions, path.n) == (2, 2)


def test_held_out_splits_are_names_and_not_letters(tmp_path: Path) -> None:
    held = record_one(tmp_path, True, task="a", metadata={"split": 1})
    record_one(tmp_path, True, task="b", metadata={"split": 2, "parents": [held]})
    close_logs()
    with trajrec.open(tmp_path) as corpus:
        # A split may be a whole number.
        assert len(corpus.overlap(held_out=[1]).leaks) == 1  # type: ignore[list-item]
        for ask in (corpus.overlap, lambda **options: corpus.card(tmp_path / "out", **options)):
            with pytest.raises(TypeError, match=r"must be names of splits, such as \('test',\)"):
                ask(held_out="test")


@pytest.mark.slow
def test_lineage_edges_are_declared_at_once_or_later(tmp_path: Path) -> None:
    distilled = {"child": "model-7", "parent": "set-3", "kind": "distilled", "note": "by hand"}
    ids = [
        record_one(
            tmp_path,
            True,
            task="t",
            metadata={"split": split, "parents": parents},
            interface=interface(lineage={"parents": [distilled]}),
        )
        for split, parents in (("test", "set-3"), ("train", None), ("train", ["a", {"note": "b"}]))
    ]
    close_logs()
    columns = "child, parent, kind, note, declared_in"
    with trajrec.open(tmp_path) as corpus:
        corpus.label(ids[1], "parents", {"parent": ids[0], "kind": "copied"})
        edges = corpus.sql(f"SELECT {columns} FROM lineage_edges ORDER BY ALL").fetchall()
        # The interface of three episodes declares one edge, and an object without a parent none.
        assert set(edges) == {
            (ids[0], "set-3", None, None, "metadata"),
            (ids[1], ids[0], "copied", None, "label"),
            (ids[2], "a", None, None, "metadata"),
            ("model-7", "set-3", "distilled", "by hand", "lineage"),
        }
        assert len(edges) == 4
        found = corpus.overlap()
        assert found.n_edges == 4
        assert [leak.path for leak in found.leaks] == [(ids[1], ids[0])]


@pytest.mark.slow
def test_effects_of_checkpoints_say_nothing_about_recipes(tmp_path: Path) -> None:
    tasks = counts(**{f"t{k}": (1, 2) for k in range(3)})
    for name, model in (("old", "m-1"), ("new", "m-2")):
        record_run(tmp_path, name, tasks, of=interface(base={"model": model}))
    with trajrec.open(tmp_path) as corpus:
        effects = corpus.factors([of_run("old"), of_run("new")])
    assert effects.notes == (
        "base: the effect is that of these checkpoints, and says nothing about their recipes",
    )
    assert effects.notes[0] in repr(effects)
