"""Do two checks agree on the same states, and does one check agree with itself?

States are counted, and not rows: a state that a thousand episodes of a task ended in is one state.
A state of another task, or under another goal, is another one, since a check judges by them too.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from trajrec.analysis.estimate import Estimate, as_estimate, share
from trajrec.analysis.rollouts import find_check, read_check
from trajrec.analysis.source import Source, fetch
from trajrec.analysis.verifier_health import OF_TASK
from trajrec.statistics.pass_k import mean_over_tasks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flake:
    """How often one version of a check contradicts itself on one state.

    Attributes:
        check: The check with its version and the first digits of its code's digest.
        n_states: States that it judged at least twice.
        n_runs: Its verdicts on them.
        rate: Chance that two of its verdicts on one state differ, mean over states.
    """

    check: str
    n_states: int
    n_runs: int
    rate: Estimate

    @property
    def shrinkage(self) -> float:
        """The share of a true difference that remains if verdicts flip so often.

        Two verdicts differ with a chance of 2f(1 - f), if each of them is wrong with a chance of f.
        """
        return math.sqrt(max(0.0, 1 - 2 * min(self.rate.value, 0.5)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """Two checks on the same states, of which each check's verdicts agree among themselves.

    Attributes:
        a: The first check.
        b: The second check.
        n: States that both judged.
        both: States that both passed.
        a_only: States that only a passed.
        b_only: States that only b passed.
        neither: States that none passed.
        n_flaky: States left out because a check contradicts itself there.
        differ: Share of states on which they differ.
        kappa: Cohen's kappa, 1 for full agreement and 0 for that of chance; its interval follows
            from that of `differ`, with the margins as they are. None if chance alone agrees.
        p_value: Exact McNemar test of a_only against b_only.
        false_accept: If a is the gold check: share of states that it fails and b passes.
        false_reject: Share of states that it passes and b fails.
    """

    a: str
    b: str
    n: int
    both: int
    a_only: int
    b_only: int
    neither: int
    n_flaky: int
    differ: Estimate
    kappa: Estimate | None
    p_value: float
    false_accept: Estimate | None = None
    false_reject: Estimate | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Disagreement:
    """The agreement of all checks of a corpus.

    Attributes:
        pairs: Each two checks, or versions, that judged the same states.
        flakes: Each version that judged a state twice or more.
    """

    pairs: tuple[Pair, ...]
    flakes: tuple[Flake, ...]

    def __repr__(self) -> str:
        lines = [f"{pair.a} and {pair.b} differ in {pair.differ}" for pair in self.pairs]
        lines += [f"{flake.check} flakes in {flake.rate}" for flake in self.flakes]
        return f"<Disagreement: {'; '.join(lines) or 'no state was judged twice'}>"


_NAME = "check_id || '@' || version || coalesce(' (' || left(code_digest, 8) || ')', '')"


def name_with_code(check_id: str, version: str, code_digest: str | None) -> str:
    """Return the name of a check as `Flake` and `Pair` have it."""
    code = "" if code_digest is None else f" ({code_digest[:8]})"
    return f"{check_id}@{version}{code}"


_STATES = f"""
    SELECT state_digest, {OF_TASK}, {_NAME} AS name, count(*) AS m,
        count(*) FILTER (verdict) AS s
    FROM checks JOIN episodes USING (episode_id)
    WHERE status = 'ok' AND verdict IS NOT NULL AND state_digest IS NOT NULL
    GROUP BY ALL"""


def read_disagreement(source: Source, *, gold: str | None = None) -> Disagreement:
    """Return the agreement of all checks on states of fresh rollouts.

    Args:
        source: The corpus.
        gold: A check that is taken as the truth, e.g. "human@1".

    Raises:
        ValueError: No episode has the gold check.
    """
    if gold is not None:
        find_check(gold, source)
    query = f"""
        WITH states AS MATERIALIZED ({_STATES}), counts AS (
            SELECT a.name AS a, b.name AS b,
                count(*) FILTER (a.s IN (0, a.m) AND b.s IN (0, b.m)) AS n,
                count(*) FILTER (a.s = a.m AND b.s = b.m) AS both,
                count(*) FILTER (a.s = a.m AND b.s = 0) AS a_only,
                count(*) FILTER (a.s = 0 AND b.s = b.m) AS b_only,
                count(*) FILTER (a.s = 0 AND b.s = 0) AS neither,
                count(*) AS n_all
            FROM states a JOIN states b ON a.state_digest = b.state_digest AND a.name < b.name
                AND a.task IS NOT DISTINCT FROM b.task
                AND a.goal_digest IS NOT DISTINCT FROM b.goal_digest
            GROUP BY ALL
        )
        SELECT * FROM counts ORDER BY a, b"""
    flakes = f"""
        SELECT name, m, s, count(*) AS n FROM ({_STATES}) WHERE m >= 2 GROUP BY ALL ORDER BY ALL"""
    return Disagreement(
        pairs=tuple(_pair(row, gold) for row in fetch(source, query)),
        flakes=tuple(_flakes(fetch(source, flakes))),
    )


def _pair(row: dict[str, Any], gold: str | None) -> Pair:
    if gold is not None and _is_gold(row["b"], gold):
        row = {**row, "a": row["b"], "b": row["a"]}
        row = {**row, "a_only": row["b_only"], "b_only": row["a_only"]}
    n = row["n"]
    differ = _share(row["a_only"] + row["b_only"], n)
    is_gold = gold is not None and _is_gold(row["a"], gold)
    return Pair(
        a=row["a"],
        b=row["b"],
        n=n,
        both=row["both"],
        a_only=row["a_only"],
        b_only=row["b_only"],
        neither=row["neither"],
        n_flaky=row["n_all"] - n,
        differ=differ,
        kappa=_kappa(row, differ),
        p_value=mcnemar(row["a_only"], row["b_only"]),
        false_accept=_share(row["b_only"], row["b_only"] + row["neither"]) if is_gold else None,
        false_reject=_share(row["a_only"], row["a_only"] + row["both"]) if is_gold else None,
    )


def _is_gold(name: str, gold: str) -> bool:
    """Return whether a check with its code is the one that was named."""
    check = read_check(gold)
    plain = name.split(" (")[0]
    return plain == gold if check.version is not None else plain.rpartition("@")[0] == gold


def _share(k: int, n: int) -> Estimate:
    """Return a share with Wilson's interval; [0, 1] without states."""
    return share(k, n) if n else Estimate(value=math.nan, ci_low=0.0, ci_high=1.0)


