"""The first prompts of two runs: a template that only the requests show is a difference too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from trajrec.analysis.interface_difference import Factor, PathDifference, with_observed
from trajrec.analysis.source import Source, fetch
from trajrec.conditions import bracketed
from trajrec.task_options import IS_OF_AGENT

PATH = "scaffold.prompt_digest"
_CHANCE = f"{PATH} (first prompts of one task differ, and it is unknown whether by chance)"


class Prompts(NamedTuple):
    """What the first model calls of the rollouts of a task ask, beside the system prompt.

    Attributes:
        n: The rollouts of which it is known.
        digests: Their different digests.
    """

    n: int
    digests: frozenset[str]


def read_prompts(source: Source, where: str) -> dict[str, Prompts]:
    """Return the first prompts of the fresh rollouts that a condition selects, for each task."""
    if not source.sql("SELECT 1 FROM model_calls LIMIT 1").fetchall():
        return {}
    query = f"""
        SELECT coalesce(task, coalesce(env_id, '?') || ' from state ' || reset_key) AS unit,
            count(*) AS n, list(DISTINCT prompt_digest) AS digests
        FROM episodes WHERE prompt_digest IS NOT NULL AND {bracketed(where)} AND {IS_OF_AGENT}
        GROUP BY unit HAVING unit IS NOT NULL"""
    return {
        row["unit"]: Prompts(row["n"], frozenset(row["digests"]))
        for row in fetch(source, query, is_ours=where == "true")
    }


def add_prompts(
    factors: dict[str, Factor],
    of_a: Mapping[str, Prompts],
    of_b: Mapping[str, Prompts],
    units: Iterable[str],
) -> None:
    """Add a difference of first prompts to the scaffold, or that none can be told from chance.

    A prompt may hold the time of the day, or a first observation that follows from a seed. So it is
    a difference if the rollouts of a task agree within each run and not between the runs. It is
    unknown if the runs share no prompt, or if the rollouts of one run agree and those of the other
    do not: its template may have changed half-way.
    """
    is_unclear = False
    for unit in units:
        a = of_a.get(unit)
        b = of_b.get(unit)
        if a is None or b is None or a.digests == b.digests:
            continue
        agree = [of_run.n > 1 and len(of_run.digests) == 1 for of_run in (a, b)]
        if a.digests & b.digests and not any(agree):
            # Both draw from the same prompts.
            continue
        if all(agree):
            difference = PathDifference(PATH, min(a.digests), min(b.digests), False)
            factors["scaffold"] = with_observed(factors["scaffold"], [difference])
            return
        is_unclear = True
    if is_unclear:
        factors["scaffold"] = with_observed(factors["scaffold"], [], [_CHANCE])
