"""Packet router with a GRU whose state is a single tensor ``[layers, batch, hidden]``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

# A closed link. Finite, so that the entropy cannot become NaN, and small enough for float16.
CLOSED = -1e4


@dataclass
class RouterConfig:
    obs_dim: int = 24
    num_links: int = 6
    hidden_size: int = 64
    num_layers: int = 2


def orthogonal(layer: nn.Linear, gain: float) -> nn.Linear:
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class RouterPolicy(nn.Module):
    """Chooses the outgoing link of the packet at the head of the queue.

    Sequences end where an episode ends; the caller starts the next one from ``init_hidden``.
    """

    def __init__(self, config: RouterConfig) -> None:
        super().__init__()
        self.config = config
        self.fc = orthogonal(nn.Linear(config.obs_dim, config.hidden_size), gain=2**0.5)
        self.gru = nn.GRU(
            config.hidden_size, config.hidden_size, config.num_layers, batch_first=True
        )
        self.pi = orthogonal(nn.Linear(config.hidden_size, config.num_links), gain=0.01)
        self.v = orthogonal(nn.Linear(config.hidden_size, 1), gain=1.0)

    def init_hidden(self, batch_size: int) -> Tensor:
        weight = self.gru.weight_hh_l0
        return weight.new_zeros(self.config.num_layers, batch_size, self.config.hidden_size)

    def forward(self, obs: Tensor, open_links: Tensor, hidden: Tensor | None = None):
        """
        :param obs: ``[batch, time, obs_dim]``
        :param open_links: boolean, ``[batch, time, num_links]``
        :param hidden: ``[layers, batch, hidden]``, zeros if None
        :return: masked logits, values ``[batch, time]`` and the new hidden state
        """
        batch, time, _ = obs.shape
        expected = (batch, time, self.config.num_links)
        if open_links.shape != expected:
            raise ValueError(f"open_links must be {expected}, not {tuple(open_links.shape)}")
        torch._assert_async(open_links.any(dim=-1).all(), "a router without an open link")
        if hidden is None:
            hidden = self.init_hidden(batch)
        x, hidden = self.gru(torch.relu(self.fc(obs)), hidden)
        logits = self.pi(x).masked_fill(~open_links, CLOSED)
        return logits, self.v(x).squeeze(-1), hidden

    @torch.no_grad()
    def act(self, obs: Tensor, open_links: Tensor, hidden: Tensor, deterministic: bool = False):
        """One step, ``obs`` is ``[batch, obs_dim]`` and ``open_links`` ``[batch, num_links]``.

        The log-probabilities returned are data for the buffer, without a graph.
        """
        if open_links.dim() != 2:
            raise ValueError(f"open_links must be 2-D here, not {open_links.dim()}-D")
        logits, value, hidden = self(obs[:, None], open_links[:, None], hidden)
        dist = Categorical(logits=logits[:, 0])
        link = dist.probs.argmax(dim=-1) if deterministic else dist.sample()
        return link, dist.log_prob(link), value[:, 0], hidden

    def evaluate(self, obs: Tensor, open_links: Tensor, hidden: Tensor, links: Tensor):
        """Log-probabilities, entropies and values of recorded choices, ``[batch, time]`` each."""
        if links.shape != obs.shape[:2]:
            raise ValueError(f"links must be {tuple(obs.shape[:2])}, not {tuple(links.shape)}")
        logits, value, _ = self(obs, open_links, hidden)
        dist = Categorical(logits=logits)
        return dist.log_prob(links), dist.entropy(), value
