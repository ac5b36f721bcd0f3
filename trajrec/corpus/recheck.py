"""Checks of episodes that were recorded before: a new version of a verifier on the states that they ended in.

Verdicts are appended, in a log of their own; what was recorded is not touched, and the outcome of an episode stays its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from trajrec.corpus.corpus import AnyKind, Corpus
from trajrec.corpus.episode import Episode
from trajrec.errors import CorpusError
from trajrec.log.events import PostHocCheck
from trajrec.protocols import Verdict, Verifier
from trajrec.recording.event_log import open_event_log
from trajrec.values import codec
from trajrec.verifiers import as_verdict, code_digest, identify


class Recheck(NamedTuple):
    """What a verifier said of an episode. `status` is "error" where it raised and "not_evaluated" where it said nothing, or
    where the state is not known; `message` says why."""

    episode_id: str
    status: str
    verdict: Verdict
    message: str = ""


def recheck(
    corpus: Corpus,
    verifier: Verifier,
    *,
    where: str = "ending <> 'running'",
    kind: AnyKind = "rollout",
    append: bool = True,
) -> Iterator[Recheck]:
    """Run a verifier on the recorded last state of episodes and append its verdicts to the corpus.

    Args:
        corpus: The corpus.
        verifier: Called with the state as plain data; the parts of a world come as a dict by name.
        where: A SQL condition on the columns of `all_episodes`.
        kind: Kind of the episodes, as `Corpus.episodes` takes it. Copies are left out of "all".
        append: Whether to append the verdicts; False tries a verifier.

    Yields:
        The verdict of each episode.

    Raises:
        QueryError: DuckDB rejects the condition.
        LogWriteError: The corpus cannot be written.
    """
    check_id, version, family = identify(verifier)
    if kind == "all":
        where = f"kind <> 'copy' AND ({where})"
    episodes = list(corpus.episodes(where, kind=kind))
    if not episodes:
        return
    sink = open_event_log(corpus.path, "raise", "process") if append else None
    for episode in episodes:
        graded, digest = _grade(episode, verifier)
        verdict = graded.verdict
        evidence: Any = verdict.evidence if not graded.message else {"message": graded.message}
        if sink is not None:
            sink.add(
                PostHocCheck(
                    episode=-1,
                    target=episode.id,
                    step=episode.end_step,
                    time_ns=time.time_ns(),
                    check_id=check_id,
                    version=version,
                    family=family,
                    status=graded.status,  # type: ignore[arg-type]
                    verdict=verdict.passed,
                    score=verdict.score,
                    evidence_data=None if evidence is None else codec.encode(evidence, opaque=True),
                    code_digest=code_digest(verifier),
                    state_digest=digest,
                )
            )
        yield graded
    if sink is not None:
        sink.flush()


def _grade(episode: Episode, verifier: Verifier) -> tuple[Recheck, str | None]:
    try:
        state = episode.state(episode.end_step)
    except (CorpusError, IndexError, KeyError) as exc:
        return Recheck(
            episode.id, "not_evaluated", Verdict(None), f"the state is not known: {exc}"
        ), None
    if isinstance(state, dict) and list(state) == [""]:
        state = state[""]
    # The digest that the episode's own checks have: verdicts on one state can be joined by it.
    digest = episode.transcript.state_digest if episode.is_agent_episode else codec.digest(state)
    try:
        verdict = as_verdict(verifier(state))
    except Exception as exc:  # a verifier's fault is not the episode's
        return Recheck(episode.id, "error", Verdict(None), f"{codec.type_name(exc)}: {exc}"), digest
    said_nothing = verdict.passed is None and verdict.score is None
    return Recheck(episode.id, "not_evaluated" if said_nothing else "ok", verdict), digest
