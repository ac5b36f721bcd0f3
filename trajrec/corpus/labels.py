"""Labels of recorded episodes and steps: tags, notes, verdicts of people and judges, rubrics.

A label is appended as a log of its own. What was recorded, and earlier labels, stay as they are.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import msgspec

from trajrec.conditions import bracketed
from trajrec.corpus.episode import Episode
from trajrec.corpus.exports import exporting
from trajrec.errors import CorpusError
from trajrec.log.annotations import Label, PostHocCheck
from trajrec.log.bounds import Time
from trajrec.recording.event_log import open_event_log
from trajrec.redaction.redactor import Redactor
from trajrec.types import JsonObject, Value

By: TypeAlias = Literal["person", "judge", "program"]

Given = TypeVar("Given", bound=msgspec.Struct)

NOTE = "note"
"""The name of a label that is a note."""


class LabelLine(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A line of a file of labels.

    Attributes:
        episode_id: The episode, or the first digits of its id.
        name: The name of the label.
        value: Its value, plain data; None for a tag without one.
        step: The step; None if the label is of the whole episode.
        by: Who gave it: "person", "judge" (a model) or "program".
        author: The name of the person, model or program.
        rationale: The reason.
        time_ns: The time, ns since 1970 UTC; None for now.
    """

    episode_id: str
    name: str
    value: Any = None
    step: int | None = None
    by: By = "person"
    author: str = ""
    rationale: str = ""
    time_ns: Time | None = None


class Criterion(msgspec.Struct, kw_only=True):
    """One criterion of a rubric, and the verdict on it.

    Attributes:
        criterion: The criterion in words.
        points: The points if it is met; negative for a fault.
        met: Whether it is met; None if the judge gave no verdict.
        rationale: The reason.
    """

    criterion: str
    points: float
    met: bool | None
    rationale: str = ""