def _kappa(row: dict[str, Any], differ: Estimate) -> Estimate | None:
    n = row["n"]
    if not n:
        return None
    of_a = (row["both"] + row["a_only"]) / n
    of_b = (row["both"] + row["b_only"]) / n
    by_chance = of_a * (1 - of_b) + of_b * (1 - of_a)
    if by_chance == 0.0:
        return None
    ends = [1 - share / by_chance for share in (differ.value, differ.ci_high, differ.ci_low)]
    return Estimate(value=ends[0], ci_low=max(-1.0, ends[1]), ci_high=ends[2])


def mcnemar(a_only: int, b_only: int) -> float:
    """Return the two-sided p-value of McNemar's exact test.

    >>> round(mcnemar(0, 5), 6)
    0.0625
    """
    n = a_only + b_only
    k = np.arange(1, min(a_only, b_only) + 1)
    # Logarithms: the binomial coefficients of a million states have 300,000 digits.
    logs = np.concatenate([[0.0], np.cumsum(np.log((n - k + 1) / k))]) - n * math.log(2)
    return min(1.0, 2 * float(np.exp(logs).sum()))


def _flakes(rows: list[dict[str, Any]]) -> list[Flake]:
    names = sorted({row["name"] for row in rows})
    flakes = []
    for name in names:
        own = [row for row in rows if row["name"] == name]
        # Chance that two of m verdicts differ, s of which pass: unbiased for any m.
        values = np.concatenate(
            [
                np.full(
                    row["n"], 2 * row["s"] * (row["m"] - row["s"]) / (row["m"] * (row["m"] - 1))
                )
                for row in own
            ]
        )
        flakes.append(
            Flake(
                check=name,
                n_states=len(values),
                n_runs=sum(row["m"] * row["n"] for row in own),
                rate=as_estimate(mean_over_tasks(np.minimum(values, 1.0))),
            )
        )
    return flakes
