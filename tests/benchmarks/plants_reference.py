"""What is planted into the reference implementation: pairs of old and new text, the old one there exactly once."""

from __future__ import annotations

from planting import HERE, Base, Edit, Plants, Twins

# ruff: noqa: E501, Q003 - a fault is text to be replaced, and reads best in one line


def net(old: str, new: str) -> Edit:
    """A change of the network."""
    return "network.py", old, new


def dist(old: str, new: str) -> Edit:
    """A change of the distribution."""
    return "distributions.py", old, new


FILL = "wide.masked_fill(~mask, MASKED_LOGIT)"
SOFTMAX = f"torch.log_softmax({FILL}, dim=-1)"
WIDE = "wide = logits.to(torch.promote_types(logits.dtype, torch.float32))"
CONSTANT = "MASKED_LOGIT = -1e30"
ENTROPY = "-(self.probs * self.log_probs).sum(dim=-1)"
GATHER = "self.log_probs.gather(-1, index).squeeze(-1)"
ROW_CHECK = '            expect_all(mask.any(dim=-1), f"{name} mask: expected a valid action in every row, got a row without one")\n'
MASK_CHECK = '        expect(f"{name} mask", mask, tuple(logits.shape), torch.bool)\n'
ACTION_CHECK = """            expect_all(
                self.mask.gather(-1, index), f"{self.name} action: expected a valid one, got one the mask forbids"
            )
"""

EVALUATE = "logits, value, hidden = self(observations, hidden, episode_starts)"
ACT = "logits, value, hidden = self(observation.unsqueeze(1), hidden, episode_start)"
EVALUATE_HEADS = "heads = self.distributions(logits, masks)"
ACT_HEADS = "heads = self.distributions({name: each[:, 0] for name, each in logits.items()}, masks)"
ACTIONS = "actions = {name: head.mode() if deterministic else head.sample() for name, head in heads.items()}"
JOINT = "log_prob = torch.stack([head.log_prob(actions[name]) for name, head in heads.items()]).sum(dim=0)\n"
EVALUATE_JOINT = JOINT + "        entropy"
ACT_JOINT = JOINT + "        return"
JOINT_ENTROPY = "entropy = torch.stack([head.entropy() for head in heads.values()]).sum(dim=0)"
EVALUATION = "return Evaluation(log_prob,"
DECISION = "return Decision(actions, log_prob, value[:, 0], hidden)"
ZEROS = "return weight.new_zeros(shape), weight.new_zeros(shape)"
STATE = "state = h.masked_fill(start, 0.0), c.masked_fill(start, 0.0)"
START = "start = episode_starts[:, t].view(1, -1, 1)  # [1, B, 1], against [L, B, H]"
STEP = "step, (h, c) = self.lstm(features[:, t : t + 1], state)\n"
STEPS = "torch.cat(steps, dim=1)"
NO_STARTS = "            if episode_starts is None:\n"
VALUE = "value = self.value_head(core).squeeze(-1)"
TRUNK = "features = self.trunk(observations)"
NORM = "        core = self.core_norm(core)\n"
LOGITS = "logits = {name: head(core) for name, head in self.heads.items()}"
LSTM = "self.lstm = nn.LSTM(trunk_dim, hidden_dim, num_layers=layers, batch_first=True)"
RELU = "nn.LayerNorm(trunk_dim), nn.ReLU())"
HEADS = "self.heads = nn.ModuleDict({name: make_head(hidden_dim, size) for name, size in self.head_sizes.items()})"
VALUE_HEAD = "self.value_head = make_head(hidden_dim, 1)\n"
GATES = """                for gate in parameter.chunk(4):
                    nn.init.orthogonal_(gate)
"""
FORGET = """                if name.startswith("bias_ih"):
                    parameter.chunk(4)[1].fill_(1.0)
"""
HEAD_GAIN = (
    "        for head in self.heads.values():\n            nn.init.orthogonal_(last_layer(head).weight, gain=0.01)\n"
)
NO_GRAD = "    @torch.no_grad()\n    def get_action("
INFERENCE = """        with torch.inference_mode():
            logits, value, hidden = self(observation.unsqueeze(1), hidden, episode_start)
"""
NO_CHECKS = (dist(MASK_CHECK, ""), dist(ROW_CHECK, ""), dist(ACTION_CHECK, ""))
NEG_INF = dist(CONSTANT, "MASKED_LOGIT = -math.inf")


def at_init(after: str, more: str) -> Edit:
    """A line added to the constructor, behind another one."""
    return net(after, f"{after.rstrip()}\n        {more}\n" if after.endswith("\n") else f"{after}\n        {more}")


