"""Recurrent actor-critic that dispatches jobs on a shop floor.

Architecture::

    observation  -> encoder (Linear, LayerNorm, ReLU) -> core (LSTM) -> core_norm
    core_norm    -> machine_head  -> machine logits
    core_norm    -> job_head      -> job logits
    core_norm    -> tool_head     -> tool logits
    core_norm    -> mode_head     -> mode logits
    core_norm    -> value_head    -> state value

The four heads are sampled independently given the core; the log-probability of a dispatch
is the sum over its heads.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from masks import HEADS, NUM_JOBS, NUM_MACHINES, NUM_MODES, NUM_TOOLS, HeadDistribution

# Logit of a choice that is not open. A finite number: -inf turns into NaN as soon as it is
# multiplied by a zero probability, and anything below -65504 does not fit into float16.
# exp(-1e4) is an exact zero in every floating type, which is all that softmax needs.
INFEASIBLE_LOGIT = -1e4

PerHead = dict[str, torch.Tensor]
State = tuple[torch.Tensor, torch.Tensor]


def policy_head(width: int, num_actions: int) -> nn.Sequential:
    """Two-layer head of half the width of the core."""
    return nn.Sequential(
        nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, num_actions)
    )


class SchedulerActorCritic(nn.Module):
    """LSTM actor-critic with one masked head per part of a dispatch."""

    def __init__(
        self,
        obs_dim: int,
        num_machines: int = NUM_MACHINES,
        num_jobs: int = NUM_JOBS,
        num_tools: int = NUM_TOOLS,
        num_modes: int = NUM_MODES,
        encoder_dim: int = 128,
        core_dim: int = 128,
        core_layers: int = 1,
    ) -> None:
        super().__init__()
        self.core_dim = core_dim
        self.core_layers = core_layers
        self.head_sizes = {
            "machine": num_machines,
            "job": num_jobs,
            "tool": num_tools,
            "mode": num_modes,
        }

        self.encoder = nn.Sequential(
            nn.Linear(obs_dim, encoder_dim),
            nn.LayerNorm(encoder_dim),
            nn.ReLU(),
        )
        self.core = nn.LSTM(encoder_dim, core_dim, num_layers=core_layers, batch_first=True)
        self.core_norm = nn.LayerNorm(core_dim)

        self.machine_head = policy_head(core_dim, num_machines)
        self.job_head = policy_head(core_dim, num_jobs)
        self.tool_head = policy_head(core_dim, num_tools)
        self.mode_head = policy_head(core_dim, num_modes)
        self.value_head = policy_head(core_dim, 1)

        self._init_weights()

    @torch.no_grad()
    def _init_weights(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight, math.sqrt(2))
                nn.init.zeros_(layer.bias)

        # Start close to the uniform policy.
        for head in (self.machine_head, self.job_head, self.tool_head, self.mode_head):
            nn.init.orthogonal_(head[-1].weight, 0.01)
        nn.init.orthogonal_(self.value_head[-1].weight, 1.0)

        # PyTorch stacks the four gates (input, forget, cell, output) in one matrix: each gate
        # gets an orthogonal block of its own. It also adds two biases, so the forget gate is
        # opened in one of them.
        for name, param in self.core.named_parameters():
            if name.startswith("weight"):
                for gate in param.chunk(4):
                    nn.init.orthogonal_(gate)
            else:
                nn.init.zeros_(param)
                if name.startswith("bias_ih"):
                    param.chunk(4)[1].fill_(1.0)

    def get_initial_hidden(
        self, batch_size: int, device: torch.device | str | None = None
    ) -> State:
        """Hidden state at the start of a shift: ``(h, c)``, zeros in the type of the core."""
        weight = self.core.weight_hh_l0
        shape = (self.core_layers, batch_size, self.core_dim)
        h = torch.zeros(shape, device=device or weight.device, dtype=weight.dtype)
        c = torch.zeros(shape, device=device or weight.device, dtype=weight.dtype)
        return h, c

    def _checked_masks(
        self,
        batch: int,
        seq_len: int,
        machine_mask: torch.Tensor | None,
        job_mask: torch.Tensor | None,
        tool_mask: torch.Tensor | None,
        mode_mask: torch.Tensor | None,
    ) -> dict[str, torch.Tensor | None]:
        """Bring the masks to ``[batch, seq_len, num_actions]``, or say what is wrong with them.

        For a single step the time axis may be left out. It has to be checked here: a mask
        without it would broadcast against the logits along the wrong axis.
        """
        masks = {"machine": machine_mask, "job": job_mask, "tool": tool_mask, "mode": mode_mask}
        for head, mask in masks.items():
            if mask is None:
                continue
            if mask.dtype != torch.bool:
                raise ValueError(f"{head}_mask: expected torch.bool, got {mask.dtype}")
            lifted = mask.unsqueeze(1) if mask.dim() == 2 and seq_len == 1 else mask
            expected = (batch, seq_len, self.head_sizes[head])
            if tuple(lifted.shape) != expected:
                raise ValueError(f"{head}_mask: expected {expected}, got {tuple(mask.shape)}")
            masks[head] = lifted
        return masks

    def _check_actions(self, batch: int, seq_len: int, actions: PerHead) -> None:
        """Refuse actions that do not fit the heads."""
        for head, size in self.head_sizes.items():
            if head not in actions:
                raise ValueError(f"actions: expected heads {HEADS}, got {tuple(actions)}")
            action = actions[head]
            if tuple(action.shape) != (batch, seq_len):
                raise ValueError(
                    f"{head} action: expected {(batch, seq_len)}, got {tuple(action.shape)}"
                )
            in_range = (action >= 0) & (action < size)
            torch._assert_async(in_range.all(), f"{head} action is not in 0..{size - 1}")

    def forward(
        self,
        obs: torch.Tensor,  # [batch, seq_len, obs_dim]
        hidden: State | None = None,  # each [layers, batch, dim]
        machine_mask: torch.Tensor | None = None,  # [batch, seq_len, num_machines]
        job_mask: torch.Tensor | None = None,  # [batch, seq_len, num_jobs]
        tool_mask: torch.Tensor | None = None,  # [batch, seq_len, num_tools]
        mode_mask: torch.Tensor | None = None,  # [batch, seq_len, num_modes]
    ) -> dict[str, torch.Tensor | State]:
        """Run a stretch of a shift.

        Args:
            obs: Shop-floor features, ``[batch, seq_len, obs_dim]``.
            hidden: State of the core before the first step; zeros if left out.
            machine_mask, job_mask, tool_mask, mode_mask: Feasible choices, boolean,
                ``[batch, seq_len, num_actions]``; everything is open if left out.

        Returns:
            The masked logits of the heads under ``"<head>_logits"``, ``"value"`` of shape
            ``[batch, seq_len]`` and the new ``"hidden"``.

        Raises:
            ValueError: If a mask does not fit the observations or its head.
            RuntimeError: If a row of a mask offers no choice, or an observation is not finite.
        """
        if obs.dim() != 3:
            raise ValueError(f"obs: expected [batch, seq_len, obs_dim], got {tuple(obs.shape)}")
        batch, seq_len = obs.shape[:2]
        masks = self._checked_masks(batch, seq_len, machine_mask, job_mask, tool_mask, mode_mask)
        if hidden is None:
            hidden = self.get_initial_hidden(batch, obs.device)
        # Under autocast the core returns its state in half precision; outside it wants its own.
        dtype = self.core.weight_hh_l0.dtype
        h, c = hidden

        encoded = self.encoder(obs)  # [batch, seq_len, encoder_dim]
        memory, hidden = self.core(encoded, (h.to(dtype), c.to(dtype)))
        memory = self.core_norm(memory)  # [batch, seq_len, core_dim]
        # Checked on the device: an `if` would wait for it and split the graph here.
        torch._assert_async(memory.isfinite().all(), "the core put out NaN or infinity")

        out = {"value": self.value_head(memory).squeeze(-1), "hidden": hidden}
        logits = {
            "machine": self.machine_head(memory),
            "job": self.job_head(memory),
            "tool": self.tool_head(memory),
            "mode": self.mode_head(memory),
        }
        for head, mask in masks.items():
            if mask is not None:
                has_choice = mask.any(dim=-1).all()
                torch._assert_async(has_choice, f"{head}_mask has a row without a choice")
                logits[head] = logits[head].masked_fill(~mask, INFEASIBLE_LOGIT)
            out[f"{head}_logits"] = logits[head]
        return out

    def _distribution(self, logits: torch.Tensor, mask: torch.Tensor | None) -> HeadDistribution:
        if mask is None:
            num_feasible = torch.full_like(logits[..., 0], logits.shape[-1])
        else:
            num_feasible = mask.sum(dim=-1)
        return HeadDistribution(logits, num_feasible)

    @torch.no_grad()
    def get_action(
        self,
        obs: torch.Tensor,  # [batch, obs_dim] or [batch, 1, obs_dim]
        hidden: State | None = None,
        machine_mask: torch.Tensor | None = None,  # [batch, num_machines], or with a time axis
        job_mask: torch.Tensor | None = None,
        tool_mask: torch.Tensor | None = None,
        mode_mask: torch.Tensor | None = None,
        deterministic: bool = False,
    ) -> tuple[PerHead, PerHead, torch.Tensor, State]:
        """Choose one dispatch per environment.

        Nothing returned here is differentiable. The log-probabilities are the *old* ones of
        the PPO ratio; ``evaluate_actions`` computes those that the loss is built on.

        Returns:
            The chosen index and its log-probability per head, ``[batch]`` each, the state
            value ``[batch]`` and the hidden state to pass in at the next step.

        Raises:
            ValueError: If more than one step is passed in, or a mask does not fit.
        """
        if obs.dim() == 2:
            obs = obs.unsqueeze(1)
        if obs.dim() != 3 or obs.shape[1] != 1:
            raise ValueError(f"obs: expected a single step, got {tuple(obs.shape)}")
        masks = self._checked_masks(obs.shape[0], 1, machine_mask, job_mask, tool_mask, mode_mask)
        out = self(obs, hidden, masks["machine"], masks["job"], masks["tool"], masks["mode"])

        actions: PerHead = {}
        log_probs: PerHead = {}
        for head in HEADS:
            mask = masks[head]
            dist = self._distribution(
                out[f"{head}_logits"][:, 0], None if mask is None else mask[:, 0]
            )
            actions[head] = dist.mode if deterministic else dist.sample()
            log_probs[head] = dist.log_prob(actions[head])
        return actions, log_probs, out["value"][:, 0], out["hidden"]

    def evaluate_actions(
        self,
        obs: torch.Tensor,  # [batch, seq_len, obs_dim]
        actions: PerHead,  # each [batch, seq_len]
        machine_mask: torch.Tensor | None = None,  # [batch, seq_len, num_machines]
        job_mask: torch.Tensor | None = None,  # [batch, seq_len, num_jobs]
        tool_mask: torch.Tensor | None = None,  # [batch, seq_len, num_tools]
        mode_mask: torch.Tensor | None = None,  # [batch, seq_len, num_modes]
        hidden: State | None = None,
    ) -> tuple[PerHead, torch.Tensor, PerHead, State]:
        """Score recorded dispatches under the current weights.

        Returns:
            Log-probability per head, state value and entropy per head, all
            ``[batch, seq_len]``, and the hidden state after the last step.

        Raises:
            ValueError: If a mask or an action does not fit the observations or its head.
        """
        if obs.dim() != 3:
            raise ValueError(f"obs: expected [batch, seq_len, obs_dim], got {tuple(obs.shape)}")
        batch, seq_len = obs.shape[:2]
        self._check_actions(batch, seq_len, actions)
        masks = self._checked_masks(batch, seq_len, machine_mask, job_mask, tool_mask, mode_mask)
        out = self(obs, hidden, masks["machine"], masks["job"], masks["tool"], masks["mode"])

        log_probs: PerHead = {}
        entropies: PerHead = {}
        for head in HEADS:
            dist = self._distribution(out[f"{head}_logits"], masks[head])
            log_probs[head] = dist.log_prob(actions[head])
            entropies[head] = dist.entropy()
        return log_probs, out["value"], entropies, out["hidden"]
