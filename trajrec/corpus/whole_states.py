"""States of environments that a log stores whole: one of them, at the cost of one."""

from __future__ import annotations

import itertools
from collections.abc import Collection

from trajrec.corpus.episode_rows import EpisodeRows
from trajrec.errors import StateUnknownError
from trajrec.log.schema import Header
from trajrec.types import Value
from trajrec.values.digest import DigestBytes, digest_function

# An error names so many of the states that are stored.
_N_NAMED = 6


def whole_state(
    rows: EpisodeRows,
    step: int,
    *,
    episode_id: str,
    header: Header,
    raised_steps: Collection[int],
    digest_bytes: DigestBytes,
) -> Value:
    """Return the state of an environment before a step, and read only its chunk.

    Args:
        rows: The rows of the episode.
        step: The step.
        episode_id: The episode, for errors.
        header: The log's header.
        raised_steps: The steps that raised an exception.
        digest_bytes: The bytes of its recorded digests.

    Raises:
        StateUnknownError: It is not stored, or it does not match its digest.
    """
    row = rows.state_row(step)
    stored = None if row is None else rows.state_at(row)
    if stored is not None:
        state, digest = stored
        if digest is None or digest_function(digest_bytes)(state) == digest:
            return state
        reason = "the state that is stored there has another digest than the recorded one"
    elif header.state.keep == "none":
        reason = f"no state was captured (no adapter fits {header.env.class_name})"
    elif row is None and step - 1 in raised_steps:
        reason = f"step {step - 1} raised an exception, and the state after it was not captured"
    elif row is None:
        reason = "the log has lost it"
    else:
        first_rows = list(itertools.islice(rows.state_rows(), _N_NAMED))
        reason = (
            f"only the digest of this state is stored; states are stored at rows {first_rows}; "
            "replay the episode up to it, or record with keep_states='all'"
        )
    raise StateUnknownError(reason, episode_id=episode_id, step=step)
