"""P11: the logs of Who&When as a corpus, and the accuracy of guessing the decisive step.

No accuracy of trajrec is claimed: the logs have no environment in which an agent could continue.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

import trajrec
from benchmarks import scratch_folder
from benchmarks.credit.truths import Criterion
from trajrec.protocols import Verdict, Verifier
from trajrec.types import JsonObject, Value


class Part(NamedTuple):
    """A part of the data: its number of logs, and the accuracy of guessing the step uniformly."""

    n_logs: int
    guess: float


# Measured on the published logs.
PARTS = {"Algorithm-Generated": Part(126, 0.120), "Hand-Crafted": Part(58, 0.042)}
N_LOGS = sum(part.n_logs for part in PARTS.values())
# Some labels name a step behind the end of their log.
N_VALID_LABELS = 180

BASELINE = """
SELECT split_part(task, '/', 1) AS part, count(*) AS logs, avg(n_steps) AS mean_steps,
  avg(1 / n_steps) AS guess
FROM episodes GROUP BY 1 ORDER BY 1
"""
VALID_LABELS = "SELECT count(*) FROM checks JOIN episodes USING (episode_id) WHERE score < n_steps"


def data_folder() -> Path | None:
    """Return the folder of the logs, which TRAJREC_WHO_AND_WHEN names; None if it is not set.

    Source:
        The folder `Who&When` of github.com/ag2ai/Agents_Failure_Attribution (MIT).
    """
    folder = os.environ.get("TRAJREC_WHO_AND_WHEN")
    return None if folder is None else Path(folder)


def load(folder: Path, corpus: Path) -> int:
    """Import the logs; return their number.

    A log is an episode, a message a step, and the annotated step a check.
    """
    n_logs = 0
    for part in PARTS:
        for path in sorted((folder / part).glob("*.json")):
            log = json.loads(path.read_text("utf-8"))
            with trajrec.episode(
                corpus,
                task=f"{part}/{path.stem}",
                goal=log["question"],
                metadata={"source": path.name},
            ) as ep:
                say = ep.tool(_say, name="say", access="read")
                for message in log["history"]:
                    speaker = message.get("name") or message["role"]
                    say(speaker=speaker, content=message["content"])
                ep.check(_label(log))
                ep.stop("imported", claimed_done=False)
            n_logs += 1
    trajrec.close_logs()
    return n_logs


def _say(speaker: str, content: str) -> None:
    """Do nothing: the arguments are the message."""


def _label(log: JsonObject) -> Verifier:
    """Return a check with the annotated step as its score."""

    @trajrec.verifier(id="who-and-when", version="1", family="annotation")
    def label(_: Value) -> Verdict:
        evidence = {"agent": log["mistake_agent"], "reason": log.get("mistake_reason")}
        return Verdict(False, float(log["mistake_step"]), evidence)

    return label


def p11() -> list[Criterion]:
    """Load all logs, and compare the accuracy of a uniform guess with the published logs'."""
    folder = data_folder()
    if folder is None:
        print(
            "P11 needs the logs of github.com/ag2ai/Agents_Failure_Attribution: "
            "set TRAJREC_WHO_AND_WHEN to its folder Who&When"
        )
        return []
    corpus_folder = scratch_folder()
    n_logs = load(folder, corpus_folder)
    criteria = [Criterion("P11: logs that load", n_logs, str(N_LOGS), n_logs == N_LOGS)]
    with trajrec.open(corpus_folder) as corpus:
        for name, n, mean_steps, guess in corpus.sql(BASELINE).fetchall():
            part = PARTS[name]
            criteria.append(
                Criterion(
                    f"P11 {name}: {n} logs of {mean_steps:.1f} steps, accuracy of a uniform guess",
                    guess,
                    f"{part.guess:.3f}",
                    n == part.n_logs and abs(guess - part.guess) < 0.001,
                )
            )
        ((n_labels,),) = corpus.sql(VALID_LABELS).fetchall()
        criteria.append(
            Criterion(
                "P11: labels that name a step of their log",
                n_labels,
                f">= {N_VALID_LABELS}",
                n_labels >= N_VALID_LABELS,
            )
        )
    return criteria
