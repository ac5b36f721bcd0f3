"""An episode as its page shows it, read once and asked step by step; nothing of HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trajrec.corpus.attempts import argument_changes
from trajrec.corpus.cached import cached_property
from trajrec.corpus.episode import Episode
from trajrec.corpus.place_history import MadeChange, made_changes, place_pointer
from trajrec.errors import LogError
from trajrec.log.unseen_ways import unseen_of
from trajrec.types import JsonObject, Value
from trajrec.values.diff import Change
from trajrec.values.json import describe_path, to_json_value, to_pointer
from trajrec.view.credit_chart import Estimate
from trajrec.view.credit_view import decision_words, extremes, judgements
from trajrec.view.evidence import Evidence
from trajrec.view.film import Film, film_of, strip_steps
from trajrec.view.lanes import agent_lanes, environment_lanes, evidence_lane, failed_steps
from trajrec.view.live import growth_of, recording_of
from trajrec.view.panes import (
    CheckView,
    FailureView,
    LastChanges,
    Pane,
    agent_pane,
    check_view,
    environment_pane,
    failure_view,
    state_text,
)
from trajrec.view.rows import (
    AgentStep,
    StepRow,
    agent_row,
    agent_steps,
    environment_failures,
    environment_rows,
    options_text,
    overcome_words,
    raw_step,
    reward_text,
    window,
)
from trajrec.view.svg import Lane, ticks
from trajrec.view.text import Shown, shown, shown_text
from trajrec.view.tree import Changer, Node, make_tree

_REPLAY = {"same": "as recorded", "failed": "diverged", "lost": "not compared"}
_CREDIT = {"earned": "earned", "failed": "lost", "unknown": "no clear effect"}

# A goal of more parts is shown as one value.
_MAX_PARTS = 8


class EpisodeView:
    """What a page tells of an episode.

    Args:
        episode: The episode.
        evidence: What else the corpus tells of it.

    Attributes:
        is_agent: Whether an agent called tools; else an environment was stepped.
        recording: What is known of its writer; None if it has ended.
        growth: How far it was recorded when it was read.
        ending: Its ending then.
    """

    def __init__(self, episode: Episode, evidence: Evidence) -> None:
        self.episode = episode
        self.evidence = evidence
        self.is_agent = episode.is_agent_episode
        self.id = episode.id
        self.recording = recording_of(episode)
        self.growth = growth_of(episode)
        self.ending = self.growth.ending
        if self.is_agent:
            # Of a damaged log, the rest is shown, with a remark in place of each lost value.
            episode.transcript = episode.transcribe(is_tolerant=True)

    @property
    def name(self) -> str:
        """The environment or world, by its id or class."""
        episode = self.episode
        return episode.env_id or episode.header.env.class_name or "agent"

    @cached_property
    def steps(self) -> Sequence[int]:
        """The numbers of its steps, ascending."""
        if self.is_agent:
            return [item.step for item in self._items]
        return range(self.episode.first_step, self.episode.end_step)

    @cached_property
    def _items(self) -> list[AgentStep]:
        # A failure of the reset is no step: see `other_failures`.
        return [item for item in agent_steps(self.episode) if item.step >= 0]

    @cached_property
    def _item_of_step(self) -> dict[int, AgentStep]:
        return {item.step: item for item in self._items}

    @cached_property
    def _overcome(self) -> dict[tuple[int, int, int], str]:
        return overcome_words(self.episode.transcript.attempts)

    @cached_property
    def _agent_rows(self) -> list[StepRow]:
        made = self._made_in_step
        return [
            agent_row(
                item, self._overcome, sum(len(one.changes) for one in made.get(item.step, ()))
            )
            for item in self._items
        ]

    @cached_property
    def _made_changes(self) -> list[MadeChange]:
        """The changes of an agent's world, in order."""
        return list(made_changes(self.episode.transcript))

    @cached_property
    def _made_in_step(self) -> dict[int, list[MadeChange]]:
        in_step: dict[int, list[MadeChange]] = {}
        first = self.steps[0] if self.steps else 0
        for made in self._made_changes:
            if made.step < first:
                # Made after the reset, and no step of the list stands for that.
                made = replace(made, step=first, who=f"{made.who}, before this step")
            in_step.setdefault(made.step, []).append(made)
        return in_step

    @cached_property
    def _last_changes(self) -> LastChanges:
        last: LastChanges = {}
        for made in self._made_changes:
            for change in made.changes:
                place = (made.part, describe_path(change.path))
                last.setdefault(place, []).append((made.number, made.step))
        return last

    def rows(self, step: int) -> list[StepRow]:
        """Return the lines of the list around a step: all of them, or a window of 500."""
        return self.rows_at(*window(step, self.steps))

    def rows_at(self, first: int, last: int) -> list[StepRow]:
        """Return the lines of the list from one place to another."""
        if self.is_agent:
            return self._agent_rows[first:last]
        return environment_rows(self.episode, self.steps[0] + first, self.steps[0] + last)

    @cached_property
    def failed_steps(self) -> list[int]:
        """The steps that failed, those overcome later included; of very many lost ones, the first."""
        if self.is_agent:
            return failed_steps(self._agent_rows)
        return environment_failures(self.episode)[0]

    @cached_property
    def other_failures(self) -> list[FailureView]:
        """The failures that stand at none of its steps, e.g. of the reset."""
        steps = self._item_of_step if self.is_agent else self.steps
        return [failure_view(item) for item in self.episode.failures if item.step not in steps]

    @property
    def diverged_at(self) -> int | None:
        """The first step that a replay found different, of the latest verdicts; None if none did."""
        steps = [
            replay.step
            for replay in self.evidence.replays
            if replay.grade == "diverged" and replay.step is not None
        ]
        return max(min(steps), self.steps[0]) if steps and self.steps else None

    @cached_property
    def telling_step(self) -> int | None:
        """The step to open at; None without steps.

        That of a divergence, else the one that decided the outcome (of a failure, the largest loss),
        else the first failure that was not overcome, else the first one.
        """
        if not self.steps:
            return None
        if self.diverged_at is not None:
            return self.diverged_at
        most = extremes(judgements(self.evidence.credit))
        if self.episode.outcome == "failure":
            # Whoever opens an episode that failed asks where it was lost.
            most.sort(key=lambda item: (item.value or 0.0) > 0)
        credited = [item.step for item in most if item.step in self.steps]
        if credited:
            return credited[0]
        failed = self.failed_steps
        if self.is_agent:
            failed = [row.step for row in self._agent_rows if row.status == "failed"]
        return failed[0] if failed else self.steps[0]

    def pane(self, step: int) -> Pane:
        """Return a step whole.

        Raises:
            IndexError: There is no such step.
        """
        if not self.is_agent:
            return environment_pane(self.episode, step)
        item = self._item_of_step.get(step)
        if item is None:
            raise IndexError(f"episode {self.id} has no step {step}")
        return agent_pane(
            self.episode,
            item,
            overcome=self._overcome,
            argument_changes=self._argument_changes,
            made=self._made_in_step.get(step, []),
            last_changes=self._last_changes,
        )

    @cached_property
    def _argument_changes(self) -> dict[tuple[int, int, int], list[Change]]:
        return argument_changes(self.episode.transcript.attempts)

    def state(self, step: int) -> tuple[Node | None, str]:
        """Return the state after a step as a tree, or None and the reason why it is unknown."""
        state, reason = state_text(self.episode, step + 1, is_page=True)
        return (None, reason) if reason else (make_tree(state, self._changes_until(step)), "")

    def _changes_until(self, step: int) -> dict[str, Changer]:
        """Return who changed each place last, before the step behind this one began."""
        if not self.is_agent:
            return {}
        n_changes = self.episode.transcript.n_changes_before(step + 1)
        changers: dict[str, Changer] = {}
        for made in self._made_changes:
            if made.number >= n_changes:
                break
            for change in made.changes:
                # Of keys that look alike in JSON, it is not known which one a place is.
                if to_pointer(change.path) == describe_path(change.path):
                    place = place_pointer(made.part, change.path)
                    changers[place] = Changer(made.number, made.step, made.who)
        return changers

    @cached_property
    def lanes(self) -> list[Lane]:
        """The lanes of the timeline; those without content are left out."""
        is_agent = self.is_agent
        lanes = (
            agent_lanes(self.episode, self._items, self._made_changes)
            if is_agent
            else environment_lanes(self.episode)
        )
        lanes += [self._replay_lane(), self._credit_lane(), self._fork_lane()]
        return [lane for lane in lanes if any(lane.paths.values())]

    @cached_property
    def film(self) -> Film | None:
        """The size of the pictures that the environment observed; None if it observed none."""
        return film_of(self.episode)

    @cached_property
    def strip(self) -> list[int]:
        """Steps whose pictures tell the course of the episode; [] without a film."""
        return [] if self.film is None else strip_steps(self.episode)

    @property
    def ticks(self) -> list[tuple[int, str]]:
        """Round numbers of steps below the timeline, each with its place in per cent."""
        return ticks(self.episode.n_steps, self.episode.first_step)

    def _replay_lane(self) -> Lane:
        at = self.diverged_at
        verdicts = [replay.grade for replay in self.evidence.replays]
        if at is None:
            proved = {"exact", "state"} & set(verdicts)
            steps = {"same": self.steps} if proved else {}
            words = f"replay: {', '.join(verdicts)}"
            return evidence_lane("replay", steps, self.episode, words, _REPLAY)
        steps = {
            "same": range(self.episode.first_step, at),
            "failed": [at],
            "lost": range(at + 1, self.episode.end_step),
        }
        words = f"a replay diverged at step {at}"
        return evidence_lane("replay", steps, self.episode, words, _REPLAY)

    def _credit_lane(self) -> Lane:
        rows = judgements(self.evidence.credit)
        steps = {
            "unknown": [item.step for item in rows if not item.is_certain],
            "earned": [item.step for item in rows if item.is_certain and (item.value or 0.0) > 0],
            "failed": [item.step for item in rows if item.is_certain and (item.value or 0.0) < 0],
        }
        words = f"credit, by {rows[0].estimator}: " if rows else ""
        words += ", ".join(f"{len(steps[name])} {text}" for name, text in _CREDIT.items())
        return evidence_lane("credit", steps, self.episode, words, _CREDIT)

    def credit_of(self, step: int) -> list[Estimate]:
        """Return the latest estimates of a step's credit."""
        return [item for item in self.evidence.credit if item.step == step]

    @property
    def decision(self) -> str:
        """Which steps lost and earned most by the latest estimates, in a few words."""
        return decision_words(self.evidence.credit)

    @property
    def credited_steps(self) -> list[int]:
        """The steps with an effect whose interval excludes 0, the largest effect first."""
        certain = [item for item in judgements(self.evidence.credit) if item.is_certain]
        certain.sort(key=lambda item: (-abs(item.value or 0.0), item.step))
        return list(dict.fromkeys(item.step for item in certain))

    def _fork_lane(self) -> Lane:
        # A fork may begin behind the last step.
        last = self.episode.end_step - 1
        steps = {min(step, last) for step in self.evidence.fork_steps}
        summary = f"forks at {len(steps)} steps"
        return evidence_lane("forks", {"forks": steps}, self.episode, summary, {})

    @cached_property
    def goal(self) -> list[tuple[str, Shown]]:
        """The goal of an agent's task by its parts, each with its name; empty if it has none."""
        task = self.episode.task_start
        if task is None or task.goal_data is None:
            return []
        try:
            goal = self.episode.value(task.goal_data)
        except LogError as exc:
            return [("goal", shown_text(str(exc)))]
        parts = goal if _is_record(goal) else {"goal": goal}
        return [
            (name, shown_text(value) if isinstance(value, str) else shown(value))
            for name, value in parts.items()
        ]

    @cached_property
    def facts(self) -> list[tuple[str, Value]]:
        """Name and value of each fact of the header; unknown ones are left out."""
        episode = self.episode
        end = episode.end
        start = episode.start
        task = episode.task_start
        facts: JsonObject = {
            "task": None if task is None else task.task,
            "steps": episode.n_steps,
            "reward": None if self.is_agent else reward_text(episode),
            "ending": self.ending,
            "stop reason": None if end is None else end.stop_reason,
            "agent says done": None if end is None else _yes_or_no(end.claimed_done),
            "seed": None if start is None else start.seed,
            "options": options_text(episode),
            "failed steps": (
                len(self.failed_steps) if self.is_agent else environment_failures(episode)[1]
            ),
            "fault": episode.fault,
            "calls may be missing": ", ".join(unseen_of(end.extra_data) if end else []),
        }
        return [(name, value) for name, value in facts.items() if value not in (None, "")]

    @cached_property
    def checks(self) -> list[CheckView]:
        """The verdicts on it: those of its own log, then those that were given later."""
        own = [check_view(self.episode, check) for check in self.episode.checks]
        return [*own, *self.evidence.later_checks]

    @property
    def notes(self) -> list[str]:
        """What the log has lost, in words."""
        lost = [f"steps {a} to {b - 1}" for a, b in self.episode.missing_steps]
        return [f"the log has lost {', '.join(lost)}"] if lost else []

    def raw(self, step: int) -> JsonObject:
        """Return the values of a step whole, as JSON values.

        Raises:
            IndexError: There is no such step.
            CorpusError: The log has lost it.
        """
        if not self.is_agent:
            return dict(to_json_value(self.episode.step_at(step)._replace(failure=None)))
        item = self._item_of_step.get(step)
        if item is None:
            raise IndexError(f"episode {self.id} has no step {step}")
        return raw_step(item)


def _is_record(value: Value) -> bool:
    """Return whether a value is a dict of a few names."""
    return (
        isinstance(value, dict)
        and 0 < len(value) <= _MAX_PARTS
        and all(isinstance(name, str) and len(name) <= 60 for name in value)
    )


def _yes_or_no(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"
