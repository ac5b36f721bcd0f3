"""Policies that ask a model of Stable-Baselines3."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import numpy as np

from trajrec.errors import MissingPackageError
from trajrec.types import Action, Array, FloatArray, Observation, Value

Generator = np.random.Generator


class StableBaselines3Policy:
    """Asks a model of Stable-Baselines3 (`trajrec[sb3]`), in batches if there are several branches.

    By default it is the policy that the model explores with: a categorical or diagonal Gaussian
    distribution is sampled with the given generators. torch's own generator is not used, so that
    rollouts can be repeated, and share their draws. Models without such a distribution (DQN, SAC,
    TD3) give their deterministic prediction.

    `deterministic=True` is the policy that is deployed, and that `evaluate_policy` of
    Stable-Baselines3 evaluates by default: values are then those of the most probable actions,
    without the noise of exploration.

    Args:
        model: The model, e.g. `PPO.load(path)`. It gets the observations as they are recorded.
        deterministic: Take the most probable action, or the mean of a Gaussian distribution.

    Raises:
        MissingPackageError: torch is not installed.
        ValueError: The model needs more than the observation: it has a memory, takes masks of
            actions, or was trained behind `VecNormalize`. A function that calls it, or an object
            with the methods of `Policy`, is a policy then. A model that was loaded from a file does
            not know of its `VecNormalize`.
    """

    def __init__(self, model: Value, deterministic: bool = False) -> None:
        # Late: torch takes long to import, and only these models need it.
        try:
            import torch
        except ImportError as exc:
            raise MissingPackageError("torch", "sb3") from exc
        _check_model(model)
        self._model = model
        self._torch = torch
        self._deterministic = deterministic or not hasattr(model.policy, "get_distribution")
        way = "deterministic" if self._deterministic else "sampled"
        self.id = f"{type(model).__name__}-{way}-{model.num_timesteps}"

    def act(self, observation: Observation, rng: Generator) -> Action:
        """Return an action."""
        return self.act_batch([observation], [rng])[0]

    def act_batch(
        self, observations: Sequence[Observation], rngs: Sequence[Generator]
    ) -> list[Action]:
        """Return an action for each observation."""
        batch = _stack(observations)
        if self._deterministic:
            return list(self._model.predict(batch, deterministic=True)[0])
        distribution = self._distribution(batch)
        if hasattr(distribution, "probs"):
            cumulative = distribution.probs.double().cpu().numpy().cumsum(axis=1)
            return [_draw_categorical(row, rng) for row, rng in zip(cumulative, rngs, strict=True)]
        mean = distribution.mean.detach().cpu().numpy()
        std = distribution.stddev.detach().cpu().numpy()
        space = self._model.action_space
        noise = np.stack([rng.standard_normal(mean.shape[1]) for rng in rngs])
        return list(np.clip(mean + std * noise, space.low, space.high).astype(space.dtype))

    def dist(self, observation: Observation) -> FloatArray | None:
        """Return the probabilities of a categorical policy, (A,) float64; None for others."""
        if self._deterministic:
            return None
        distribution = self._distribution(_stack([observation]))
        if not hasattr(distribution, "probs"):
            return None
        row: FloatArray = distribution.probs[0].double().cpu().numpy()
        return row

    def _distribution(self, batch: Value) -> Value:
        with self._torch.no_grad():
            tensor, _ = self._model.policy.obs_to_tensor(batch)
            return self._model.policy.get_distribution(tensor).distribution


def is_sb3_model(policy: object) -> bool:
    """Return whether an object is a model of Stable-Baselines3."""
    return hasattr(policy, "predict") and hasattr(policy, "policy")


def _check_model(model: Value) -> None:
    """Check that a model of Stable-Baselines3 acts on the observation alone.

    Raises:
        ValueError: It does not.
    """
    policy = model.policy
    distribution = getattr(policy, "get_distribution", None)
    normalize = getattr(model, "get_vec_normalize_env", lambda: None)()
    need = ""
    if hasattr(policy, "lstm_actor"):
        need = "it has a memory: give an object with act, observe, snapshot and restore"
    elif distribution is not None and "action_masks" in inspect.signature(distribution).parameters:
        need = "it takes masks of actions: give a function of the observation that passes them"
    elif normalize is not None and normalize.norm_obs:
        need = (
            "it acts on observations that VecNormalize normalizes, and the recorded ones are not: "
            "give a function that passes normalize_obs(observation)"
        )
    if need:
        name = type(model).__name__
        raise ValueError(f"the model {name} needs more than the recorded observation; {need}")


def _draw_categorical(cumulative: Array, rng: Generator) -> np.int64:
    # The sums of float32 probabilities end near 1, not at 1: the draw is scaled to the last sum.
    index = cumulative.searchsorted(rng.random() * cumulative[-1], side="right")
    return np.int64(min(index, len(cumulative) - 1))


def _stack(observations: Sequence[Observation]) -> Value:
    if isinstance(observations[0], dict):
        return {key: np.stack([row[key] for row in observations]) for key in observations[0]}
    return np.stack([np.asarray(row) for row in observations])
