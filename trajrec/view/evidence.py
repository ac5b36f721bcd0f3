"""What else the corpus tells of an episode: verdicts, labels, forks, what-if experiments, credit."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trajrec.corpus.corpus import Corpus
from trajrec.types import Value
from trajrec.view.credit_chart import Estimate
from trajrec.view.credit_view import MAX_ESTIMATES, read_latest_credit
from trajrec.view.panes import CheckView
from trajrec.view.text import Difference, Shown, cell, difference, shown, shown_text

MAX_FORKS = 200
"""Forks that an episode's page lists; the rest is counted."""

MAX_LABELS = 1_000
"""Labels that are read for an episode's page."""

_VALUE = 2_000

_REPLAYS = """
SELECT against, grade, n_steps, step, field, expected::VARCHAR, actual::VARCHAR, cause, ulps,
    compared::VARCHAR, notes::VARCHAR, replayed_at
FROM latest_replay WHERE episode_id = ? ORDER BY replayed_at DESC, against
"""

_INTERFACE = "SELECT interface_id FROM all_episodes WHERE episode_id = ? AND kind <> 'copy'"

_CHECKS = """
SELECT check_id, version, status, verdict, score FROM checks
WHERE episode_id = ? AND phase = 'post-hoc' ORDER BY checked_at, check_id, version
"""

_LABELS = f"""
SELECT step, name, value::VARCHAR, given_by, author, rationale FROM latest_labels
WHERE episode_id = ? ORDER BY step NULLS FIRST, name, given_by, author LIMIT {MAX_LABELS + 1}
"""

_FORKS = """
SELECT episode_id, fork_step, n_steps, total_reward, outcome, ending,
    metadata->>'$.what_if.id', metadata->>'$.what_if.arm', metadata->>'$.what_if.number',
    metadata->>'$.what_if.change', TRY_CAST(metadata->>'$.what_if.at' AS INT)
FROM forks WHERE parent_id = ? ORDER BY fork_step, started_at, episode_id
"""


@dataclass(frozen=True, kw_only=True)
class ReplayView:
    """The latest verdict of a replay.

    Attributes:
        difference: The recorded value and the one of the replay; None if nothing differs.
    """

    against: str
    grade: str
    n_steps: int
    step: int | None
    field: str
    difference: Difference | None
    cause: str
    ulps: int | None
    compared: Sequence[str]
    notes: Sequence[str]
    replayed_at: datetime.datetime | None

    @property
    def status(self) -> str:
        """The class of the style sheet."""
        return {"exact": "ok", "state": "ok", "diverged": "failed"}.get(self.grade, "unknown")


@dataclass(frozen=True, kw_only=True)
class LabelView:
    """The latest label of a name and an author.

    Attributes:
        step: The step that it is of; None if it is of the whole episode.
        value: Its value; None for a tag without one.
        who: Who gave it, in words.
        rationale: The reason that was given; "" if none was.
    """

    step: int | None
    name: str
    value: Shown | None
    who: str
    rationale: str


@dataclass(frozen=True, kw_only=True)
class ForkView:
    """A fork of the episode."""

    id: str
    step: int
    n_steps: int
    reward: float | None
    outcome: str | None
    ending: str
    experiment: str | None = None
    arm: str | None = None
    number: str | None = None


@dataclass(frozen=True, kw_only=True)
class ArmView:
    """The runs of one arm of an experiment."""

    name: str
    runs: Sequence[ForkView]

    @property
    def n_won(self) -> int:
        """Runs whose primary check passed."""
        return sum(run.outcome == "success" for run in self.runs)

    @property
    def n_unknown(self) -> int:
        """Runs without a verdict."""
        return sum(run.outcome is None for run in self.runs)


