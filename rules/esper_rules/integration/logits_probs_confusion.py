"""ESP506: a distribution gets logits where it wants probabilities, or probabilities where it wants logits."""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Event,
    Hit,
    Insert,
    ModuleModel,
    NetworkClass,
    Repair,
    Replace,
    Rule,
    Severity,
    Val,
    dotted,
    scores_actions,
)

_OF_PROBS_OR_LOGITS = ("Categorical", "OneHotCategorical", "OneHotCategoricalStraightThrough", "Bernoulli")

_SOFTMAXES = frozenset(
    {f"{home}.{name}" for home in ("torch", "torch.nn.functional") for name in ("softmax", "log_softmax")}
    | {"torch.nn.Softmax", "torch.nn.LogSoftmax"}
)
_SOFTMAX_METHODS = frozenset({".softmax", ".log_softmax"})


class LogitsProbsConfusion(Rule):
    """
    ## What it does
    Reports a `Categorical`, `OneHotCategorical` or `Bernoulli` that gets the output of a linear layer as its first
    argument or as `probs=`, and one that gets the output of a softmax or sigmoid as `logits=`; and a softmax or
    log-softmax of a policy's probabilities, which is the same written by hand. Only what certainly is one or the other
    counts: what a branch may have changed, or a function that is not known, is left alone, and so are
    log-probabilities, which are logits.

    ## Why it matters
    The first argument of these classes is `probs`. A linear layer gives any real numbers. Where one is negative and
    another positive, torch raises, and that is the good case. Where all are positive, they are divided by their sum:
    the policy is nearly uniform and takes no notice of differences that should decide. Where all are negative, the
    division turns the order round: the action with the lowest output becomes the likeliest. The other way round, a
    second softmax sees numbers between 0 and 1 and cannot get further apart than a factor of e: the policy stays
    random, its entropy high, and no learning rate helps.

    ## Example
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def act(self, obs):
            return Categorical(self.action_head(obs)).sample()
    ```

    ## Use instead
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def act(self, obs):
            return Categorical(logits=self.action_head(obs)).sample()
    ```

    ## Fix
    Unsafe: `logits=` before the argument, or the other keyword in place of the one that is there. The policy becomes
    another one, which is the point; one that was trained the wrong way has to be trained again.

    ## Evidence
    On torch 2.13.0, outputs (8, 1, 0.5) as probabilities give (0.84, 0.11, 0.05), as logits (0.999, 0.001, 0.001);
    (-3, -1, -0.5) give (0.67, 0.22, 0.11) where the softmax gives (0.05, 0.36, 0.59). Of 1000 fresh heads with one
    random observation each, 121 passed validation. A softmax that is sure (1, 0, 0, 0) given as logits leaves that
    action a probability of 0.48, and `Bernoulli(logits=sigmoid(x))` stays between 0.5 and 0.73. Of six logits with a
    standard deviation of 10, the likeliest action has 0.92 on average after one softmax and 0.33 after two; more than
    0.352 is out of reach. What the first argument
    means was asked in tristandeleu/pytorch-maml-rl#32; the confusion is reported in thu-ml/tianshou#1192 and
    rlworkgroup/garage#1357. In OpenRLHF/OpenRLHF#473 a second softmax is taken out, which raised no error and acted as
    a temperature.

    ## References
    - https://docs.pytorch.org/docs/stable/distributions.html#categorical
    """

    code = "ESP506"
    name = "logits-probs-confusion"
    summary = "a distribution takes logits for probabilities, or probabilities for logits"
    category = Category.INTEGRATION
    severity = Severity.CRITICAL
    confidence = Confidence.HIGH
    probe = "policy-range"
    fixable = "unsafe"
    help = "pass what a linear layer gives as `logits=`, and what a softmax or sigmoid gives as `probs=`"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Distributions that always get the wrong one of the two, whoever calls, and softmaxes of a softmax."""
        yield from self._twice(net)
        built: dict[cst.CSTNode, list[Event]] = {}
        for _, event, _ in net.events("dist"):
            if event.name.rpartition(".")[2] in _OF_PROBS_OR_LOGITS:
                built.setdefault(event.node, []).append(event)
        for events in built.values():
            wrong = [event for event in events if _is_wrong(*_given(event)) and not _is_choice(event, built)]
            if not wrong:
                continue
            keyword, _ = _given(wrong[0])
            says = (
                "a linear layer's output is taken for probabilities: negative numbers raise or turn the order round"
                if keyword == "probs"
                else "probabilities are taken for logits: squashed twice, the policy stays close to uniform"
            )
            yield Hit(
                wrong[0].node,
                says,
                module=wrong[0].module,
                symbol=wrong[0].function.qualified,
                repair=_repair(wrong[0], *_given(wrong[0])) if len(wrong) == len(events) else None,
            )

    def _twice(self, net: NetworkClass) -> Iterable[Hit]:
        built: dict[cst.CSTNode, list[tuple[Event, Val, bool]]] = {}
        for _, event, stack in net.hot_events("call"):
            subject = _softened(event)
            if subject is not None:
                sure = "squashed" in subject.tags or ("may_squash" in subject.tags and not _is_tested(event, stack))
                built.setdefault(event.node, []).append((event, subject, sure))
        for calls in built.values():
            if all(sure and scores_actions(net, subject) for _, subject, sure in calls):
                maybe = any("may_squash" in subject.tags for _, subject, _ in calls)
                yield Hit.at(
                    calls[0][0],
                    "probabilities go through another softmax: the policy stays close to uniform",
                    confidence=Confidence.MEDIUM if maybe else None,
                )

    VALID = (
        """
        import torch
        import torch.nn.functional as F
        from torch import nn
        from torch.distributions import Bernoulli, Categorical, Normal, OneHotCategorical, RelaxedOneHotCategorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.actor = nn.Linear(4, n)
                self.probs = nn.Sequential(nn.Linear(4, n), nn.Softmax(dim=-1))
                self.gate = nn.Linear(4, 1)
                self.encoder = nn.Sequential(nn.Linear(4, n), nn.ReLU())

            def act(self, x):
                return Categorical(F.softmax(self.actor(x), dim=-1)).sample()

            def sample(self, x):
                return Categorical(logits=self.actor(x).log_softmax(-1)).sample()

            def get_action(self, x):
                return Categorical(self.probs(x)).sample()

            def predict(self, x):
                return Categorical(None, self.actor(x)).sample(), Bernoulli(torch.sigmoid(self.gate(x))).sample()

            def choose_action(self, x):
                return OneHotCategorical(probs=self.actor(x).exp()).sample()

            def select_action(self, x):
                return Categorical(logits=torch.log(self.actor(x).softmax(-1) + 1e-8)).sample()

            def step(self, x):
                return Normal(self.actor(x), 1.0).sample(), RelaxedOneHotCategorical(0.5, self.actor(x)).sample()

            def pi(self, x):
                x = self.actor(x)
                x.exp_()
                return Categorical(x).sample()

            def choose(self, x, kind):
                return Categorical(**{kind: self.actor(x)}).sample()

            def explore(self, x):
                return Categorical(self.encoder(x)).sample(), Categorical(self.actor(x).clamp(min=1e-3)).sample()
        """,
        """
        import torch
        from entmax import sparsemax
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n, discrete, squash, sizes):
                super().__init__()
                self.discrete = discrete
                self.head = nn.Linear(4, n)
                layers = [nn.Linear(4, n)]
                if squash:
                    layers.append(nn.Softmax(-1))
                self.net = nn.Sequential(*layers)
                self.last = nn.Linear(4, n) if squash else nn.Softmax(-1)
                self.deep = nn.Sequential(nn.Linear(4, n), nn.Sequential(self.last))
                self.heads = nn.ModuleList([nn.Linear(4, n)])

            def act(self, x):
                x = self.head(x)
                if self.discrete:
                    x = torch.softmax(x, -1)
                return Categorical(x).sample()

            def sample(self, x):
                return Categorical(sparsemax(self.head(x))).sample()

            def get_action(self, x):
                return Categorical(self.net(x)).sample(), Categorical(logits=self.net(x)).sample()

            def predict(self, x):
                return Categorical(self.last(x)).sample(), Categorical(self.deep(x)).sample()

            def choose_action(self, x):
                return Categorical(self.heads(x)).sample(), Categorical(logits=self.heads[0](x) / 2).sample()
        """,
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Mixin:
            def __init__(self, are_logits):
                self.are_logits = are_logits

            def act(self, x):
                out = self.compute(x)
                if self.are_logits:
                    return Categorical(logits=out).sample()
                return Categorical(probs=out).sample()

            def sample(self, x):
                parts = torch.split(self.compute(x), [2, 2], dim=-1)
                if self.are_logits:
                    return [Categorical(logits=part).sample() for part in parts]
                return [Categorical(part).sample() for part in parts]

        class Policy(Mixin, nn.Module):
            def __init__(self, n):
                nn.Module.__init__(self)
                Mixin.__init__(self, True)
                self.head = nn.Linear(4, n)

            def compute(self, x):
                return self.head(x)
        """,
        """
        from torch import nn
        from torch.distributions import Categorical

        class FixedCategorical(Categorical):
            def __init__(self, probs=None, logits=None):
                super().__init__(probs=probs, logits=logits)

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)

            def act(self, x):
                return FixedCategorical(logits=self.head(x)).sample()

            def get_action(self, x):
                return FixedCategorical(self.head(x).softmax(-1)).sample()
        """,
        # a softmax for something else, one of logarithms, and one that only some callers give probabilities
        """
        import torch
        import torch.nn.functional as F
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.gate = nn.Linear(4, 4)
                self.head = nn.Linear(4, n)
                self.perhaps = nn.Sequential(nn.Linear(4, n), *([nn.Softmax(-1)] if n > 1 else []))
                self.last = n == 1

            def _soften(self, x):
                return torch.softmax(x, dim=-1)

            def act(self, x):
                x = x * self.gate(x).softmax(-1).softmax(-1)
                p = self._soften(self.head(x))
                again = self.head(x).log_softmax(-1).softmax(-1)
                return torch.multinomial(p, 1), torch.softmax(torch.log(p) / 2, -1), again

            def explore(self, x):
                if self.last:
                    return self._soften(self.perhaps(x))
                return self.perhaps(x)

            def evaluate(self, x, action):
                self._soften(self.head(x).softmax(-1))
                return F.log_softmax(self.head(x), -1).gather(-1, action), torch.softmax(), F.softmax(input=x, dim=-1)
        """,
    )
    INVALID = (
        """
        import torch
        import torch.nn.functional as F
        from torch import distributions as D
        from torch import nn

        Dist = D.Categorical

        def layer_init(layer, std=1.0):
            nn.init.orthogonal_(layer.weight, std)
            return layer

        class Noisy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.weight = nn.Parameter(torch.zeros(n, 4))

            def forward(self, x):
                return F.linear(x, self.weight)

        class Base(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.actor = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Sequential(layer_init(nn.Linear(4, n))))
                self.gate = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
                self.noisy = Noisy(n)

            def _dist(self, x):
                return D.Categorical(probs=x)  # <- ESP506

        class Policy(Base):
            def forward(self, x):
                return self.actor(x)

            def act(self, x):
                return self._dist(self.forward(x) / 2.0).sample()

            def sample(self, x, mask):
                logits = self(x).masked_fill(~mask, -1e9)
                return D.OneHotCategorical(logits.unsqueeze(0)).sample()  # <- ESP506

            def predict(self, x):
                probs = F.softmax(self(x), dim=-1)
                return D.Categorical(logits=probs.squeeze(0)).sample()  # <- ESP506

            def get_action(self, x):
                return D.Bernoulli(logits=self.gate(x)).sample()  # <- ESP506

            def choose_action(self, x):
                dist = D.Categorical(logits=self(x))
                action = D.Categorical(self.noisy(x)).sample()  # <- ESP506
                return action, D.Categorical(logits=dist.probs).sample()  # <- ESP506

            def select_action(self, x):
                return D.Categorical(None, torch.sigmoid(self(x))).sample()  # <- ESP506
        """,
        """
        from torch import nn
        from torch.distributions import Categorical

        class FixedCategorical(Categorical):
            pass

        class Masked(Categorical):
            def __init__(self, probs):
                super().__init__(probs)  # <- ESP506

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)

            def act(self, x):
                return Masked(self.head(x)).sample()

            def _choose(self, x):
                return Categorical(x).sample()  # <- ESP506

            def get_action(self, x):
                return self._choose(self.head(x))

            def sample(self, x):
                return self._choose(self.head(x).softmax(-1))
        """,
        Case(
            """
            import torch
            from torch import nn
            from torch.distributions import Bernoulli, Categorical

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.head = nn.Linear(4, n)

                def act(self, x):
                    return Categorical(self.head(x)).sample()  # <- ESP506

                def sample(self, x):
                    return Categorical(probs=self.head(x), validate_args=False).sample()  # <- ESP506

                def step(self, x):
                    return Categorical(None, torch.sigmoid(self.head(x))).sample()  # <- ESP506

                def get_action(self, x):
                    return Bernoulli(logits=torch.sigmoid(self.head(x))).sample()  # <- ESP506

                def predict(self, x, mask):
                    p = torch.softmax(self.head(x), -1).masked_fill(~mask, -1e9)
                    return Categorical(logits=p).sample()  # <- ESP506
            """,
            fixed="""
            import torch
            from torch import nn
            from torch.distributions import Bernoulli, Categorical

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.head = nn.Linear(4, n)

                def act(self, x):
                    return Categorical(logits=self.head(x)).sample()  # <- ESP506

                def sample(self, x):
                    return Categorical(logits=self.head(x), validate_args=False).sample()  # <- ESP506

                def step(self, x):
                    return Categorical(None, torch.sigmoid(self.head(x))).sample()  # <- ESP506

                def get_action(self, x):
                    return Bernoulli(probs=torch.sigmoid(self.head(x))).sample()  # <- ESP506

                def predict(self, x, mask):
                    p = torch.softmax(self.head(x), -1).masked_fill(~mask, -1e9)
                    return Categorical(logits=p).sample()  # <- ESP506
            """,
        ),
        # twice by hand: in a helper, in an object of the project, by layers
        """
        import torch
        import torch.nn.functional as F
        from torch import nn

        class Masked:
            def __init__(self, logits, mask):
                self.log_probs = torch.log_softmax(logits.masked_fill(~mask, -1e30), dim=-1)  # <- ESP506

            def log_prob(self, action):
                return self.log_probs.gather(-1, action)

        class Base(nn.Module):
            def _score(self, x, action):
                return F.log_softmax(x, dim=-1).gather(-1, action)  # <- ESP506

        class Policy(Base):
            def __init__(self, n, sizes):
                super().__init__()
                self.actor = nn.Sequential(nn.Linear(4, n), nn.Softmax(dim=-1))
                self.last = nn.LogSoftmax(dim=-1)
                layers = [nn.Linear(4, n)]
                if n > 1:
                    layers.append(nn.Softmax(-1))
                self.perhaps = nn.Sequential(*layers)
                self.heads = nn.ModuleDict({k: nn.Linear(4, size) for k, size in sizes.items()})

            def forward(self, x):
                return {k: head(x).softmax(-1) for k, head in self.heads.items()}

            def evaluate(self, x, action, masks):
                dists = {k: Masked(each, masks[k]) for k, each in self(x).items()}
                return torch.stack([dist.log_prob(action[k]) for k, dist in dists.items()]).sum(0)

            def evaluate_actions(self, x, action):
                return self._score(self.actor(x), action)

            def get_log_prob(self, x, action):
                return self.last(self.actor(x)).gather(-1, action)  # <- ESP506

            def act(self, x):
                return torch.multinomial(torch.softmax(self.actor(x), -1), 1)  # <- ESP506

            def sample(self, x):
                return torch.multinomial(torch.softmax(self.perhaps(x), -1), 1)  # <- ESP506
        """,
    )