PLANTED: Plants = (
    ("1", "drop mask in evaluate", "act-evaluate", (
        ("ones_like(mask)", (net(EVALUATE_HEADS, "heads = self.distributions(logits, {k: torch.ones_like(m) for k, m in masks.items()})"),)),
        ("Categorical(logits)", (net(EVALUATE_JOINT, "log_prob = sum(torch.distributions.Categorical(logits=logits[n]).log_prob(actions[n]) for n in heads)\n        entropy"),)),
        ("log_softmax(logits)", (net(EVALUATE_JOINT, "log_prob = sum(logits[n].log_softmax(-1).gather(-1, actions[n].unsqueeze(-1)).squeeze(-1) for n in heads)\n        entropy"),)),
    )),
    ("2", "invert mask", "mask-semantics", (
        ("masked_fill(mask)", (dist(FILL, "wide.masked_fill(mask, MASKED_LOGIT)"),)),
        ("where(mask, NEG, x)", (dist(FILL, "torch.where(mask, MASKED_LOGIT, wide)"),)),
        ("mask == 1, unchecked", (dist(FILL, "wide.masked_fill(mask == 1, MASKED_LOGIT)"), *NO_CHECKS)),
    )),
    ("3", "constant -1e9 in half precision", "mask-dtype", (
        ("module constant", (dist(CONSTANT, "MASKED_LOGIT = -1e9"), dist(WIDE, "wide = logits"))),
        ("literal", (dist(WIDE, "wide = logits"), dist(FILL, "wide.masked_fill(~mask, -1e9)"))),
        ("additive", (dist(WIDE, "wide = logits"), dist(FILL, "wide + (1 - mask.to(wide.dtype)) * -1e9"))),
    )),
    ("4", "weak constant -5", "mask-semantics", (
        ("module constant", (dist(CONSTANT, "MASKED_LOGIT = -5.0"),)),
        ("additive", (dist(FILL, "wide + (1 - mask.float()) * -5.0"),)),
        ("unchecked", (dist(CONSTANT, "MASKED_LOGIT = -5.0"), *NO_CHECKS)),
        ("scaled by temperature", (dist(SOFTMAX, "torch.log_softmax(wide.masked_fill(~mask, -50.0) / 10.0, dim=-1)"),)),
    )),
    ("5", "-inf and p * log p", "mask-entropy", (
        ("-math.inf", (NEG_INF,)),
        ('float("-inf")', (dist(FILL, 'wide.masked_fill(~mask, float("-inf"))'),)),
        ("log(mask)", (dist(FILL, "wide + mask.to(wide.dtype).log()"),)),
    )),
    ("6", "-inf and p * log p * mask", "mask-entropy", (
        ("product", (NEG_INF, dist(ENTROPY, "-(self.probs * self.log_probs * self.mask).sum(dim=-1)"))),
        ("einsum", (NEG_INF, dist(ENTROPY, '-torch.einsum("...n,...n,...n->...", self.probs, self.log_probs, self.mask.to(self.probs.dtype))'))),
    )),
    ("7", "entropy guarded after the product", "mask-entropy", (
        ("where(p > 0)", (NEG_INF, dist(ENTROPY, "-torch.where(self.probs > 0, self.probs * self.log_probs, 0.0).sum(dim=-1)"))),
        ("nan_to_num", (NEG_INF, dist(ENTROPY, "-(self.probs * self.log_probs).nan_to_num(0.0).sum(dim=-1)"))),
        ("masked_fill", (NEG_INF, dist(ENTROPY, "-(self.probs * self.log_probs).masked_fill(~self.mask, 0.0).sum(dim=-1)"))),
    )),
    ("8", "argmax on raw logits", "mask-semantics", (
        ("logits", (net(ACTIONS, ACTIONS.replace("head.mode()", "logits[name][:, 0].argmax(-1)")),)),
        ("Categorical(raw).probs", (net(ACTIONS, ACTIONS.replace("head.mode()", "torch.distributions.Categorical(logits=logits[name][:, 0]).probs.argmax(-1)")),)),
        ("attribute, unchecked", (dist("self.mask = mask", "self.mask = mask\n        self.raw = wide"), dist("self.log_probs.argmax(dim=-1)", "self.raw.argmax(dim=-1)"), *NO_CHECKS)),
    )),
    ("9", "log-prob keeps its dimension", "output-shape", (
        ("no squeeze", (dist(GATHER, "self.log_probs.gather(-1, index)"),)),
        ("squeeze(1)", (dist(GATHER, "self.log_probs.gather(-1, index).squeeze(1)"),)),
        ("bare squeeze", (dist(GATHER, "self.log_probs.gather(-1, index).squeeze()"),)),
    )),
    ("10", "shape of the value", "output-shape", (
        ("bare squeeze", (net(VALUE, "value = self.value_head(core).squeeze()"),)),
        ("no squeeze", (net(VALUE, "value = self.value_head(core)"),)),
        ("view(-1)", (net("return Evaluation(log_prob, value,", "return Evaluation(log_prob, value.reshape(-1),"),)),
    )),
    ("11", "head missing in evaluate's log-prob", "act-evaluate", (
        ("slice", (net(EVALUATE_JOINT, EVALUATE_JOINT.replace("heads.items()]", "list(heads.items())[:-1]]")),)),
        ("key skipped", (net(EVALUATE_JOINT, EVALUATE_JOINT.replace("heads.items()]", 'heads.items() if name != "second"]')),)),
        ("break", (net(EVALUATE_JOINT, "log_prob = 0\n        for name, head in heads.items():\n            log_prob = log_prob + head.log_prob(actions[name])\n            break\n        entropy"),)),
    )),
    ("12", "head missing in both log-probs", "log-prob-normalised", (
        ("slice", (net(EVALUATE_JOINT, EVALUATE_JOINT.replace("heads.items()]", "list(heads.items())[:-1]]")), net(ACT_JOINT, ACT_JOINT.replace("heads.items()]", "list(heads.items())[:-1]]")))),
        ("key skipped", (net(EVALUATE_JOINT, EVALUATE_JOINT.replace("heads.items()]", 'heads.items() if name != "first"]')), net(ACT_JOINT, ACT_JOINT.replace("heads.items()]", 'heads.items() if name != "first"]')))),
    )),
    ("13", "entropy overwritten", "entropy-consistent", (
        ("last head only", (net(JOINT_ENTROPY, "entropy = list(heads.values())[-1].entropy()"),)),
        ("= for +=", (net(JOINT_ENTROPY, "for head in heads.values():\n            entropy = head.entropy()"),)),
        ("mean of the heads", (net(JOINT_ENTROPY, JOINT_ENTROPY.replace(".sum(dim=0)", ".mean(dim=0)")),)),
    )),
    ("14", "log-prob detached in evaluate", "gradient-flow", (
        ("detach", (net(EVALUATION, "return Evaluation(log_prob.detach(),"),)),
        (".data", (net(EVALUATION, "return Evaluation(log_prob.data,"),)),
        ("no_grad block", (net(EVALUATE_JOINT, EVALUATE_JOINT.replace("log_prob =", "with torch.no_grad():\n            log_prob =", 1)),)),
        ("logits detached", (net(EVALUATE_JOINT, EVALUATE_JOINT.replace("log_prob =", "frozen = self.distributions({k: v.detach() for k, v in logits.items()}, masks)\n        log_prob =", 1).replace("in heads.items()", "in frozen.items()")),)),
    )),
    ("15", "log-prob rebuilt", "gradient-flow", (
        ("torch.tensor(list)", (net(EVALUATION, "return Evaluation(torch.tensor(log_prob.tolist()),"),)),
        ("as_tensor(numpy)", (net(EVALUATION, "return Evaluation(torch.as_tensor(log_prob.detach().cpu().numpy()),"),)),
    )),
    ("16", "trunk detached for the critic", "shared-features", (
        ("detach", (net(VALUE, "value = self.value_head(core.detach()).squeeze(-1)"),)),
        ("no_grad block", (net(VALUE, "with torch.no_grad():\n            frozen = core.clone()\n        value = self.value_head(frozen).squeeze(-1)"),)),
        (".data", (net(VALUE, "value = self.value_head(core.data).squeeze(-1)"),)),
    )),
    ("17", "hidden without dtype", "hidden-dtype", (
        ("zeros", (net(ZEROS, "return torch.zeros(shape, device=weight.device), torch.zeros(shape, device=weight.device)"),)),
        ("zeros().to(device)", (net(ZEROS, "return torch.zeros(*shape).to(weight.device), torch.zeros(*shape).to(weight.device)"),)),
        ("dtype=float32", (net(ZEROS, "return weight.new_zeros(shape, dtype=torch.float32), weight.new_zeros(shape, dtype=torch.float32)"),)),
    )),
    ("18", "hidden without device", "hidden-device", (
        ("zeros", (net(ZEROS, "return torch.zeros(shape, dtype=weight.dtype), torch.zeros(shape, dtype=weight.dtype)"),)),
        ('.to("cpu")', (net(ZEROS, 'return weight.new_zeros(shape).to("cpu"), weight.new_zeros(shape).to("cpu")'),)),
        ("device=cpu", (net(ZEROS, 'return torch.zeros(shape, dtype=weight.dtype, device="cpu"), weight.new_zeros(shape)'),)),
    )),
    ("19", "hidden by expand", "initial-hidden-alias", (
        ("expand", (net(ZEROS, "z = weight.new_zeros(shape[0], 1, shape[2])\n        return z.expand(shape), z.clone().expand(shape)"),)),
        ("expand_as", (net(ZEROS, "z = weight.new_zeros(shape[0], 1, shape[2])\n        return z.expand_as(weight.new_zeros(shape)), z.clone().expand_as(weight.new_zeros(shape))"),)),
        ("broadcast_to", (net(ZEROS, "z = weight.new_zeros(1, 1, 1)\n        return torch.broadcast_to(z, shape), torch.broadcast_to(z.clone(), shape)"),)),
    )),
    ("20", "h and c are one tensor", "initial-hidden-alias", (
        ("(z, z)", (net(ZEROS, "z = weight.new_zeros(shape)\n        return z, z"),)),
        ("(z,) * 2", (net(ZEROS, "return (weight.new_zeros(shape),) * 2"),)),
        ("h = c = zeros", (net(ZEROS, "h = c = weight.new_zeros(shape)\n        return h, c"),)),
    )),
    ("21", "no reset", "episode-reset", (
        ("start unused", (net(STATE, "state = h, c"),)),
        ("keep = 1", (net(STATE, "keep = torch.ones_like(start).to(h.dtype)\n                state = h * keep, c * keep"),)),
        ("starts dropped", (net(NO_STARTS, "            episode_starts = None\n" + NO_STARTS),)),
    )),
    ("22", "only h is reset", "episode-reset", (
        ("c untouched", (net(STATE, "state = h.masked_fill(start, 0.0), c"),)),
        ("h untouched", (net(STATE, "state = h, c.masked_fill(start, 0.0)"),)),
        ("tuple mistake", (net(STATE, "state = h.masked_fill(start, 0.0), h.masked_fill(start, 0.0)"),)),
        ("one layer of h", (net(STATE, "first = torch.zeros_like(h, dtype=torch.bool)\n                first[..., : h.shape[-1] // 2] = True\n                state = h.masked_fill(start & first, 0.0), c.masked_fill(start, 0.0)"),)),
    )),
    ("23", "reset one step off", "episode-reset", (
        ("late: starts[t - 1]", (net(START, "start = episode_starts[:, max(t - 1, 0)].view(1, -1, 1)"),)),
        ("early: starts[t + 1]", (net(START, "start = episode_starts[:, min(t + 1, features.shape[1] - 1)].view(1, -1, 1)"),)),
        ("after the step", (net(STATE, "state = h, c"), net(STEP, STEP + "                h, c = h.masked_fill(start, 0.0), c.masked_fill(start, 0.0)\n"))),
    )),
    ("24", "evaluate ignores starts", "episode-reset", (
        ("None", (net(EVALUATE, "logits, value, hidden = self(observations, hidden, None)"),)),
        ("zeros_like", (net(EVALUATE, "logits, value, hidden = self(observations, hidden, None if episode_starts is None else torch.zeros_like(episode_starts))"),)),
        ("only the first", (net(EVALUATE, "only = episode_starts\n        if only is not None:\n            only = only.clone()\n            only[:, 1:] = False\n        logits, value, hidden = self(observations, hidden, only)"),)),
    )),
    ("24", "act ignores starts", "act-evaluate", (
        ("None", (net(ACT, "logits, value, hidden = self(observation.unsqueeze(1), hidden, None)"),)),
        ("zeros_like", (net(ACT, "logits, value, hidden = self(observation.unsqueeze(1), hidden, None if episode_start is None else torch.zeros_like(episode_start))"),)),
    )),
    ("25", "evaluate ignores hidden", "act-evaluate", (
        ("initial_hidden", (net(EVALUATE, "logits, value, hidden = self(observations, self.initial_hidden(len(observations)), episode_starts)"),)),
        ("zeros", (net(EVALUATE, "logits, value, hidden = self(observations, tuple(torch.zeros_like(each) for each in hidden), episode_starts)"),)),
        ("c only", (net(EVALUATE, "logits, value, hidden = self(observations, (hidden[0], torch.zeros_like(hidden[1])), episode_starts)"),)),
    )),
    ("26", "batch_first removed", "causality episode-reset", (
        ("keyword removed", (net(LSTM, LSTM.replace(", batch_first=True", "")),)),
        ("=False", (net(LSTM, LSTM.replace("=True", "=False")),)),
        ("transposed for steps only", (net(LSTM, LSTM.replace("=True", "=False")), net("self.lstm(features[:, t : t + 1], state)", "self.lstm(features[:, t : t + 1].transpose(0, 1), state)"), net("steps.append(step)", "steps.append(step.transpose(0, 1))"))),
    )),
    ("27", "reshape for transpose", "batch-independence", (
        ("cat on dim 0, view", (net(STEPS, "torch.cat(steps, dim=0).view(features.shape[0], features.shape[1], -1)"),)),
        ("stack, view", (net(STEPS, "torch.stack([s[:, 0] for s in steps]).view(features.shape[0], features.shape[1], -1)"),)),
        ("trunk flattened time first", (net(TRUNK, "features = self.trunk(observations.transpose(0, 1).flatten(0, 1)).view(batch, time, -1)"),)),
        ("logits only", (net(LOGITS, "logits = {name: head(core.transpose(0, 1).flatten(0, 1)).view(batch, time, -1) for name, head in self.heads.items()}"),)),
    )),
    ("28", "act returns the old hidden state", "act-evaluate", (
        ("_", (net(ACT, ACT.replace("value, hidden", "value, _")),)),
        ("shadowed name", (net(ACT, ACT.replace("value, hidden", "value, new_hidden")),)),
        ("h new, c old", (net(ACT, "old = hidden\n        " + ACT + "\n        hidden = hidden[0], old[1]"),)),
    )),
    ("29", "inference_mode on act", "inference-tensors", (
        ("decorator", (net(NO_GRAD, NO_GRAD.replace("no_grad()", "inference_mode()")),)),
        ("block", (net("        " + ACT + "\n", INFERENCE),)),
        ("mode=True", (net(NO_GRAD, NO_GRAD.replace("no_grad()", "inference_mode(mode=True)")),)),
    )),
    ("30", "no no_grad in act", "act-graph", (
        ("removed", (net(NO_GRAD, "    def get_action("),)),
        ("only around the sample", (net(NO_GRAD, "    def get_action("), net(ACTIONS, "with torch.no_grad():\n            " + ACTIONS))),
        ("enable_grad", (net(NO_GRAD, NO_GRAD.replace("no_grad", "enable_grad")),)),
    )),
    ("31", "dropout", "randomness act-evaluate", (
        ("nn.Dropout", (net(RELU, "nn.LayerNorm(trunk_dim), nn.ReLU(), nn.Dropout(0.1))"),)),
        ("F.dropout", (net(NORM, "        core = nn.functional.dropout(self.core_norm(core), 0.1, training=True)\n"),)),
        ("in a head", (net("nn.ReLU(), nn.Linear(hidden_dim // 2, size)", "nn.Dropout(0.2), nn.ReLU(), nn.Linear(hidden_dim // 2, size)"),)),
        ("noise in act", (net(ACT, ACT + "\n        logits = {k: v + 0.1 * torch.randn_like(v) for k, v in logits.items()}"),)),
    )),
    ("32", "batch norm", "batch-independence", (
        ("BatchNorm1d, flattened", (at_init(VALUE_HEAD, "self.bn = nn.BatchNorm1d(trunk_dim)"), net(TRUNK, "features = self.trunk(observations)\n        features = self.bn(features.flatten(0, 1)).view_as(features)"))),
        ("BatchNorm1d, transposed", (at_init(VALUE_HEAD, "self.bn = nn.BatchNorm1d(hidden_dim)"), net(NORM, "        core = self.bn(core.transpose(1, 2)).transpose(1, 2)\n"))),
        ("F.batch_norm", (net(NORM, "        core = nn.functional.batch_norm(core.transpose(1, 2), None, None, training=True).transpose(1, 2)\n"),)),
    )),
    ("33", "normalise by batch", "batch-independence", (
        ("mean(0), std(0)", (net(TRUNK, "features = self.trunk((observations - observations.mean(0)) / (observations.std(0) + 1e-5))"),)),
        ("dims (0, 1)", (net(TRUNK, "features = self.trunk((observations - observations.mean((0, 1))) / (observations.std((0, 1)) + 1e-5))"),)),
        ("running mean in forward", (at_init(VALUE_HEAD, 'self.register_buffer("mean", torch.zeros(observation_dim))'), net(TRUNK, "if self.training:\n            self.mean.lerp_(observations.detach().mean((0, 1)), 0.1)\n        features = self.trunk(observations - self.mean)"))),
    )),
    ("34", "modules in a plain container", "state-roundtrip", (
        ("dict", (net(HEADS, HEADS.replace("nn.ModuleDict({", "{").replace("items()})", "items()}")),)),
        ("list", (net(HEADS, "self.towers = [make_head(hidden_dim, size) for size in self.head_sizes.values()]"), net(LOGITS, "logits = {name: head(core) for name, head in zip(self.head_sizes, self.towers, strict=True)}"), net("for head in self.heads.values():\n", "for head in self.towers:\n"))),
        ("tuple, value head", (net(VALUE_HEAD, "self.value_head = (make_head(hidden_dim, 1),)\n"), net("last_layer(self.value_head)", "last_layer(self.value_head[0])"), net(VALUE, "value = self.value_head[0](core).squeeze(-1)"))),
        ("parameter in a list", (at_init(VALUE_HEAD, "self.scales = [nn.Parameter(torch.randn(hidden_dim))]"), net(NORM, "        core = self.core_norm(core) * self.scales[0]\n"))),
    )),
    ("35", "buffer as a plain tensor", "device-moves", (
        ("torch.ones", (at_init(VALUE_HEAD, "self.scale = torch.ones(hidden_dim)"), net(NORM, "        core = self.core_norm(core) * self.scale\n"))),
        ("array", (at_init(VALUE_HEAD, "self.scale = [1.0] * hidden_dim"), net(NORM, "        core = self.core_norm(core) * torch.tensor(self.scale)\n"))),
        ("property", (net("    def initial_hidden(", "    @property\n    def scale(self) -> Tensor:\n        return torch.ones(self.lstm.hidden_size)\n\n    def initial_hidden("), net(NORM, "        core = self.core_norm(core) * self.scale\n"))),
        ("random, torch.randn", (at_init(VALUE_HEAD, "self.scale = torch.randn(hidden_dim)"), net(NORM, "        core = self.core_norm(core) * self.scale\n"))),
    )),
    ("36", "non-persistent buffer", "state-roundtrip", (
        ("persistent=False", (at_init(VALUE_HEAD, 'self.register_buffer("scale", torch.ones(hidden_dim), persistent=False)'), net(NORM, "        core = self.core_norm(core) * self.scale\n"))),
        ("state_dict without it", (at_init(VALUE_HEAD, 'self.register_buffer("scale", torch.ones(hidden_dim))'), net(NORM, "        core = self.core_norm(core) * self.scale\n"), net("    def initial_hidden(", '    def state_dict(self, *args, **kwargs):\n        return {k: v for k, v in super().state_dict(*args, **kwargs).items() if k != "scale"}\n\n    def initial_hidden('))),
    )),
    ("37", "result kept on self", "graph-kept", (
        ("latent", (net(NORM, "        core = self.latent = self.core_norm(core)\n"),)),
        ("hidden", (net("return Output(logits, value, hidden)", "self.hidden = hidden\n        return Output(logits, value, hidden)"),)),
        ("last distributions", (net(EVALUATE_HEADS, "heads = self.last = self.distributions(logits, masks)"),)),
    )),
    ("38", "head gain", "init-policy", (
        ("gain=1.0", (net(HEAD_GAIN, HEAD_GAIN.replace("0.01", "1.0")),)),
        ("gain=sqrt(2)", (net(HEAD_GAIN, HEAD_GAIN.replace("0.01", "math.sqrt(2.0)")),)),
        ("call removed", (net(HEAD_GAIN, ""),)),
        ("default of nn.Linear", (net(HEAD_GAIN, "        for head in self.heads.values():\n            last_layer(head).reset_parameters()\n"),)),
    )),
    ("39", "orthogonal over all gates", "init-gates", (
        ("whole weight", (net(GATES, "                nn.init.orthogonal_(parameter)\n"),)),
        ("loop without chunk", (net(GATES, "                for gate in (parameter,):\n                    nn.init.orthogonal_(gate, gain=1.0)\n"),)),
    )),
    ("40", "forget bias", "init-forget-bias", (
        ("both biases", (net(FORGET, "                parameter.chunk(4)[1].fill_(1.0)\n"),)),
        ("+= in both", (net(FORGET, "                parameter.chunk(4)[1].add_(1.0)\n"),)),
        ("wrong slice n/2:3n/4", (net(FORGET, FORGET.replace("chunk(4)[1]", "chunk(4)[2]")),)),
        ("input gate", (net(FORGET, FORGET.replace("chunk(4)[1]", "chunk(4)[0]")),)),
    )),
    ("41", "softmax over the wrong dimension", "log-prob-normalised", (
        ("dim=0", (dist(SOFTMAX, f"torch.log_softmax({FILL}, dim=0)"),)),
        ("dim=1", (dist(SOFTMAX, f"torch.log_softmax({FILL}, dim=1)"),)),
        ("nn.LogSoftmax()", (dist(SOFTMAX, f"torch.nn.LogSoftmax()({FILL})"),)),
    )),
    ("42", "double softmax", "policy-range", (
        ("softmax of the logits", (dist(FILL, "wide.softmax(-1).masked_fill(~mask, MASKED_LOGIT)"),)),
        ("twice over the mask", (dist(FILL, f"{FILL}.softmax(-1).masked_fill(~mask, MASKED_LOGIT)"),)),
        ("in forward", (net(LOGITS, "logits = {name: head(core).softmax(-1) for name, head in self.heads.items()}"),)),
        ("nn.Softmax in the head", (net("nn.Linear(hidden_dim // 2, size))", "nn.Linear(hidden_dim // 2, size), *([nn.Softmax(-1)] if size > 1 else []))"), net("list(head.children())[-1]", "[each for each in head.children() if isinstance(each, nn.Linear)][-1]"))),
    )),
    ("43", "log(p + eps)", "log-prob-normalised policy-range", (
        ("1e-3", (dist(SOFTMAX, f"({FILL}.softmax(-1) + 1e-3).log()"),)),
        ("1e-8", (dist(SOFTMAX, f"({FILL}.softmax(-1) + 1e-8).log()"),)),
        ("clamp", (dist(SOFTMAX, f"{FILL}.softmax(-1).clamp(min=1e-6).log()"),)),
    )),
    ("44", "temperature only in act", "act-evaluate", (
        ("/ 1.5", (net(ACT, ACT + "\n        logits = {k: v / 1.5 for k, v in logits.items()}"),)),
        ("scaled", (net(ACT_HEADS, ACT_HEADS.replace("each[:, 0]", "each[:, 0] * 1.1")),)),
        ("clamp", (net(ACT, ACT + "\n        logits = {k: v.clamp(-1, 1) for k, v in logits.items()}"),)),
    )),
    ("45", "heads crossed", "act-evaluate", (
        ("actions under other names", (net(DECISION, "return Decision(dict(zip(reversed(actions), actions.values(), strict=True)), log_prob, value[:, 0], hidden)"),)),
        ("log-prob of the other head", (net(EVALUATE_JOINT, EVALUATE_JOINT.replace("actions[name]", 'actions["first"] % head.mask.shape[-1]')), dist(ACTION_CHECK, ""))),
        ("second sampled with the first", (net(ACTIONS, ACTIONS + '\n        actions["second"] = actions["first"].clone()'),)),
    )),
    ("46", "hidden state on self", "output-shape state-roundtrip", (
        ("forward keeps its own", (at_init(VALUE_HEAD, "self._h = None"), net(TRUNK, "if self._h is not None and self._h[0].shape == hidden[0].shape and self._h[0].dtype == dtype:\n            hidden = self._h\n        features = self.trunk(observations)"), net("return Output(logits, value, hidden)", "self._h = tuple(each.detach() for each in hidden)\n        return Output(logits, value, hidden)"))),
        ("act keeps its own", (at_init(VALUE_HEAD, "self._h = None"), net(ACT, "if self._h is not None and self._h[0].shape == hidden[0].shape and self._h[0].dtype == hidden[0].dtype:\n            hidden = self._h\n        " + ACT + "\n        self._h = hidden"))),
        ("initial state cached", (at_init(VALUE_HEAD, "self._initial = {}"), net(ZEROS, "return self._initial.setdefault((batch, weight.dtype, weight.device), (weight.new_zeros(shape), weight.new_zeros(shape)))"))),
    )),
    ("51", "Categorical by position", "log-prob-normalised policy-range", (
        ("Categorical(logits) in evaluate", (net(EVALUATE_JOINT, "log_prob = sum(torch.distributions.Categorical(logits[n].masked_fill(~masks[n], -1e30)).log_prob(actions[n]) for n in heads)\n        entropy"),)),
        ("unvalidated", (net(EVALUATE_JOINT, "log_prob = sum(torch.distributions.Categorical(logits[n].masked_fill(~masks[n], -1e4), validate_args=False).log_prob(actions[n]) for n in heads)\n        entropy"),)),
        ("partial()", (net(EVALUATE_JOINT, "make = __import__(\"functools\").partial(torch.distributions.Categorical, validate_args=False)\n        log_prob = sum(make(logits[n].relu() + masks[n]).log_prob(actions[n]) for n in heads)\n        entropy"),)),
    )),
    ("52", "mask without a time axis", "mask-rank", (
        ("expand", (dist(MASK_CHECK, "        mask = mask.expand(logits.shape)\n"),)),
        ("broadcast", (dist(MASK_CHECK, "        mask = mask & torch.ones_like(logits, dtype=torch.bool)\n"),)),
        ("unsqueeze(0)", (dist(MASK_CHECK, "        if mask.dim() < logits.dim():\n            mask = mask.unsqueeze(0)\n        mask = mask.expand(logits.shape)\n"),)),
    )),
    ("53", "row without a valid action", "empty-mask-row", (
        ("check removed", (dist(ROW_CHECK, ""), dist(ACTION_CHECK, ""))),
        ("validate=False", (net("        validate: bool = True,", "        validate: bool = False,"),)),
        ("try, pass", (dist(ROW_CHECK, "            try:\n    " + ROW_CHECK + "            except RuntimeError:\n                pass\n"), dist(ACTION_CHECK, ""))),
    )),
    ("54", "~ on a mask that is not bool", "mask-kinds", (
        ("(~mask).bool()", (dist(MASK_CHECK, ""), dist("mask.any(dim=-1)", "mask.bool().any(dim=-1)"), dist(FILL, "wide.masked_fill((~mask).bool(), MASKED_LOGIT)"), dist("self.mask = mask", "self.mask = mask.bool()"))),
        ("where(~mask)", (dist(MASK_CHECK, ""), dist("mask.any(dim=-1)", "mask.bool().any(dim=-1)"), dist(FILL, "torch.where(~mask != 0, MASKED_LOGIT, wide)"), dist("self.mask = mask", "self.mask = mask.bool()"))),
        ("-mask for a float", (dist(MASK_CHECK, ""), dist(FILL, "wide.masked_fill(mask.to(torch.uint8) * 255 == 0 if mask.dtype == torch.bool else mask == 255, MASKED_LOGIT)"), dist("self.mask = mask", "self.mask = mask.bool()"))),
    )),
    ("55", "starts used as an index", "episode-reset", (
        ("long()", (net(STATE, "h, c = h.clone(), c.clone()\n                h[:, episode_starts[:, t].long()] = 0\n                c[:, episode_starts[:, t].long()] = 0\n                state = h, c"),)),
        ("nonzero()[0]", (net(STATE, "h, c = h.clone(), c.clone()\n                rows = episode_starts[:, t].nonzero()[:1]\n                h[:, rows] = 0\n                c[:, rows] = 0\n                state = h, c"),)),
    )),
    ("+", "input changed in place", "inputs-changed", (
        ("h.mul_", (net(STATE, "state = h.mul_(~start), c.mul_(~start)"),)),
        ("observations.div_", (net(TRUNK, "features = self.trunk(observations.div_(10.0))"),)),
    )),
    ("+", "clamp that underflows", "entropy-gradient", (
        ("1e-8, half precision", (dist("clamp(min=math.log(2.0))", "clamp(min=1e-8)"), dist(WIDE, "wide = logits"), dist(CONSTANT, "MASKED_LOGIT = -1e4"), net("return Evaluation(log_prob, value, entropy,", "return Evaluation(log_prob, value, share(entropy, max_entropy),"))),
        ("no clamp", (dist("max_entropy.clamp(min=math.log(2.0))", "max_entropy"), net("return Evaluation(log_prob, value, entropy,", "return Evaluation(log_prob, value, share(entropy, max_entropy),"))),
    )),
)  # fmt: skip

