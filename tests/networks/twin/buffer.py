"""Storage for one shift of experience from every environment."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from masks import HEADS, NUM_JOBS, NUM_MACHINES, NUM_MODES, NUM_TOOLS


@dataclass
class ShiftBuffer:
    """Preallocated rollout tensors, ``[num_envs, horizon, ...]``.

    A shift is one episode: all environments start together and end together, so a row of
    the buffer never crosses an episode boundary.
    """

    num_envs: int
    horizon: int
    obs_dim: int
    core_dim: int = 128
    core_layers: int = 1
    num_machines: int = NUM_MACHINES
    num_jobs: int = NUM_JOBS
    num_tools: int = NUM_TOOLS
    num_modes: int = NUM_MODES
    device: torch.device | str = "cpu"

    step: int = field(default=0, init=False)
    obs: torch.Tensor = field(init=False, repr=False)
    machine_actions: torch.Tensor = field(init=False, repr=False)
    job_actions: torch.Tensor = field(init=False, repr=False)
    tool_actions: torch.Tensor = field(init=False, repr=False)
    mode_actions: torch.Tensor = field(init=False, repr=False)
    machine_log_probs: torch.Tensor = field(init=False, repr=False)
    job_log_probs: torch.Tensor = field(init=False, repr=False)
    tool_log_probs: torch.Tensor = field(init=False, repr=False)
    mode_log_probs: torch.Tensor = field(init=False, repr=False)
    machine_masks: torch.Tensor = field(init=False, repr=False)
    job_masks: torch.Tensor = field(init=False, repr=False)
    tool_masks: torch.Tensor = field(init=False, repr=False)
    mode_masks: torch.Tensor = field(init=False, repr=False)
    values: torch.Tensor = field(init=False, repr=False)
    rewards: torch.Tensor = field(init=False, repr=False)
    hidden_h: torch.Tensor = field(init=False, repr=False)
    hidden_c: torch.Tensor = field(init=False, repr=False)
    advantages: torch.Tensor = field(init=False, repr=False)
    returns: torch.Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        lead = (self.num_envs, self.horizon)

        self.obs = torch.zeros(*lead, self.obs_dim, device=self.device)

        self.machine_actions = torch.zeros(lead, dtype=torch.int64, device=self.device)
        self.job_actions = torch.zeros(lead, dtype=torch.int64, device=self.device)
        self.tool_actions = torch.zeros(lead, dtype=torch.int64, device=self.device)
        self.mode_actions = torch.zeros(lead, dtype=torch.int64, device=self.device)

        self.machine_log_probs = torch.zeros(lead, device=self.device)
        self.job_log_probs = torch.zeros(lead, device=self.device)
        self.tool_log_probs = torch.zeros(lead, device=self.device)
        self.mode_log_probs = torch.zeros(lead, device=self.device)

        self.machine_masks = torch.ones(
            *lead, self.num_machines, dtype=torch.bool, device=self.device
        )
        self.job_masks = torch.ones(*lead, self.num_jobs, dtype=torch.bool, device=self.device)
        self.tool_masks = torch.ones(*lead, self.num_tools, dtype=torch.bool, device=self.device)
        self.mode_masks = torch.ones(*lead, self.num_modes, dtype=torch.bool, device=self.device)

        self.values = torch.zeros(lead, device=self.device)
        self.rewards = torch.zeros(lead, device=self.device)
        self.advantages = torch.zeros(lead, device=self.device)
        self.returns = torch.zeros(lead, device=self.device)

        # The state of the core before each step: [num_envs, horizon, layers, core_dim].
        state = (*lead, self.core_layers, self.core_dim)
        self.hidden_h = torch.zeros(state, device=self.device)
        self.hidden_c = torch.zeros(state, device=self.device)

    def add(
        self,
        obs: torch.Tensor,
        hidden: tuple[torch.Tensor, torch.Tensor],
        actions: dict[str, torch.Tensor],
        log_probs: dict[str, torch.Tensor],
        masks: dict[str, torch.Tensor],
        values: torch.Tensor,
        rewards: torch.Tensor,
    ) -> None:
        """Record one step of all environments."""
        if self.step == self.horizon:
            raise IndexError(f"the shift is over after {self.horizon} steps: call clear() first")
        t = self.step
        self.obs[:, t] = obs
        self.hidden_h[:, t] = hidden[0].transpose(0, 1)
        self.hidden_c[:, t] = hidden[1].transpose(0, 1)
        for head in HEADS:
            getattr(self, f"{head}_actions")[:, t] = actions[head]
            getattr(self, f"{head}_log_probs")[:, t] = log_probs[head]
            getattr(self, f"{head}_masks")[:, t] = masks[head]
        self.values[:, t] = values
        self.rewards[:, t] = rewards
        self.step += 1

    def finish(self, gamma: float, gae_lambda: float) -> None:
        """Compute advantages and returns; nothing is earned after the end of a shift."""
        gae = torch.zeros(self.num_envs, device=self.device)
        next_value = torch.zeros(self.num_envs, device=self.device)
        for t in range(self.step - 1, -1, -1):
            delta = self.rewards[:, t] + gamma * next_value - self.values[:, t]
            gae = delta + gamma * gae_lambda * gae
            self.advantages[:, t] = gae
            next_value = self.values[:, t]
        self.returns = self.advantages + self.values

    def initial_hidden(self, envs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The hidden state the rows ``envs`` started from, ``[layers, batch, core_dim]``."""
        h = self.hidden_h[envs, 0].transpose(0, 1).contiguous()
        c = self.hidden_c[envs, 0].transpose(0, 1).contiguous()
        return h, c

    def clear(self) -> None:
        """Forget the shift; the tensors are overwritten by the next one."""
        self.step = 0
