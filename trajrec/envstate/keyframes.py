"""Keyframes: the state of an environment with its wrappers as plain data, which a log may hold.

They let a step of a long episode be reached without taking all that come before it. Unlike a snapshot a keyframe is data only:
an environment that holds objects of classes of its own has none. MuJoCo's fields that are read a substep late are right again
after one more step, so that what follows a keyframe is taken from the step after it on.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from trajrec.envstate.ale import StickyAction
from trajrec.envstate.attributes import Sharing, is_bound_elsewhere
from trajrec.envstate.snapshots import Snapshots
from trajrec.errors import EncodeError, SnapshotError
from trajrec.values import codec

_ONLOOKERS = frozenset(("PassiveEnvChecker", "OrderEnforcing"))
"""Wrappers that only look on, and are left out at replay."""

_PLAIN = (int, float, bool, str, bytes, type(None), np.generic)


class Keyframes:
    """Takes keyframes of one environment object, and puts them back.

    Args:
        env: The environment, with its wrappers.
    """

    def __init__(self, env: Any) -> None:
        self._snapshots = Snapshots(env)
        self._sticky: dict[int, StickyAction] = {}

    def take(self) -> bytes:
        """Return the state as an encoded value.

        Raises:
            SnapshotError: The environment holds something that plain data cannot; names the attribute.
        """
        snapshots = self._snapshots
        if snapshots.sandbox is not None:
            raise SnapshotError(
                "the environment's state lies outside of this process, where a log cannot keep it"
            )
        layers, sharing = [], Sharing()
        for layer, constant in self._layers():
            names = [name for name in layer.__dict__ if name not in constant]
            for name in names:
                sharing.see(layer.__dict__[name])
            found = {name: self._plain(layer.__dict__[name], name) for name in names}
            layers.append(
                [
                    type(layer).__name__,
                    {name: value for name, value in found.items() if value is not None},
                ]
            )
        spaces = [_generator(space.__dict__.get("_np_random")) for space in snapshots.spaces]
        try:
            return codec.encode({"layers": layers, "spaces": spaces})
        except EncodeError as exc:
            raise SnapshotError(str(exc)) from exc

    def put(self, data: bytes) -> None:
        """Put the environment into a state that `take` returned, of another object like it.

        Raises:
            SnapshotError: It has other wrappers.
        """
        state = codec.decode(data)
        live = [layer for layer, _ in self._layers()]
        recorded = [(name, values) for name, values in state["layers"] if name not in _ONLOOKERS]
        if [type(layer).__name__ for layer in live] != [name for name, _ in recorded]:
            raise SnapshotError("the environment has other wrappers than the one that was recorded")
        for layer, (_, values) in zip(live, recorded, strict=True):
            for name, value in values.items():
                self._put(layer.__dict__, name, value)
        for space, found in zip(self._snapshots.spaces, state["spaces"], strict=True):
            if found is not None:
                space.seed(0)
                space.__dict__["_np_random"].bit_generator.state = found

    def _layers(self) -> Iterator[tuple[Any, frozenset[str]]]:
        """Yield the layers that have a state, and what of each is constant."""
        for layer, constant in zip(self._snapshots.layers, self._snapshots.constant, strict=True):
            if type(layer).__name__ not in _ONLOOKERS:
                yield layer, constant

    def _plain(self, value: Any, name: str) -> Any:
        """Return an attribute as [kind, data]; None for what an environment is made with and never changes."""
        cls = type(value)
        if isinstance(value, _PLAIN) or _is_plain(value):
            return ["value", value]
        if isinstance(value, np.random.Generator):
            return ["generator", _generator(value)]
        if cls.__name__ == "MjData":
            mujoco = sys.modules["mujoco"]
            model, signature = value.model, mujoco.mjtState.mjSTATE_INTEGRATION
            buffer = np.empty(mujoco.mj_stateSize(model, signature), np.float64)
            mujoco.mj_getState(model, value, buffer, signature)
            return ["mujoco", buffer]
        if cls.__name__ == "ALEInterface":
            clone, action = self._sticky.setdefault(id(value), StickyAction(value)).take()
            return [
                "ale",
                bytes(clone.__getstate__()),
                None if action is None else int(action.value),
            ]
        items = value if type(value) in (list, tuple) else [value]
        if all(isinstance(item, enum.Enum) for item in items):  # the actions that there are
            return None
        if is_bound_elsewhere(value, set(map(id, self._snapshots.layers))):
            raise SnapshotError(f"attribute {name} is a method of what is no layer")
        if (
            callable(value)
            or any(value is layer for layer in self._snapshots.layers)
            or cls.__name__ == "MjModel"
        ):
            return None
        if hasattr(value, "contains") and hasattr(
            value, "sample"
        ):  # a space: its generator is kept apart
            return None
        raise SnapshotError(f"attribute {name} ({cls.__qualname__}) is no plain data")

    def _put(self, live: dict[str, Any], name: str, value: list[Any]) -> None:
        if value[0] == "value":
            live[name] = value[1]
        elif value[0] == "generator":
            live[name].bit_generator.state = value[1]
        elif value[0] == "mujoco":
            data, mujoco = live[name], sys.modules["mujoco"]
            mujoco.mj_setState(data.model, data, value[1], mujoco.mjtState.mjSTATE_INTEGRATION)
            mujoco.mj_forward(data.model, data)
            mujoco.mj_setState(data.model, data, value[1], mujoco.mjtState.mjSTATE_INTEGRATION)
        elif value[0] == "ale":
            from ale_py import Action, ALEState

            clone = ALEState.__new__(ALEState)
            clone.__setstate__(value[1])
            sticky = self._sticky.setdefault(id(live[name]), StickyAction(live[name]))
            sticky.put((clone, None if value[2] is None else Action(value[2])))


def _is_plain(value: Any) -> bool:
    """Say whether a value is made of plain data alone."""
    if type(value) is np.ndarray:
        return value.dtype.kind in "biufcSU"
    if type(value) is dict:
        return all(isinstance(key, (str, int)) for key in value) and all(
            map(_is_plain, value.values())
        )
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


def _generator(generator: Any) -> Any:
    return None if generator is None else generator.bit_generator.state
