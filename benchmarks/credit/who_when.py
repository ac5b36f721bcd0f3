"""P11: the logs of Who&When as a corpus, and what guessing the step would be right in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import trajrec
from benchmarks import scratch_folder
from benchmarks.credit.truths import Criterion
from trajrec.protocols import Verdict
from trajrec.recording.event_log import close_logs

PARTS = {"Algorithm-Generated": (126, 0.120), "Hand-Crafted": (58, 0.042)}
"""How many logs each part has, and what a uniform guess of the step is right in (measured on the published logs)."""

BASELINE = """
SELECT split_part(task, '/', 1) AS part, count(*) AS logs, avg(n_steps) AS mean_steps, avg(1 / n_steps) AS guessed
FROM episodes GROUP BY 1 ORDER BY 1
"""


def data_folder() -> Path | None:
    """Return where the logs are: the folder `Who&When` of github.com/ag2ai/Agents_Failure_Attribution (MIT), which
    TRAJREC_WHO_AND_WHEN names; None where it names none."""
    named = os.environ.get("TRAJREC_WHO_AND_WHEN")
    return None if named is None else Path(named)


def load(folder: Path, into: Path) -> int:
    """Import the logs: an episode each, a step each message, the annotated step as a check; return how many there are."""
    n = 0
    for part in PARTS:
        for path in sorted((folder / part).glob("*.json")):
            log = json.loads(path.read_text("utf-8"))
            with trajrec.episode(
                into,
                task=f"{part}/{path.stem}",
                goal=log["question"],
                metadata={"source": path.name},
            ) as ep:
                say = ep.tool(_said, name="say", access="read")
                for message in log["history"]:
                    say(speaker=message.get("name") or message["role"], content=message["content"])
                ep.check(_label(log))
                ep.stop("imported", claimed_done=False)
            n += 1
    close_logs()
    return n


def _said(speaker: str, content: str) -> None:
    """A message is what was said; nothing comes of it here."""


def _label(log: dict[str, Any]) -> Any:
    @trajrec.verifier(id="who-and-when", version="1", family="annotation")
    def label(_: Any) -> Verdict:
        evidence = {"agent": log["mistake_agent"], "reason": log.get("mistake_reason")}
        return Verdict(False, float(log["mistake_step"]), evidence)

    return label


def p11() -> list[Criterion]:
    """All logs load; the baseline is printed. No accuracy is claimed: the logs have no environment to go on in."""
    folder = data_folder()
    if folder is None:
        print(
            "P11 needs the logs of github.com/ag2ai/Agents_Failure_Attribution: set TRAJREC_WHO_AND_WHEN to its Who&When"
        )
        return []
    into = scratch_folder()
    n = load(folder, into)
    found = [Criterion("P11: logs that load", n, "184", n == 184)]
    with trajrec.open(into) as corpus:
        for part, logs, mean, guessed in corpus.sql(BASELINE).fetchall():
            wanted = PARTS[part]
            what = f"P11 {part}: {logs} logs of {mean:.1f} steps, a uniform guess is right in"
            found.append(
                Criterion(
                    what,
                    guessed,
                    f"{wanted[1]:.3f}",
                    logs == wanted[0] and abs(guessed - wanted[1]) < 0.001,
                )
            )
        labels = corpus.sql(
            "SELECT count(*) FROM checks c JOIN episodes USING (episode_id) WHERE score < n_steps"
        ).fetchall()
        found.append(
            Criterion(
                "P11: labels that name a step of their log",
                labels[0][0],
                "184",
                labels[0][0] >= 180,
            )
        )
    return found
