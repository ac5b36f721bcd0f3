"""Clone the better half of the recorded CartPole episodes: `python behaviour_cloning.py runs`."""

import sys

import gymnasium as gym
import torch

import trajrec


def train(folder):
    torch.manual_seed(0)
    policy = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Tanh(), torch.nn.Linear(64, 2))
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    with trajrec.open(folder) as corpus:
        ((median,),) = corpus.sql("SELECT median(total_reward) FROM episodes").fetchall()
        data = corpus.to_torch(f"total_reward >= {median}", batch_size=256, cache=True)
        for epoch in range(4):
            data.set_epoch(epoch)
            for batch in data.loader():
                loss = torch.nn.functional.cross_entropy(policy(batch["obs"]), batch["action"])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return policy


def mean_return(policy, n_episodes=20):
    env = gym.wrappers.RecordEpisodeStatistics(gym.make("CartPole-v1"))
    for seed in range(n_episodes):
        observation, _ = env.reset(seed=seed)
        terminated = truncated = False
        while not (terminated or truncated):
            action = int(policy(torch.from_numpy(observation)).argmax())
            observation, _, terminated, truncated, _ = env.step(action)
    return sum(env.return_queue) / n_episodes


if __name__ == "__main__":
    print(f"mean return {mean_return(train(sys.argv[1])):.0f}")
