"""How far recorded episodes replay: the latest verdict of each, by environment."""

from __future__ import annotations

import dataclasses

from trajrec.analysis.estimate import Estimate, share
from trajrec.analysis.source import Source, fetch
from trajrec.task_options import IS_OF_AGENT


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fidelity:
    """The replays of one environment.

    Attributes:
        env_id: The environment or world; None if unknown.
        against: Environment that it was replayed in; "recorded" is the one that its log names;
            None if no episode was replayed.
        n_episodes: Fresh rollouts of the environment.
        n_replayed: Those that a replay has executed, so no refused ones.
        grades: The latest grades, with counts; a refusal is one of them.
        reproduced: Share of the grades exact and state among these two and diverged; None without
            any of them. The other grades do not say whether the whole episode is reproduced.
        causes: Causes of divergences, with counts.
    """

    env_id: str | None
    against: str | None
    n_episodes: int
    n_replayed: int
    grades: dict[str, int]
    reproduced: Estimate | None
    causes: dict[str, int]


def read_fidelity(source: Source) -> list[Fidelity]:
    """Return how far the fresh rollouts of each environment replay."""
    rows = fetch(
        source,
        f"""
        SELECT env_id, against, grade, cause, count(*) AS n
        FROM episodes LEFT JOIN latest_replay USING (episode_id) WHERE {IS_OF_AGENT} GROUP BY ALL ORDER BY ALL""",
    )
    totals = fetch(
        source,
        f"SELECT env_id, count(*) AS n FROM episodes WHERE {IS_OF_AGENT} GROUP BY 1 ORDER BY 1",
    )
    found = []
    for total in totals:
        own = [row for row in rows if row["env_id"] == total["env_id"]]
        arms = sorted({row["against"] for row in own if row["against"] is not None})
        for against in arms or [None]:
            of_arm = [row for row in own if row["against"] == against and row["grade"] is not None]
            grades: dict[str, int] = {}
            causes: dict[str, int] = {}
            for row in of_arm:
                grades[row["grade"]] = grades.get(row["grade"], 0) + row["n"]
                if row["cause"] is not None:
                    causes[row["cause"]] = causes.get(row["cause"], 0) + row["n"]
            found.append(
                Fidelity(
                    env_id=total["env_id"],
                    against=against,
                    n_episodes=total["n"],
                    n_replayed=sum(grades.values()) - grades.get("refused", 0),
                    grades=grades,
                    reproduced=_reproduced(grades),
                    causes=causes,
                )
            )
    return found


def _reproduced(grades: dict[str, int]) -> Estimate | None:
    k = grades.get("exact", 0) + grades.get("state", 0)
    n = k + grades.get("diverged", 0)
    return share(k, n) if n else None
