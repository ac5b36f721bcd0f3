"""Load the environments, policies and functions that a command line names."""

from __future__ import annotations

import errno
import importlib
import inspect
import json
import os
import secrets
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from trajrec.cli.exit_status import CannotMakeError
from trajrec.types import Action, AnyEnv, JsonObject, Observation, Value

if TYPE_CHECKING:
    from trajrec.replay.forks.policies import Policy


def make_env(env_id: str, kwargs: JsonObject) -> AnyEnv:
    """Make an environment by its id, importing the package that registers it.

    Raises:
        CannotMakeError: The id is unknown, a module or package is missing, or the arguments are
            wrong.
    """
    import gymnasium

    from trajrec.replay.execute.factories import make_by_id
    from trajrec.replay.execute.user_code import is_refusal

    module = env_id.partition(":")[0] if ":" in env_id else ""
    if module:
        sys.path.insert(0, "")
    try:
        return make_by_id(env_id, **kwargs)
    except gymnasium.error.DependencyNotInstalled as exc:
        raise CannotMakeError(f"{env_id} needs a package that is not installed: {exc}") from exc
    except ModuleNotFoundError as exc:
        if module and exc.name in (None, module.partition(".")[0]):
            raise CannotMakeError(
                f"the module {module} of {env_id} is neither in this folder nor installed"
            ) from exc
        name = (exc.name or env_id).partition(".")[0].replace("_", "-")
        raise CannotMakeError(
            f"the environment {env_id} needs the package {name}, which is not installed: "
            f"pip install {name}"
        ) from exc
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.DeprecatedEnv) as exc:
        hint = "" if module else f"; an id that a module registers is given as module:{env_id}"
        name = env_id.partition(":")[2]
        if module and callable(getattr(sys.modules.get(module), name, None)):
            hint = (
                f"; {name} is a function or class of {module}, and this command takes ids of "
                f"Gymnasium: record it in Python, by trajrec.record({name}(), folder)"
            )
        raise CannotMakeError(f"no such environment: {str(exc).rstrip('.')}{hint}") from exc
    except TypeError as exc:
        if not is_refusal(exc):
            raise
        raise CannotMakeError(
            f"the environment {env_id} does not take these arguments: {exc}"
        ) from exc


def load_env(name: str) -> Callable[[], Value]:
    """Return a factory of the environment or world that `--env` names."""
    if is_factory(name):
        return load_function(name, "--env", "a Gymnasium id or ")
    # An environment that cannot be made is an error before anything is executed.
    make_env(name, {}).close()

    from trajrec.replay.execute.factories import EnvById

    return EnvById(name)


def is_factory(name: str) -> bool:
    """Return whether a name is module:factory, and not an id (module:namespace/Name-v0)."""
    return ":" in name and "/" not in name


def load_policy(name: str, env: AnyEnv, seed: int | None) -> Callable[[Observation], Action]:
    """Return a policy as a function of the observation."""
    if name == "random":
        from trajrec.envstate.spaces import declared_space

        declared_space(env).seed(seed)
        return lambda _: env.action_space.sample()

    from trajrec.replay.forks.policies import seed_policy

    return seed_policy(load_acting(name), secrets.randbits(31) if seed is None else seed)


def load_acting(name: str) -> Policy | Callable[..., Action]:
    """Return the policy that --policy names.

    It is a function, an object with a method `act`, or a model of Stable-Baselines3: an object, or
    a file after the name of its algorithm.
    """
    if name.endswith(".zip"):
        return _load_model(name)
    policy: Policy | Callable[..., Action] = load_object(name, "--policy", "random or ")
    is_model = hasattr(policy, "predict") and hasattr(policy, "policy")
    if not callable(policy) and not hasattr(policy, "act") and not is_model:
        raise ValueError(
            f"--policy {name} must be a function or have a method act, or be a model of "
            "Stable-Baselines3"
        )
    return policy


def _load_model(name: str) -> Policy:
    """Load a model of Stable-Baselines3 from ALGORITHM:FILE, e.g. PPO:models/cartpole.zip."""
    algorithm, _, file = name.partition(":")
    if not algorithm.replace(".", "").isidentifier() or not file:
        raise ValueError(
            f"--policy {name} must name its algorithm: PPO:{name}, or MODULE.CLASS:{name} for "
            "another package's"
        )
    module, _, cls = algorithm.rpartition(".")
    try:
        package = importlib.import_module(module or "stable_baselines3")
    except ImportError as exc:
        raise CannotMakeError(
            f"--policy {name} needs the package {module or 'stable_baselines3'}, which is not "
            "installed: pip install 'trajrec[sb3]'"
        ) from exc
    if not hasattr(getattr(package, cls, None), "load"):
        raise ValueError(f"--policy {name}: {package.__name__} has no algorithm {cls}")
    if not Path(file).is_file():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), file)
    other = _other_algorithm(package, getattr(package, cls), file)
    if other:
        raise ValueError(
            f"--policy {name}: {file} has the options {other}, which {cls} does not take: "
            "name the algorithm that saved it"
        )
    model: Policy = getattr(package, cls).load(file, device="cpu")
    return model


def _other_algorithm(package: ModuleType, algorithm: type[Value], file: str) -> str:
    """Return what a file says of options that only other algorithms of the package have, or "".

    A2C loads a model of PPO without complaint, and gives it its own name.
    """
    try:
        with zipfile.ZipFile(file) as members:
            fields = json.loads(members.read("data"))
        # All algorithms save some options of others as null.
        saved = {name for name, value in fields.items() if value is not None}
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, AttributeError):
        # Another package's models may be stored in another way: its own `load` knows them.
        return ""
    # DDPG is a TD3, and saves the options of both.
    own = {option for cls in algorithm.__mro__ for option in _options(cls)}
    for name, other in sorted(vars(package).items()):
        extra = _options(other) - own if hasattr(other, "load") else set()
        if extra & saved:
            return f"{', '.join(sorted(extra & saved))} of {name}"
    return ""


def _options(cls: Value) -> set[str]:
    """Return the names of the arguments of a class."""
    try:
        return set(inspect.signature(cls).parameters)
    except (TypeError, ValueError):
        return set()


def load_function(name: str, flag: str, alternative: str = "") -> Callable[..., Value]:
    """Return the function that an option names as module:function."""
    function: Callable[..., Value] = load_object(name, flag, alternative)
    if not callable(function):
        raise ValueError(f"{flag} {name} must be callable")
    return function


def load_object(name: str, flag: str, alternative: str = "") -> Value:
    """Return the object that an option names as module:name.

    Args:
        name: The module may lie in the working folder.
        flag: The option, for error messages.
        alternative: Other values that the option takes, for error messages.
    """
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ValueError(f"{flag} must be {alternative}module:function, got {name!r}")
    sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as exc:
        raise ValueError(f"{flag} {name}: {exc}") from exc