@dataclass(frozen=True, kw_only=True)
class ExperimentView:
    """A what-if experiment on the episode."""

    id: str
    at: int
    change: str
    arms: Sequence[ArmView]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Verdicts, forks and experiments of an episode.

    Attributes:
        forks: Forks that belong to no experiment, the first of them.
        n_forks: All of these.
        fork_steps: The steps at which all forks and experiments begin.
        later_checks: Verdicts that were given after the episode.
        labels: Labels of the episode, then those of its steps, the first of them.
        are_labels_cut: Whether there are more.
        credit: The latest estimates of its steps.
        interface_id: The digest of the interface that it ran under; None if none was recorded.
    """

    replays: Sequence[ReplayView] = ()
    later_checks: Sequence[CheckView] = ()
    labels: Sequence[LabelView] = ()
    are_labels_cut: bool = False
    forks: Sequence[ForkView] = ()
    n_forks: int = 0
    fork_steps: Sequence[int] = ()
    experiments: Sequence[ExperimentView] = ()
    credit: Sequence[Estimate] = ()
    interface_id: str | None = None

    @property
    def is_credit_cut(self) -> bool:
        """Whether there may be more estimates than were read: those of later steps."""
        return len(self.credit) >= MAX_ESTIMATES

    def labels_of(self, step: int | None) -> list[LabelView]:
        """Return the labels of a step, or for None those of the whole episode."""
        return [label for label in self.labels if label.step == step]

    @property
    def labelled_steps(self) -> list[int]:
        """The steps that have a label, ascending."""
        return sorted({label.step for label in self.labels if label.step is not None})


def read_evidence(corpus: Corpus, episode_id: str) -> Evidence:
    """Return what the corpus tells of an episode."""
    replays = [_replay(row) for row in corpus.sql(_REPLAYS, params=[episode_id]).fetchall()]
    checks = corpus.sql(_CHECKS, params=[episode_id]).fetchall()
    labels = corpus.sql(_LABELS, params=[episode_id]).fetchall()
    interfaces = corpus.sql(_INTERFACE, params=[episode_id]).fetchall()
    forks: list[ForkView] = []
    experiments: dict[str, dict[str, list[ForkView]]] = {}
    changes: dict[str, tuple[int, str]] = {}
    for row in corpus.sql(_FORKS, params=[episode_id]).fetchall():
        fork = _fork(row)
        if fork.experiment is None:
            forks.append(fork)
            continue
        experiments.setdefault(fork.experiment, {}).setdefault(fork.arm or "", []).append(fork)
        at = fork.step if row[10] is None else row[10]
        changes.setdefault(fork.experiment, (at, _change_words(row[9])))
    return Evidence(
        replays=replays,
        later_checks=[_check(row) for row in checks],
        labels=[_label(row) for row in labels[:MAX_LABELS]],
        are_labels_cut=len(labels) > MAX_LABELS,
        forks=forks[:MAX_FORKS],
        n_forks=len(forks),
        fork_steps=sorted({*(fork.step for fork in forks), *(at for at, _ in changes.values())}),
        experiments=[_experiment(name, arms, *changes[name]) for name, arms in experiments.items()],
        credit=read_latest_credit(corpus, episode_id),
        interface_id=next((row[0] for row in interfaces), None),
    )


def _check(row: Sequence[Value]) -> CheckView:
    check_id, version, status, verdict, score = row
    words = {True: "passed", False: "failed", None: status}[verdict]
    of_version = f" version {version}" if version else ""
    return CheckView(
        title=f"check {check_id}{of_version}, given later",
        status={True: "ok", False: "failed", None: "unknown"}[verdict],
        words=words if score is None else f"{words}, score {score:g}",
        evidence=None,
    )


def _label(row: Sequence[Value]) -> LabelView:
    step, name, value, given_by, author, rationale = row
    plain = None if value is None else json.loads(value)
    text = shown_text(plain) if isinstance(plain, str) else shown(plain)
    return LabelView(
        step=step,
        name=name,
        value=None if value is None else text,
        who=given_by if author is None else f"{author} ({given_by})",
        rationale=rationale or "",
    )


def _fork(row: Sequence[Value]) -> ForkView:
    return ForkView(
        id=row[0],
        step=row[1],
        n_steps=row[2],
        reward=row[3],
        outcome=row[4],
        ending=row[5],
        experiment=row[6],
        arm=row[7],
        number=row[8],
    )


def _experiment(
    name: str, arms: Mapping[str, list[ForkView]], at: int, change: str
) -> ExperimentView:
    order = {"unchanged": 0, "changed": 1, "control": 2}
    names = sorted(arms, key=lambda arm: (order.get(arm, 3), arm))
    return ExperimentView(
        id=name,
        at=at,
        change=change,
        arms=[ArmView(name=arm, runs=arms[arm]) for arm in names],
    )


def _change_words(text: str | None) -> str:
    """Return a recorded change in words: its name, and its fields as JSON."""
    if text is None:
        return "nothing"
    try:
        change = json.loads(text)
    except ValueError:
        return cell(text, 300)
    if not isinstance(change, dict):
        return cell(text, 300)
    name = str(change.pop("name", "change"))
    # Of {"name": "arguments", "arguments": {...}}, one of the two words says it.
    change = change[name] if list(change) == [name] else change
    return f"{name} {cell(change, 300)}" if change else name


def _replay(row: Sequence[Value]) -> ReplayView:
    against, grade, n_steps, step, field, expected, actual, cause, ulps, compared, notes, at = row
    differs = grade == "diverged"
    return ReplayView(
        against=against,
        grade=grade,
        n_steps=n_steps,
        step=step,
        field=field or "",
        difference=_difference(expected, actual) if differs else None,
        cause=cause or "",
        ulps=ulps,
        compared=_texts(compared),
        notes=_texts(notes),
        replayed_at=at,
    )


def _difference(expected: str | None, actual: str | None) -> Difference:
    left = "(no value)" if expected is None else expected
    right = "(no value)" if actual is None else actual
    return difference(left[:_VALUE], right[:_VALUE])


def _texts(text: str | None) -> list[str]:
    values = [] if text is None else json.loads(text)
    return [value if isinstance(value, str) else json.dumps(value) for value in values]
