"""State of the native objects in an environment: generators, MuJoCo's data, ALE's emulators.

A snapshot does not copy such an object. It reads the object's state and later sets it again, so
that everything that refers to the object stays connected to it.

Classes of MuJoCo and ALE are recognised by their names: if an environment has one, its package is
imported, and without one it need not be installed.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Iterator

import gymnasium

from trajrec.envstate.ale import StickyAction
from trajrec.envstate.generators import is_seedable, put_state, state_of
from trajrec.envstate.spaces import inner_spaces
from trajrec.errors import SnapshotError
from trajrec.types import Value

LOSSY_PACKAGES = frozenset(("pymunk", "multi_agent_ale_py"))
"""Packages whose objects pickle incompletely. pymunk leaves out contacts, and a probe notices this
only while something touches; multi_agent_ale_py would pickle only the address of its emulator."""


def package_of(value: object) -> str:
    """Return the top-level package that a value's class comes from."""
    return type(value).__module__.partition(".")[0]


def is_native(value: object) -> bool:
    """Return whether a value is a native object whose state can be read and set."""
    if is_seedable(value):
        return True
    return (
        type(value).__name__ in ("MjModel", "MjData", "ALEInterface")
        and package_of(value) not in LOSSY_PACKAGES
    )


def native_state(native: Value, emulators: dict[int, StickyAction]) -> Value:
    """Return the state of a native object; None for a MuJoCo model, which never changes.

    Args:
        native: The object.
        emulators: Id of an emulator -> its helper, which is expensive to make; added to.

    Raises:
        SnapshotError: The action that ALE executed last cannot be found out now, or MuJoCo is a
            version that cannot set data again.
    """
    if is_seedable(native):
        return state_of(native)
    name = type(native).__name__
    if name == "ALEInterface":
        return _emulator_state(native, emulators)
    if name != "MjData":
        return None
    if not hasattr(sys.modules["mujoco"], "mj_copyData"):
        raise SnapshotError(
            f"MuJoCo {sys.modules['mujoco'].__version__} cannot copy data into an environment: it "
            "has no mj_copyData"
        )
    return copy.copy(native)


def restore_native(native: Value, state: Value) -> None:
    """Set the state of a native object, or of a space's generator, that was read before."""
    if isinstance(native, gymnasium.Space):
        _restore_space(native, state)
    elif is_seedable(native):
        put_state(native, state)
    elif type(native).__name__ == "ALEInterface":
        sticky, clone = state
        sticky.restore(clone)
    elif type(native).__name__ == "MjData":
        sys.modules["mujoco"].mj_copyData(native, native.model, state)


def space_state(space: Value) -> tuple[Value, Value] | None:
    """Return a space's generator and its state; None if the space has none yet."""
    # Not `space.np_random`: reading that property would make a generator.
    generator = space.__dict__.get("_np_random")
    return None if generator is None else (generator, generator.bit_generator.state)


def spaces_of(layers: Iterable[Value]) -> Iterator[Value]:
    """Yield the spaces of all layers and the spaces in them, each once.

    They count as state because `sample` draws from their generators.
    """
    seen: set[int] = set()
    layers = list(layers)
    values = [value for layer in layers for value in layer.__dict__.values()]
    # Many environments declare their spaces in the class.
    values += [
        getattr(type(layer), name, None)
        for layer in layers
        for name in ("action_space", "observation_space")
    ]
    # PettingZoo's environments have a dict of spaces by agent.
    values += [item for value in values if type(value) is dict for item in value.values()]
    waiting = [value for value in values if isinstance(value, gymnasium.Space)]
    while waiting:
        space = waiting.pop()
        if id(space) in seen:
            continue
        seen.add(id(space))
        waiting += inner_spaces(space)
        yield space


def _emulator_state(ale: Value, emulators: dict[int, StickyAction]) -> tuple[StickyAction, Value]:
    sticky = emulators.get(id(ale))
    if sticky is None:
        sticky = emulators[id(ale)] = StickyAction(ale)
    try:
        return sticky, sticky.take()
    except LookupError as exc:
        raise SnapshotError(
            f"the action that ALE executed last cannot be found out: {exc}"
        ) from exc


def _restore_space(space: Value, state: tuple[Value, Value] | None) -> None:
    if state is None:
        space.__dict__["_np_random"] = None
    else:
        generator, generator_state = state
        space.__dict__["_np_random"] = generator
        generator.bit_generator.state = generator_state
