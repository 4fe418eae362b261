"""ESP518: the log-prob of an action leaves out a head that acting samples, or averages over its parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from esper_audit.rulekit import (
    ACT,
    EVALUATE,
    LEFT_OUT,
    Category,
    Confidence,
    Hit,
    ModuleModel,
    NetworkClass,
    Note,
    Rule,
    Scoring,
    Severity,
    act_and_evaluate,
    acting,
    head_name,
    means_over_heads,
    returns,
    scored,
)


class JointLogProbIncomplete(Rule):
    """
    ## What it does
    Reports a factored policy whose acting and evaluating methods take log-probs of different sets of heads, and a
    log-prob that is averaged over the parts of the action (`log_prob.mean(-1)`) where it must be summed.

    ## Why it matters
    The probability of an action with several parts is the product over its parts, its logarithm the sum. A head that
    the scoring leaves out gets no gradient from the policy loss and stays as it was initialised, while its samples add
    noise to the returns that the other heads are trained on; where the stored log-prob has it, the ratio is also not 1.
    A mean over K parts is the K-th part of the sum: ratios are pulled towards 1, and clipping allows changes K times as
    large as intended.

    ## Example
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim):
            super().__init__()
            self.move_head = nn.Linear(obs_dim, 5)
            self.aim_head = nn.Linear(obs_dim, 9)

        def act(self, obs):
            move, aim = Categorical(logits=self.move_head(obs)), Categorical(logits=self.aim_head(obs))
            actions = move.sample(), aim.sample()
            return actions, move.log_prob(actions[0]) + aim.log_prob(actions[1])

        def evaluate_actions(self, obs, actions):
            move, aim = Categorical(logits=self.move_head(obs)), Categorical(logits=self.aim_head(obs))
            return move.log_prob(actions[0]), move.entropy() + aim.entropy()
    ```

    ## Use instead
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim):
            super().__init__()
            self.move_head = nn.Linear(obs_dim, 5)
            self.aim_head = nn.Linear(obs_dim, 9)

        def act(self, obs):
            move, aim = Categorical(logits=self.move_head(obs)), Categorical(logits=self.aim_head(obs))
            actions = move.sample(), aim.sample()
            return actions, move.log_prob(actions[0]) + aim.log_prob(actions[1])

        def evaluate_actions(self, obs, actions):
            move, aim = Categorical(logits=self.move_head(obs)), Categorical(logits=self.aim_head(obs))
            return move.log_prob(actions[0]) + aim.log_prob(actions[1]), move.entropy() + aim.entropy()
    ```

    ## Evidence
    On torch 2.13.0, two heads of 5 and 9 actions with standard-normal logits, weights unchanged: with one head left out
    of the scoring alone, ratios run from 1.4 to 165 instead of 1. Left out of both methods, the weight of the head has
    no gradient at all from the policy loss. With a mean, a joint ratio of 1.44 looks like 1.20, and PPO does not clip.
    The asker of nikhilbarhate99/PPO-PyTorch#49 averaged the probabilities of three parts and got bad results;
    DLR-RM/stable-baselines3#13 is where that project took up actions of several parts.

    ## References
    - https://docs.pytorch.org/docs/stable/distributions.html#independent, which sums over the last axes
    """

    code = "ESP518"
    name = "joint-log-prob-incomplete"
    summary = "the log-prob of an action lacks a head, or averages over its parts"
    category = Category.INTEGRATION
    severity = Severity.CRITICAL
    confidence = Confidence.HIGH
    probe = "act-evaluate"
    help = "sum the log-probs of all heads that were sampled, in one helper for both methods"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Heads that only one of two methods takes the log-prob of, and means over the parts of an action."""
        told: set[str] = set()
        for acted, evaluated in act_and_evaluate(net):
            if acted.complete and evaluated.complete and acted.steps.keys() & evaluated.steps.keys():
                for hit in (*self._missing(net, acted, evaluated), *self._missing(net, evaluated, acted)):
                    told.add(evaluated.name)
                    yield hit
        yield from self._fewer_heads(net, told)
        yield from self._means(net)
        yield from self._left_out(net)

    def _fewer_heads(self, net: NetworkClass, told: set[str]) -> Iterator[Hit]:
        """Evaluating methods whose log-prob depends on fewer heads than that of an acting one, or than its entropy."""
        for method in scored(net) if len(net.policy_heads) > 1 else ():
            event, mine = returns(method.frame), method.named("log_prob")
            if event is None or not mine or not all(output.is_known for output in mine) or method.name in told:
                continue
            has = method.heads(net, "log_prob")
            for other in (*(each for each in acting(net) if each.named("log_prob")), method):
                lacks = other.heads(net, "entropy" if other is method else "log_prob") - has
                if has and lacks:
                    names = ", ".join(f"`{name[1:]}`" for name in sorted(lacks))
                    which = "its entropy" if other is method else f"that of `{other.name}`"
                    yield Hit.at(event, f"the log-prob that `{method.name}` returns lacks {names}, which {which} has")
                    break

    def _left_out(self, net: NetworkClass) -> Iterator[Hit]:
        for method in (*scored(net), *acting(net)):
            event, sources = returns(method.frame), method.sources("log_prob")
            for atom, says in LEFT_OUT.items():
                if event is not None and atom in sources:
                    yield Hit.at(event, f"the log-prob that `{method.name}` returns {says}")

    def _missing(self, net: NetworkClass, has: Scoring, lacks: Scoring) -> Iterator[Hit]:
        missing = [head for head in has.events if head not in lacks.events]
        if missing:
            at, other = next(iter(lacks.events.values())), has.events[missing[0]]
            names = ", ".join(head_name(net, head) for head in missing)
            yield Hit.at(
                at,
                f"the log-probs of `{lacks.name}` lack {names}, which those of `{has.name}` have",
                notes=(Note(other.module, other.node, f"`{has.name}` takes it here"),),
            )

    def _means(self, net: NetworkClass) -> Iterator[Hit]:
        for frame in net.frames(ACT, EVALUATE):
            for event in means_over_heads(frame, "log_prob"):
                yield Hit.at(
                    event,
                    f"`{frame.function.name}` averages the log-probs of an action's parts; their sum is the joint",
                )

    VALID = (
        # all heads, in a loop that begins with the first
        """
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, sizes):
                super().__init__()
                self.heads = nn.ModuleList([nn.Linear(4, size) for size in sizes])

            def evaluate_actions(self, obs, actions):
                dists = [Categorical(logits=head(obs)) for head in self.heads]
                log_prob = dists[0].log_prob(actions[0])
                for dist, action in zip(dists[1:], actions[1:]):
                    log_prob = log_prob + dist.log_prob(action)
                return log_prob
        """,
        # one helper; heads of unknown origin; a loop over all
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical, Normal

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.move, self.aim = nn.Linear(4, n), nn.Linear(4, n)
                self.rest = nn.ModuleList([self.aim])
                self.more = nn.ModuleList(n)

            def _score(self, obs, actions):
                dists = Categorical(logits=self.move(obs)), Categorical(logits=self.aim(obs))
                return sum(dist.log_prob(action) for dist, action in zip(dists, actions))

            def act(self, obs, prior):
                actions = Categorical(logits=self.move(obs)).sample(), Categorical(logits=self.aim(obs)).sample()
                return actions, self._score(obs, actions)

            def evaluate(self, obs, actions):
                return self._score(obs, actions)

            def evaluate_actions(self, obs, actions):
                log_prob = Categorical(logits=self.move(obs)).log_prob(actions[0])
                for head, action in zip(self.rest, actions[1:]):
                    log_prob = log_prob + Categorical(logits=head(obs)).log_prob(action)
                return log_prob

            def evaluate_action(self, obs, actions):
                log_prob = Categorical(logits=self.move(obs)).log_prob(actions[0])
                for head, action in zip(self.more, actions[1:]):
                    log_prob = log_prob + Categorical(logits=head(obs)).log_prob(action)
                return log_prob
        """,
        # means that are no joint: over the batch, of a loss, over time, of an entropy, after the sum
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical, Independent, Normal

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.mu, self.pi = nn.Linear(4, n), nn.Linear(4, n)

            def act(self, obs):
                dist = Normal(self.mu(obs), 1.0)
                action = dist.sample()
                return action, dist.log_prob(action).sum(-1), dist.entropy().mean(-1)

            def evaluate_actions(self, obs, actions, advantages):
                dist = Normal(self.mu(obs), 1.0)
                log_prob = dist.log_prob(actions)
                loss = (log_prob * advantages).mean(-1)
                return log_prob.sum(-1).mean(-1), log_prob.mean(), log_prob.mean(0), loss

            def eval_actions(self, obs, actions):
                dist = Independent(Normal(self.mu(obs), 1.0), 1)
                return dist.log_prob(actions).mean(-1)

            def get_log_prob(self, obs, actions):
                dist = Categorical(logits=self.mu(obs))
                steps = torch.stack([dist.log_prob(action) for action in actions], 1)
                return dist.log_prob(actions).mean(-1), steps.mean(1), torch.mean(**actions)
        """,
    )
    INVALID = (
        # a term left out, a term twice, a sum that is written over, with formulas of the project's own
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.move_head, self.aim_head = nn.Linear(4, n), nn.Linear(4, n)

            def _scores(self, obs):
                return [head(obs).log_softmax(-1) for head in (self.move_head, self.aim_head)]

            def _score(self, log_probs, action):
                return log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)

            def evaluate_actions(self, obs, actions):
                move, aim = self.move_head(obs).log_softmax(-1), self.aim_head(obs).log_softmax(-1)
                log_prob = self._score(move, actions[..., 0]) + self._score(move, actions[..., 1])
                entropy = -(move.exp() * move).sum(-1) - (aim.exp() * aim).sum(-1)
                return log_prob, entropy  # <- ESP518

            def evaluate(self, obs, actions):
                move, aim = self.move_head(obs).log_softmax(-1), self.aim_head(obs).log_softmax(-1)
                log_prob = self._score(move, actions[..., 0])
                log_prob = self._score(aim, actions[..., 1])
                entropy = -(move.exp() * move).sum(-1) - (aim.exp() * aim).sum(-1)
                return log_prob, entropy  # <- ESP518
        """,
        # a slice, a filter, a loop that ends early, a loop that writes over
        """
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, sizes):
                super().__init__()
                self.heads = nn.ModuleDict({name: nn.Linear(4, size) for name, size in sizes.items()})

            def _dists(self, obs):
                return {name: Categorical(logits=head(obs)) for name, head in self.heads.items()}

            def act(self, obs, actions):
                pairs = list(self._dists(obs).items())
                log_prob = sum(dist.log_prob(actions[name]) for name, dist in pairs[:-1])
                return log_prob  # <- ESP518

            def evaluate(self, obs, actions):
                dists = self._dists(obs)
                log_prob = sum(dist.log_prob(actions[name]) for name, dist in dists.items() if name != "aim")
                return log_prob  # <- ESP518

            def evaluate_actions(self, obs, actions):
                log_prob = 0.0
                for name, dist in self._dists(obs).items():
                    log_prob = log_prob + dist.log_prob(actions[name])
                    break
                return log_prob  # <- ESP518

            def eval_actions(self, obs, actions):
                for name, dist in self._dists(obs).items():
                    log_prob = dist.log_prob(actions[name])
                return log_prob  # <- ESP518
        """,
        # a head too few, in a base class; a head too many
        """
        from torch import nn
        from torch.distributions import Categorical

        class Base(nn.Module):
            def act(self, obs):
                move, aim = Categorical(logits=self.move(obs)), Categorical(logits=self.aim(obs))
                actions = move.sample(), aim.sample()
                return actions, move.log_prob(actions[0]) + aim.log_prob(actions[1])

        class Few(Base):
            def __init__(self, n):
                super().__init__()
                self.move, self.aim = nn.Linear(4, n), nn.Linear(4, n)

            def evaluate(self, obs, actions):
                return Categorical(logits=self.move(obs)).log_prob(actions[0])  # <- ESP518

        class Many(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.move, self.aim = nn.Linear(4, n), nn.Linear(4, n)

            def _log_prob(self, head, obs, action):
                return head(obs).log_softmax(-1).gather(-1, action)  # <- ESP518

            def step(self, obs):
                action = Categorical(logits=self.move(obs)).sample()
                return action, self._log_prob(self.move, obs, action)

            def evaluate_actions(self, obs, actions):
                move, aim = Categorical(logits=self.move(obs)), Categorical(logits=self.aim(obs))
                return move.log_prob(actions[0]) + aim.log_prob(actions[1])
        """,
        # means for sums
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical, Normal

        class Means(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.move, self.aim = nn.Linear(4, n), nn.Linear(4, n)

            def _joint(self, dists, actions):
                first, second = dists[0].log_prob(actions[0]), dists[1].log_prob(actions[1])
                return torch.stack([first, second], dim=-1).mean(dim=-1)  # <- ESP518

            def act(self, obs):
                dists = Categorical(logits=self.move(obs)), Categorical(logits=self.aim(obs))
                actions = dists[0].sample(), dists[1].sample()
                return actions, self._joint(dists, actions)

            def evaluate(self, obs, actions):
                move, aim = Categorical(logits=self.move(obs)), Categorical(logits=self.aim(obs))
                both = torch.stack((move.log_prob(actions[0]), aim.log_prob(actions[1])))
                return both.mean(0)  # <- ESP518

        class Gaussian(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.mu = nn.Linear(4, n)

            def evaluate_actions(self, obs, actions):
                log_probs = Normal(self.mu(obs), 1.0).log_prob(actions)
                return torch.mean(log_probs, -1)  # <- ESP518
        """,
    )
