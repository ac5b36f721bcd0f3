"""An episode as Minari stores it, and what of it Minari has no place for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.exchange.minari_columns import (
    Composed,
    Leaf,
    Node,
    NotHeldError,
    columns_of,
    is_hdf5_name,
    is_hdf5_text,
    mixed_paths,
    number_kinds,
    tuple_paths,
    with_nan,
)
from trajrec.exchange.minari_env import FILLED_KEY
from trajrec.exchange.minari_spaces import NumberKind
from trajrec.log.record_encoder import storable
from trajrec.log.schema import API_FIELD
from trajrec.log.source_facts import extra_of, facts_of
from trajrec.types import Array, Info, JsonObject, Value
from trajrec.values import codec

_FLAGS = ("terminated", "truncated")

_SEEDS = range(-(1 << 63), 1 << 64)


class DatasetEpisode(NamedTuple):
    """An episode as it is stored.

    Attributes:
        facts: Its attributes: seed, options, and those that it was imported with.
        observations: A row more than there are steps.
        actions: A row for each step.
        rewards: The same.
        terminations: The same.
        truncations: The same.
        infos: A row more than there are steps; None if no info has a value.
        losses: Why parts of the episode are not stored.
        mixed: The paths of columns whose numbers were of several types.
        filled: The keys of infos that the reset's info lacks.
        tuples: The paths of tuples in infos.
    """

    facts: JsonObject
    observations: Node
    actions: Node
    rewards: Leaf
    terminations: Array
    truncations: Array
    infos: Composed | None
    losses: list[str]
    mixed: list[str]
    filled: list[str]
    tuples: list[str]

    @property
    def n_steps(self) -> int:
        """The number of its steps."""
        return len(self.terminations)

    def number_kinds(self) -> dict[str, NumberKind]:
        """Return the types of single numbers by path."""
        kinds = number_kinds(self.observations, "observations")
        kinds |= number_kinds(self.actions, "actions")
        kinds |= number_kinds(self.rewards, "rewards")
        return kinds if self.infos is None else kinds | number_kinds(self.infos, "infos")


def why_not_held(episode: Episode) -> str:
    """Return why Minari cannot hold an episode at all; "" if its values decide."""
    if episode.is_agent_episode:
        return "an agent's episode: a dataset of Minari has an environment with spaces"
    if API_FIELD in episode.header.env.spec_fields:
        return "an episode of several agents"
    if episode.fork is not None:
        return "a fork: Minari has no episode that begins inside of another one"
    if any(failure.phase in ("reset", "step") for failure in episode.failures):
        return "an episode with an exception: Minari has no step that failed"
    if episode.missing_steps or not episode.has_reset:
        return "an episode of which the log has lost steps"
    return "" if episode.n_steps else "an episode without steps"


def dataset_episode(episode: Episode) -> DatasetEpisode:
    """Return an episode as Minari stores it.

    Raises:
        NotHeldError: Its observations, actions or rewards have no common form.
    """
    rewards = columns_of(episode.reward_values, "rewards")
    if not isinstance(rewards, Leaf) or isinstance(rewards.values, list) or rewards.values.ndim > 1:
        raise NotHeldError("rewards", "they are no numbers")
    observations = columns_of(episode.observation_values, "observations")
    actions = columns_of(episode.actions, "actions")
    losses: list[str] = []
    filled: list[str] = []
    infos = _infos([episode.reset_info, *episode.infos], losses, filled)
    mixed = [
        *mixed_paths(observations, "observations"),
        *mixed_paths(actions, "actions"),
        *mixed_paths(rewards, "rewards"),
        *(mixed_paths(infos, "infos") if infos is not None else []),
    ]
    terminations, truncations, n_flags = _flags(episode)
    losses += _losses(episode, n_flags)
    return DatasetEpisode(
        facts=_facts(episode, losses) | ({FILLED_KEY: filled} if filled else {}),
        observations=observations,
        actions=actions,
        rewards=rewards,
        terminations=terminations,
        truncations=truncations,
        infos=infos,
        losses=losses,
        mixed=mixed,
        filled=filled,
        tuples=[] if infos is None else tuple_paths(infos, "infos"),
    )


def _infos(infos: list[Info], losses: list[str], filled: list[str]) -> Composed | None:
    """Return the columns of infos: of the keys that all have, with values of one form.

    Of a key that the reset's info lacks, the first row is NaN if its values are floats.
    """
    keys: list[Value] = []
    for info in infos:
        keys += [key for key in info if key not in keys]
    parts: dict[str, Node] = {}
    for key in keys:
        has_reset = key in infos[0]
        try:
            if not all(key in info for info in infos[1:]):
                raise NotHeldError(f"infos/{key}", "not in the info of each step")
            values = [{key: info[key]} for info in infos[not has_reset :]]
            column = columns_of(values, "infos")
            if not has_reset:
                column = with_nan(column, "infos")
                filled.append(key)
        except NotHeldError as exc:
            losses.append(exc.reason)
            continue
        assert isinstance(column, Composed)
        parts |= column.parts
    return Composed("Dict", parts) if parts else None


def _flags(episode: Episode) -> tuple[Array, Array, int]:
    """Return the flags of each step, and the number of steps of which values had flags.

    An import from Minari keeps flags inside of an episode as values of their steps.
    """
    flags = {"terminated": episode.terminations.copy(), "truncated": episode.truncations.copy()}
    n_flags = 0
    if (episode.source or {}).get("format") == "minari":
        for step, values in episode.step_values.items():
            if set(values) == set(_FLAGS) and all(type(v) is bool for v in values.values()):
                n_flags += 1
                for name in _FLAGS:
                    flags[name][step] = values[name]
    return flags["terminated"], flags["truncated"], n_flags


def _losses(episode: Episode, n_flags: int) -> list[str]:
    """Return the parts of an episode that Minari has no place for."""
    start = episode.start
    task = episode.task_start
    parts = {
        "states of the environment": episode.header.state.keep != "none",
        "verdicts of checks": bool(episode.checks),
        "named values of steps": len(episode.step_values) > n_flags,
        "the task and metadata of an episode": task is not None,
        "the interface of the run": episode.header.interface_data is not None,
        "times": start is not None and start.time_ns > 0,
        "the generator's state of a reset without a seed": start is not None
        and start.rng_data is not None,
        "secrets: marks stand in their place": episode.redacted_step is not None,
    }
    return [name for name, is_there in parts.items() if is_there]


def _facts(episode: Episode, losses: list[str]) -> JsonObject:
    """Return the attributes of an episode."""
    start = episode.start
    if start is None:
        return {}
    extra = extra_of(facts_of(start.extra_data))
    is_ours = (episode.source or {}).get("format") == "minari" and type(extra) is dict
    facts: JsonObject = {}
    if is_ours:
        facts |= _flat(extra, "", losses)
    if start.seed is not None and start.seed in _SEEDS:
        facts["seed"] = start.seed
    elif start.seed is not None:
        losses.append("a seed of more than 64 bits")
    if start.options_data is not None:
        options = codec.decode(start.options_data)
        if type(options) is dict and options:
            facts |= _flat(options, "options/", losses)
        else:
            losses.append(f"options: {'an empty' if type(options) is dict else 'no'} dict")
    return facts


def _flat(values: JsonObject, prefix: str, losses: list[str]) -> JsonObject:
    """Return nested values as attributes, with the names that Minari gives them."""
    flat: JsonObject = {}
    for name, value in values.items():
        if type(name) is not str or not is_hdf5_name(name):
            losses.append(f"{prefix}{storable(str(name))}: no name of an attribute")
        elif type(value) is dict and value:
            flat |= _flat(value, f"{prefix}{name}/", losses)
        elif _is_attribute(value):
            flat[f"{prefix}{name}"] = value
        else:
            losses.append(f"{prefix}{name}: a value that no attribute of HDF5 holds")
    return flat


def _is_attribute(value: Value) -> bool:
    """Return whether HDF5 gives back the same value of an attribute."""
    if type(value) is int:
        return value in _SEEDS
    if type(value) is str:
        return is_hdf5_text(value)
    if type(value) is np.ndarray:
        return value.dtype.kind in "biuf" and 0 < value.nbytes < 1 << 15 and value.ndim > 0
    return type(value) in (bool, float)
