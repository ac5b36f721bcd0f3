"""The card of a corpus: everything that a release says of itself, computed from the tables.

The card never says more than the support matrix allows, and names each field that is missing.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from trajrec.analysis.bands import read_bands
from trajrec.analysis.card_overlap import overlap_of
from trajrec.analysis.comparison import Comparison
from trajrec.analysis.disagreement import name_with_code, read_disagreement
from trajrec.analysis.fidelity import read_fidelity
from trajrec.analysis.pass_k import read_pass_k
from trajrec.analysis.recovery import read_recovery
from trajrec.analysis.source import Source, fetch, quoted
from trajrec.analysis.support import is_known, read_support
from trajrec.analysis.verifier_health import read_health
from trajrec.run_interface import FIELDS
from trajrec.task_options import IS_OF_AGENT
from trajrec.version import __version__

CARD_VERSION = 1
"""Version of the form of card.json."""

MOST_INTERFACES = 20

_ROLLOUTS = f"(SELECT * FROM episodes WHERE {IS_OF_AGENT})"

_IDS_OF_PROBES = f"(SELECT episode_id FROM episodes WHERE NOT {IS_OF_AGENT})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    """The facts of a release that no recording has. What is not given is named as missing.

    Attributes:
        name: Its name.
        description: A sentence or two.
        license: Id of its licence, e.g. "apache-2.0". It is never guessed.
        url: Its address.
        creator: Person or organisation.
        published: Day of publication.
        held_out: Splits that no other data may descend from.
    """

    name: str
    description: str | None = None
    license: str | None = None
    url: str | None = None
    creator: str | None = None
    published: datetime.date
    held_out: tuple[str, ...] = ("test",)


Card = dict[str, Any]
"""The content of card.json: plain data."""


def make_card(source: Source, about: About, comparisons: Sequence[Comparison] = ()) -> Card:
    """Return the card of a corpus.

    Raises:
        ValueError: The declared lineage has a cycle.
    """
    card: Card = {
        "version": CARD_VERSION,
        "about": {**dataclasses.asdict(about), "published": about.published.isoformat()},
        "made_with": f"trajrec {__version__}",
        "counts": _counts(source),
        "interfaces": _interfaces(source),
        "tasks": _tasks(source),
        "checks": _checks(source),
        "success": _success(source),
        "bands": _bands(source),
        "claims": read_support(source, "true").as_dict(),
        "failures": _failures(source),
        "fidelity": [_plain(item) for item in read_fidelity(source)],
        "overlap": overlap_of(source, about.held_out),
        "comparisons": [comparison.as_dict() for comparison in comparisons],
    }
    _contradict(card)
    card["missing"] = _missing(card)
    return card


def _contradict(card: Card) -> None:
    """Withdraw the claims that the analyses contradict, though their fields are recorded."""
    leaks = len(card["overlap"]["leaks"])
    held_out = set(card["about"]["held_out"])
    several = [item for item in card["overlap"]["shared"] if item["is_task"]]
    shared = [item for item in several if held_out & set(item["splits"])]
    splits = _named_splits(card)
    cleaned = [
        run["run"] or "without a name" for run in card["failures"]["runs"] if run["looks_cleaned"]
    ]
    found = {
        "coverage": [
            *([f"{episodes(leaks)} from held-out data"] if leaks else []),
            *([f"{_are_shared(len(shared))} held out and not"] if shared else []),
            *(
                [
                    f"{_are_shared(len(several))} in several splits, of which none is named as held out"
                ]
                if several and not held_out & splits
                else []
            ),
        ],
        "trace": [f"run {name} looks cleaned" for name in cleaned],
    }
    for claim, reasons in found.items():
        card["claims"][claim]["contradicted"] = reasons
        if reasons:
            card["claims"][claim]["verdict"] = f"contradicted ({'; '.join(reasons)})"


def _are_shared(n: int) -> str:
    return "1 task, goal or first state is" if n == 1 else f"{n} tasks, goals or first states are"


def _named_splits(card: Card) -> set[str]:
    """Return the splits that episodes are in."""
    return {row["split"] for row in card["tasks"]["splits"] if row["split"] is not None}


def _plain(record: Any) -> dict[str, Any]:
    """Return a record of an analysis as plain data, which JSON can hold."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(record), default=str))
    return plain