class Labelling:
    """The methods of a corpus that append labels.

    Attributes:
        path: The folder.
    """

    path: Path

    def episode(self, episode_id: str) -> Episode:
        """Return an episode of any kind by its id."""
        raise NotImplementedError

    def _query(self, query: str, *, is_ours: bool) -> list[tuple[Value, ...]]:
        """Return the rows of a query, in a sandbox if it is not ours."""
        raise NotImplementedError

    def label(
        self,
        episode_id: str,
        name: str,
        value: Value = None,
        *,
        step: int | None = None,
        by: By = "person",
        author: str = "",
        rationale: str = "",
    ) -> None:
        """Append a label to an episode, or to a step of it: a row of the table `labels`.

        Args:
            episode_id: The episode, or the first digits of its id.
            name: The name: "mistake", "correct", a tag.
            value: Plain data; None for a tag without a value.
            step: The step; None for the whole episode.
            by: Who gave it: "person", "judge" (a model) or "program".
            author: The name of the person, model or program.
            rationale: The reason.

        Raises:
            CorpusError: There is no such episode, or it has no such step.
            ValueError: The name is empty, `by` is another word, or an argument has another type.
            EncodeError: The value cannot be stored losslessly.
            LogWriteError: The corpus cannot be written.

        >>> corpus.label("3f2a", "mistake", step=7, by="judge", author="gpt-5", rationale="wrong id")
        """
        line = LabelLine(
            episode_id=episode_id,
            name=name,
            value=value,
            step=step,
            by=by,
            author=author,
            rationale=rationale,
        )
        self.add_labels([line])

    def tag(self, episode_id: str, **tags: Value) -> None:
        """Append tags to an episode, by name: `corpus.tag("3f2a", split="train")`.

        Raises:
            CorpusError: There is no such episode.
        """
        self.add_labels(
            LabelLine(episode_id=episode_id, name=name, value=value) for name, value in tags.items()
        )

    def note(
        self, episode_id: str, text: str, *, step: int | None = None, author: str = ""
    ) -> None:
        """Append a note to an episode or to a step: a label with the name "note".

        Raises:
            CorpusError: There is no such episode, or it has no such step.
        """
        self.label(episode_id, NOTE, text, step=step, author=author)

    def add_labels(self, lines: Iterable[LabelLine]) -> int:
        """Append labels: all of them, or none if one is wrong.

        Returns:
            The number of labels.

        Raises:
            CorpusError: There is no such episode, or it has no such step.
            ValueError: A name is empty, `by` is another word, or a member has another type.
        """
        redactor = Redactor()
        events = [self._label_event(line, redactor) for line in lines]
        _append(self.path, events)
        return len(events)

    def read_labels(self, file: str | Path) -> int:
        """Append the labels of a file of JSON lines, whose members are those of `LabelLine`.

        Returns:
            The number of labels.

        Raises:
            CorpusError: A line is no label, or names no episode or step; nothing is appended then.
        """
        path = Path(file)
        lines = []
        # Bytes that are no UTF-8 come as surrogates, so that they are named with their line.
        with path.open(encoding="utf-8", errors="surrogateescape") as opened:
            for number, text in enumerate(opened, 1):
                if not text.strip():
                    continue
                try:
                    line = msgspec.json.decode(text, type=LabelLine)
                    self._check_label(line)
                except (msgspec.MsgspecError, ValueError, CorpusError) as exc:
                    raise CorpusError(f"{path}: line {number}: {exc}") from exc
                lines.append(line)
        return self.add_labels(lines)

    def write_labels(
        self, file: str | Path, where: str = "true", *, overwrite: bool = False
    ) -> int:
        """Write labels as JSON lines, which `read_labels` reads.

        Args:
            file: The file; it appears when it is whole.
            where: A SQL condition on the columns of `labels`.
            overwrite: Whether any file is replaced, and not only what the same call wrote.

        Returns:
            The number of labels.

        Raises:
            CorpusError: No label is selected, or the file exists or cannot be written.
        """
        command = {"kind": "labels", "where": where}
        with exporting(self.path, Path(file), command, overwrite=overwrite) as temporary:
            rows = self._query(
                "SELECT episode_id, step, name, value, given_by, author, rationale, "
                f"epoch_ns(labelled_at) FROM labels WHERE {bracketed(where)} "
                "ORDER BY labelled_at, episode_id, step, name",
                is_ours=where == "true",
            )
            if not rows:
                raise CorpusError(f"{self.path}: no label is selected by {where!r}")
            lines = (json.dumps(label_line(row)) + "\n" for row in rows)
            temporary.write_text("".join(lines), encoding="utf-8")
        return len(rows)

    def add_rubric(
        self,
        episode_id: str,
        criteria: Iterable[Criterion],
        *,
        rubric: str,
        version: str = "",
        judge: str = "",
    ) -> float:
        """Append the verdicts of a rubric as checks of the family "rubric", one for each criterion.

        Args:
            episode_id: The episode, or the first digits of its id.
            criteria: The criteria with their verdicts.
            rubric: The name of the rubric, the first part of the checks' ids.
            version: Its version.
            judge: The person or model that judged.

        Returns:
            The points that were reached, over the positive points; NaN if there are none.

        Raises:
            CorpusError: There is no such episode.
            ValueError: An argument, or a member of a criterion, has another type.

        >>> corpus.add_rubric("3f2a", [Criterion(criterion="cites", points=2, met=True)], rubric="r")
        1.0
        """
        episode = self.episode(episode_id)
        redactor = Redactor()
        events = []
        judged = list(map(_checked, criteria))
        for what, text in (("rubric", rubric), ("version", version), ("judge", judge)):
            if not isinstance(text, str):
                raise ValueError(f"{what} must be a text, got {text!r}")
        for number, item in enumerate(judged):
            evidence = msgspec.structs.asdict(item) | {"judge": judge}
            events.append(
                PostHocCheck(
                    episode=-1,
                    target=episode.id,
                    step=episode.end_step,
                    time_ns=time.time_ns(),
                    check_id=f"{rubric}/{number}",
                    version=version,
                    family="rubric",
                    status="not_evaluated" if item.met is None else "ok",
                    verdict=item.met,
                    score=None if item.met is None else item.points * item.met,
                    evidence_data=redactor.encode(evidence)[0],
                    code_digest=None,
                    state_digest=None,
                )
            )
        _append(self.path, events)
        possible = sum(item.points for item in judged if item.points > 0)
        reached = sum(item.points for item in judged if item.met)
        return reached / possible if possible else float("nan")

    def _check_label(self, line: LabelLine) -> Episode:
        """Return the episode of a label.

        Raises:
            CorpusError: There is no such episode, or it has no such step.
            ValueError: The name is empty, `by` is another word, or a member has another type.
        """
        if not line.name:
            raise ValueError("a label needs a name")
        if line.by not in get_args(By):
            raise ValueError(f"by must be one of {', '.join(get_args(By))}, got {line.by!r}")
        _checked(line)
        episode = self.episode(line.episode_id)
        if line.step is not None and not episode.first_step <= line.step < episode.end_step:
            raise CorpusError(
                f"episode {episode.id} has no step {line.step}: its steps are "
                f"{episode.first_step} to {episode.end_step - 1}"
            )
        return episode

    def _label_event(self, line: LabelLine, redactor: Redactor) -> Label:
        episode = self._check_label(line)
        data = None
        if line.value is not None:
            data = redactor.encode(line.value, where=f"label {line.name!r}", opaque=False)[0]
        return Label(
            episode=-1,
            target=episode.id,
            step=line.step,
            time_ns=time.time_ns() if line.time_ns is None else line.time_ns,
            name=line.name,
            value_data=data,
            by=line.by,
            author=line.author,
            rationale=redactor.text(line.rationale),
        )


def _checked(given: Given) -> Given:
    """Return a line or criterion whose members have their types: a log with others is unreadable.

    Raises:
        ValueError: One has another type, or is out of range.
    """
    try:
        return msgspec.convert(msgspec.structs.asdict(given), type(given))
    except msgspec.ValidationError as exc:
        raise ValueError(f"not a {type(given).__name__}: {exc}") from exc


def _append(folder: Path, events: Iterable[Label | PostHocCheck]) -> None:
    """Append records to a log of their own in a folder."""
    listed = list(events)
    if not listed:
        # No log is made for nothing.
        return
    log = open_event_log(folder, "raise", "process")
    for event in listed:
        log.add(event)
    log.flush()


_LINE = ("episode_id", "step", "name", "value", "by", "author", "rationale", "time_ns")


def label_line(row: tuple[Value, ...]) -> JsonObject:
    """Return a row of the table `labels` as a line of a file has it."""
    line = dict(zip(_LINE, row, strict=True))
    line["value"] = None if line["value"] is None else json.loads(line["value"])
    return {name: value for name, value in line.items() if value is not None}