def _softened(event: Event) -> Val | None:
    """What goes into a softmax or log-softmax."""
    if event.name in _SOFTMAX_METHODS:
        return event.target
    return event.args[0] if event.name in _SOFTMAXES and event.args else None


def _is_tested(event: Event, stack: tuple[Event, ...]) -> bool:
    """Whether a test stands around a call: where a softmax may be left out, it may ask for just that."""
    return any(True for each in (event, *stack) for _ in each.branches_around)


def _given(event: Event) -> tuple[str, Val]:
    """What a distribution is made of, and which of the two it takes it for."""
    for keyword, position in (("probs", 0), ("logits", 1)):
        value = event.kwargs.get(keyword, event.args[position] if len(event.args) > position else None)
        if value is not None and value.kind != "none":
            return keyword, value
    return "", Val()


def _is_wrong(keyword: str, value: Val) -> bool:
    return ("affine" if keyword == "probs" else "squashed") in value.tags


def _is_choice(event: Event, built: dict[cst.CSTNode, list[Event]]) -> bool:
    """Whether the same function can take the same value for the other of the two: then a flag says what it is."""
    keyword, value = _given(event)
    return any(
        other.function.node is event.function.node
        and _given(other)[0] != keyword
        and _given(other)[1].origins == value.origins
        and _given(other)[1].tags & {"affine", "squashed"} == value.tags & {"affine", "squashed"}
        for events in built.values()
        for other in events
    )


def _repair(event: Event, keyword: str, value: Val) -> Repair | None:
    """The other keyword, where the call is that of torch's own class and not that of a class derived from it."""
    call = event.node
    if not isinstance(call, cst.Call) or event.module.qualify(dotted(call.func)) != event.name:
        return None
    why = "the policy becomes another one: train it again"
    for arg in call.args:
        if arg.keyword is not None and arg.keyword.value == keyword and not (keyword == "logits" and value.masked):
            other = "logits" if keyword == "probs" else "probs"
            return Repair(f"say `{other}=` instead of `{keyword}=`", (Replace(arg.keyword, other),), why)
    if keyword == "probs" and len([arg for arg in call.args if arg.keyword is None]) == 1:
        return Repair("say `logits=`", (Insert(call.args[0].value, "logits=", before=True),), why)
    return None
