"""Rollouts and updates of the agent in a toy environment."""

import torch
import torch.nn as nn
import torch.optim as optim

from agent import Agent


class CountingEnvs:
    """Wants the component that the observation points to; every third choice is forbidden, in turn."""

    def __init__(self, num_envs, obs_dim, nvec, length=7):
        self.num_envs, self.obs_dim, self.nvec, self.length = num_envs, obs_dim, list(nvec), length
        self.clock = torch.arange(num_envs) % length

    def observe(self):
        obs = torch.zeros(self.num_envs, self.obs_dim)
        obs[torch.arange(self.num_envs), self.clock % self.obs_dim] = 1.0
        numbers = torch.cat([torch.arange(n) for n in self.nvec])
        masks = (numbers.unsqueeze(0) + self.clock.unsqueeze(1)) % 3 != 0
        masks[:, [sum(self.nvec[:k]) for k in range(len(self.nvec))]] = True
        return obs, masks

    def step(self, action):
        reward = (action[:, 0] == self.clock % self.nvec[0]).float()
        self.clock = (self.clock + 1) % self.length
        done = (self.clock == 0).float()
        return (*self.observe(), reward, done)


def train(num_envs=4, num_steps=16, updates=2, epochs=2, minibatches=2, gamma=0.99, lam=0.95, clip=0.2):
    agent = Agent()
    envs = CountingEnvs(num_envs, agent.obs_dim, agent.nvec)
    optimizer = optim.Adam(agent.parameters(), lr=2.5e-4, eps=1e-5)

    obs = torch.zeros(num_steps, num_envs, agent.obs_dim)
    masks = torch.zeros(num_steps, num_envs, sum(agent.nvec), dtype=torch.bool)
    actions = torch.zeros(num_steps, num_envs, len(agent.nvec), dtype=torch.long)
    logprobs, rewards, dones, values = (torch.zeros(num_steps, num_envs) for _ in range(4))

    next_obs, next_masks = envs.observe()
    next_done = torch.ones(num_envs)
    next_state = agent.get_initial_state(num_envs)
    first_ratios = []

    for _ in range(updates):
        initial_state = (next_state[0].clone(), next_state[1].clone())
        for step in range(num_steps):
            obs[step], masks[step], dones[step] = next_obs, next_masks, next_done
            with torch.no_grad():
                action, logprob, _, value, next_state = agent.get_action_and_value(
                    next_obs, next_state, next_done, masks=next_masks
                )
            actions[step], logprobs[step], values[step] = action, logprob, value
            next_obs, next_masks, rewards[step], next_done = envs.step(action)

        with torch.no_grad():
            next_value = agent.get_value(next_obs, next_state, next_done)
        advantages = torch.zeros_like(rewards)
        last = torch.zeros(num_envs)
        for t in reversed(range(num_steps)):
            alive = 1.0 - (next_done if t == num_steps - 1 else dones[t + 1])
            following = next_value if t == num_steps - 1 else values[t + 1]
            delta = rewards[t] + gamma * following * alive - values[t]
            last = delta + gamma * lam * alive * last
            advantages[t] = last
        returns = advantages + values

        for _ in range(epochs):
            for inds in torch.randperm(num_envs).chunk(minibatches):
                _, newlogprob, entropy, newvalue, _ = agent.get_action_and_value(
                    obs[:, inds].flatten(0, 1),
                    (initial_state[0][:, inds], initial_state[1][:, inds]),
                    dones[:, inds].flatten(),
                    action=actions[:, inds].flatten(0, 1),
                    masks=masks[:, inds].flatten(0, 1),
                )
                logratio = newlogprob - logprobs[:, inds].flatten()
                ratio = logratio.exp()
                first_ratios.append(float((ratio.detach() - 1.0).abs().max()))
                mb_advantages = advantages[:, inds].flatten()
                mb_advantages = (mb_advantages - mb_advantages.mean()) / (mb_advantages.std() + 1e-8)
                pg_loss = torch.max(-mb_advantages * ratio, -mb_advantages * ratio.clamp(1 - clip, 1 + clip)).mean()
                v_loss = 0.5 * ((newvalue - returns[:, inds].flatten()) ** 2).mean()
                loss = pg_loss - 0.01 * entropy.mean() + 0.5 * v_loss
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
    return agent, first_ratios


if __name__ == "__main__":
    train(updates=10)
