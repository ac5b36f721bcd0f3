"""Facts about imported records that stand in their `extra_data`: sources, unknown ends, leftovers.

Format 2 has no value for an outcome that nobody knows, so the record of such an end has one that
claims little, and the fact beside it.
"""

from __future__ import annotations

from functools import lru_cache

from trajrec.errors import DecodeError
from trajrec.types import JsonObject, Value
from trajrec.values import codec

_SOURCE = "source"
_UNKNOWN = "unknown"
_EXTRA = "extra"
_MESSAGES = "messages"


def source_data(source: JsonObject, extra: Value = None) -> bytes:
    """Return the `extra_data` of the start of an imported episode.

    Args:
        source: Its file, sha256, format and position.
        extra: Facts of the source that have no place of their own.
    """
    facts = {_SOURCE: source}
    if extra is not None:
        facts[_EXTRA] = extra
    return codec.encode(facts)


def source_of(data: bytes | None) -> JsonObject | None:
    """Return the source of an imported episode, None if it was recorded here."""
    source = facts_of(data).get(_SOURCE)
    return source if isinstance(source, dict) else None


@lru_cache(maxsize=1)
def unknown_data() -> bytes:
    """Return the `extra_data` of an end of which the outcome is unknown."""
    return codec.encode({_UNKNOWN: True})


def end_data(
    *,
    is_unknown: bool,
    extra: Value = None,
    messages: list[Value] | None = None,
    facts: JsonObject | None = None,
) -> bytes | None:
    """Return the `extra_data` of an end, None if there is nothing to say.

    Args:
        is_unknown: Whether the outcome is unknown.
        extra: Facts of the source that have no place of their own.
        messages: The messages after the last model call.
        facts: Facts under keys of their own.
    """
    facts = dict(facts or {})
    if is_unknown:
        if extra is None and not messages and not facts:
            return unknown_data()
        facts[_UNKNOWN] = True
    if extra is not None:
        facts[_EXTRA] = extra
    if messages:
        facts[_MESSAGES] = messages
    return codec.encode(facts) if facts else None


NUMBER_TYPES = "number types"
"""Unknown if a source does not tell Python's numbers from NumPy's."""

CUT_OFF = "cut off"
"""Unknown if a source has the flag of a truncation for an episode that was only cut off, too."""


INFOS = "infos"
"""Unknown if a source may lack infos, or keys of them, that the environment returned."""


def env_data(extra: Value, unknown: list[str]) -> bytes:
    """Return the `extra_data` of the environment of imported episodes.

    Args:
        extra: Facts of the source that have no place of their own.
        unknown: `NUMBER_TYPES`, `CUT_OFF` or `INFOS`, if the source does not tell it.
    """
    return codec.encode({_EXTRA: extra, _UNKNOWN: unknown})


def unknown_of(data: bytes | None) -> list[str]:
    """Return the facts that the source of an environment's episodes does not tell.

    >>> unknown_of(env_data({}, [CUT_OFF])), unknown_of(None)
    (['cut off'], [])
    """
    names = facts_of(data).get(_UNKNOWN)
    return names if isinstance(names, list) else []


def extra_data(extra: Value) -> bytes | None:
    """Return the `extra_data` of a record that has leftovers of its source."""
    return None if extra is None else codec.encode({_EXTRA: extra})


def is_unknown(data: bytes | None) -> bool:
    """Return whether an end says that its outcome is unknown.

    >>> is_unknown(end_data(is_unknown=True)), is_unknown(None)
    (True, False)
    """
    # Nearly all records have none.
    if data is None:
        return False
    return data == unknown_data() or facts_of(data).get(_UNKNOWN) is True


def extra_of(facts: Value) -> Value:
    """Return the leftovers among decoded facts, None if there are none."""
    return facts.get(_EXTRA) if isinstance(facts, dict) else None


def messages_of(facts: Value) -> list[Value]:
    """Return the messages after the last model call among decoded facts."""
    messages = facts.get(_MESSAGES) if isinstance(facts, dict) else None
    return messages if isinstance(messages, list) else []


def facts_of(data: bytes | None) -> JsonObject:
    """Return decoded facts without the values that they refer to; {} if they are none."""
    if data is None:
        return {}
    try:
        return codec.decode_map(data)
    except DecodeError:
        # Facts that a reader cannot know are none of its business.
        return {}
