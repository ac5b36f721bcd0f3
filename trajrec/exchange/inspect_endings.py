"""How a sample of Inspect ended: by itself, by a limit, or by an error, and whose fault that was."""

from __future__ import annotations

import re
from collections.abc import Sequence

from trajrec.exchange.account import Account
from trajrec.exchange.reading import Place, dicts_of
from trajrec.exchange.records import Fault, ImportedEpisode, Note
from trajrec.recording.faults import INFRA_STATUSES
from trajrec.types import JsonObject

ERROR = frozenset(("message", "traceback"))

# The `repr` of an exception: the text of others may have a bracket anywhere.
_ERROR_CLASS = re.compile(r"([^\W\d][\w.]{0,78})\(")

# As clients of models write the status of HTTP.
_STATUS = re.compile(r"(?:Error code|[Ss]tatus(?: code)?):? (\d{3})\b")

# Of Python, of the clients of OpenAI and Anthropic, and of httpx.
_INFRA_CLASSES = frozenset(
    (
        "ConnectionError",
        "ConnectionAbortedError",
        "ConnectionRefusedError",
        "ConnectionResetError",
        "BrokenPipeError",
        "TimeoutError",
        "APIConnectionError",
        "APITimeoutError",
        "InternalServerError",
        "OverloadedError",
        "RateLimitError",
        "ServiceUnavailableError",
        "ConnectError",
        "ConnectTimeout",
        "PoolTimeout",
        "ReadError",
        "ReadTimeout",
        "RemoteProtocolError",
        "WriteError",
        "WriteTimeout",
    )
)


def add_ending(
    sample: JsonObject,
    events: Sequence[JsonObject],
    place: Place,
    account: Account,
    episode: ImportedEpisode,
) -> None:
    """Add how a sample ended: by a limit, by an error, or by itself."""
    for record in dicts_of(place, sample.get("error_retries"), "error_retries"):
        rest = account.take(record, "error retry", ERROR) or {}
        episode.items.append(_fault(record, place, extra={**rest, "is_retried": True}))
    error = place.optional(dict, sample.get("error"), "error", {})
    if error:
        rest = account.take(error, "error", ERROR) or {}
        fault = _fault(error, place, extra=rest or None)
        if fault.origin == "infra":
            episode.fault = "infra"
        elif _is_of_scorer(events):
            fault.origin = "verifier"
            episode.fault = "verifier"
        episode.items.append(fault)
        episode.ending = "error"
    if sample.get("limit") is not None:
        limit = place.expect(dict, sample["limit"], "limit")
        account.keep("limit", len(limit))
        episode.ending = "error" if error else "truncated"
        episode.stop_reason = f"limit: {limit.get('type')}"
        episode.items.append(Note(values={"limit": limit}))
    elif not error and (sample.get("completed_at") is not None or sample.get("scores")):
        episode.ending = "terminated"


def _is_of_scorer(events: Sequence[JsonObject]) -> bool:
    """Return whether the last error of a sample came when its scorers had begun."""
    is_scoring = False
    is_of_scorer = False
    for event in events:
        kind = event.get("event")
        if kind in ("span_begin", "step") and event.get("type") in ("scorer", "scorers"):
            is_scoring = True
        elif kind == "error":
            is_of_scorer = is_scoring
    return is_of_scorer


def _is_infra(error_type: str, message: str) -> bool:
    """Return whether an error comes from the network or from a service that failed."""
    status = _STATUS.search(message)
    if status is not None:
        return int(status[1]) in INFRA_STATUSES
    return error_type.rpartition(".")[2] in _INFRA_CLASSES


def _fault(record: JsonObject, place: Place, extra: JsonObject | None) -> Fault:
    message = place.optional(str, record.get("message"), "error.message", "")
    error_class = _ERROR_CLASS.match(message)
    error_type = "" if error_class is None else error_class[1]
    return Fault(
        origin="infra" if _is_infra(error_type, message) else "scaffold",
        error_type=error_type,
        message=message,
        traceback=place.optional(str, record.get("traceback"), "error.traceback", ""),
        extra=extra,
    )
