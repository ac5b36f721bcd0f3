"""What an episode is about: its task and metadata, and the check that decides its outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trajrec.protocols import Verifier
from trajrec.types import Value
from trajrec.verifiers import identify

RESERVED_METADATA = ("run", "group", "trial", "family", "split", "privacy", "probe")
"""Keys of metadata with one meaning for all: the run that recorded the episode, the group and the
number of the trial in it, the family of its task, its split (train, test, ...), the class of its
privacy, and the kind of probe that it is. Each is a text or a whole number."""

PROBES = ("gold", "no-op", "attack")
"""Kinds of episodes that probe the checks and tell nothing of an agent: "gold" solves the task, "no-op"
does nothing, and "attack" games the check."""

PROBE = "json_extract_string(metadata, '$.probe')"
"""SQL for the kind of probe that an episode is; NULL for a rollout of an agent."""

IS_OF_AGENT = f"{PROBE} IS NULL"
"""SQL for the episodes that rates count: a probe of the checks tells nothing of an agent."""


def check_metadata(metadata: Mapping[str, Value] | None) -> None:
    """Check the reserved keys of metadata.

    Raises:
        TypeError: One of them is neither a text nor a whole number, or a key is no text.
        ValueError: There is no such kind of probe.
    """
    for key, value in (metadata or {}).items():
        if not isinstance(key, str):
            raise TypeError(f"metadata must have texts as keys, got {key!r}")
        is_plain = isinstance(value, (str, int)) and not isinstance(value, bool)
        if key in RESERVED_METADATA and value is not None and not is_plain:
            raise TypeError(f"metadata[{key!r}] must be a text or a whole number, got {value!r}")
        if key == "probe" and value is not None and value not in PROBES:
            raise ValueError(f"metadata['probe'] must be one of {', '.join(PROBES)}, got {value!r}")


def primary_check(checks: Sequence[Verifier], primary: Verifier | str | None) -> str:
    """Return the id of the check that decides the outcome, "" if none is known yet.

    Args:
        checks: The checks, of which the first is the primary one by default.
        primary: The check, or its id.
    """
    if primary is not None:
        return primary if isinstance(primary, str) else identify(primary).id
    return identify(checks[0]).id if checks else ""
