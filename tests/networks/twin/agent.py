"""PPO for the shop-floor scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from buffer import ShiftBuffer
from masks import HEADS
from network import SchedulerActorCritic


class ShopFloor(Protocol):
    """A batch of simulated shop floors that start and end their shifts together."""

    def reset(self) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Begin a shift: observations ``[num_envs, obs_dim]`` and masks per head."""

    def step(
        self, actions: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Dispatch: the next observations and masks, and the reward ``[num_envs]``."""


@dataclass(frozen=True)
class PPOConfig:
    """What the training loop may vary."""

    num_envs: int = 8
    horizon: int = 48
    learning_rate: float = 3e-4
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    value_coef: float = 0.5
    entropy_coef: float = 0.01
    max_grad_norm: float = 0.5
    epochs: int = 4
    num_minibatches: int = 4
    core_dim: int = 128
    compile_network: bool = True


class SchedulerAgent:
    """Collects shifts and improves the policy on them."""

    def __init__(self, obs_dim: int, config: PPOConfig | None = None, device: str = "cpu") -> None:
        self.config = config or PPOConfig()
        self.device = torch.device(device)
        self.network = SchedulerActorCritic(obs_dim, core_dim=self.config.core_dim).to(device)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=self.config.learning_rate, eps=1e-5
        )
        if self.config.compile_network:
            self.network = torch.compile(self.network, mode="default")
        self.buffer = ShiftBuffer(
            num_envs=self.config.num_envs,
            horizon=self.config.horizon,
            obs_dim=obs_dim,
            core_dim=self.config.core_dim,
            device=self.device,
        )

    def collect_shift(self, floor: ShopFloor) -> float:
        """Fill the buffer with one shift and return its mean reward per environment."""
        obs, masks = floor.reset()
        hidden = self.network.get_initial_hidden(self.config.num_envs, self.device)
        for _ in range(self.config.horizon):
            actions, log_probs, values, next_hidden = self.network.get_action(
                obs,
                hidden,
                machine_mask=masks["machine"],
                job_mask=masks["job"],
                tool_mask=masks["tool"],
                mode_mask=masks["mode"],
            )
            next_obs, next_masks, rewards = floor.step(actions)
            self.buffer.add(obs, hidden, actions, log_probs, masks, values, rewards)
            obs, masks, hidden = next_obs, next_masks, next_hidden
        return self.buffer.rewards.sum(dim=1).mean().item()

    def update(self) -> dict[str, float]:
        """Run the PPO epochs over the recorded shift and clear it."""
        cfg, buf = self.config, self.buffer
        buf.finish(cfg.gamma, cfg.gae_lambda)

        totals = {"policy_loss": 0.0, "value_loss": 0.0, "entropy": 0.0, "approx_kl": 0.0}
        updates = 0
        for _ in range(cfg.epochs):
            for envs in self._minibatches():
                log_probs, values, entropies, _ = self.network.evaluate_actions(
                    buf.obs[envs],
                    {head: getattr(buf, f"{head}_actions")[envs] for head in HEADS},
                    machine_mask=buf.machine_masks[envs],
                    job_mask=buf.job_masks[envs],
                    tool_mask=buf.tool_masks[envs],
                    mode_mask=buf.mode_masks[envs],
                    hidden=buf.initial_hidden(envs),
                )
                old = sum(getattr(buf, f"{head}_log_probs")[envs] for head in HEADS)
                log_ratio = sum(log_probs.values()) - old
                ratio = log_ratio.exp()

                advantages = buf.advantages[envs]
                advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
                clipped = ratio.clamp(1.0 - cfg.clip, 1.0 + cfg.clip)
                policy_loss = -torch.minimum(ratio * advantages, clipped * advantages).mean()
                value_loss = 0.5 * (values - buf.returns[envs]).square().mean()
                entropy = sum(entropies.values()).mean()
                loss = policy_loss + cfg.value_coef * value_loss - cfg.entropy_coef * entropy

                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(self.network.parameters(), cfg.max_grad_norm)
                self.optimizer.step()

                totals["policy_loss"] += policy_loss.item()
                totals["value_loss"] += value_loss.item()
                totals["entropy"] += entropy.item()
                totals["approx_kl"] += (ratio - 1.0 - log_ratio).mean().item()
                updates += 1

        buf.clear()
        return {name: total / updates for name, total in totals.items()}

    def _minibatches(self) -> Iterator[torch.Tensor]:
        """Whole rows of the buffer in random order: a recurrent policy needs its sequences."""
        order = torch.randperm(self.config.num_envs, device=self.device)
        yield from order.chunk(self.config.num_minibatches)