BY_CATEGORICAL = "log_prob = sum({make}.log_prob(actions[n]) for n in heads)\n        entropy"
FILLED = "logits=logits[n].masked_fill(~masks[n], -1e30)"

COMPILED: Plants = (
    ("47", "validation of distributions", "graph-breaks", (
        ("validate_args=True", (net(EVALUATE_JOINT, BY_CATEGORICAL.format(make=f"torch.distributions.Categorical({FILLED}, validate_args=True)")),)),
        ("default of a subclass", (net("def make_head(", "class Checked(torch.distributions.Categorical):\n    def __init__(self, **given):\n        super().__init__(validate_args=True, **given)\n\n\ndef make_head("), net(EVALUATE_JOINT, BY_CATEGORICAL.format(make=f"Checked({FILLED})")))),
    )),
    ("48", "branch on a tensor", "graph-breaks", (
        ("if mask.any()", (dist(ROW_CHECK, "            if not mask.any(dim=-1).all():\n                raise RuntimeError(name)\n"),)),
        ("x if t > 0 else y", (net(VALUE, VALUE + "\n        value = value if value.mean() > 0 else value + 0.0"),)),
        ("while", (net(VALUE, VALUE + "\n        while value.abs().max() > 1e6:\n            value = value / 2"),)),
    )),
    ("49", "counter on self", "recompiles", (
        ("+= 1", (at_init(VALUE_HEAD, "self.calls = 0"), net(TRUNK, "self.calls += 1\n        features = self.trunk(observations + 0 * self.calls)"))),
        ("in a dict", (at_init(VALUE_HEAD, 'self.calls = {"forward": 0}'), net(TRUNK, 'self.calls["forward"] += 1\n        features = self.trunk(observations + 0 * self.calls["forward"])'))),
        ("len of a list", (at_init(VALUE_HEAD, "self.calls = []"), net(TRUNK, "self.calls.append(1)\n        features = self.trunk(observations + 0 * len(self.calls))"))),
    )),
    ("50", "to the host and back", "graph-breaks", (
        (".item()", (net(VALUE, VALUE + "\n        value = value + 0 * value.mean().item()"),)),
        ("tolist()", (net(VALUE, VALUE + "\n        value = value + 0 * sum(value.flatten().tolist())"),)),
        ("print", (net(VALUE, VALUE + '\n        print(f"value {value.mean()}")'),)),
        ("np.random", (net("import math\n", "import math\n\nimport numpy as np\n"), net(VALUE, VALUE + "\n        value = value + 0 * np.random.rand()"))),
    )),
)  # fmt: skip

