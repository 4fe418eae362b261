"""ESP315: a network with a recurrent layer is put into eval mode, never back, and then trained."""

from __future__ import annotations

from collections.abc import Iterable

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Hit,
    ModuleModel,
    NetworkClass,
    Rule,
    Severity,
    never_back_to_training,
)


class RnnEvalBackward(Rule):
    """
    ## What it does
    Reports `.eval()` of a network that holds `nn.LSTM`, `nn.GRU` or `nn.RNN`, in a project that trains it afterwards
    and switches nothing back with `train()`: in a method of the network that acts or evaluates, or in a caller before
    its `backward`.

    ## Why it matters
    On a GPU these layers run in cuDNN, which keeps what its backward pass needs in training mode only: the first update
    raises "cudnn RNN backward can only be called in training mode". On a CPU the same code works, so tests pass.

    Silent for cells such as `nn.LSTMCell`, for copies such as target networks, where any file that knows the network
    says `train(`, where cuDNN is switched off, and in projects that never speak of a device.

    ## Example
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.core = nn.GRU(obs_dim, 64)
            self.action_head = nn.Linear(64, num_actions)

        def forward(self, obs, hidden):
            out, hidden = self.core(obs, hidden)
            return self.action_head(out), hidden

        def act(self, obs, hidden):
            self.eval()
            with torch.no_grad():
                return self(obs, hidden)

    def update(policy, optimizer, loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    policy = Policy(8, 4).to("cuda")
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.core = nn.GRU(obs_dim, 64)
            self.action_head = nn.Linear(64, num_actions)

        def forward(self, obs, hidden):
            out, hidden = self.core(obs, hidden)
            return self.action_head(out), hidden

        @torch.no_grad()
        def act(self, obs, hidden):
            return self(obs, hidden)

    def update(policy, optimizer, loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    policy = Policy(8, 4).to("cuda")
    ```

    ## Evidence
    Not run here, where there is no GPU; on a CPU, torch 2.13.0 runs forward and backward of `nn.LSTM`, `nn.GRU` and
    `nn.RNN` in eval mode with the same gradients as in training mode. Reports of the error on a GPU:
    pytorch/pytorch#37965 (a DDPG agent whose critic is in eval mode), pytorch/pytorch#5878, and
    wiseodd/controlled-text-generation#24, where a method of the model calls `eval()`.

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.eval
    """

    code = "ESP315"
    name = "rnn-eval-backward"
    summary = "a recurrent network is put into eval mode, never back, and trained"
    category = Category.GRADIENT
    severity = Severity.HIGH
    confidence = Confidence.MEDIUM
    help = "call `train()` before the update, or leave eval mode out: `no_grad` is what acting needs"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Switches to eval mode that nobody takes back."""
        for event in never_back_to_training(net):
            yield Hit.at(
                event,
                f"{net.name} stays in eval mode, and its recurrent layer is trained: on a GPU, backward raises",
            )

    VALID = (
        # Switched back; a copy; evaluation after training, or instead of it; a cell; the CPU alone; no cuDNN.
        *(
            Case(
                {
                    "network.py": f"""
                    from torch import nn

                    class Policy(nn.Module):
                        def __init__(self):
                            super().__init__()
                            self.core = nn.{layer}(8, 64)
                            self.action_head = nn.Linear(64, 4)

                        def forward(self, obs, hidden):
                            return self.action_head(self.core(obs, hidden)[0])
                    """,
                    "train.py": f"""
                    import copy
                    import torch
                    from network import Policy

                    def main(env):
                        policy = Policy().to({device})
                        target = copy.deepcopy(policy)
                        target.eval()
                        optimizer = torch.optim.Adam(policy.parameters())
                        {before}
                        loss = policy(env.obs, None).mean()
                        loss.backward()
                        optimizer.step()
                        {after}
                    """,
                }
            )
            for layer, device, before, after in (
                ("LSTM", '"cuda"', "policy.eval(); policy.train()", ""),
                ("LSTM", '"cuda"', "", "policy.eval()"),
                ("LSTM", '"cuda"', "if env.test: policy.eval(); return", ""),
                ("LSTMCell", '"cuda"', "policy.eval()", ""),
                ("LSTM", '"cpu"', "policy.eval()", ""),
                ("LSTM", '"cuda"', "torch.backends.cudnn.enabled = False; policy.eval()", ""),
            )
        ),
    )
    INVALID = (
        Case(
            {
                "network.py": """
                from torch import nn

                class Base(nn.Module):
                    def score(self, obs):
                        return self.action_head(obs)

                class Policy(Base):
                    def __init__(self):
                        super().__init__()
                        self.core = nn.LSTM(8, 64)
                        self.action_head = nn.Linear(64, 4)

                    def forward(self, obs, hidden):
                        return self.action_head(self.core(obs, hidden)[0])

                    def evaluate_actions(self, obs, hidden):
                        self.prepare()
                        return self(obs, hidden)

                    def prepare(self):
                        self.eval()  # <- ESP315
                """,
                "agent.py": """
                import torch
                from network import Policy

                class Agent:
                    def __init__(self, device):
                        self.policy = Policy().to(device)
                        self.optimizer = torch.optim.Adam(self.policy.parameters())

                    def learn(self, batch):
                        self.policy.eval()  # <- ESP315
                        loss = self.policy(batch.obs, batch.hidden).mean()
                        self.optimizer.zero_grad()
                        loss.backward()
                        self.optimizer.step()
                """,
            }
        ),
    )
