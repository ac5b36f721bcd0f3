"""The environment of a Minari dataset: its `env_spec`, and the rest of its metadata."""

from __future__ import annotations

import json

import numpy as np

from trajrec.exchange.reading import Place, parse_json
from trajrec.log.schema import EnvRecord
from trajrec.log.source_facts import CUT_OFF, INFOS, NUMBER_TYPES, env_data, extra_of, facts_of
from trajrec.recording.env_record import SPACE_CHARACTERS
from trajrec.types import JsonObject, Value
from trajrec.values import codec

SPACE_NAMES = ("observation_space", "action_space")

UNKNOWN_CLASS = "unknown"
"""Stands for the class of an environment that a dataset does not name."""

OWN_KEY = "trajrec"
"""The key in the metadata of an exported dataset that has facts of trajrec's own."""

FILLED_KEY = "trajrec_no_reset_info"
"""The attribute of an exported episode with the keys of infos that its reset's info lacks."""

_KEY = "minari"


def env_of(metadata: JsonObject, place: Place, *, has_jpeg: bool) -> EnvRecord:
    """Return the environment of a dataset.

    Args:
        metadata: The metadata of the dataset.
        place: Its place.
        has_jpeg: Whether observations or actions are JPEG.

    Raises:
        ImportFileError: The metadata are not of Minari's form.
    """
    problems: list[str] = []
    text = place.optional(str, metadata.get("env_spec"), "env_spec", "")
    spec: JsonObject = {}
    if text:
        value = parse_json(text, path=place.path, position="env_spec")
        spec = place.expect(dict, value, "env_spec")
    else:
        problems.append("the dataset does not name its environment")
    at = place.at("env_spec")
    entry_point = at.optional(str, spec.get("entry_point"), "entry_point", "")
    if text and not entry_point:
        problems.append("its entry point is a function, not a name")
    if has_jpeg:
        problems.append("the dataset holds its images as JPEG, which has other pixels")
    kwargs = at.optional(dict, spec.get("kwargs"), "kwargs", {})
    wrappers = [
        _wrapper(item, at, problems)
        for item in at.optional(list, spec.get("additional_wrappers"), "additional_wrappers", [])
    ]
    limit = at.optional(int, spec.get("max_episode_steps"), "max_episode_steps", None)
    kept = {**metadata}
    for name in SPACE_NAMES:
        kept[name] = compact(metadata.get(name), place.at(name))
    return EnvRecord(
        env_id=at.optional(str, spec.get("id"), "id", ""),
        entry_point=entry_point,
        kwargs_data=codec.encode(kwargs, where="environment kwargs"),
        max_episode_steps=limit,
        spec_fields={
            name: spec[name]
            for name in ("order_enforce", "disable_env_checker")
            if type(spec.get(name)) is bool
        },
        wrappers=wrappers,
        class_name=entry_point.replace(":", ".") or UNKNOWN_CLASS,
        recreatable="; ".join(problems),
        observation_space=json.dumps(kept["observation_space"])[:SPACE_CHARACTERS],
        action_space=json.dumps(kept["action_space"])[:SPACE_CHARACTERS],
        extra_data=env_data({_KEY: kept}, _unknown_of(metadata)),
    )


def _unknown_of(metadata: JsonObject) -> list[str]:
    """Return the facts that a dataset does not tell, unless trajrec has exported it."""
    own = metadata.get(OWN_KEY)
    if type(own) is not dict or type(own.get("numbers")) is not dict:
        return [NUMBER_TYPES, CUT_OFF, INFOS]
    lists = {NUMBER_TYPES: "mixed", INFOS: "lost_infos"}
    return [fact for fact, name in lists.items() if own.get(name) != []]


def metadata_of(env: EnvRecord) -> JsonObject:
    """Return the metadata of the dataset that an environment's log was imported from, else {}."""
    extra = extra_of(facts_of(env.extra_data))
    metadata = extra.get(_KEY) if isinstance(extra, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def _wrapper(item: Value, place: Place, problems: list[str]) -> tuple[str, bytes | None]:
    fields = place.expect(dict, item, "a wrapper")
    name = place.expect(str, fields.get("entry_point"), "entry_point").replace(":", ".")
    kwargs = place.optional(dict, fields.get("kwargs"), "kwargs", None)
    if kwargs is None:
        problems.append(f"the arguments of wrapper {name} are not known")
        return name, None
    return name, codec.encode(kwargs, where="wrapper kwargs")


def compact(space: Value, place: Place) -> Value:
    """Return a space in which bounds that are one number stand once.

    The bounds of images would fill the header of the log.
    """
    if type(space) is str:
        space = parse_json(space, path=place.path, position=place.position)
    if type(space) is not dict:
        return space
    parts = space.get("subspaces")
    if type(parts) is dict:
        return {**space, "subspaces": {name: compact(part, place) for name, part in parts.items()}}
    if type(parts) is list:
        return {**space, "subspaces": [compact(part, place) for part in parts]}
    bounds = {name: _single(space[name]) for name in ("low", "high") if name in space}
    return {**space, **bounds}


def _single(bounds: Value) -> Value:
    array = np.asarray(bounds).ravel()
    items = array.tolist()
    return items[0] if items and all(item == items[0] for item in items) else bounds


def expanded(space: Value) -> Value:
    """Return a space as Minari holds it, from one that `compact` has returned."""
    parts = space.get("subspaces")
    if type(parts) is dict:
        return {**space, "subspaces": {name: expanded(part) for name, part in parts.items()}}
    if type(parts) is list:
        return {**space, "subspaces": [expanded(part) for part in parts]}
    bounds = {
        name: np.full(space["shape"], space[name]).tolist()
        for name in ("low", "high")
        if name in space and type(space[name]) is not list
    }
    return {**space, **bounds}
