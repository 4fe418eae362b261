"""ESP202: a fresh hidden state is made on the CPU, wherever the network is."""

from __future__ import annotations

from collections.abc import Iterable

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Hit,
    Made,
    ModuleModel,
    NetworkClass,
    Note,
    Praise,
    Rule,
    Severity,
    by_line,
    fresh_hidden_states,
    like_the_weight,
    pinned_states,
)
from esper_audit.semantics.roles import INITIAL_STATE


class HiddenWithoutDevice(Rule):
    """
    ## What it does
    Reports a factory call whose tensor becomes the hidden state of a recurrent network and which is never moved to a
    device: no `device=`, no `.to(...)`, no `.type_as(...)`, and no caller in the project that moves it; and one that is
    put on the CPU by name. It is `low` for a network in a test file.

    ## Why it matters
    On the CPU nothing happens, so tests pass. On a GPU the first step without a stored state raises, often only on the
    learner or on the second device of a multi-GPU run.

    ## Example
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, hidden_dim):
            super().__init__()
            self.hidden_dim = hidden_dim
            self.gru = nn.GRU(obs_dim, hidden_dim)

        def init_hidden(self, batch):
            return torch.zeros(1, batch, self.hidden_dim)

        def forward(self, obs, hidden):
            return self.gru(obs, hidden)
    ```

    ## Use instead
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, hidden_dim):
            super().__init__()
            self.hidden_dim = hidden_dim
            self.gru = nn.GRU(obs_dim, hidden_dim)

        def init_hidden(self, batch):
            return self.gru.weight_hh_l0.new_zeros(1, batch, self.hidden_dim)

        def forward(self, obs, hidden):
            return self.gru(obs, hidden)
    ```

    ## Fix
    Safe: `device=` of the recurrent layer's weight, `torch.zeros(..., device=self.gru.weight_hh_l0.device)`. A network
    on the CPU gets what it had; with any other the state could not be fed to the layer. Offered where the class's own
    constructor makes just one recurrent layer, under all circumstances, and does not ask for the state before. Unsafe
    where an ancestor was not read, or a hidden state goes to NumPy without `.cpu()`.

    ## Evidence
    The meta device shows it without a GPU: on torch 2.13.0 a network on `meta` raises for a state on the CPU. Reports:
    Lightning-AI/pytorch-lightning#3738, pytorch/pytorch#52186, ndrplz/ConvLSTM_pytorch#10.

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.Tensor.new_zeros.html
    """

    code = "ESP202"
    name = "hidden-without-device"
    summary = "a fresh hidden state is made on the CPU"
    category = Category.DEVICE
    severity = Severity.HIGH
    confidence = Confidence.HIGH
    probe = "hidden-device"
    fixable = "safe"
    help = "take dtype and device from a parameter: `weight.new_zeros(...)`, or `device=obs.device`"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Factories of hidden states that leave the device open."""
        for state, *others in by_line(fresh_hidden_states(net, "device")):
            yield Hit(
                state.made.node,
                f"`{state.made.function}` makes the hidden state without `device`: "
                f"{state.use} stays on the CPU when the network moves",
                module=state.made.module,
                symbol=state.symbol,
                severity=Severity.LOW if net.is_test_code else None,
                notes=tuple(Note(each.made.module, each.made.node, "here is another part of it") for each in others),
                repair=like_the_weight(net, (state, *others), "device"),
            )
        for event, aspect in pinned_states(net):
            if aspect == "device":
                yield Hit.at(
                    event, f"`{event.function.name}` puts the hidden state on the CPU, wherever the network is"
                )

    def praise(self, net: NetworkClass, module: ModuleModel) -> Iterable[Praise]:
        """Initial states that are made where they are needed."""
        if any(True for _ in self.check_network(net, module)):
            return
        for frame in net.frames(INITIAL_STATE):
            made = [m for value in frame.result.flat() for m in value.made]
            if made and all(_is_given_device(m) for m in made) and frame.function.module is module:
                yield Praise(
                    frame.function.node.name,
                    "the initial hidden state is created on the device it is used on, not moved there afterwards",
                    symbol=frame.function.qualified,
                )

    VALID = (
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.gru = nn.GRU(4, 8)

            def init_hidden(self, x, device=None):
                return x.new_zeros(1, x.shape[1], 8)

            def forward(self, x, h):
                if h is None:
                    h = torch.zeros(1, x.shape[1], 8, dtype=x.dtype).cuda()
                return self.gru(x, h)
        """,
        Case(
            """
            import torch
            from torch import nn

            class Policy(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.gru = nn.GRU(4, 8)

                def initial_state(self, batch, device):
                    return torch.zeros(1, batch, 8, device=device)

                def forward(self, x, h):
                    return self.gru(x, h)
            """,
            praised=True,
        ),
        # what is written to has a device; there is nothing that could move
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.gru = nn.GRU(4, 8)

            def forward(self, x):
                return self.gru(x, torch.zeros(1, x.shape[1], 8, out=x.new()))

        class Counter(nn.Module):
            def __init__(self):
                super().__init__()

            def initial_state(self):
                return torch.zeros(1, 1)

            def forward(self, x, state):
                return x, state + 1
        """,
        # a helper maps over the parts and moves them
        Case(
            {
                "network.py": """
                import torch
                from torch import nn

                class Policy(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.lstm = nn.LSTM(4, 8)

                    def init_hidden(self, batch):
                        return tuple([torch.zeros(1, batch, 8), torch.zeros(1, batch, 8)])

                    def forward(self, x, hidden):
                        return self.lstm(x, hidden)
                """,
                "learn.py": """
                def apply(x, change):
                    return type(x)(change(each) for each in x)

                def to_gpu(data):
                    return apply(data, lambda x: x.cuda())

                class Learner:
                    def run(self, batch):
                        hidden = self.wrapped.init_hidden(len(batch))
                        hidden = to_gpu(hidden)
                        return self.wrapped(batch, hidden)
                """,
            }
        ),
        # another function collects the states from a list and moves them
        Case(
            {
                "network.py": """
                import torch
                from torch import nn

                class Policy(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.lstm = nn.LSTM(4, 8)

                    def initial_state(self, n):
                        return tuple(torch.zeros(1, n, 8) for _ in range(2))

                    def forward(self, x, state):
                        return self.lstm(x, state)
                """,
                "collect.py": """
                import torch

                def get_batch(queue, states, flags):
                    chosen = (torch.cat(ts, dim=1) for ts in zip(*[states[m] for m in queue]))
                    chosen = tuple(t.to(device=flags.device, non_blocking=True) for t in chosen)
                    return chosen
                """,
                "learn.py": """
                from collect import get_batch

                def train(model, queue, flags):
                    kept = []
                    for _ in range(4):
                        state = model.initial_state(1)
                        for part in state:
                            part.share_memory_()
                        kept.append(state)

                    def learn(x):
                        return model(x, get_batch(queue, kept, flags))

                    return learn
                """,
            }
        ),
        # nothing but the sizes is taken
        Case(
            {
                "network.py": """
                import torch
                from torch import nn

                class Policy(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.lstm = nn.LSTM(4, 8)

                    def get_default_rnn_state(self):
                        return torch.zeros(1, 4, 8), torch.zeros(1, 4, 8)

                    def forward(self, x, state):
                        return self.lstm(x, state)
                """,
                "agent.py": """
                import torch

                class Agent:
                    def init_rnn(self):
                        like = self.model.get_default_rnn_state()
                        self.states = [torch.zeros((s.size()[0], s.shape[2]), device=self.device) for s in like]
                """,
            }
        ),
    )
    INVALID = (
        # two parts on one line are one finding; whom they are handed to is not known, or moves other things
        Case(
            {
                "network.py": """
                import torch
                from torch import nn

                class Policy(nn.Module):
                    def __init__(self, make):
                        super().__init__()
                        self.lstm = nn.LSTM(4, 8)

                    def init_hidden(self):
                        return torch.zeros(1, 4, 8), torch.zeros(1, 4, 8)  # <- ESP202

                    def forward(self, x, state):
                        return self.lstm(x, state)
                """,
                "agent.py": """
                import torch
                from elsewhere import known

                def look(batch, state, device):
                    batch = batch.to(device)
                    return batch, state[0]

                class Agent:
                    def start(self, model, batch, device):
                        self.state = model.init_hidden()
                        h, c = self.state
                        print(h.shape)
                        known(self.state)
                        look(batch, (h, c), device)
                        return model(batch, self.state)
                """,
            }
        ),
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.lstm = nn.LSTM(4, n)

            def init_hidden(self, batch):
                h = self.lstm.weight_hh_l0.new_zeros(1, batch, 8)
                return h.to("cpu"), h.clone().cpu()  # <- ESP202

            def init_state(self, batch):
                h = torch.zeros(1, batch, 8, device="cpu", dtype=self.lstm.weight_hh_l0.dtype)
                return h, h.clone()  # <- ESP202

            def initial_state(self, batch):
                return self.lstm.weight_hh_l0.new_zeros(1, batch, 8, device="cpu")  # <- ESP202

            def forward(self, x, h):
                return self.lstm(x, h)
        """,
        # nothing to say about the dtype of a state that nothing is known about
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.cell = nn.GRUCell(4, 8)

            def init_hidden(self, x):
                return x.new_zeros(8, dtype=torch.float32)

            def forward(self, x, h=None):
                if h is None:
                    h = torch.zeros(x.size(0), 8, dtype=x.dtype)  # <- ESP202
                return self.cell(x, h)
        """,
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.cell = nn.GRUCell(4, 8)

            def forward(self, x, h=None):
                if h is None:
                    h = torch.zeros(x.size(0), 8, dtype=x.dtype)  # <- ESP202
                return self.cell(x, h)
        """,
        Case(
            """
            import torch
            from torch import nn

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.core = nn.LSTM(4, n, dtype=torch.float64)

                def forward(self, x, state=None):
                    if state is None:
                        h = torch.zeros(1, 2, 8, dtype=x.dtype)  # <- ESP202
                        state = (h, h)
                    return self.core(x, state)
            """,
            fixed="""
            import torch
            from torch import nn

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.core = nn.LSTM(4, n, dtype=torch.float64)

                def forward(self, x, state=None):
                    if state is None:
                        h = torch.zeros(1, 2, 8, dtype=x.dtype, device=self.core.weight_hh_l0.device)  # <- ESP202
                        state = (h, h)
                    return self.core(x, state)
            """,
        ),
    )


def _is_given_device(made: Made) -> bool:
    """Whether the factory call itself names the device."""
    return any(arg.keyword is not None and arg.keyword.value == "device" for arg in made.node.args)
