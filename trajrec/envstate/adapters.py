"""Adapters: how the state of each kind of environment is seen.

An environment's own `get_state`/`set_state` come first: it knows best. Then what its classes and attributes show. An
environment that no adapter fits is recorded without state, and its log says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from trajrec.envstate.pettingzoo import api_of
from trajrec.protocols import RestorableState, StateAdapter


def find_adapter(env: Any) -> StateAdapter | None:
    """Return the adapter that fits an environment, or None.

    Args:
        env: A Gymnasium environment, or the joint view of one of PettingZoo's; its `unwrapped` is looked at.
    """
    bare = env.unwrapped
    if api_of(bare) is not None:
        return _own(bare)
    for fit in (_own, _toy_text, _classic_control, _mujoco, _ale, _minigrid):
        adapter = fit(bare)
        if adapter is not None:
            return adapter
    return None


def function_adapter(env: Any, capture: Callable[[Any], Any]) -> StateAdapter:
    """Return an adapter that captures with the user's own function of the environment."""
    name = f"{getattr(capture, '__module__', '?')}:{getattr(capture, '__qualname__', type(capture).__qualname__)}"
    return StateAdapter(name, 1, "every", lambda: capture(env))


def _own(bare: Any) -> StateAdapter | None:
    # MuJoCo environments have a set_state(qpos, qvel) of their own meaning, without get_state.
    if isinstance(bare, RestorableState) and not hasattr(bare, "ale"):
        return StateAdapter("get_state", 1, "every", bare.get_state, restore=bare.set_state)
    return None


def _modules(bare: Any) -> Iterator[str]:
    for cls in type(bare).__mro__:
        yield cls.__module__


def _toy_text(bare: Any) -> StateAdapter | None:
    if not any(module.startswith("gymnasium.envs.toy_text.") for module in _modules(bare)):
        return None
    if hasattr(bare, "P"):

        def put(state: int) -> None:
            bare.s = state

        return StateAdapter("toy_text", 1, "every", lambda: int(bare.s), restore=put)
    if hasattr(type(bare), "reset") and type(bare).__name__ == "BlackjackEnv":

        def deal(state: dict[str, list[int]]) -> None:
            bare.player, bare.dealer = list(state["player"]), list(state["dealer"])

        hands = lambda: {"player": list(bare.player), "dealer": list(bare.dealer)}  # noqa: E731
        return StateAdapter("blackjack", 1, "every", hands, restore=deal)
    return None


def _classic_control(bare: Any) -> StateAdapter | None:
    if not any(module.startswith("gymnasium.envs.classic_control.") for module in _modules(bare)):
        return None
    name = type(bare).__name__

    def restore(state: Any) -> None:
        bare.state = np.array(state) if isinstance(state, np.ndarray) else state
        if name == "CartPoleEnv":
            bare.steps_beyond_terminated = (
                None  # or it gives no rewards any more, where it had fallen
            )

    if name in ("CartPoleEnv", "PendulumEnv", "AcrobotEnv"):
        return StateAdapter("classic_control", 1, "digest", lambda: bare.state, restore=restore)
    # Mountain cars hold an array after reset and a tuple after a step.
    read = lambda: np.array(bare.state, np.float64)  # noqa: E731
    return StateAdapter("classic_control", 1, "digest", read, restore=restore)


def _mujoco(bare: Any) -> StateAdapter | None:
    model, data = getattr(bare, "model", None), getattr(bare, "data", None)
    if type(model).__name__ != "MjModel" or type(data).__name__ != "MjData":
        return None
    import mujoco  # already imported by the environment

    signature = int(
        mujoco.mjtState.mjSTATE_INTEGRATION
    )  # to convert the enum takes half a microsecond each time
    buffer = np.empty(mujoco.mj_stateSize(model, signature), np.float64)

    def capture() -> Any:
        # Environments may rebuild model and data (as some do at reset), so both are asked for anew.
        mujoco.mj_getState(bare.model, bare.data, buffer, signature)
        return buffer

    def restore(state: Any) -> None:
        # What is derived from the state (positions of bodies, contacts) is computed anew, and then what computing it changed
        # (the warm start) is put back. MuJoCo itself leaves some of it one substep behind: such a reward may differ once more.
        mujoco.mj_setState(bare.model, bare.data, state, signature)
        mujoco.mj_forward(bare.model, bare.data)
        mujoco.mj_setState(bare.model, bare.data, state, signature)

    return StateAdapter("mujoco", 1, "digest", capture, restore=restore)


def _ale(bare: Any) -> StateAdapter | None:
    ale = getattr(bare, "ale", None)
    if ale is None or not hasattr(ale, "getRAM"):
        return None
    from ale_py import ALEState  # already imported by the environment

    # ALE draws sticky actions from a generator in its emulator, out of np_random's sight: only a clone that includes it
    # makes an unseeded reset repeatable.
    def generator() -> bytes:
        return bytes(ale.cloneState(include_rng=True).__getstate__())

    def set_generator(state: bytes) -> None:
        clone = ALEState.__new__(ALEState)
        clone.__setstate__(state)  # type: ignore[arg-type]
        ale.restoreState(clone)

    return StateAdapter("ale", 1, "every", ale.getRAM, generator, set_generator)


def _minigrid(bare: Any) -> StateAdapter | None:
    if not any(
        cls.__name__ == "MiniGridEnv" and cls.__module__.startswith("minigrid")
        for cls in type(bare).__mro__
    ):
        return None

    def encode(cell: Any) -> tuple[int, int, int]:
        if cell is None:
            return (1, 0, 0)
        code: tuple[int, int, int] = cell.encode()
        if getattr(cell, "contains", None) is not None:
            # A box's encoding leaves out what is in it, and the game does not.
            code = (
                code[0],
                code[1],
                100 + encode(cell.contains)[0] * 10 + encode(cell.contains)[1],
            )
        return code

    def capture() -> dict[str, Any]:
        grid = np.array([encode(cell) for cell in bare.grid.grid], np.uint8).reshape(
            bare.grid.height, bare.grid.width, 3
        )
        return {
            "grid": grid,
            "agent_pos": np.array(bare.agent_pos, np.int64),
            "agent_dir": int(bare.agent_dir),
            "carrying": np.array(encode(bare.carrying), np.int64),
            "step_count": int(bare.step_count),
            "mission": str(bare.mission),
        }

    return StateAdapter("minigrid", 1, "every", capture)
