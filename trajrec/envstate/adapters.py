"""Adapters: how the state of each kind of environment is read.

An environment's own `get_state` and `set_state` come first, since its author knows its state best.
Otherwise its classes and attributes decide. An environment that no adapter fits is recorded without
state, and its log says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from trajrec.envstate.pettingzoo import api_of
from trajrec.module_names import module_name
from trajrec.protocols import RestorableState, StateAdapter
from trajrec.types import AnyEnv, Value


def choose_adapter(env: AnyEnv, state: Callable[[Value], Value] | bool) -> StateAdapter | None:
    """Return the adapter for an option `state=`: a function of the environment, True or False."""
    if callable(state):
        return function_adapter(env, state)
    return find_adapter(env) if state else None


def find_adapter(env: AnyEnv) -> StateAdapter | None:
    """Return the adapter that fits an environment, or None.

    Args:
        env: A Gymnasium environment, or a PettingZoo environment as one; its `unwrapped` decides.
    """
    bare = env.unwrapped
    if api_of(bare) is not None:
        return _own_state(bare)
    for fit in (_own_state, _toy_text, _classic_control, _mujoco, _ale, _minigrid):
        adapter = fit(bare)
        if adapter is not None:
            return adapter
    return None


def function_adapter(env: AnyEnv, capture: Callable[[Value], Value]) -> StateAdapter:
    """Return an adapter that reads the state with the user's own function of the environment."""
    module = module_name(capture)
    name = getattr(capture, "__qualname__", type(capture).__qualname__)
    return StateAdapter(
        name=f"{module}:{name}", version=1, keep="every", capture=lambda: capture(env)
    )


def _own_state(bare: Any) -> StateAdapter | None:
    # Both methods: MuJoCo environments have a `set_state(qpos, qvel)` with another meaning, and no
    # `get_state`. An environment with an emulator is left to the adapter for ALE.
    if isinstance(bare, RestorableState) and not hasattr(bare, "ale"):
        return StateAdapter(
            name="get_state",
            version=1,
            keep="every",
            capture=bare.get_state,
            restore=bare.set_state,
        )
    return None


def _has_base_in(bare: Any, package: str) -> bool:
    return any(cls.__module__.startswith(package) for cls in type(bare).__mro__)


def _toy_text(bare: Any) -> StateAdapter | None:
    if not _has_base_in(bare, "gymnasium.envs.toy_text."):
        return None
    if hasattr(bare, "P"):

        def capture_number() -> int:
            return int(bare.s)

        def restore_number(state: int) -> None:
            bare.s = state

        return StateAdapter(
            name="toy_text",
            version=1,
            keep="every",
            capture=capture_number,
            restore=restore_number,
        )
    if hasattr(type(bare), "reset") and type(bare).__name__ == "BlackjackEnv":

        def capture_hands() -> dict[str, list[int]]:
            return {"player": list(bare.player), "dealer": list(bare.dealer)}

        def restore_hands(state: dict[str, list[int]]) -> None:
            bare.player = list(state["player"])
            bare.dealer = list(state["dealer"])

        return StateAdapter(
            name="blackjack",
            version=1,
            keep="every",
            capture=capture_hands,
            restore=restore_hands,
        )
    return None


def _classic_control(bare: Any) -> StateAdapter | None:
    if not _has_base_in(bare, "gymnasium.envs.classic_control."):
        return None
    name = type(bare).__name__

    def restore(state: Any) -> None:
        bare.state = np.array(state) if isinstance(state, np.ndarray) else state
        if name == "CartPoleEnv":
            # After a fall CartPole gives no rewards as long as this counter is set.
            bare.steps_beyond_terminated = None

    def capture() -> Value:
        return bare.state

    def capture_array() -> Value:
        # Mountain cars hold an array after a reset and a tuple after a step.
        return np.array(bare.state, np.float64)

    is_always_array = name in ("CartPoleEnv", "PendulumEnv", "AcrobotEnv")
    return StateAdapter(
        name="classic_control",
        version=1,
        keep="digest",
        capture=capture if is_always_array else capture_array,
        restore=restore,
    )


def _mujoco(bare: Any) -> StateAdapter | None:
    model = getattr(bare, "model", None)
    data = getattr(bare, "data", None)
    if type(model).__name__ != "MjModel" or type(data).__name__ != "MjData":
        return None
    # Late: the environment has imported it, and without such an environment it may be missing.
    import mujoco

    # As an integer: to convert the enum takes half a microsecond at each step.
    signature = int(mujoco.mjtState.mjSTATE_INTEGRATION)
    buffer = np.empty(mujoco.mj_stateSize(model, signature), np.float64)

    def capture() -> Value:
        # `bare.model`, not `model`: some environments rebuild model and data at a reset.
        mujoco.mj_getState(bare.model, bare.data, buffer, signature)
        return buffer

    def restore(state: Value) -> None:
        # `mj_forward` computes the fields that derive from the state (positions of bodies,
        # contacts), and changes a part of the state itself (the warm start of the solver), so the
        # state is set twice. MuJoCo computes some fields one substep late, so a reward that reads
        # one may still differ in the next step.
        mujoco.mj_setState(bare.model, bare.data, state, signature)
        mujoco.mj_forward(bare.model, bare.data)
        mujoco.mj_setState(bare.model, bare.data, state, signature)

    return StateAdapter(name="mujoco", version=1, keep="digest", capture=capture, restore=restore)


def _ale(bare: Any) -> StateAdapter | None:
    ale = getattr(bare, "ale", None)
    if ale is None or not hasattr(ale, "getRAM"):
        return None
    # Late: the environment has imported it, and without such an environment it may be missing.
    from ale_py import ALEState

    # ALE draws sticky actions from a generator in its emulator, which `np_random` does not show:
    # only a clone that includes this generator makes an unseeded reset repeatable.
    def generator() -> bytes:
        return bytes(ale.cloneState(include_rng=True).__getstate__())

    def set_generator(state: bytes) -> None:
        clone = ALEState.__new__(ALEState)
        clone.__setstate__(state)  # type: ignore[arg-type]
        ale.restoreState(clone)

    return StateAdapter(
        name="ale",
        version=1,
        keep="every",
        capture=ale.getRAM,
        generator=generator,
        set_generator=set_generator,
    )


def _minigrid(bare: Any) -> StateAdapter | None:
    if not any(
        cls.__name__ == "MiniGridEnv" and cls.__module__.startswith("minigrid")
        for cls in type(bare).__mro__
    ):
        return None

    def encode(cell: Any) -> tuple[int, int, int]:
        if cell is None:
            # MiniGrid's code of an empty cell.
            return (1, 0, 0)
        code: tuple[int, int, int] = cell.encode()
        if getattr(cell, "contains", None) is not None:
            # MiniGrid's own code of a box leaves out its content, which the game depends on.
            kind, color, _ = encode(cell.contains)
            code = (code[0], code[1], 100 + kind * 10 + color)
        return code

    def capture() -> dict[str, Any]:
        cells = np.array([encode(cell) for cell in bare.grid.grid], np.uint8)
        return {
            "grid": cells.reshape(bare.grid.height, bare.grid.width, 3),
            "agent_pos": np.array(bare.agent_pos, np.int64),
            "agent_dir": int(bare.agent_dir),
            "carrying": np.array(encode(bare.carrying), np.int64),
            "step_count": int(bare.step_count),
            "mission": str(bare.mission),
        }

    return StateAdapter(name="minigrid", version=1, keep="every", capture=capture)
