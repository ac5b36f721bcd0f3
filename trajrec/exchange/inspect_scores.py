"""Scores of Inspect as checks: the letters C, I, P and N are verdicts, numbers are scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from trajrec.exchange.account import Account
from trajrec.exchange.reading import Place, number_or_none, texts_by_key
from trajrec.exchange.records import Verdict
from trajrec.types import JsonObject, Value

SCORE = frozenset(("value", "answer", "explanation"))
EVENT = frozenset(("event", "timestamp", "score", "scorer", "intermediate"))


class _Judgement(NamedTuple):
    verdict: bool | None
    score: float | None


# Correct, incorrect, partly correct, no answer: with the numbers that Inspect's own metrics take.
_LETTERS = {
    "C": _Judgement(True, 1.0),
    "I": _Judgement(False, 0.0),
    "P": _Judgement(None, 0.5),
    "N": _Judgement(False, 0.0),
}


def verdicts_of(
    sample: JsonObject,
    events: Sequence[JsonObject],
    place: Place,
    account: Account,
    is_own: Callable[[JsonObject], bool],
) -> list[Verdict]:
    """Return the checks of a sample: its scores, and those on the way to its end.

    Args:
        sample: The sample.
        events: Its events.
        place: Its place, for errors.
        account: Counts what is read.
        is_own: Returns whether an event is of the sample's own agent, and of none that it called.
    """
    scores = place.optional(dict, sample.get("scores"), "scores", {})
    of_events: dict[str, JsonObject] = {}
    rests: dict[str, JsonObject | None] = {}
    verdicts = []
    step = 0
    for event in events:
        kind = event.get("event")
        if kind == "model" and is_own(event):
            step += 1
        if kind not in ("score", "score_edit"):
            continue
        rest = account.take(event, f"event {kind}", EVENT)
        if type(event.get("intermediate")) not in (bool, type(None)):
            rest = {**(rest or {}), "intermediate": event["intermediate"]}
        name = _scorer(event, scores, of_events)
        if kind == "score" and name and event.get("intermediate") is not True:
            of_events[name] = event
            rests[name] = rest
            continue
        verdicts.append(_of_event(event, rest, step, place, account))
    for number, (name, value) in enumerate(scores.items()):
        record = texts_by_key(value)
        extra = account.take(record, "score", SCORE) or {}
        if value is not None and type(value) is not dict:
            extra["score"] = value
        event = of_events.get(name, {})
        of_event = dict(rests.get(name) or {})
        if event.get("score") not in (None, value):
            # Mostly it repeats the score of the sample.
            of_event["score"] = event["score"]
        if of_event:
            extra["event"] = of_event
        verdict = _verdict(name, record, extra)
        verdict.time_ns = account.time(event.get("timestamp"))
        verdict.is_primary = number == 0
        verdicts.append(verdict)
    return verdicts


def _scorer(event: JsonObject, scores: JsonObject, taken: JsonObject) -> str:
    """Return the name of the score that an event gave; older events do not name it."""
    name = event.get("scorer")
    if name is None:
        values = {key: value for key, value in scores.items() if key not in taken}
        value = texts_by_key(event.get("score")).get("value")
        name = next((k for k, v in values.items() if texts_by_key(v).get("value") == value), None)
    return name if isinstance(name, str) and name in scores else ""


def _of_event(
    event: JsonObject, rest: JsonObject | None, step: int, place: Place, account: Account
) -> Verdict:
    """Return the check of a score event that is not among the scores of the sample."""
    record = texts_by_key(event.get("score"))
    extra = {**(account.take(record, "score", SCORE) or {}), **(rest or {})}
    if event.get("score") is not None and type(event["score"]) is not dict:
        extra["score"] = event["score"]
    name = place.optional(str, event.get("scorer") or event.get("score_name"), "scorer", "score")
    verdict = _verdict(name, record, extra)
    verdict.phase = "step" if event.get("intermediate") is True else "terminal"
    if event.get("event") == "score_edit":
        verdict.phase = "post-hoc"
    verdict.step = step if verdict.phase == "step" else None
    verdict.time_ns = account.time(event.get("timestamp"))
    return verdict


def _verdict(name: str, record: JsonObject, extra: JsonObject) -> Verdict:
    value: Value = record.get("value")
    judgement = _Judgement(None, number_or_none(value))
    if type(value) is bool:
        judgement = _Judgement(value, float(value))
    elif type(value) is str and value in _LETTERS:
        judgement = _LETTERS[value]
    evidence = {key: record[key] for key in SCORE if record.get(key) is not None}
    return Verdict(
        check_id=name,
        # Inspect writes NaN for a sample that a scorer has left unscored.
        status="not_evaluated" if value is None or value != value else "ok",
        verdict=judgement.verdict,
        score=judgement.score,
        evidence=evidence or None,
        extra=extra or None,
    )