BENIGN: Twins = (
    ("`[..., 0]` for squeeze(-1)", (net(VALUE, "value = self.value_head(core)[..., 0]"), dist(GATHER, "self.log_probs.gather(-1, index)[..., 0]"))),
    ("zeros with dtype and device", (net(ZEROS, "options = {\"dtype\": weight.dtype, \"device\": weight.device}\n        return torch.zeros(shape, **options), torch.zeros(shape, **options)"),)),
    ("LayerNorm in the heads", (net("nn.ReLU(), nn.Linear(hidden_dim // 2, size)", "nn.LayerNorm(hidden_dim // 2), nn.ReLU(), nn.Linear(hidden_dim // 2, size)"),)),
    ("logical_not", (dist("masked_fill(~mask,", "masked_fill(mask.logical_not(),"),)),
    ("where for masked_fill", (dist(FILL, "torch.where(mask, wide, MASKED_LOGIT)"),)),
    ("starts by multiplication", (net(STATE, "state = h * ~start, c * ~start"),)),
    ("ModuleList", (net(HEADS, "self.towers = nn.ModuleList()\n        for size in self.head_sizes.values():\n            self.towers.append(make_head(hidden_dim, size))"), net(LOGITS, "logits = {name: head(core) for name, head in zip(self.head_sizes, self.towers, strict=True)}"), net("for head in self.heads.values():\n", "for head in self.towers:\n"))),
    ("-inf and torch's Categorical", (net(EVALUATE_JOINT, "log_prob = sum(torch.distributions.Categorical(logits=logits[n].masked_fill(~masks[n], -torch.inf)).log_prob(actions[n]) for n in heads)\n        entropy"),)),
    ("float() before -1e9", (dist(CONSTANT, "MASKED_LOGIT = -1e9"), dist(WIDE, "wide = logits.float()"))),
    ("-1e4 in float16", (dist(CONSTANT, "MASKED_LOGIT = -1e4"),)),
    ("entropy of valid entries only", (NEG_INF, dist(ENTROPY, "-(self.probs * self.log_probs.masked_fill(~self.mask, 0.0)).sum(dim=-1)"))),
    ("Gumbel-max sampling", (dist("(self.probs / torch.empty_like(self.probs).exponential_()).argmax(dim=-1)", "(self.log_probs - torch.empty_like(self.probs).exponential_().log()).argmax(dim=-1)"),)),
    (".data in the initialisation", (net("nn.init.zeros_(module.bias)", "module.bias.data.zero_()"),)),
    ("detached copy for telemetry", (net(NORM, NORM + "        self.norm_of_core = float(core.detach().norm()) if core.device.type != \"meta\" else 0.0\n"),)),
    ("registered buffer", (at_init(VALUE_HEAD, 'self.register_buffer("scale", torch.ones(hidden_dim))'), net(NORM, "        core = self.core_norm(core) * self.scale\n"))),
    ("log-probs summed in a loop", (net(EVALUATE_JOINT, "log_prob = torch.zeros_like(value)\n        for name, head in heads.items():\n            log_prob = log_prob + head.log_prob(actions[name])\n        entropy"),)),
    ("temperature in both", (dist(WIDE, WIDE + " / 1.5"),)),
    ("InstanceNorm-like, per row", (net(TRUNK, "features = self.trunk((observations - observations.mean(-1, keepdim=True)) / (observations.std(-1, keepdim=True) + 1e-5))"),)),
    ("GRU-like two layers", (net("        layers: int = 1,", "        layers: int = 2,"),)),
)  # fmt: skip

BASE = Base(
    "reference",
    HERE / "reference_impl" / "esper_reference",
    "network.py",
    "FactoredActorCritic",
    PLANTED,
    COMPILED,
    BENIGN,
)
