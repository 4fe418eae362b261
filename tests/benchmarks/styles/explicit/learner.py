"""Collecting and learning with the actor-critic, in a toy world."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from policy import RecurrentActorCritic


class World:
    """Pays for moving where the observation points to. Item 1 is only there every other step."""

    def __init__(self, count: int, obs_dim: int) -> None:
        self.count, self.obs_dim = count, obs_dim
        self.age = torch.arange(count) % 5

    def look(self) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        obs = torch.nn.functional.one_hot(self.age % self.obs_dim, self.obs_dim).float()
        masks = {
            "move": torch.ones(self.count, 5, dtype=torch.bool),
            "aim": torch.ones(self.count, 4, dtype=torch.bool),
            "item": torch.ones(self.count, 3, dtype=torch.bool),
        }
        masks["item"][:, 1] = self.age % 2 == 0
        masks["move"][:, 4] = self.age > 0
        return obs, masks, self.age == 0

    def step(self, actions: Tensor) -> Tensor:
        reward = (actions[:, 0] == self.age).float()
        self.age = (self.age + 1) % 5
        return reward


class Learner:
    def __init__(self, policy: RecurrentActorCritic, world: World, learning_rate: float = 1e-3) -> None:
        self.policy, self.world = policy, world
        self.optimizer = torch.optim.Adam(policy.parameters(), lr=learning_rate)
        self.hidden = policy.get_initial_state(world.count)

    def collect(self, steps: int) -> dict[str, Tensor | dict[str, Tensor]]:
        first_hidden = self.hidden
        rows = []
        for _ in range(steps):
            obs, masks, starts = self.world.look()
            actions, values, log_prob, self.hidden = self.policy.act(obs, masks, self.hidden, starts)
            rewards = self.world.step(actions)
            rows.append((obs, starts, actions, values, log_prob, rewards, masks))
        names = ("obs", "starts", "actions", "values", "log_prob", "rewards")
        batch = {name: torch.stack([row[k] for row in rows], dim=1) for k, name in enumerate(names)}
        batch["masks"] = {name: torch.stack([row[-1][name] for row in rows], dim=1) for name in rows[0][-1]}
        batch["hidden"] = first_hidden
        return batch

    def learn(self, batch, epochs: int = 2, gamma: float = 0.95) -> list[float]:
        returns = torch.zeros_like(batch["rewards"])
        following = torch.zeros(self.world.count)
        for t in reversed(range(returns.shape[1])):
            following = batch["rewards"][:, t] + gamma * following
            returns[:, t] = following
            following = following.masked_fill(batch["starts"][:, t], 0.0)
        advantages = returns - batch["values"]
        errors = []
        for _ in range(epochs):
            values, log_prob, entropy = self.policy.evaluate_actions(
                batch["obs"], batch["masks"], batch["actions"], batch["hidden"], batch["starts"]
            )
            ratio = (log_prob - batch["log_prob"]).exp()
            errors.append(float((ratio.detach() - 1.0).abs().max()))
            surrogate = torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
            loss = -surrogate.mean() + 0.5 * (values - returns).pow(2).mean() - 0.01 * entropy.mean()
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.policy.parameters(), 0.5)
            self.optimizer.step()
        return errors


def main() -> None:
    policy = RecurrentActorCritic()
    learner = Learner(policy, World(8, policy.obs_dim))
    for _ in range(20):
        learner.learn(learner.collect(16))


if __name__ == "__main__":
    main()
