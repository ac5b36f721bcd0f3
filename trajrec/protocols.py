"""What trajrec asks of what it is given. Imports nothing of the project."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable


@dataclass(frozen=True)
class StateAdapter:
    """How to see the state of one environment object.

    Attributes:
        name: Which adapter, e.g. "mujoco".
        version: Raised whenever what `capture` returns changes its meaning.
        keep: "every" where states are small or change little (each is stored), "digest" where they are floats that do not
            compress (each is digested, the first and last of each flush and episode are stored).
        capture: Returns the state as plain data or an array; must not change the environment. Called after each step.
        generator: Returns the state of generators that the environment keeps outside `np_random`, before a reset.
        set_generator: Gives that state back to the environment, before a reset.
        restore: Puts the environment into a state that `capture` returned, as far as that describes it: generators and counters
            of steps stay as they are. None where it cannot be done.
    """

    name: str
    version: int
    keep: Literal["every", "digest"]
    capture: Callable[[], Any]
    generator: Callable[[], bytes] | None = None
    set_generator: Callable[[bytes], None] | None = None
    restore: Callable[[Any], None] | None = None


@runtime_checkable
class HasState(Protocol):
    """An environment or world that can hand out its whole state: it is recorded and compared."""

    def get_state(self) -> Any:
        """Return the state as plain data or arrays."""
        ...


@runtime_checkable
class RestorableState(HasState, Protocol):
    """One that can also take its state back."""

    def set_state(self, state: Any) -> None:
        """Put the environment into a state that `get_state` returned."""
        ...


@runtime_checkable
class SandboxedEnv(Protocol):
    """An environment whose state lies outside of this process (a container, a virtual machine, a simulator of its own), which
    can keep that state there and go back to it.

    It may also have `drop_snapshot(name)`, which is told of a snapshot that is not gone back to any more.
    """

    def take_snapshot(self) -> Any:
        """Keep the whole state as it is now, what the Python object itself holds included (counters, `np_random`); return what
        names it."""
        ...

    def restore_snapshot(self, name: Any, /) -> None:
        """Go back to a state that `take_snapshot` named, as often as is wanted."""
        ...


class MultiAgentEnv(Protocol):
    """What a PettingZoo environment has and no other: spaces by agent."""

    agents: list[Any]

    def observation_space(self, agent: Any, /) -> Any:
        """Return what an agent may see."""
        ...

    def action_space(self, agent: Any, /) -> Any:
        """Return what an agent may do."""
        ...


Access: TypeAlias = Literal["read", "write", "external", "unknown"]


@dataclass(frozen=True)
class Tool:
    """What an agent may call.

    Attributes:
        name: Its name.
        schema: JSON schema of its arguments, an object; None where unknown.
        access: "read" (looks only), "write" (changes the recorded world), "external" (reaches beyond
            that world, so a replay answers the call from the log) or "unknown".
        description: What the agent is told about it.
    """

    name: str
    schema: dict[str, Any] | None = None
    access: Access = "unknown"
    description: str = ""

    @classmethod
    def with_args(
        cls,
        name: str,
        access: Access = "unknown",
        description: str = "",
        /,
        **types: str,
    ) -> Tool:
        """Return a tool that takes exactly these arguments, each of a JSON type.

        >>> Tool.with_args("get_order", "read", order="string").schema["required"]
        ['order']
        """
        properties = {argument: {"type": kind} for argument, kind in types.items()}
        schema = {
            "type": "object",
            "properties": properties,
            "required": list(types),
            "additionalProperties": False,
        }
        return cls(name, schema, access, description)


@runtime_checkable
class World(Protocol):
    """Where an agent's tools act. `trajrec.envs.Shop` is one.

    A world may also have `get_state` (see Readable) and `set_state` (see RestorableState), `kwargs` (the arguments that make
    another one like it) and `watch` (see there); what it does not have is not used.
    """

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begin anew; the same seed and options give the same world. What it returns is recorded as the goal."""
        ...

    def tools(self) -> Sequence[Tool]:
        """Return the tools."""
        ...

    def call(self, name: str, arguments: dict[str, Any], /) -> Any:
        """Execute a tool. What it raises, or returns as an error, is the agent's to deal with."""
        ...


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        passed: Whether the check holds; None where it cannot tell.
        score: A graded result, in the check's own unit.
        evidence: What it looked at, as plain data: expected and actual values, a message.
    """

    passed: bool | None
    score: float | None = None
    evidence: Any = None


class Verifier(Protocol):
    """A check: a callable on the environment at the end of an episode. See `trajrec.verifier`."""

    def __call__(self, env: Any, /) -> bool | float | Verdict | None:
        """Return the verdict; a float is a score without a verdict. Must not change the environment."""
        ...
