"""Learn FrozenLake from recorded steps alone: `python offline_q_learning.py runs`."""

import sys

import gymnasium as gym
import numpy as np

import trajrec


def train(folder):
    values = np.zeros((16, 4))
    with trajrec.open(folder) as corpus:
        data = corpus.transitions("env_id = 'FrozenLake-v1'", batch_size=1024, cache=True)
        for data.epoch in range(100):
            totals, counts = np.zeros((2, 16, 4))
            for batch in data:
                # A terminated episode has no future; a truncated one goes on from next_obs.
                future = np.where(batch["terminated"], 0.0, values.max(axis=1)[batch["next_obs"]])
                place = (batch["obs"], batch["action"])
                np.add.at(totals, place, batch["reward"] + 0.99 * future)
                np.add.at(counts, place, 1)
            values = totals / np.maximum(counts, 1)
    return values


def success_rate(values, n_episodes=500):
    env = gym.wrappers.RecordEpisodeStatistics(gym.make("FrozenLake-v1"), n_episodes)
    for seed in range(n_episodes):
        observation, _ = env.reset(seed=seed)
        terminated = truncated = False
        while not (terminated or truncated):
            action = int(values[observation].argmax())
            observation, _, terminated, truncated, _ = env.step(action)
    return sum(env.return_queue) / n_episodes


if __name__ == "__main__":
    print(f"success rate {success_rate(train(sys.argv[1])):.2f}")
