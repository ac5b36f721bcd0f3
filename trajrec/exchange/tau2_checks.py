"""The reward of tau2 and its parts as checks: a part that was not judged is no zero and no one."""

from __future__ import annotations

from trajrec.exchange.account import Account
from trajrec.exchange.reading import Place, dicts_of, number_or_none
from trajrec.exchange.records import Verdict
from trajrec.types import JsonObject, Value

REWARD = frozenset(
    (
        "reward",
        "db_check",
        "env_assertions",
        "action_checks",
        "communicate_checks",
        "nl_assertions",
        "reward_basis",
        "reward_breakdown",
        "info",
    )
)

_PARTS = (
    ("env_assertions", "env_assertion", ("met",), "programmatic"),
    ("action_checks", "action", ("action_match",), "programmatic"),
    ("communicate_checks", "communicate", ("met",), "programmatic"),
    ("nl_assertions", "nl_assertion", ("met",), "rubric"),
)
"""Field with a list of judgements, name of the check, field with the verdict, family."""

_BASIS = {
    "DB": "db",
    "ENV_ASSERTION": "env_assertion",
    "ACTION": "action",
    "COMMUNICATE": "communicate",
    "NL_ASSERTION": "nl_assertion",
}


def verdicts_of(
    record: JsonObject, place: Place, account: Account, basis: Value = None
) -> list[Verdict]:
    """Return the checks of a simulation, the reward first; none if it was not judged.

    Args:
        record: The reward.
        place: Its place.
        account: Counts the fields.
        basis: The parts that the task is judged by.
    """
    if not record:
        return []
    rest = account.take(record, "reward_info", REWARD)
    reward = number_or_none(record.get("reward"))
    names = ("reward_basis", "reward_breakdown", "info")
    evidence: JsonObject = {name: record[name] for name in names if record.get(name) is not None}
    if reward is None and record.get("reward") is not None:
        evidence["reward"] = record["reward"]
    verdicts = [
        Verdict(
            check_id="reward",
            family="programmatic",
            status="not_evaluated" if reward is None else "ok",
            verdict=_verdict(reward),
            score=reward,
            evidence=evidence or None,
            is_primary=True,
            extra=rest,
        )
    ]
    database = place.optional(dict, record.get("db_check"), "db_check", {})
    if database:
        verdicts.append(_check("db", database.get("db_match"), database.get("db_reward"), database))
    for field, name, keys, family in _PARTS:
        for number, item in enumerate(dicts_of(place, record.get(field), field)):
            value = next((item[key] for key in keys if key in item), None)
            score = item.get("reward", item.get("action_reward"))
            check = _check(f"{name} {number}", value, score, item)
            check.family = family
            verdicts.append(check)
    judged = {verdict.check_id.split()[0] for verdict in verdicts}
    basis = record.get("reward_basis") or basis
    for part in basis if type(basis) is list else ():
        wanted = _BASIS.get(part) if type(part) is str else None
        if wanted is not None and wanted not in judged:
            missing = Verdict(check_id=wanted, family="programmatic", status="not_evaluated")
            verdicts.append(missing)
    return verdicts


def _check(name: str, value: Value, score: Value, evidence: JsonObject) -> Verdict:
    verdict = value if type(value) is bool else None
    return Verdict(
        check_id=name,
        family="programmatic",
        status="ok" if verdict is not None else "not_evaluated",
        verdict=verdict,
        score=number_or_none(score),
        evidence=evidence,
    )


def _verdict(reward: float | None) -> bool | None:
    return bool(reward) if reward in (0.0, 1.0) else None
