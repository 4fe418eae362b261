"""Actor-critic with a GRU and three named heads: where to go, where to aim, what to use.

Sequences are `[B, T, ...]`; an action is `[..., 3]`, in the order move, aim, item.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from masks import entropy_of, log_prob_of, masked_log_probs, sample


class RecurrentActorCritic(nn.Module):
    def __init__(
        self,
        obs_dim: int = 10,
        num_moves: int = 5,
        num_aims: int = 4,
        num_items: int = 3,
        encoder_dim: int = 48,
        hidden_dim: int = 32,
    ) -> None:
        super().__init__()
        self.obs_dim = obs_dim
        self.encoder = nn.Sequential(nn.Linear(obs_dim, encoder_dim), nn.LayerNorm(encoder_dim), nn.ELU())
        self.gru = nn.GRU(encoder_dim, hidden_dim, batch_first=True)
        self.move_head = nn.Linear(hidden_dim, num_moves)
        self.aim_head = nn.Linear(hidden_dim, num_aims)
        self.item_head = nn.Linear(hidden_dim, num_items)
        self.value_head = nn.Sequential(nn.Linear(hidden_dim, hidden_dim), nn.ELU(), nn.Linear(hidden_dim, 1))
        self._init_weights()

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight, gain=2**0.5)
                nn.init.zeros_(module.bias)
        nn.init.orthogonal_(self.move_head.weight, gain=0.01)
        nn.init.orthogonal_(self.aim_head.weight, gain=0.01)
        nn.init.orthogonal_(self.item_head.weight, gain=0.01)
        nn.init.orthogonal_(self.value_head[-1].weight, gain=1.0)
        for gate in self.gru.weight_hh_l0.data.chunk(3):
            nn.init.orthogonal_(gate)
        nn.init.zeros_(self.gru.bias_ih_l0)
        nn.init.zeros_(self.gru.bias_hh_l0)

    def get_initial_state(self, batch: int, device: torch.device | str | None = None) -> Tensor:
        """A hidden state `[layers, batch, hidden_dim]` of zeros, where the weights are unless told otherwise."""
        weight = self.gru.weight_hh_l0
        device = weight.device if device is None else device
        return torch.zeros(self.gru.num_layers, batch, self.gru.hidden_size, dtype=weight.dtype, device=device)

    def _run_gru(self, obs: Tensor, hidden: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """`starts` `[B, T]` is True where an episode begins: its first step sees no memory."""
        features = self.encoder(obs)
        outputs = []
        for t in range(features.size(1)):
            begins = starts[:, t].view(1, -1, 1)
            hidden = torch.where(begins, torch.zeros_like(hidden), hidden)
            out, hidden = self.gru(features[:, t : t + 1], hidden)
            outputs.append(out)
        return torch.cat(outputs, dim=1), hidden

    def _policy(self, latent: Tensor, masks: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        move = masked_log_probs("move", self.move_head(latent), masks["move"])
        aim = masked_log_probs("aim", self.aim_head(latent), masks["aim"])
        item = masked_log_probs("item", self.item_head(latent), masks["item"])
        return move, aim, item

    @torch.no_grad()
    def act(
        self, obs: Tensor, masks: dict[str, Tensor], hidden: Tensor, starts: Tensor, deterministic: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One step of B environments, `obs` `[B, D]`: actions `[B, 3]`, values and log-probs `[B]`, the new state."""
        latent, hidden = self._run_gru(obs.unsqueeze(1), hidden, starts.unsqueeze(1))
        latent = latent[:, 0]
        move, aim, item = self._policy(latent, masks)
        if deterministic:
            chosen = [move.argmax(dim=-1), aim.argmax(dim=-1), item.argmax(dim=-1)]
        else:
            chosen = [sample(move), sample(aim), sample(item)]
        actions = torch.stack(chosen, dim=-1)
        log_prob = log_prob_of(move, actions[:, 0])
        log_prob = log_prob + log_prob_of(aim, actions[:, 1])
        log_prob = log_prob + log_prob_of(item, actions[:, 2])
        values = self.value_head(latent).squeeze(-1)
        return actions, values, log_prob, hidden

    def evaluate_actions(
        self, obs: Tensor, masks: dict[str, Tensor], actions: Tensor, hidden: Tensor, starts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Values, log-probs and entropies `[B, T]` of recorded actions `[B, T, 3]`; `hidden` is that of step 0."""
        if actions.shape[-1] != 3:
            raise ValueError(f"actions: expected 3 numbers per step, got {actions.shape[-1]}")
        latent, _ = self._run_gru(obs, hidden, starts)
        move, aim, item = self._policy(latent, masks)
        move_log_prob = log_prob_of(move, actions[..., 0])
        aim_log_prob = log_prob_of(aim, actions[..., 1])
        item_log_prob = log_prob_of(item, actions[..., 2])
        log_prob = move_log_prob + aim_log_prob + item_log_prob
        entropy = entropy_of(move) + entropy_of(aim) + entropy_of(item)
        values = self.value_head(latent).squeeze(-1)
        return values, log_prob, entropy
