"""Actor-critic policy with the interface of a larger library: the distribution is an object.

``forward`` serves the rollout, ``evaluate_actions`` the update, ``predict`` the user who holds
numpy arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch as th
from torch import nn


@dataclass
class PolicyKwargs:
    net_arch: list[int] = field(default_factory=lambda: [64, 64])
    activation_fn: type[nn.Module] = nn.Tanh
    ortho_init: bool = True


class CategoricalDistribution:
    """Thin wrapper around ``torch.distributions.Categorical``."""

    def __init__(self, action_logits: th.Tensor) -> None:
        self.distribution = th.distributions.Categorical(logits=action_logits)

    def log_prob(self, actions: th.Tensor) -> th.Tensor:
        return self.distribution.log_prob(actions)

    def entropy(self) -> th.Tensor:
        return self.distribution.entropy()

    def get_actions(self, deterministic: bool = False) -> th.Tensor:
        if deterministic:
            return th.argmax(self.distribution.probs, dim=-1)
        return self.distribution.sample()


class MlpExtractor(nn.Module):
    """Separate trunks for actor and critic."""

    def __init__(self, feature_dim: int, kwargs: PolicyKwargs) -> None:
        super().__init__()
        self.policy_net = self._trunk(feature_dim, kwargs)
        self.value_net = self._trunk(feature_dim, kwargs)
        self.latent_dim = kwargs.net_arch[-1]

    @staticmethod
    def _trunk(width: int, kwargs: PolicyKwargs) -> nn.Sequential:
        modules: list[nn.Module] = []
        for size in kwargs.net_arch:
            modules += [nn.Linear(width, size), kwargs.activation_fn()]
            width = size
        return nn.Sequential(*modules)

    def forward(self, features: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        return self.policy_net(features), self.value_net(features)


class ActorCriticPolicy(nn.Module):
    def __init__(
        self, observation_dim: int, n_actions: int, kwargs: PolicyKwargs | None = None
    ) -> None:
        super().__init__()
        kwargs = kwargs or PolicyKwargs()
        self.observation_dim = observation_dim
        self.mlp_extractor = MlpExtractor(observation_dim, kwargs)
        self.action_net = nn.Linear(self.mlp_extractor.latent_dim, n_actions)
        self.value_net = nn.Linear(self.mlp_extractor.latent_dim, 1)
        if kwargs.ortho_init:
            gains = {self.mlp_extractor: 2**0.5, self.action_net: 0.01, self.value_net: 1.0}
            for module, gain in gains.items():
                module.apply(lambda layer, gain=gain: self.init_weights(layer, gain))

    @staticmethod
    def init_weights(module: nn.Module, gain: float = 1.0) -> None:
        if isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight, gain=gain)
            nn.init.zeros_(module.bias)

    @property
    def device(self) -> th.device:
        return self.action_net.weight.device

    def get_distribution(self, obs: th.Tensor) -> CategoricalDistribution:
        latent_pi = self.mlp_extractor.policy_net(obs)
        return CategoricalDistribution(self.action_net(latent_pi))

    def predict_values(self, obs: th.Tensor) -> th.Tensor:
        return self.value_net(self.mlp_extractor.value_net(obs)).squeeze(-1)

    def forward(
        self, obs: th.Tensor, deterministic: bool = False
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Act during a rollout; the collector calls this without gradients.

        :param obs: Batch of observations
        :param deterministic: Whether to take the most likely action
        :return: action, value and log probability of the action
        """
        latent_pi, latent_vf = self.mlp_extractor(obs)
        distribution = CategoricalDistribution(self.action_net(latent_pi))
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, self.value_net(latent_vf).squeeze(-1), distribution.log_prob(actions)

    def evaluate_actions(
        self, obs: th.Tensor, actions: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Evaluate recorded actions under the current policy.

        :return: estimated value, log likelihood of the actions and entropy
        """
        latent_pi, latent_vf = self.mlp_extractor(obs)
        distribution = CategoricalDistribution(self.action_net(latent_pi))
        values = self.value_net(latent_vf).squeeze(-1)
        return values, distribution.log_prob(actions), distribution.entropy()

    def _predict(self, observation: th.Tensor, deterministic: bool = False) -> th.Tensor:
        return self.get_distribution(observation).get_actions(deterministic=deterministic)

    def predict(
        self,
        observation: np.ndarray,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Numpy in, numpy out; ``state`` and ``episode_start`` are for recurrent policies."""
        batch = np.asarray(observation, dtype=np.float32).reshape(-1, self.observation_dim)
        with th.no_grad():
            tensor = th.as_tensor(batch, dtype=th.float32, device=self.device)
            actions = self._predict(tensor, deterministic=deterministic)
        return actions.cpu().numpy(), state

    def constructor_parameters(self) -> dict[str, Any]:
        """What is needed to build the policy again before its weights are loaded."""
        return {
            "observation_dim": self.observation_dim,
            "n_actions": self.action_net.out_features,
        }
