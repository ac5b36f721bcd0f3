"""Run a verifier on the final states of recorded episodes.

Verdicts are appended in a log of their own. The recording does not change, and the outcome of an
episode stays the one of its own checks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

from trajrec.conditions import bracketed
from trajrec.corpus.corpus import Corpus
from trajrec.corpus.episode import Episode
from trajrec.corpus.training import AnyKind
from trajrec.errors import CorpusError
from trajrec.log.annotations import PostHocCheck
from trajrec.protocols import Verdict, Verifier
from trajrec.recording.event_log import open_event_log
from trajrec.types import Value
from trajrec.values import codec
from trajrec.verifiers import CheckStatus, code_digest, identify, run_check


class Recheck(NamedTuple):
    """The verdict on one episode.

    Attributes:
        episode_id: The episode.
        status: "ok"; "error" if the verifier raised; "not_evaluated" if it gave no verdict, or if
            the final state is unknown.
        verdict: The verdict.
        message: The reason for a status other than "ok"; "" otherwise.
    """

    episode_id: str
    status: CheckStatus
    verdict: Verdict
    message: str = ""


def recheck(
    corpus: Corpus,
    verifier: Verifier,
    *,
    where: str = "ending <> 'running'",
    kind: AnyKind = "rollout",
    append: bool = True,
    with_faulted: bool = False,
) -> Iterator[Recheck]:
    """Run a verifier on the recorded last state of episodes and append its verdicts to the corpus.

    Args:
        corpus: The corpus.
        verifier: Called with the state as plain data; the parts of a world come as a dict by name.
        where: A SQL condition on the columns of `all_episodes`.
        kind: Kind of the episodes, as `Corpus.episodes` takes it. Copies are left out of "all".
        append: Whether to append the verdicts; False tries a verifier.
        with_faulted: Whether to judge episodes that a fault of the infrastructure or of the
            environment ended, too. Their last state says nothing about the agent.

    Yields:
        The verdict of each episode.

    Raises:
        QueryError: DuckDB rejects the condition.
        LogWriteError: The corpus cannot be written.
    """
    identity = identify(verifier)
    if kind == "all":
        where = f"kind <> 'copy' AND {bracketed(where)}"
    if not with_faulted:
        where = f"{bracketed(where)} AND (fault IS NULL OR fault = 'verifier')"
    episodes = list(corpus.episodes(where, kind=kind))
    if not episodes:
        # No log is made for no verdicts.
        return
    log = open_event_log(corpus.path, "raise", "process") if append else None
    for episode in episodes:
        result, state_digest = _judge(episode, verifier)
        verdict = result.verdict
        evidence: Value = {"message": result.message} if result.message else verdict.evidence
        if log is not None:
            log.add(
                PostHocCheck(
                    episode=-1,
                    target=episode.id,
                    step=episode.end_step,
                    time_ns=time.time_ns(),
                    check_id=identity.id,
                    version=identity.version,
                    family=identity.family,
                    status=result.status,
                    verdict=verdict.passed,
                    score=verdict.score,
                    evidence_data=None if evidence is None else codec.encode(evidence, opaque=True),
                    code_digest=code_digest(verifier),
                    state_digest=state_digest,
                )
            )
        yield result
    if log is not None:
        log.flush()


def _judge(episode: Episode, verifier: Verifier) -> tuple[Recheck, str | None]:
    """Return the verdict on an episode, and the digest of the state that it is about."""
    try:
        state = episode.state(episode.end_step)
    except (CorpusError, IndexError, KeyError) as exc:
        message = f"the state is not known: {exc}"
        return Recheck(episode.id, "not_evaluated", Verdict(None), message), None
    if isinstance(state, dict) and list(state) == [""]:
        # A world without named parts.
        state = state[""]
    # The digest of the episode's own checks, so that verdicts on one state can be joined.
    digest: str | None = codec.digest(state)
    if episode.is_agent_episode:
        digest = episode.transcript.state_digest
    result = run_check(verifier, state)
    # A faulty verifier says nothing about the episode, and does not stop the others.
    message = "" if result.error is None else f"{codec.type_name(result.error)}: {result.error}"
    return Recheck(episode.id, result.status, result.verdict, message), digest
