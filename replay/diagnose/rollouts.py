"""Run seeded random rollouts and compare two of them row by row."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from trajrec.types import AnyEnv, Info, Observation, Value
from trajrec.values import codec
from trajrec.values.diff import first_change
from trajrec.values.json import describe_field
from trajrec.values.shown import short_pair

FIELDS = ("observation", "reward", "terminated", "truncated", "info")

# A row keeps each value of up to this size, so that a difference can be shown with its path and
# both values. Of a larger one (an image) only the digest is kept: rollouts are held in memory and
# sent between processes.
KEPT_BYTES = 4096


class Row(NamedTuple):
    """The values that a reset or step returned, in the order of `FIELDS`.

    Attributes:
        digests: A digest of each value.
        encoded: Each value encoded, or None if it is larger than `KEPT_BYTES`.
    """

    digests: tuple[bytes, ...]
    encoded: tuple[bytes | None, ...]


class RowDifference(NamedTuple):
    """The first difference of two rollouts.

    Attributes:
        step: The row, counted from the first step: -1 is the first reset. A later reset is a row
            of its own.
        field: The field, with the path of the value below: "observation/1".
        first: The value of the first rollout, as text; "" if it was too large to keep.
        second: The value of the second rollout, as text.
    """

    step: int
    field: str
    first: str
    second: str


class StepChecker(Protocol):
    """Checks the values that resets and steps return, as they are returned."""

    def check_reset(self, returned: Value) -> None:
        """Check the return value of `reset`."""
        ...

    def check_step(self, returned: Value) -> None:
        """Check the return value of `step`."""
        ...


def rollout(
    env: AnyEnv,
    n_steps: int,
    seed: int,
    *,
    times_s: list[float] | None = None,
    checker: StepChecker | None = None,
) -> list[Row]:
    """Run seeded random actions over as many episodes as they take.

    Only the first reset has a seed, so the episodes after it show whether the environment carries
    its own generator over.

    Args:
        env: The environment.
        n_steps: The number of steps, resets not counted.
        seed: The seed of the first reset and of the actions.
        times_s: Receives the duration of each step, in seconds.
        checker: Is shown each returned value.

    Returns:
        One row for each reset and step.
    """
    env.action_space.seed(seed)
    first = _reset(env, seed, checker)
    return [first, *take_steps(env, n_steps, times_s=times_s, checker=checker)]


def take_steps(
    env: AnyEnv,
    n_steps: int,
    *,
    times_s: list[float] | None = None,
    checker: StepChecker | None = None,
) -> list[Row]:
    """Take random steps from the current state on, with resets without a seed; return the rows."""
    rows = []
    for _ in range(n_steps):
        action = env.action_space.sample()
        start = time.perf_counter()
        returned = env.step(action)
        if times_s is not None:
            times_s.append(time.perf_counter() - start)
        if checker is not None:
            checker.check_step(returned)
        observation, reward, terminated, truncated, info = returned
        rows.append(_row(observation, reward, terminated, truncated, info))
        if terminated or truncated:
            rows.append(_reset(env, None, checker))
    return rows


def reset_row(env: AnyEnv, seed: int) -> Row:
    """Reset with a seed; return the row."""
    return _reset(env, seed, None)


def first_row_difference(first: Sequence[Row], second: Sequence[Row]) -> RowDifference | None:
    """Return the first difference of two rollouts, or None if they are the same bit for bit."""
    for number, (a, b) in enumerate(zip(first, second, strict=False), -1):
        for position, field in enumerate(FIELDS):
            if a.digests[position] != b.digests[position]:
                return _difference(number, field, a.encoded[position], b.encoded[position])
    if len(first) == len(second):
        return None
    # The same rows, and then one rollout has more: an episode ended in one of them only.
    end = min(len(first), len(second)) - 1
    return RowDifference(end, "terminated", f"{len(first)} rows", f"{len(second)} rows")


def _difference(step: int, field: str, first: bytes | None, second: bytes | None) -> RowDifference:
    if first is None or second is None:
        return RowDifference(step, field, "", "")
    a = codec.decode(first)
    b = codec.decode(second)
    change = first_change(a, b)
    if change is None:
        # Different bytes for equal values, as two dicts with another order of keys have.
        return RowDifference(step, field, *short_pair(a, b))
    path = describe_field((field, *change.path))
    return RowDifference(step, path, *short_pair(change.before, change.after))


def _reset(env: AnyEnv, seed: int | None, checker: StepChecker | None) -> Row:
    returned = env.reset() if seed is None else env.reset(seed=seed)
    if checker is not None:
        checker.check_reset(returned)
    observation, info = returned
    return _row(observation, 0.0, False, False, info)


def _row(
    observation: Observation, reward: Value, terminated: Value, truncated: Value, info: Info
) -> Row:
    digests: list[bytes] = []
    encoded: list[bytes | None] = []
    values = (observation, reward, terminated, truncated)
    encoded_values = [codec.encode(value, opaque=True) for value in values]
    for data in (*encoded_values, codec.encode_info(info)):
        digests.append(hashlib.blake2b(data, digest_size=8).digest())
        encoded.append(data if len(data) <= KEPT_BYTES else None)
    return Row(tuple(digests), tuple(encoded))