def _counts(source: Source) -> dict[str, Any]:
    (row,) = fetch(
        source,
        f"""
        SELECT (SELECT count(*) FROM {_ROLLOUTS}) AS episodes, (SELECT count(*) FROM forks) AS forks,
            (SELECT count(*) FROM all_episodes WHERE kind = 'nested') AS nested,
            (SELECT count(*) FROM episodes WHERE NOT {IS_OF_AGENT}) AS probes,
            (SELECT count(*) FROM steps WHERE kind = 'rollout'
                AND episode_id NOT IN {_IDS_OF_PROBES}) AS steps,
            (SELECT count(*) FROM logs WHERE is_original AND problem IS NULL) AS logs,
            (SELECT coalesce(sum(size_bytes), 0)::BIGINT FROM logs
                WHERE is_original AND problem IS NULL) AS bytes,
            (SELECT count(*) FROM logs WHERE problem IS NOT NULL OR len(damage::JSON[]) > 0)
                AS damaged_logs,
            (SELECT count(*) FROM removals) AS removed,
            (SELECT count(*) FROM {_ROLLOUTS} WHERE episode_id NOT IN (
                SELECT episode_id FROM latest_replay WHERE grade <> 'refused')) AS never_replayed,
            (SELECT min(started_at)::DATE::VARCHAR FROM episodes) AS first_day,
            (SELECT max(started_at)::DATE::VARCHAR FROM episodes) AS last_day""",
    )
    endings = fetch(source, f"SELECT ending, count(*) AS n FROM {_ROLLOUTS} GROUP BY 1 ORDER BY 1")
    outcomes = fetch(
        source,
        f"SELECT coalesce(outcome, 'no verdict') AS outcome, count(*) AS n FROM {_ROLLOUTS} "
        "GROUP BY 1 ORDER BY 1",
    )
    faults = fetch(
        source,
        f"SELECT fault, count(*) AS n FROM {_ROLLOUTS} WHERE fault IS NOT NULL "
        "GROUP BY 1 ORDER BY 1",
    )
    row["endings"] = {item["ending"]: item["n"] for item in endings}
    row["outcomes"] = {item["outcome"]: item["n"] for item in outcomes}
    row["faults"] = {item["fault"]: item["n"] for item in faults}
    return row


def _interfaces(source: Source) -> list[dict[str, Any]]:
    """Return the interfaces that most rollouts ran under, each with its nine factors."""
    rows = fetch(
        source,
        f"SELECT interface_id, count(*) AS n FROM {_ROLLOUTS} GROUP BY 1 ORDER BY n DESC, 1",
    )
    texts = dict(
        source.sql(
            f"SELECT interface_id, [{', '.join(FIELDS)}]::VARCHAR[] FROM interfaces"
        ).fetchall()
    )
    interfaces = []
    for row in rows:
        values = texts.get(row["interface_id"]) or [None] * len(FIELDS)
        factors = {
            name: None if text is None else json.loads(text)
            for name, text in zip(FIELDS, values, strict=True)
        }
        unknown = [name for name in FIELDS if not is_known(factors, name)]
        unknown += [path for path in _unknown_below(factors) if path not in unknown]
        interfaces.append(
            {
                "interface_id": row["interface_id"],
                "episodes": row["n"],
                "factors": factors,
                "unknown": unknown,
            }
        )
    return interfaces


def _unknown_below(value: Any, path: tuple[str, ...] = ()) -> list[str]:
    """Return the paths inside of an interface that are marked as unknown."""
    if isinstance(value, Mapping):
        if len(value) == 1 and value.get("missing") in ("unknown", "redacted", "not_captured"):
            return [".".join(path)]
        return [
            found
            for key, item in value.items()
            for found in _unknown_below(item, (*path, str(key)))
        ]
    if isinstance(value, list):
        return [
            found for k, item in enumerate(value) for found in _unknown_below(item, (*path, str(k)))
        ]
    return []


def _tasks(source: Source) -> dict[str, Any]:
    (row,) = fetch(
        source,
        f"""
        SELECT count(DISTINCT task) AS tasks, count(*) FILTER (task IS NULL) AS episodes_without_task,
            count(DISTINCT task_revision) AS revisions,
            count(*) FILTER (task IS NOT NULL AND task_revision IS NULL)
                AS episodes_without_revision
        FROM {_ROLLOUTS}""",
    )
    splits = fetch(
        source,
        "SELECT json_extract_string(metadata, '$.split') AS split, count(*) AS n, "
        f"count(DISTINCT task) AS tasks FROM {_ROLLOUTS} GROUP BY 1 ORDER BY 1",
    )
    envs = fetch(
        source, f"SELECT env_id, count(*) AS n FROM {_ROLLOUTS} GROUP BY 1 ORDER BY n DESC, 1"
    )
    return {**row, "splits": splits, "environments": envs}


def _checks(source: Source) -> list[dict[str, Any]]:
    """Return each version of each check with its verdicts, its health and its flakes.

    Probes count in the health alone: there it is known which verdict is right.
    """
    rows = fetch(
        source,
        f"""
        SELECT check_id, version, code_digest, any_value(family) AS family,
            bool_or(is_primary) AS is_primary, count(*) FILTER (is_of_agent) AS verdicts,
            count(*) FILTER (is_of_agent AND verdict) AS passed,
            count(*) FILTER (is_of_agent AND NOT verdict) AS failed,
            count(*) FILTER (is_of_agent AND status = 'error') AS errors,
            count(*) FILTER (is_of_agent AND state_digest IS NULL) AS without_state
        FROM (SELECT *, episode_id NOT IN {_IDS_OF_PROBES} AS is_of_agent FROM checks)
        WHERE kind = 'rollout' GROUP BY ALL ORDER BY check_id, version, code_digest""",
    )
    agreement = read_disagreement(source)
    health = {(item.check_id, item.version, item.code_digest): item for item in read_health(source)}
    flakes = {flake.check: _plain(flake) for flake in agreement.flakes}
    for row in rows:
        key = (row["check_id"], row["version"], row["code_digest"])
        row["health"] = _plain(health[key]) | {"untested": list(health[key].untested)}
        row["flake"] = flakes.get(name_with_code(*key))
    return rows


