"""Regression of worlds: what of a corpus comes out otherwise on a changed environment, for people and for CI servers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from trajrec.corpus.episode import Episode
from trajrec.replay.execute.report import ReplayReport


class Outcome(NamedTuple):
    """What an episode came to, then and now.

    Attributes:
        total_reward: Sum of the rewards; None where unknown, as of an agent's episode.
        ending: terminated, truncated, ...; "" where the recorded actions do not end it now, and of an agent's episode.
    """

    total_reward: float | None
    ending: str


class Regressed(NamedTuple):
    """An episode that comes out otherwise.

    Attributes:
        report: Its replay.
        then: What it came to when it was recorded.
        now: What it comes to now.
    """

    report: ReplayReport
    then: Outcome
    now: Outcome

    def __str__(self) -> str:
        parts = [str(self.report)]
        if self.then.ending != self.now.ending:
            parts.append(f"ending: then {self.then.ending}, now {self.now.ending or 'not ended'}")
        if self.then.total_reward != self.now.total_reward:
            parts.append(
                f"total reward: then {_number(self.then.total_reward)}, now {_number(self.now.total_reward)}"
            )
        return "; ".join(parts)


def outcome_of(episode: Episode) -> Outcome:
    """Return what an episode came to when it was recorded, as far as a replay can come to it again."""
    if episode.is_agent_episode:
        return Outcome(
            None, ""
        )  # the agent ended it, and no call of its world does; a world gives no rewards
    total = episode.total_reward
    return Outcome(None if math.isnan(total) else total, episode.ending)


def regressed(report: ReplayReport, then: Outcome) -> Regressed | None:
    """Return what changed of an episode, or None where nothing did."""
    return (
        None
        if report.divergence is None
        else Regressed(report, then, Outcome(report.total_reward, report.ending))
    )


def write_junit(path: Path, reports: Iterable[ReplayReport], name: str) -> None:
    """Write replays as a JUnit XML file: a test case each; what diverged failed, what was refused is an error.

    Args:
        path: The file.
        reports: The replays.
        name: Of the suite: what was replayed.
    """
    suite = ElementTree.Element("testsuite", name=name)
    counts = {"tests": 0, "failures": 0, "errors": 0}
    for report in reports:
        case = ElementTree.SubElement(suite, "testcase", classname="replay", name=report.episode_id)
        counts["tests"] += 1
        if report.divergence is not None:
            counts["failures"] += 1
            ElementTree.SubElement(case, "failure", message=_text(str(report.divergence)))
        elif report.grade == "refused":
            counts["errors"] += 1
            ElementTree.SubElement(case, "error", message=_text("; ".join(report.remarks)))
    for key, count in counts.items():
        suite.set(key, str(count))
    ElementTree.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)


def _text(text: str) -> str:
    """Return a text without what XML cannot hold."""
    return "".join(char if char >= " " or char in "\t\n" else "?" for char in text)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g}"
