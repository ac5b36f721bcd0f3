"""The support matrix: which claims the recorded fields of each episode allow.

No one field supports all claims. A claim that an episode does not support is no claim that it is
wrong: the fields to check it are missing, and they are listed.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from trajrec.analysis.rollouts import Reading, read_check, read_interfaces
from trajrec.analysis.source import Source, fetch
from trajrec.run_interface import REASONS
from trajrec.types import Value

CLAIMS = ("correctness", "trace", "difficulty", "coverage")
"""The claims: that verdicts are right, that traces are what happened, that tasks are as hard as
their rates, and that the corpus covers what it says, without leaks."""

FEWEST_ROLLOUTS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClaimSupport:
    """The support of one claim.

    Attributes:
        claim: The claim.
        n: Episodes whose fields support it.
        n_episodes: All fresh rollouts.
        missing: Field -> the episodes that lack it.
    """

    claim: str
    n: int
    n_episodes: int
    missing: Mapping[str, int]

    @property
    def share(self) -> float:
        """The share of the episodes that support the claim; exact, since all are counted."""
        return self.n / self.n_episodes if self.n_episodes else 0.0

    @property
    def verdict(self) -> str:
        """ "licensed", or "unlicensed" with the missing fields, the most frequent first."""
        if self.n_episodes and self.n == self.n_episodes:
            return "licensed"
        fields = sorted(self.missing, key=lambda field: (-self.missing[field], field))
        return f"unlicensed ({', '.join(fields) or 'no episodes'})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Support:
    """The support of each claim.

    Attributes:
        claims: The claims, by name.
    """

    claims: Mapping[str, ClaimSupport]

    def __repr__(self) -> str:
        lines = [f"{name} {claim.n} of {claim.n_episodes}" for name, claim in self.claims.items()]
        return f"<Support: {', '.join(lines)}>"

    def as_dict(self) -> dict[str, Any]:
        """Return the matrix as plain data, which JSON can hold."""
        return {
            name: {**dataclasses.asdict(claim), "share": claim.share, "verdict": claim.verdict}
            for name, claim in self.claims.items()
        }


def read_support(source: Source, where: str) -> Support:
    """Return which claims the fields of fresh rollouts support, by their primary check.

    Raises:
        QueryError: DuckDB rejects the condition.
    """
    reading = Reading(check=read_check(None))
    rows = reading.rows(where, has_doubles=True)
    query = f"""
        WITH states AS (
            SELECT episode_id, bool_and(state_key IS NOT NULL) AS is_complete
            FROM steps WHERE kind = 'rollout' GROUP BY 1
        ), attempted AS (
            SELECT episode_id, bool_and(state_digest IS NOT NULL) AS is_complete
            FROM attempts WHERE kind = 'rollout' GROUP BY 1
        ), verified AS (
            SELECT episode_id FROM latest_replay WHERE grade IN ('exact', 'state')
            UNION ALL SELECT episode_id FROM credit WHERE kind = 'rollout'
            UNION ALL SELECT episode_id FROM labels WHERE kind = 'rollout' AND step IS NOT NULL
        )
        SELECT unit, interface_id, y IS NOT NULL AS is_graded, check_id IS NOT NULL AS has_check,
            check_code IS NOT NULL AS has_code, state_digest IS NOT NULL AS has_state,
            coalesce(a.is_complete, reset_key IS NOT NULL AND s.is_complete, false) AS has_states,
            r.episode_id IN (SELECT episode_id FROM verified) AS is_verified,
            started_at IS NOT NULL AS has_date,
            json_extract_string(metadata, '$.split') IS NOT NULL AS has_split, count(*) AS n
        FROM ({rows}) r LEFT JOIN states s USING (episode_id)
            LEFT JOIN attempted a USING (episode_id)
        GROUP BY ALL"""
    groups = fetch(source, query, is_ours=where == "true")
    interfaces = read_interfaces(source, {group["interface_id"] for group in groups})
    graded: Counter[tuple[str | None, str | None]] = Counter()
    for group in groups:
        graded[group["unit"], group["interface_id"]] += group["n"] * group["is_graded"]
    for group in groups:
        n_graded = graded[group["unit"], group["interface_id"]]
        group["has_enough"] = n_graded >= FEWEST_ROLLOUTS
    return Support(claims={claim: _claim(claim, groups, interfaces) for claim in CLAIMS})


Group = Mapping[str, Any]
Test = Callable[[Group, Value], bool]


def is_known(interface: Value, path: str) -> bool:
    """Return whether a path of an interface is given, or is marked as not applicable.

    >>> is_known({"lineage": {"teacher": {"missing": "unknown"}}}, "lineage.teacher")
    False
    """
    value = interface
    for name in path.split("."):
        if not isinstance(value, Mapping):
            return False
        if value.get("missing") == "not_applicable":
            return True
        value = value.get(name)
    if isinstance(value, Mapping) and len(value) == 1 and value.get("missing") in REASONS:
        return bool(value["missing"] == "not_applicable")
    return value is not None


def _column(name: str) -> Test:
    return lambda group, _: bool(group[name])


def _path(path: str) -> Test:
    return lambda _, interface: is_known(interface, path)


FIELDS: dict[str, dict[str, Test]] = {
    "correctness": {
        "check": _column("has_check"),
        "verdict": _column("is_graded"),
        "source of the check": _column("has_code"),
        "final state": _column("has_state"),
        "verifier.extractor": _path("verifier.extractor"),
        "verifier.invalid": _path("verifier.invalid"),
    },
    "trace": {
        "states after each step": _column("has_states"),
        "verified replay, or labels of steps": _column("is_verified"),
    },
    "difficulty": {
        "base": _path("base"),
        "sampling": _path("sampling"),
        f"{FEWEST_ROLLOUTS} graded rollouts of the task": _column("has_enough"),
        "date": _column("has_date"),
    },
    "coverage": {
        "lineage.generator": _path("lineage.generator"),
        "lineage.teacher": _path("lineage.teacher"),
        "lineage.filter": _path("lineage.filter"),
        "lineage.decontamination": _path("lineage.decontamination"),
        "split": _column("has_split"),
    },
}
"""Claim -> the fields that support it, each with a test of a group and its interface."""


def _claim(
    claim: str, groups: list[dict[str, Any]], interfaces: Mapping[str | None, Value]
) -> ClaimSupport:
    missing: Counter[str] = Counter()
    n_supported = 0
    for group in groups:
        interface = interfaces[group["interface_id"]]
        gaps = [name for name, holds in FIELDS[claim].items() if not holds(group, interface)]
        n_supported += group["n"] * (not gaps)
        missing.update(dict.fromkeys(gaps, group["n"]))
    return ClaimSupport(
        claim=claim,
        n=n_supported,
        n_episodes=sum(group["n"] for group in groups),
        missing=dict(missing),
    )