def _success(source: Source) -> list[dict[str, Any]]:
    """Return the success of each interface over its tasks, by the primary check."""
    rows = fetch(
        source,
        f"SELECT interface_id, count(*) AS n FROM {_ROLLOUTS} GROUP BY 1 ORDER BY n DESC, 1 "
        f"LIMIT {MOST_INTERFACES}",
    )
    found = []
    for row in rows:
        key = row["interface_id"]
        where = "interface_id IS NULL" if key is None else f"interface_id = {quoted(key)}"
        rate = read_pass_k(source, 1, where, check=None)
        reason = rate.reason
        if key is None:
            reason = "the interface is unknown, so rollouts under several may be mixed"
        found.append(
            {
                "interface_id": key,
                "tasks": rate.n_tasks,
                "rollouts": rate.n_rollouts,
                "excluded": dict(rate.excluded),
                "rate": None
                if reason or rate.pass_at_k is None
                else dataclasses.asdict(rate.pass_at_k),
                "reason": reason,
                "note": rate.note,
            }
        )
    return found


def _bands(source: Source) -> dict[str, Any]:
    rows = read_bands(source, "true", check=None, min_n=8, before=None)
    counts: dict[str, int] = {}
    sure: dict[str, int] = {}
    for row in rows:
        counts[row.band] = counts.get(row.band, 0) + 1
        if row.band_sure is not None:
            sure[row.band_sure] = sure.get(row.band_sure, 0) + 1
    return {"min_n": 8, "as_seen": counts, "sure": sure, "note": rows.note}


def _failures(source: Source) -> dict[str, Any]:
    found = read_recovery(source, "true")
    others = fetch(
        source,
        "SELECT phase, origin, count(*) AS n, count(DISTINCT episode_id) AS episodes "
        f"FROM failures WHERE kind = 'rollout' AND phase <> 'call' "
        f"AND episode_id NOT IN {_IDS_OF_PROBES} GROUP BY ALL ORDER BY ALL",
    )
    return {
        "others": others,
        "kinds": [_plain(kind) for kind in found.kinds],
        "runs": [_plain(run) for run in found.runs],
    }


def episodes(n: int) -> str:
    """Return a number of episodes with its noun."""
    return "1 episode" if n == 1 else f"{n} episodes"


def _missing(card: Card) -> list[str]:
    """Return each field that the release lacks, as a sentence."""
    missing = [
        f"{name} of the release: give it (--{name})"
        for name in ("license", "description", "url", "creator")
        if not card["about"][name]
    ]
    for interface in card["interfaces"]:
        if interface["unknown"]:
            key = interface["interface_id"]
            name = "interface: none is recorded" if key is None else f"interface {key[:13]}"
            missing.append(
                f"{name}: {', '.join(interface['unknown'])} unknown, in "
                f"{episodes(interface['episodes'])}"
            )
    for claim, support in card["claims"].items():
        missing += [f"{claim}: {reason}" for reason in support.get("contradicted", ())]
        missing += [
            f"{claim}: {field}, in {episodes(n)}" for field, n in sorted(support["missing"].items())
        ]
    for check in card["checks"]:
        if untested := check["health"]["untested"]:
            code = check["code_digest"]
            source_name = "" if code is None else f" (source {code[:8]})"
            missing.append(
                f"probes of {check['check_id']}@{check['version']}{source_name}: "
                f"{', '.join(untested)}"
            )
    tasks = card["tasks"]
    for name, field in (("task", "name of the task"), ("revision", "revision of the task")):
        if n := tasks[f"episodes_without_{name}"]:
            missing.append(f"{field}, in {episodes(n)}")
    if n := card["counts"]["outcomes"].get("no verdict", 0):
        missing.append(f"verdict of a primary check, in {episodes(n)}")
    splits = _named_splits(card)
    held_out = card["about"]["held_out"]
    if splits and not splits & set(held_out):
        missing.append(
            f"held-out split: no episode is in {', '.join(held_out)}; name yours (--held-out)"
        )
    if never := card["counts"]["never_replayed"]:
        missing.append(f"replay, of {episodes(never)}")
    if n := card["counts"]["removed"]:
        missing.append(f"{episodes(n)} that were removed from the logs")
    if n := card["counts"]["damaged_logs"]:
        missing.append(
            f"parts that were lost or never written, in {n} {'log' if n == 1 else 'logs'} (see table logs)"
        )
    return missing
