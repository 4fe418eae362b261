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

from masks import (
    HEADS,
    NUM_JOBS,
    NUM_MACHINES,
    NUM_MODES,
    NUM_TOOLS,
    MaskedCategorical,
)

# Logit of a choice that is not open. A finite number: -inf turns into NaN as soon as it is
# multiplied by a zero probability, and anything below -65504 does not fit into float16.
# exp(-1e4) is an exact zero in every floating type, which is all that softmax needs.
INFEASIBLE_LOGIT = -1e4

PerHead = dict[str, torch.Tensor]
State = tuple[torch.Tensor, torch.Tensor]


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

        self.encoder = nn.Sequential(
            nn.Linear(obs_dim, encoder_dim),
            nn.LayerNorm(encoder_dim),
            nn.ReLU(),
        )
        self.core = nn.LSTM(encoder_dim, core_dim, num_layers=core_layers, batch_first=True)
        self.core_norm = nn.LayerNorm(core_dim)

        # Largest entropy a head can reach, to put heads of different size on one scale.
        self.max_entropies = {
            "machine": math.log(num_machines),
            "job": math.log(num_jobs),
            "tool": math.log(num_tools),
            "mode": math.log(num_modes),
        }

        half = core_dim // 2
        self.machine_head = nn.Sequential(
            nn.Linear(core_dim, half), nn.ReLU(), nn.Linear(half, num_machines)
        )
        self.job_head = nn.Sequential(
            nn.Linear(core_dim, half), nn.ReLU(), nn.Linear(half, num_jobs)
        )
        self.tool_head = nn.Sequential(
            nn.Linear(core_dim, half), nn.ReLU(), nn.Linear(half, num_tools)
        )
        self.mode_head = nn.Sequential(
            nn.Linear(core_dim, half), nn.ReLU(), nn.Linear(half, num_modes)
        )
        self.value_head = nn.Sequential(nn.Linear(core_dim, half), nn.ReLU(), nn.Linear(half, 1))

        self._init_weights()

    def _init_weights(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight, math.sqrt(2))
                nn.init.constant_(layer.bias, 0.0)

        # Start close to the uniform policy.
        for policy_head in (self.machine_head, self.job_head, self.tool_head, self.mode_head):
            nn.init.orthogonal_(policy_head[-1].weight, 0.01)
        nn.init.orthogonal_(self.value_head[-1].weight, 1.0)

        for label, tensor in self.core.named_parameters():
            if label.startswith("weight"):
                nn.init.orthogonal_(tensor)
            elif label.startswith("bias"):
                nn.init.constant_(tensor, 0.0)
                # Open the forget gate, so that early training remembers the queue.
                rows = tensor.size(0)
                tensor.data[rows // 4 : rows // 2].fill_(1.0)

    def get_initial_hidden(self, batch_size: int, device: torch.device | str) -> State:
        """Hidden state at the start of a shift: ``(h, c)``, zeros."""
        shape = (self.core_layers, batch_size, self.core_dim)
        h = torch.zeros(*shape, device=device)
        c = torch.zeros(*shape, device=device)
        return h, c

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
        """
        if hidden is None:
            hidden = self.get_initial_hidden(obs.shape[0], obs.device)

        encoded = self.encoder(obs)  # [batch, seq_len, encoder_dim]
        memory, hidden = self.core(encoded, hidden)  # [batch, seq_len, core_dim]
        memory = self.core_norm(memory)

        machine_logits = self.machine_head(memory)
        if machine_mask is not None:
            machine_logits = machine_logits.masked_fill(~machine_mask, INFEASIBLE_LOGIT)
        job_logits = self.job_head(memory)
        if job_mask is not None:
            job_logits = job_logits.masked_fill(~job_mask, INFEASIBLE_LOGIT)
        tool_logits = self.tool_head(memory)
        if tool_mask is not None:
            tool_logits = tool_logits.masked_fill(~tool_mask, INFEASIBLE_LOGIT)
        mode_logits = self.mode_head(memory)
        if mode_mask is not None:
            mode_logits = mode_logits.masked_fill(~mode_mask, INFEASIBLE_LOGIT)

        return {
            "machine_logits": machine_logits,
            "job_logits": job_logits,
            "tool_logits": tool_logits,
            "mode_logits": mode_logits,
            "value": self.value_head(memory).squeeze(-1),
            "hidden": hidden,
        }

    def get_action(
        self,
        obs: torch.Tensor,  # [batch, obs_dim] or [batch, 1, obs_dim]
        hidden: State | None = None,
        machine_mask: torch.Tensor | None = None,
        job_mask: torch.Tensor | None = None,
        tool_mask: torch.Tensor | None = None,
        mode_mask: torch.Tensor | None = None,
        deterministic: bool = False,
    ) -> tuple[PerHead, PerHead, torch.Tensor, State]:
        """Choose one dispatch per environment.

        Returns:
            The chosen index and its log-probability per head, ``[batch]`` each, the state
            value ``[batch]`` and the hidden state to pass in at the next step.
        """
        if obs.dim() == 2:
            obs = obs.unsqueeze(1)
        if machine_mask is not None and machine_mask.dim() == 2:
            machine_mask = machine_mask.unsqueeze(1)
        if job_mask is not None and job_mask.dim() == 2:
            job_mask = job_mask.unsqueeze(1)
        if tool_mask is not None and tool_mask.dim() == 2:
            tool_mask = tool_mask.unsqueeze(1)
        if mode_mask is not None and mode_mask.dim() == 2:
            mode_mask = mode_mask.unsqueeze(1)
        masks = dict(zip(HEADS, (machine_mask, job_mask, tool_mask, mode_mask), strict=True))

        with torch.inference_mode():
            out = self.forward(obs, hidden, machine_mask, job_mask, tool_mask, mode_mask)

            actions: PerHead = {}
            log_probs: PerHead = {}
            for head in HEADS:
                logits = out[f"{head}_logits"][:, 0]
                mask = masks[head]
                feasible = torch.ones_like(logits, dtype=torch.bool) if mask is None else mask[:, 0]
                dist = MaskedCategorical(logits, feasible)
                actions[head] = dist.mode if deterministic else dist.sample()
                log_probs[head] = dist.log_prob(actions[head])

            return actions, log_probs, out["value"][:, 0], out["hidden"]

    def evaluate_actions(
        self,
        obs: torch.Tensor,  # [batch, seq_len, obs_dim]
        actions: PerHead,  # each [batch, seq_len]
        machine_mask: torch.Tensor | None = None,
        job_mask: torch.Tensor | None = None,
        tool_mask: torch.Tensor | None = None,
        mode_mask: torch.Tensor | None = None,
        hidden: State | None = None,
    ) -> tuple[PerHead, torch.Tensor, PerHead, State]:
        """Score recorded dispatches under the current weights.

        Returns:
            Log-probability per head, state value and entropy per head, all
            ``[batch, seq_len]``, and the hidden state after the last step.
        """
        out = self.forward(obs, hidden, machine_mask, job_mask, tool_mask, mode_mask)
        masks = dict(zip(HEADS, (machine_mask, job_mask, tool_mask, mode_mask), strict=True))

        log_probs: PerHead = {}
        entropies: PerHead = {}
        for head in HEADS:
            logits = out[f"{head}_logits"]
            flat_logits = logits.flatten(0, 1)
            mask = masks[head]
            if mask is None:
                flat_mask = torch.ones_like(flat_logits, dtype=torch.bool)
            else:
                flat_mask = mask.reshape(flat_logits.shape)
            dist = MaskedCategorical(flat_logits, flat_mask)
            log_probs[head] = dist.log_prob(actions[head].flatten()).view(logits.shape[:2])
            entropies[head] = dist.entropy().view(logits.shape[:2])

        return log_probs, out["value"], entropies, out["hidden"]
