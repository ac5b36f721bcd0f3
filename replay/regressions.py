"""Report the episodes that turn out differently on a changed environment or world."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from trajrec.corpus.episode import Episode
from trajrec.corpus.scratch import replacing
from trajrec.replay.execute.report import ReplayReport

# Outside of these ranges XML 1.0 has no characters, not even as references.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class EpisodeResult(NamedTuple):
    """The result of an episode, recorded or replayed.

    Attributes:
        total_reward: The sum of the rewards; None if unknown, and for agents' episodes.
        ending: terminated, truncated, ...; "" if the recorded actions do not end the replay, and
            for agents' episodes.
    """

    total_reward: float | None
    ending: str


class Regression(NamedTuple):
    """An episode that turned out differently.

    Attributes:
        report: The replay.
        recorded: The recorded result.
        replayed: The result of the replay.
    """

    report: ReplayReport
    recorded: EpisodeResult
    replayed: EpisodeResult

    def __str__(self) -> str:
        recorded = self.recorded
        replayed = self.replayed
        parts = [str(self.report)]
        if recorded.ending != replayed.ending:
            parts.append(f"ending: then {recorded.ending}, now {replayed.ending or 'not ended'}")
        if recorded.total_reward != replayed.total_reward:
            parts.append(
                f"total reward: then {_number(recorded.total_reward)}, "
                f"now {_number(replayed.total_reward)}"
            )
        return "; ".join(parts)


def recorded_result(episode: Episode) -> EpisodeResult:
    """Return the recorded result of an episode, as far as a replay has one too.

    The replay of an agent's episode has none: the agent ended it, and worlds give no rewards.
    """
    if episode.is_agent_episode:
        return EpisodeResult(None, "")
    total = episode.total_reward
    return EpisodeResult(None if math.isnan(total) else total, episode.ending)


def find_regression(report: ReplayReport, recorded: EpisodeResult) -> Regression | None:
    """Return the regression of a replay, or None if the replay did not diverge."""
    if report.divergence is None:
        return None
    return Regression(report, recorded, EpisodeResult(report.total_reward, report.ending))


def write_junit(path: Path, reports: Iterable[ReplayReport], name: str) -> None:
    """Write replays as a JUnit XML file for a CI server.

    Each episode is a test case: a failure if it diverged, an error if it was refused.

    Args:
        path: The file; it is replaced when all is written.
        reports: The replays.
        name: The name of the test suite: the replayed corpus.

    Raises:
        CorpusError: The file cannot be written.
    """
    suite = ElementTree.Element("testsuite", name=_xml_text(name))
    counts = {"tests": 0, "failures": 0, "errors": 0}
    for report in reports:
        case = ElementTree.SubElement(suite, "testcase", classname="replay", name=report.episode_id)
        counts["tests"] += 1
        if report.divergence is not None:
            counts["failures"] += 1
            ElementTree.SubElement(case, "failure", message=_xml_text(str(report.divergence)))
        elif report.grade == "refused":
            counts["errors"] += 1
            ElementTree.SubElement(case, "error", message=_xml_text("; ".join(report.remarks)))
    for key, count in counts.items():
        suite.set(key, str(count))
    with replacing(path) as partial:
        ElementTree.ElementTree(suite).write(partial, encoding="utf-8", xml_declaration=True)


def _xml_text(text: str) -> str:
    """Return a text with a question mark for each character that XML cannot contain."""
    return _NOT_XML.sub("?", text)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g}"
