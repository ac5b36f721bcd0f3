"""The interface as the recordings show it: it corrects and completes the declared one.

An observed difference counts as a difference, marked as undeclared. Only `sampling` is filled from
the recordings if nothing was declared, since the requests hold all of it.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from collections.abc import Iterable, Mapping, Sequence

from trajrec.analysis.interface_difference import (
    Factor,
    PathDifference,
    compare_interfaces,
    with_observed,
)
from trajrec.analysis.rollouts import Group
from trajrec.analysis.source import Source, fetch
from trajrec.conditions import bracketed
from trajrec.task_options import IS_OF_AGENT
from trajrec.types import Value

# Arguments of a request that differ between equal settings, or that another factor has: the model
# is the base, and the system prompt belongs to the scaffold.
_NOT_SAMPLING = frozenset(
    (
        "conversation",
        "input",
        "instructions",
        "metadata",
        "model",
        "previous_response_id",
        "prompt",
        "prompt_cache_key",
        "safety_identifier",
        "seed",
        "store",
        "stream",
        "stream_options",
        "system",
        "user",
    )
)

_FACET_FACTORS = (
    ("verifier", "check_id"),
    ("verifier", "version"),
    ("verifier", "check_code"),
    ("env", "env_id"),
    ("env", "state_adapter"),
    ("scaffold", "tools_digest"),
    ("scaffold", "offered_digest"),
    ("scaffold", "system_digest"),
)

_ONE_A_TASK = frozenset(("verifier", "env"))
"""Factors of which a task has one value in a run. Prompts may hold the time of the day."""

_REVISION_KEYS = frozenset(("revision", "checkpoint", "digest", "sha", "commit", "version"))
# A dated name, such as gpt-4o-2024-05-13 or claude-3-5-sonnet-20241022, names one model.
_DATED = re.compile(r"20\d\d-?[01]\d(-?[0-3]\d)?\b")

Period = tuple[datetime.datetime | None, datetime.datetime | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelUse:
    """The models and settings of a run, for each task.

    Attributes:
        models: Names of the models.
        settings: Arguments of the requests, as JSON, without those that differ by chance.
        is_hosted: Whether a call was seen as an HTTP exchange.
    """

    models: Mapping[str, frozenset[str]]
    settings: Mapping[str, frozenset[str]]
    is_hosted: bool


def read_model_use(source: Source, where: str) -> ModelUse:
    """Return the use of models by the fresh rollouts that a condition selects."""
    if not source.sql("SELECT 1 FROM model_calls LIMIT 1").fetchall():
        return ModelUse(models={}, settings={}, is_hosted=False)
    query = f"""
        SELECT coalesce(task, coalesce(env_id, '?') || ' from state ' || reset_key) AS unit,
            model, parameters, bool_or(dialect IS NOT NULL) AS is_hosted
        FROM model_calls JOIN (
            SELECT * FROM episodes WHERE {bracketed(where)} AND {IS_OF_AGENT}
        ) USING (episode_id) GROUP BY ALL"""
    models: dict[str, set[str]] = {}
    settings: dict[str, set[str]] = {}
    is_hosted = False
    for row in fetch(source, query, is_ours=where == "true"):
        is_hosted = is_hosted or row["is_hosted"]
        unit = row["unit"]
        if row["model"] is not None:
            models.setdefault(unit, set()).add(row["model"])
        parameters = json.loads(row["parameters"] or "{}")
        if isinstance(parameters, dict):
            kept = {key: parameters[key] for key in parameters if key not in _NOT_SAMPLING}
            settings.setdefault(unit, set()).add(json.dumps(kept, sort_keys=True))
    return ModelUse(
        models={unit: frozenset(values) for unit, values in models.items()},
        settings={unit: frozenset(values) for unit, values in settings.items()},
        is_hosted=is_hosted,
    )


def read_packages(source: Source, where: str) -> dict[str, frozenset[str]]:
    """Return the versions of each package that the logs of selected rollouts name."""
    packages = "json_extract(header, '$.runtime.packages')"
    ((n_sets,),) = source.sql(f"SELECT count(DISTINCT {packages}) FROM logs").fetchall()
    query = f"SELECT DISTINCT {packages} AS packages FROM logs"
    if n_sets > 1:
        # Otherwise all logs agree, and the question which log has which episode need not be asked.
        query += f" WHERE log IN (SELECT log FROM episodes WHERE {bracketed(where)})"
    versions: dict[str, set[str]] = {}
    for row in fetch(source, query, is_ours=where == "true"):
        found = json.loads(row["packages"] or "{}")
        for name, version in found.items() if isinstance(found, dict) else ():
            versions.setdefault(name, set()).add(str(version))
    return {name: frozenset(values) for name, values in versions.items()}


def facet_sets(groups: Iterable[Group], facet: str) -> dict[str, frozenset[str]]:
    """Return the values of an observed part for each task, without unknown ones."""
    values: dict[str, set[str]] = {}
    for group in groups:
        value = group.facets[facet]
        if group.unit is not None and value is not None:
            values.setdefault(group.unit, set()).add(value)
    return {unit: frozenset(of_unit) for unit, of_unit in values.items()}


def differing(
    a: Mapping[str, frozenset[str]], b: Mapping[str, frozenset[str]], units: Iterable[str]
) -> tuple[str, str] | None:
    """Return the values of the first task on which two runs differ, None if there is none.

    A run that has values for other tasks, but none for this one, did nothing there: no difference.
    """
    if not a and not b:
        return None
    for unit in units:
        values_a = a.get(unit)
        values_b = b.get(unit)
        if (values_a is None and a) or (values_b is None and b):
            continue
        if values_a != values_b:
            return _listed(values_a), _listed(values_b)
    return None


def _listed(values: frozenset[str] | None) -> str:
    if not values:
        return "none"
    first = sorted(values)[:3]
    return ", ".join(first) + (", ..." if len(values) > 3 else "")


def add_facets(
    factors: dict[str, Factor],
    groups_a: Sequence[Group],
    groups_b: Sequence[Group],
    units: Sequence[str],
) -> None:
    """Add the differences of checks, environments, tools and system messages to the factors."""
    observed: dict[str, list[PathDifference]] = {}
    unknown: dict[str, list[str]] = {}
    for name, facet in _FACET_FACTORS:
        of_a = facet_sets(groups_a, facet)
        of_b = facet_sets(groups_b, facet)
        if name in _ONE_A_TASK and any(
            len(values) > 1 for of_side in (of_a, of_b) for values in of_side.values()
        ):
            # Two versions of a check in one run are no one measure, though both runs have both.
            mixed = (*factors[name].mixed, f"{name}.{facet}")
            factors[name] = dataclasses.replace(factors[name], status="mixed", mixed=mixed)
            continue
        if facet == "check_code" and _is_known_in_part(groups_a, groups_b, units):
            unknown[name] = [f"{name}.{facet}"]
            continue
        pair = differing(of_a, of_b, units)
        if pair is not None:
            observed.setdefault(name, []).append(PathDifference(f"{name}.{facet}", *pair, False))
    for name in observed.keys() | unknown.keys():
        factors[name] = with_observed(factors[name], observed.get(name, []), unknown.get(name, []))


def _is_known_in_part(
    groups_a: Sequence[Group], groups_b: Sequence[Group], units: Sequence[str]
) -> bool:
    """Return whether the source of the check is known of some verdicts on the tasks alone."""
    shared = set(units)
    codes = {
        group.facets["check_code"] is not None
        for group in (*groups_a, *groups_b)
        if group.n_graded and group.unit in shared
    }
    return len(codes) > 1


def add_packages(
    factors: dict[str, Factor],
    of_a: Mapping[str, frozenset[str]],
    of_b: Mapping[str, frozenset[str]],
) -> None:
    """Add packages whose versions differ to the environment."""
    differences = [
        PathDifference(f"env.packages.{name}", _listed(of_a[name]), _listed(of_b[name]), False)
        for name in sorted(of_a.keys() & of_b.keys())
        if of_a[name] != of_b[name]
    ]
    factors["env"] = with_observed(factors["env"], differences)


def add_models(
    factors: dict[str, Factor],
    of_a: ModelUse,
    of_b: ModelUse,
    units: Sequence[str],
    *,
    bases: Sequence[Value],
    periods: tuple[Period, Period],
) -> None:
    """Add the models and settings of requests to `base` and `sampling`.

    Args:
        factors: The factors, which are changed.
        of_a: Models and settings of the first run.
        of_b: The same of the second run.
        units: The tasks of both runs.
        bases: The declared bases of both runs.
        periods: Start of the first and of the last rollout of each run.
    """
    pair = differing(of_a.models, of_b.models, units)
    if bool(of_a.models) != bool(of_b.models):
        note = "base.model (only one of the runs has recorded model calls)"
        factors["base"] = with_observed(factors["base"], [], [note])
    elif pair is not None:
        difference = PathDifference("base.model", *pair, False)
        factors["base"] = with_observed(factors["base"], [difference])
    is_hosted = of_a.is_hosted or of_b.is_hosted
    if is_hosted and not _overlap(*periods):
        names = {name for use in (of_a, of_b) for found in use.models.values() for name in found}
        if not all(_has_revision(base) for base in bases) and not all(map(_DATED.search, names)):
            note = "base.revision (the two runs share no time, and a host may change a model)"
            factors["base"] = with_observed(factors["base"], [], [note])
    pair = differing(of_a.settings, of_b.settings, units)
    sampling = factors["sampling"]
    if pair is not None:
        difference = PathDifference("sampling.request", *pair, False)
        factors["sampling"] = with_observed(sampling, [difference])
    elif sampling.unknown == ("sampling",) and of_a.settings and of_b.settings:
        # Nothing was declared, and the requests of both runs have the same settings.
        factors["sampling"] = Factor(name="sampling", status="same")


def _has_revision(base: Value) -> bool:
    """Return whether a declared base names one revision of a model."""
    if isinstance(base, str):
        return bool(_DATED.search(base))
    if not isinstance(base, Mapping):
        return False
    return any(
        (key in _REVISION_KEYS and isinstance(value, (str, int)))
        or (isinstance(value, str) and _DATED.search(value) is not None)
        for key, value in base.items()
    )


def _overlap(a: Period, b: Period) -> bool:
    """Return whether two runs share a time; unknown times share none."""
    if a[0] is None or a[1] is None or b[0] is None or b[1] is None:
        return False
    return a[0] <= b[1] and b[0] <= a[1]


Interfaces = Mapping[str | None, Value]


def pair_interfaces(
    groups: tuple[Sequence[Group], Sequence[Group]],
    interfaces: tuple[Interfaces, Interfaces],
    units: Iterable[str],
    *,
    by_training_run: bool = False,
) -> dict[str, Factor]:
    """Compare the declared interfaces of two runs, task by task.

    Interfaces may differ between tasks, e.g. in their verifier; within a task of a run they are
    mixed. Most tasks have the same ones, so each pair of sets is compared once.
    """
    ids = [_ids_of_units(of_side) for of_side in groups]
    pairs = {(ids[0].get(unit, frozenset()), ids[1].get(unit, frozenset())) for unit in units}
    if not pairs:
        pairs = {(frozenset(interfaces[0]), frozenset(interfaces[1]))}
    documents = [
        (
            [interfaces[0].get(key) for key in sorted(of_a, key=str)],
            [interfaces[1].get(key) for key in sorted(of_b, key=str)],
        )
        for of_a, of_b in sorted(pairs, key=str)
    ]
    return compare_interfaces(documents, by_training_run=by_training_run)


def _ids_of_units(groups: Sequence[Group]) -> dict[str, frozenset[str | None]]:
    ids: dict[str, set[str | None]] = {}
    for group in groups:
        if group.unit is not None:
            ids.setdefault(group.unit, set()).add(group.interface_id)
    return {unit: frozenset(values) for unit, values in ids.items()}
