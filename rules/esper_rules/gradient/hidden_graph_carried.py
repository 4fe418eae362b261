"""ESP308: a hidden state is carried from update to update together with its graph."""

from __future__ import annotations

from collections.abc import Iterable

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Hit,
    ModuleModel,
    NetworkClass,
    Note,
    Rule,
    Severity,
    carried_states,
)


class HiddenGraphCarried(Rule):
    """
    ## What it does
    Reports a call of a recurrent network that gets back the hidden state it returned the last time, in a loop that also
    runs `backward`, where nothing cuts the graph of the state: no `detach`, no `no_grad`, no fresh state.

    ## Why it matters
    The state holds on to all the steps it came from, back to the first one. The second update runs into a graph that
    the first has freed, and raises; or, when the loss is computed anew from stored data, nothing raises and every step
    of the training stays in memory.

    Silent where the loop starts from a fresh state, and wherever the caller or the network speaks of `detach`, `.data`,
    `no_grad` or `inference_mode`.

    ## Example
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.core = nn.GRUCell(obs_dim, 64)
            self.action_head = nn.Linear(64, num_actions)

        def forward(self, obs, hidden):
            hidden = self.core(obs, hidden)
            return self.action_head(hidden), hidden

    def train(env, optimizer, hidden):
        policy = Policy(8, 4)
        for _ in range(100):
            logits, hidden = policy(env.obs, hidden)
            optimizer.zero_grad()
            env.loss(logits).backward()
            optimizer.step()
    ```

    ## Use instead
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.core = nn.GRUCell(obs_dim, 64)
            self.action_head = nn.Linear(64, num_actions)

        def forward(self, obs, hidden):
            hidden = self.core(obs, hidden)
            return self.action_head(hidden), hidden

    def train(env, optimizer, hidden):
        policy = Policy(8, 4)
        for _ in range(100):
            logits, hidden = policy(env.obs, hidden.detach())
            optimizer.zero_grad()
            env.loss(logits).backward()
            optimizer.step()
    ```

    ## Evidence
    On torch 2.13.0, a policy of one `nn.GRUCell` with 256 units and 16 environments: with the log-probs of acting in
    the loss, the second update raises "Trying to backward through the graph a second time". With log-probs that are
    computed anew, 200 updates of 16 steps run through; 260 nodes of the graph hang on the state after the first, 51204
    after the last, and the process has grown by 444 MB. Under `no_grad` it does not grow. The error after leaving
    `h.data` out: MorvanZhou/PyTorch-Tutorial#57; also reported in Metta-AI/metta#1139.

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.Tensor.detach.html
    """

    code = "ESP308"
    name = "hidden-graph-carried"
    summary = "a hidden state is carried from update to update together with its graph"
    category = Category.GRADIENT
    severity = Severity.HIGH
    confidence = Confidence.MEDIUM
    probe = "act-graph"
    help = "detach the state once per update, or act under `torch.no_grad()`"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Calls that get their own states back, graph and all."""
        for found in carried_states(net):
            yield Hit.at(
                found.event,
                f"`{found.name}` goes from update to update with the graph of all steps before it",
                notes=(Note(found.backward.module, found.backward.node, "the loop runs backward here"),),
            )

    VALID = (
        # Detached by the caller or the network; acting without gradients; a fresh state; no update in the loop.
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.core = nn.GRUCell(8, 64)
                self.action_head = nn.Linear(64, 4)

            def forward(self, obs, hidden):
                hidden = self.core(obs, hidden)
                return self.action_head(hidden), hidden

            def act(self, obs, hidden):
                hidden = self.core(obs, hidden)
                return self.action_head(hidden), hidden.detach()

            @torch.no_grad()
            def predict(self, obs, hidden):
                return self(obs, hidden)

            def score(self, obs):
                return self.action_head(obs)

        def detached(env, hidden):
            policy = Policy()
            for _ in range(100):
                logits, hidden = policy(env.obs, hidden)
                hidden = hidden.detach()
                env.loss(logits).backward()

        def inside(env, hidden):
            policy = Policy()
            for _ in range(100):
                logits, hidden = policy.act(env.obs, hidden)
                env.loss(logits).backward()

        def gradient_free(env, hidden):
            policy = Policy()
            for _ in range(100):
                logits, hidden = policy.predict(env.obs, hidden)
                env.loss(logits).backward()

        def fresh(env):
            policy = Policy()
            for _ in range(100):
                hidden: torch.Tensor = torch.zeros(1, 64)
                for _ in range(8):
                    logits, hidden = policy(env.obs, hidden)
                env.loss(logits).backward()

        def no_update(env, hidden):
            policy = Policy()
            for _ in range(100):
                logits, hidden = policy(env.obs, hidden)
            env.loss(logits).backward()

        def not_fed_back(env, hidden):
            policy = Policy()
            for _ in range(100):
                logits, new = policy(env.obs, hidden)
                print(policy(env.obs, hidden), policy.score(env.obs))
                size: int
                env.loss(logits).backward()
        """,
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.action_head = nn.Linear(8, 4)

            def forward(self, obs, hidden):
                return self.action_head(obs), hidden

        def train(env, hidden):
            policy = Policy()
            for _ in range(100):
                logits, hidden = policy(env.obs, hidden)
                env.loss(logits).backward()
        """,
    )
    INVALID = (
        Case(
            {
                "network.py": """
                from torch import nn
                from torch.distributions import Categorical

                class Base(nn.Module):
                    def act(self, obs, hxs, masks):
                        logits, hxs = self(obs, hxs * masks)
                        dist = Categorical(logits=logits)
                        action = dist.sample()
                        return action, dist.log_prob(action), hxs

                class Policy(Base):
                    def __init__(self):
                        super().__init__()
                        self.core = nn.GRUCell(8, 64)
                        self.action_head = nn.Linear(64, 4)

                    def forward(self, obs, hidden):
                        hidden = self.core(obs, hidden)
                        return self.action_head(hidden), hidden
                """,
                "train.py": """
                import torch
                from network import Policy

                def update(optimizer, log_probs, rewards):
                    loss = -(torch.stack(log_probs) * rewards).mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()

                def main(env):
                    policy = Policy()
                    optimizer = torch.optim.Adam(policy.parameters())
                    obs, hxs = env.reset(), torch.zeros(4, 64)
                    while env.running:
                        log_probs = []
                        for t in range(16):
                            action, log_prob, hxs = policy.act(obs, hxs, env.masks)  # <- ESP308
                            obs = env.step(action)
                            log_probs.append(log_prob)
                        hxs = hxs * env.masks
                        update(optimizer, log_probs, env.rewards)
                """,
            }
        ),
        # An LSTM's two states, in a class that holds the network.
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.lstm = nn.LSTM(8, 64)
                self.action_head = nn.Linear(64, 4)

            def get_action(self, obs, lstm_state):
                out, lstm_state = self.lstm(obs, lstm_state)
                return self.action_head(out), lstm_state

        class Trainer:
            def __init__(self):
                self.policy = Policy()

            def train(self, env, lstm_state):
                for batch in env:
                    logits, lstm_state = self.policy.get_action(batch.obs, lstm_state)  # <- ESP308
                    loss = batch.loss(logits)
                    loss.backward(retain_graph=True)
        """,
    )
