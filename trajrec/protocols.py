"""Interfaces of the objects that users hand to trajrec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, get_args, runtime_checkable

from trajrec.types import JsonObject, Value


@dataclass(frozen=True, kw_only=True)
class StateAdapter:
    """Functions that read and set the state of one environment object.

    Attributes:
        name: The kind of state, e.g. "mujoco".
        version: Change it whenever `capture` returns the same state in another form.
        keep: "every" if states are small or change little: each is stored. "digest" if states are
            floats that do not compress: the digest of each is stored, and whole only the first and
            the last state of an episode and the first of a block.
        capture: Returns the state as plain data or an array. Called after each step, so it must be
            fast; it must not change the environment.
        generator: Returns the state of generators that `np_random` does not show. Called before a
            reset.
        set_generator: Sets the state that `generator` returned. Called before a reset.
        restore: Puts the environment into a state that `capture` returned. Generators and counters
            of steps stay as they are. None if the environment's state cannot be set.
    """

    name: str
    version: int
    keep: Literal["every", "digest"]
    capture: Callable[[], Value]
    generator: Callable[[], bytes] | None = None
    set_generator: Callable[[bytes], None] | None = None
    restore: Callable[[Value], None] | None = None


@runtime_checkable
class HasState(Protocol):
    """An environment or world that returns its whole state; it is recorded and compared."""

    def get_state(self) -> Value:
        """Return the state as plain data or arrays."""
        ...


@runtime_checkable
class RestorableState(HasState, Protocol):
    """An environment or world whose state can also be set."""

    def set_state(self, state: Value) -> None:
        """Put the environment into a state that `get_state` returned."""
        ...


@runtime_checkable
class SandboxedEnv(Protocol):
    """An environment whose state lies outside of this process, and which can store and restore it.

    Examples are a container, a virtual machine, or a simulator in a process of its own. The
    environment may also have a method `drop_snapshot(name)`, which is called when a snapshot will
    not be restored again.
    """

    def take_snapshot(self) -> Value:
        """Store the whole present state, and return a name for it.

        The state includes the attributes of the Python object, such as counters and `np_random`.
        """
        ...

    def restore_snapshot(self, name: Value, /) -> None:
        """Restore a state that `take_snapshot` stored; a name may be used any number of times."""
        ...


class MultiAgentEnv(Protocol):
    """A PettingZoo environment, recognised by its spaces per player."""

    agents: list[Value]

    def observation_space(self, agent: Value, /) -> Value:
        """Return the space of a player's observations."""
        ...

    def action_space(self, agent: Value, /) -> Value:
        """Return the space of a player's actions."""
        ...


Access: TypeAlias = Literal["read", "write", "external", "unknown"]

_ACCESSES = get_args(Access)


@dataclass(frozen=True)
class Tool:
    """A function that an agent may call by name.

    Attributes:
        name: Its name.
        schema: JSON schema of its arguments, of type "object"; None if it is unknown.
        access: "read" (looks only; a large state is compared after some of the calls), "write"
            (changes the recorded world), "external" (reaches beyond that world, so a replay answers
            the call from the log) or "unknown".
        description: The description that the agent gets.
    """

    name: str
    schema: JsonObject | None = None
    access: Access = "unknown"
    description: str = ""

    def __post_init__(self) -> None:
        if self.access not in _ACCESSES:
            raise ValueError(
                f"access of the tool {self.name!r} must be one of {', '.join(_ACCESSES)}, "
                f"got {self.access!r}"
            )

    @classmethod
    def with_args(
        cls,
        name: str,
        access: Access = "unknown",
        description: str = "",
        /,
        **types: str,
    ) -> Tool:
        """Return a tool that takes exactly the given arguments, each of a JSON type.

        >>> Tool.with_args("get_order", "read", order="string").schema["required"]
        ['order']
        """
        properties = {argument: {"type": json_type} for argument, json_type in types.items()}
        schema = {
            "type": "object",
            "properties": properties,
            "required": list(types),
            "additionalProperties": False,
        }
        return cls(name, schema, access, description)


@runtime_checkable
class World(Protocol):
    """A world that an agent's tools act in, e.g. `trajrec.envs.Shop`.

    A world may have further methods and attributes, which are used if they exist:

    - `get_state` and `set_state`, see `HasState` and `RestorableState`.
    - `kwargs`: the arguments of its constructor, from which a replay makes another world like it.
    - `watch`: returns the value to watch, in place of the state; see `trajrec.episode`.
    """

    def reset(self, *, seed: int | None = None, options: JsonObject | None = None) -> Value:
        """Begin anew, and return the goal, which is recorded.

        The same seed and options must give the same world.
        """
        ...

    def tools(self) -> Sequence[Tool]:
        """Return the tools."""
        ...

    def call(self, name: str, arguments: JsonObject, /) -> Value:
        """Execute a tool and return its result.

        Exceptions and results that describe an error both go to the agent.
        """
        ...


@dataclass(frozen=True)
class Verdict:
    """The result that a verifier returns.

    Attributes:
        passed: Whether the check holds; None if the verifier cannot tell.
        score: A graded result, in the verifier's own unit.
        evidence: The reason as plain data: expected and actual values, or a message.
    """

    passed: bool | None
    score: float | None = None
    evidence: Value = None


class Verifier(Protocol):
    """A function that judges the last state of an episode. See `trajrec.verifier`."""

    def __call__(self, env: Value, /) -> bool | float | Verdict | None:
        """Return the verdict, or a number as a score without a verdict.

        The environment, world or state that it gets must not be changed.
        """
        ...
