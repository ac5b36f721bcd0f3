"""Refuses results of an environment that Gymnasium does not allow, with the way to record them.

Python unpacks an observation of two numbers as well as an (observation, info), and takes any text
for true: recorded without a look, such results would be wrong values in the log.
"""

from __future__ import annotations

from collections.abc import Mapping

from trajrec.errors import EnvContractError
from trajrec.types import Info, Observation, Value
from trajrec.values import codec
from trajrec.values.shown import short

_OLD_GYM = (
    "this is the old API of Gym: inside of the recorder, wrap the environment by the package "
    "shimmy, GymV21CompatibilityV0(env=env)"
)
_SIX_PARTS = (
    "wrap the environment inside of the recorder: return these five, and put any further value, "
    "such as a cost, into the info"
)


def reset_parts(result: Value) -> tuple[Observation, Info]:
    """Return the observation and the info of a reset.

    Raises:
        EnvContractError: The result is no pair of an observation and an info.
    """
    if isinstance(result, (tuple, list)) and len(result) == 2:
        obs, info = result
        # Some environments have no info, or one for each of their copies.
        is_info = info is None or isinstance(info, (Mapping, list))
        if is_info:
            return obs, info
    raise EnvContractError(
        f"reset must return (observation, info), got {_described(result)}; {_OLD_GYM}"
    )


def step_error(exc: BaseException, result: Value) -> EnvContractError | None:
    """Return the error of a result that could not be recorded; None if it is one of Gymnasium's.

    Only then is the result looked at: each step would pay for a look.

    Args:
        exc: The exception that recording it raised.
        result: The result of the step.
    """
    if not isinstance(exc, Exception):
        return None
    if not isinstance(result, (tuple, list)) or len(result) != 5:
        n_parts = len(result) if isinstance(result, (tuple, list)) else 0
        remedy = {4: f"; {_OLD_GYM}", 6: f"; {_SIX_PARTS}"}.get(n_parts, "")
        return EnvContractError(
            "step must return (observation, reward, terminated, truncated, info), got "
            f"{_described(result)}{remedy}"
        )
    try:
        as_flag(result[2], "terminated")
        as_flag(result[3], "truncated")
    except EnvContractError as exc:
        return exc
    try:
        bool(result[4])
    except Exception:
        return EnvContractError(f"info must be a dict, got {_described(result[4])}")
    return None


def joint_parts(result: Value, call: str, names: str) -> tuple[Value, ...]:
    """Return the parts of a result of a parallel environment of PettingZoo.

    Args:
        result: The result.
        call: "reset" or "step".
        names: The parts that it must have, separated by commas.

    Raises:
        EnvContractError: It has others. A dict of two players would unpack into their names.
    """
    if not isinstance(result, (tuple, list)) or len(result) != names.count(",") + 1:
        raise EnvContractError(
            f"{call} of a parallel environment must return ({names}), got {_described(result)}; "
            "wrap the environment inside of the recorder, so that it returns these"
        )
    return tuple(result)


def check_flags(flags: Mapping[Value, Value], name: str) -> None:
    """Check the flags of several players.

    Raises:
        EnvContractError: One is no flag.
    """
    for player, flag in flags.items():
        if flag is not True and flag is not False:
            as_flag(flag, f"{name}[{player!r}]")


def as_flag(value: Value, name: str) -> bool:
    """Return a flag as a bool. Numbers and arrays of one element are flags if they are 0 or 1.

    Raises:
        EnvContractError: The value is no flag, such as a cost or a text.
    """
    if value is True or value is False:
        return value
    try:
        is_set = bool(value)
        # A list or a text is true if it is not empty, whatever it says.
        is_flag = not is_set or bool(value == 1)
    except Exception:
        # Arrays of several elements raise exceptions of different types.
        is_flag = False
    if not is_flag:
        raise EnvContractError(
            f"{name} must be true or false, got {_described(value)}; wrap the environment inside "
            "of the recorder: return a flag there, and put any other value, such as a cost, into "
            "the info"
        )
    return is_set


def _described(result: Value) -> str:
    """Return the type of a result, the number of its parts, and its text."""
    if result is None:
        return "None"
    if isinstance(result, (tuple, list)):
        return f"a {type(result).__name__} of {len(result)}, {short(result)}"
    return f"{codec.type_name(result)} {short(result)}"
