"""What is planted into the actor-critic of `styles/explicit`: three named heads, a GRU, formulas of its own.

A GRU has one state and no forget gate: the operators 20, 22 and 40 have nothing to break here. Faults of the learner
stand in `learner.py`, as they would: no experiment runs that file, so none is expected to see them.
"""

from __future__ import annotations

from planting import STYLES, Base, Edit, Plants, Twins

# ruff: noqa: E501 - a fault is text to be replaced, and reads best in one line


def net(old: str, new: str) -> Edit:
    """A change of the network."""
    return "policy.py", old, new


def mask(old: str, new: str) -> Edit:
    """A change of the formulas."""
    return "masks.py", old, new


def learner(old: str, new: str) -> Edit:
    """A change of the rollout or the update."""
    return "learner.py", old, new


CONSTANT = "MASKED_LOGIT = -1e8"
FLOAT = "    logits = logits.float()\n"
FILL = "masked = logits.masked_fill(~mask, MASKED_LOGIT)"
NORMALISED = "return masked - masked.logsumexp(dim=-1, keepdim=True)"
DTYPE_CHECK = """    if mask.dtype != torch.bool:
        raise TypeError(f"{name} mask: expected bool, got {mask.dtype}")
"""
SHAPE_CHECK = """    if mask.shape != logits.shape:
        raise ValueError(f"{name} mask: expected shape {tuple(logits.shape)}, got {tuple(mask.shape)}")
"""
ROW_CHECK = '    torch._assert_async(mask.any(dim=-1).all(), f"{name} mask: a row has no valid choice")\n'
CHECKED = "    check_mask(name, mask, logits)\n"
NOISE = "noise = -torch.empty_like(log_probs).exponential_().log()"
GATHER = "return log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)"
ENTROPY = "return -(probs * log_probs).sum(dim=-1)"
NEG_INF = mask(CONSTANT, 'MASKED_LOGIT = float("-inf")')

IMPORTS = "from masks import entropy_of, log_prob_of, masked_log_probs, sample\n"
POLICY = "        move, aim, item = self._policy(latent, masks)\n"
EVALUATE_RUN = "        latent, _ = self._run_gru(obs, hidden, starts)\n"
EVALUATE_POLICY = EVALUATE_RUN + POLICY
ACT_RUN = "        latent, hidden = self._run_gru(obs.unsqueeze(1), hidden, starts.unsqueeze(1))\n"
ACT_POLICY = "        latent = latent[:, 0]\n" + POLICY
GREEDY = "chosen = [move.argmax(dim=-1), aim.argmax(dim=-1), item.argmax(dim=-1)]"
SAMPLED = "chosen = [sample(move), sample(aim), sample(item)]"
ACTIONS = "actions = torch.stack(chosen, dim=-1)\n"
ACT_FIRST = "        log_prob = log_prob_of(move, actions[:, 0])\n"
ACT_SECOND = "        log_prob = log_prob + log_prob_of(aim, actions[:, 1])\n"
ACT_THIRD = "        log_prob = log_prob + log_prob_of(item, actions[:, 2])\n"
MOVE_LOG_PROB = "move_log_prob = log_prob_of(move, actions[..., 0])"
AIM_LOG_PROB = "aim_log_prob = log_prob_of(aim, actions[..., 1])"
ITEM_LOG_PROB = "item_log_prob = log_prob_of(item, actions[..., 2])"
JOINT = "log_prob = move_log_prob + aim_log_prob + item_log_prob"
ENTROPIES = "entropy = entropy_of(move) + entropy_of(aim) + entropy_of(item)"
VALUES = "values = self.value_head(latent).squeeze(-1)\n"
ACT_RETURN = "return actions, values, log_prob, hidden"
EVALUATE_RETURN = "return values, log_prob, entropy"
EVALUATE_VALUES = f"{VALUES}        {EVALUATE_RETURN}"
ZEROS = "return torch.zeros(self.gru.num_layers, batch, self.gru.hidden_size, dtype=weight.dtype, device=device)"
DEVICE = "        device = weight.device if device is None else device\n"
TRUNK = "features = self.encoder(obs)"
BEGINS = "begins = starts[:, t].view(1, -1, 1)"
RESET = "hidden = torch.where(begins, torch.zeros_like(hidden), hidden)"
STEP = "out, hidden = self.gru(features[:, t : t + 1], hidden)\n"
CORE = "return torch.cat(outputs, dim=1), hidden"
ENCODER = "nn.LayerNorm(encoder_dim), nn.ELU())"
GRU = "self.gru = nn.GRU(encoder_dim, hidden_dim, batch_first=True)"
HEADS = """        self.move_head = nn.Linear(hidden_dim, num_moves)
        self.aim_head = nn.Linear(hidden_dim, num_aims)
        self.item_head = nn.Linear(hidden_dim, num_items)
"""
VALUE_HEAD = "self.value_head = nn.Sequential(nn.Linear(hidden_dim, hidden_dim), nn.ELU(), nn.Linear(hidden_dim, 1))"
GAINS = """        nn.init.orthogonal_(self.move_head.weight, gain=0.01)
        nn.init.orthogonal_(self.aim_head.weight, gain=0.01)
        nn.init.orthogonal_(self.item_head.weight, gain=0.01)
"""
GATES = """        for gate in self.gru.weight_hh_l0.data.chunk(3):
            nn.init.orthogonal_(gate)
"""
NO_GRAD = "    @torch.no_grad()\n    def act("
INITIAL_METHOD = "    def get_initial_state("
MOVE = 'move = masked_log_probs("move", self.move_head(latent), masks["move"])'
AIM = 'aim = masked_log_probs("aim", self.aim_head(latent), masks["aim"])'
ITEM = 'item = masked_log_probs("item", self.item_head(latent), masks["item"])'

COLLECT_ACT = "actions, values, log_prob, self.hidden = self.policy.act(obs, masks, self.hidden, starts)"
STARTS_SEEN = "obs, masks, starts = self.world.look()"
LEARN_CALL = 'batch["obs"], batch["masks"], batch["actions"], batch["hidden"], batch["starts"]'
FIRST_HIDDEN = 'batch["hidden"] = first_hidden'


def at_init(more: str) -> Edit:
    """A line added to the constructor, behind the layers."""
    return net(VALUE_HEAD, f"{VALUE_HEAD}\n        {more}")


def evaluating(*lines: str) -> Edit:
    """Lines in front of the features that evaluate_actions uses."""
    return net(EVALUATE_RUN, "".join(f"        {line}\n" for line in lines) + EVALUATE_RUN)


def with_heads(container: str, move: str, aim: str, item: str) -> tuple[Edit, ...]:
    """The heads kept in some container."""
    return (
        net(HEADS, f"        sizes = (num_moves, num_aims, num_items)\n        {container}\n"),
        net(GAINS, "".join(f"        nn.init.orthogonal_({head}.weight, gain=0.01)\n" for head in (move, aim, item))),
        net(MOVE, MOVE.replace("self.move_head", move)),
        net(AIM, AIM.replace("self.aim_head", aim)),
        net(ITEM, ITEM.replace("self.item_head", item)),
    )


SCALED = net(CORE, "return torch.cat(outputs, dim=1) * self.scale, hidden")
UNTYPED = mask(DTYPE_CHECK, "")

PLANTED: Plants = (
    ("1", "drop mask in evaluate", "act-evaluate", (
        ("ones_like(mask)", (evaluating("masks = {name: torch.ones_like(each) for name, each in masks.items()}"),)),
        ("log_softmax of one head", (net(MOVE_LOG_PROB, "move_log_prob = log_prob_of(torch.log_softmax(self.move_head(latent), dim=-1), actions[..., 0])"),)),
        ("log_softmax of all heads", (net(EVALUATE_POLICY, EVALUATE_RUN + "        move = self.move_head(latent).log_softmax(-1)\n        aim = self.aim_head(latent).log_softmax(-1)\n        item = self.item_head(latent).log_softmax(-1)\n"),)),
        ("Categorical(logits)", (net(ITEM_LOG_PROB, "item_log_prob = torch.distributions.Categorical(logits=self.item_head(latent)).log_prob(actions[..., 2])"),)),
    )),
    ("2", "invert mask", "mask-semantics", (
        ("masked_fill(mask)", (mask(FILL, "masked = logits.masked_fill(mask, MASKED_LOGIT)"),)),
        ("where(mask, NEG, x)", (mask(FILL, "masked = torch.where(mask, torch.full_like(logits, MASKED_LOGIT), logits)"),)),
        ("mask == True", (mask(FILL, "masked = logits.masked_fill(mask == True, MASKED_LOGIT)"),)),
        ("inverted twice", (mask(FILL, "allowed = ~mask\n    masked = logits.masked_fill(~allowed, MASKED_LOGIT)"),)),
    )),
    ("3", "constant -1e9 in half precision", "mask-dtype", (
        ("module constant", (mask(CONSTANT, "MASKED_LOGIT = -1e9"), mask(FLOAT, ""))),
        ("literal in where", (mask(FLOAT, ""), mask(FILL, "masked = torch.where(mask, logits, -1e9)"))),
        ("additive", (mask(FLOAT, ""), mask(FILL, "masked = logits + (1.0 - mask.to(logits.dtype)) * -1e9"))),
        ("full_like", (mask(FLOAT, ""), mask(FILL, "masked = torch.where(mask, logits, torch.full_like(logits, -1e8))"))),
    )),
    ("4", "weak constant -5", "mask-semantics", (
        ("module constant", (mask(CONSTANT, "MASKED_LOGIT = -5.0"),)),
        ("additive", (mask(FILL, "masked = logits - 5.0 * (~mask).float()"),)),
        ("full_like", (mask(FILL, "masked = torch.where(mask, logits, torch.full_like(logits, -5.0))"),)),
        ("scaled by temperature", (mask(FILL, "masked = logits.masked_fill(~mask, -50.0) / 10.0"),)),
    )),
    ("5", "-inf and p * log p", "mask-entropy", (
        ('float("-inf")', (NEG_INF,)),
        ("-torch.inf", (mask(FILL, "masked = logits.masked_fill(~mask, -torch.inf)"),)),
        ("log(mask)", (mask(FILL, "masked = logits + torch.log(mask.float())"),)),
        ("finite constant, probs.log()", (mask(ENTROPY, "return -(probs * probs.log()).sum(dim=-1)"),)),
    )),
    ("6", "-inf and p * log p * mask", "mask-entropy", (
        ("product", (NEG_INF, mask(ENTROPY, "return -(probs * log_probs * (probs > 0)).sum(dim=-1)"))),
        ("einsum", (NEG_INF, mask(ENTROPY, 'return -torch.einsum("...n,...n->...", probs * (probs > 0), log_probs)'))),
        ("in-place mul_", (NEG_INF, mask(ENTROPY, "surprise = probs * log_probs\n    surprise = surprise * (log_probs > -1e6).float()\n    return -surprise.sum(dim=-1)"))),
    )),
    ("7", "entropy guarded after the product", "mask-entropy", (
        ("where(p > 0)", (NEG_INF, mask(ENTROPY, "return -torch.where(probs > 0, probs * log_probs, torch.zeros_like(probs)).sum(dim=-1)"))),
        ("nan_to_num", (NEG_INF, mask(ENTROPY, "return -(probs * log_probs).nan_to_num(nan=0.0).sum(dim=-1)"))),
        ("masked_fill", (NEG_INF, mask(ENTROPY, "return -(probs * log_probs).masked_fill(probs == 0, 0.0).sum(dim=-1)"))),
        ("nansum", (NEG_INF, mask(ENTROPY, "return -(probs * log_probs).nansum(dim=-1)"))),
    )),
    ("8", "argmax on raw logits", "mask-semantics", (
        ("one head", (net(GREEDY, GREEDY.replace("aim.argmax(dim=-1)", "self.aim_head(latent).argmax(dim=-1)")),)),
        ("all heads", (net(GREEDY, "chosen = [head(latent).argmax(dim=-1) for head in (self.move_head, self.aim_head, self.item_head)]"),)),
        ("softmax first", (net(GREEDY, "chosen = [torch.softmax(head(latent), dim=-1).max(dim=-1).indices for head in (self.move_head, self.aim_head, self.item_head)]"),)),
    )),
    ("9", "log-prob keeps its dimension", "output-shape", (
        ("no squeeze", (mask(GATHER, "return log_probs.gather(-1, action.unsqueeze(-1))"),)),
        ("squeeze(1)", (mask(GATHER, "return log_probs.gather(-1, action.unsqueeze(-1)).squeeze(1)"),)),
        ("bare squeeze", (mask(GATHER, "return torch.gather(log_probs, -1, action[..., None]).squeeze()"),)),
        ("heads stacked and not summed", (net(JOINT, "log_prob = torch.stack([move_log_prob, aim_log_prob, item_log_prob], dim=-1)"),)),
    )),
    ("10", "shape of the value", "output-shape", (
        ("bare squeeze", (net(EVALUATE_VALUES, EVALUATE_VALUES.replace("squeeze(-1)", "squeeze()")),)),
        ("no squeeze", (net(EVALUATE_VALUES, EVALUATE_VALUES.replace(".squeeze(-1)", "")),)),
        ("flatten", (net(EVALUATE_VALUES, EVALUATE_VALUES.replace("squeeze(-1)", "flatten()")),)),
    )),
    ("11", "head missing in evaluate's log-prob", "act-evaluate", (
        ("term left out", (net(JOINT, "log_prob = move_log_prob + aim_log_prob"),)),
        ("one term twice", (net(JOINT, "log_prob = move_log_prob + aim_log_prob + aim_log_prob"),)),
        ("= for +=", (net(JOINT, "log_prob = move_log_prob\n        log_prob += aim_log_prob\n        log_prob = item_log_prob"),)),
        ("slice", (net(JOINT, "log_prob = sum([move_log_prob, aim_log_prob, item_log_prob][:-1])"),)),
    )),
    ("12", "head missing in both log-probs", "log-prob-normalised", (
        ("last term left out", (net(JOINT, "log_prob = move_log_prob + aim_log_prob"), net(ACT_THIRD, ""))),
        ("middle term left out", (net(JOINT, "log_prob = torch.stack([move_log_prob, item_log_prob]).sum(dim=0)"), net(ACT_SECOND, ""))),
        ("overwritten", (net(JOINT, "log_prob = move_log_prob + aim_log_prob\n        log_prob = item_log_prob"), net(ACT_THIRD, "        log_prob = log_prob_of(item, actions[:, 2])\n"))),
    )),
    ("13", "entropy overwritten", "entropy-consistent", (
        ("last head only", (net(ENTROPIES, "entropy = entropy_of(item)"),)),
        ("= for +=", (net(ENTROPIES, "entropy = entropy_of(move)\n        entropy = entropy_of(aim)\n        entropy = entropy_of(item)"),)),
        ("mean of the heads", (net(ENTROPIES, "entropy = torch.stack([entropy_of(move), entropy_of(aim), entropy_of(item)]).mean(dim=0)"),)),
        ("loop over a part", (net(ENTROPIES, "entropy = 0.0\n        for log_probs in (move, aim):\n            entropy = entropy + entropy_of(log_probs)"),)),
    )),
    ("14", "log-prob detached in evaluate", "gradient-flow", (
        ("detach", (net(EVALUATE_RETURN, "return values, log_prob.detach(), entropy"),)),
        (".data", (net(JOINT, "log_prob = (move_log_prob + aim_log_prob + item_log_prob).data"),)),
        ("no_grad block", (net(JOINT, "with torch.no_grad():\n            log_prob = log_prob_of(move, actions[..., 0]) + log_prob_of(aim, actions[..., 1]) + log_prob_of(item, actions[..., 2])"),)),
        ("no_grad on the formula", (mask("def log_prob_of(", "@torch.no_grad()\ndef log_prob_of("),)),
    )),
    ("15", "log-prob rebuilt", "gradient-flow", (
        ("torch.tensor(list)", (net(EVALUATE_RETURN, "return values, torch.tensor(log_prob.tolist()), entropy"),)),
        ("from_numpy", (net(EVALUATE_RETURN, "return values, torch.from_numpy(log_prob.detach().numpy()), entropy"),)),
        ("new_tensor", (net(EVALUATE_RETURN, "return values, values.new_tensor(log_prob.tolist()), entropy"),)),
    )),
    ("16", "trunk detached for the critic", "shared-features", (
        ("detach", (net(EVALUATE_VALUES, EVALUATE_VALUES.replace("latent", "latent.detach()")),)),
        ("no_grad block", (net(EVALUATE_VALUES, "with torch.no_grad():\n            features, _ = self._run_gru(obs, hidden, starts)\n        " + EVALUATE_VALUES.replace("latent", "features")),)),
        (".data", (net(EVALUATE_VALUES, EVALUATE_VALUES.replace("latent", "latent.data")),)),
        ("no_grad around the value", (net(EVALUATE_VALUES, "with torch.no_grad():\n            " + EVALUATE_VALUES),)),
    )),
    ("17", "hidden without dtype", "hidden-dtype", (
        ("zeros", (net(ZEROS, ZEROS.replace(", dtype=weight.dtype", "")),)),
        ("zeros().to(device)", (net(ZEROS, "return torch.zeros(self.gru.num_layers, batch, self.gru.hidden_size).to(device)"),)),
        ("float32", (net(ZEROS, ZEROS.replace("weight.dtype", "torch.float32")),)),
    )),
    ("18", "hidden without device", "hidden-device", (
        ("zeros", (net(ZEROS, ZEROS.replace(", device=device", "")),)),
        ("device=None by default", (net(DEVICE, ""),)),
        ("device of text", (net(DEVICE, '        device = "cpu" if device is None else device\n'),)),
        ("zeros().cpu()", (net(ZEROS, ZEROS + ".cpu()"),)),
    )),
    ("19", "hidden by expand", "initial-hidden-alias", (
        ("expand", (net(ZEROS, ZEROS.replace("batch, ", "1, ") + ".expand(-1, batch, -1)"),)),
        ("expand_as", (net(ZEROS, "like = weight.new_empty(self.gru.num_layers, batch, self.gru.hidden_size).to(device)\n        return like.new_zeros(1, 1, 1).expand_as(like)"),)),
        ("broadcast_to", (net(ZEROS, "zero = torch.zeros(1, dtype=weight.dtype, device=device)\n        return torch.broadcast_to(zero, (self.gru.num_layers, batch, self.gru.hidden_size))"),)),
    )),
    ("21", "no reset", "episode-reset", (
        ("starts unused", (net(RESET, "hidden = torch.where(begins, hidden, hidden)"),)),
        ("line removed", (net(f"            {BEGINS}\n            {RESET}\n", ""),)),
        ("starts overwritten", (net(TRUNK, "starts = torch.zeros_like(starts)\n        " + TRUNK),)),
        ("result not assigned", (net(RESET, "hidden.masked_fill(begins, 0.0)"),)),
    )),
    ("23", "reset one step off", "episode-reset", (
        ("late: starts[t - 1]", (net(BEGINS, "begins = starts[:, max(t - 1, 0)].view(1, -1, 1)"),)),
        ("early: starts[t + 1]", (net(BEGINS, "begins = starts[:, min(t + 1, starts.size(1) - 1)].view(1, -1, 1)"),)),
        ("after the step", (net(f"            {RESET}\n            {STEP}", f"            {STEP}            {RESET}\n"),)),
        ("ends stored for starts", (learner(STARTS_SEEN, "obs, masks, begun = self.world.look()"), learner(COLLECT_ACT, COLLECT_ACT.replace("starts)", "begun)")), learner("rewards = self.world.step(actions)", "rewards = self.world.step(actions)\n            starts = self.world.age == 0"))),
    )),
    ("24", "evaluate ignores starts", "episode-reset", (
        ("zeros_like", (net(EVALUATE_RUN, EVALUATE_RUN.replace("starts)", "torch.zeros_like(starts))")),)),
        ("only the first", (evaluating("starts = starts.clone()", "starts[:, 1:] = False"),)),
        ("zeros in the update", (learner(LEARN_CALL, LEARN_CALL.replace('batch["starts"]', 'torch.zeros_like(batch["starts"])')),)),
        ("one call for all steps", (net(EVALUATE_RUN, "        latent, _ = self.gru(self.encoder(obs), hidden)\n"),)),
    )),
    ("24", "act ignores starts", "act-evaluate", (
        ("zeros_like", (net(ACT_RUN, ACT_RUN.replace("starts.unsqueeze(1)", "torch.zeros_like(starts).unsqueeze(1)")),)),
        ("one call", (net(ACT_RUN, "        latent, hidden = self.gru(self.encoder(obs.unsqueeze(1)), hidden)\n"),)),
        ("zeros in the rollout", (learner(COLLECT_ACT, COLLECT_ACT.replace("starts)", "torch.zeros_like(starts))")),)),
    )),
    ("25", "evaluate ignores hidden", "act-evaluate", (
        ("get_initial_state", (net(EVALUATE_RUN, EVALUATE_RUN.replace("hidden, starts", "self.get_initial_state(obs.shape[0]), starts")),)),
        ("zeros_like", (net(EVALUATE_RUN, EVALUATE_RUN.replace("hidden, starts", "torch.zeros_like(hidden), starts")),)),
        ("None", (net(EVALUATE_RUN, "        latent, _ = self.gru(self.encoder(obs), None)\n"),)),
        ("initial state in the update", (learner(FIRST_HIDDEN, 'batch["hidden"] = self.policy.get_initial_state(self.world.count)'),)),
    )),
    ("26", "batch_first removed", "causality episode-reset", (
        ("keyword removed", (net(GRU, GRU.replace(", batch_first=True", "")),)),
        ("=False", (net(GRU, GRU.replace("=True", "=False")),)),
        ("transposed for steps only", (net(GRU, GRU.replace(", batch_first=True", "")), net(STEP, STEP.replace("features[:, t : t + 1]", "features[:, t : t + 1].transpose(0, 1)")))),
    )),
    ("27", "reshape for transpose", "batch-independence", (
        ("cat on dim 0, view", (net(CORE, "return torch.cat(outputs, dim=0).view(obs.size(0), obs.size(1), -1), hidden"),)),
        ("stack, reshape", (net(CORE, "return torch.stack([out.squeeze(1) for out in outputs]).reshape(obs.size(0), obs.size(1), -1), hidden"),)),
        ("encoder flattened steps first", (net(TRUNK, "features = self.encoder(obs.transpose(0, 1).flatten(0, 1)).view(obs.size(0), obs.size(1), -1)"),)),
        ("stacked on the other axis in the rollout", (learner("torch.stack([row[k] for row in rows], dim=1)", "torch.stack([row[k] for row in rows]).reshape(self.world.count, steps, *rows[0][k].shape[1:])"),)),
    )),
    ("28", "act returns the old hidden state", "act-evaluate", (
        ("_", (net(ACT_RUN, ACT_RUN.replace("latent, hidden =", "latent, _ =")),)),
        ("shadowed name", (net(ACT_RUN, ACT_RUN.replace("latent, hidden =", "latent, next_hidden =")),)),
        ("core returns what it took", (net(CORE, "return torch.cat(outputs, dim=1), given"), net(TRUNK, "given = hidden\n        " + TRUNK))),
        ("not taken over in the rollout", (learner(COLLECT_ACT, COLLECT_ACT.replace("self.hidden =", "_ =", 1)),)),
    )),
    ("29", "inference_mode on act", "inference-tensors", (
        ("decorator", (net(NO_GRAD, NO_GRAD.replace("no_grad", "inference_mode")),)),
        ("mode=True", (net(NO_GRAD, NO_GRAD.replace("no_grad()", "inference_mode(mode=True)")),)),
        ("block", (net(ACT_RUN, "        with torch.inference_mode():\n    " + ACT_RUN),)),
    )),
    ("30", "no no_grad in act", "act-graph", (
        ("removed", (net(NO_GRAD, "    def act("),)),
        ("only around the sample", (net(NO_GRAD, "    def act("), net(SAMPLED, "with torch.no_grad():\n                " + SAMPLED))),
        ("on the wrong method", (net(NO_GRAD, "    def act("), net(INITIAL_METHOD, "    @torch.no_grad()\n" + INITIAL_METHOD))),
    )),
    ("31", "dropout", "randomness act-evaluate", (
        ("nn.Dropout", (net(ENCODER, "nn.LayerNorm(encoder_dim), nn.ELU(), nn.Dropout(p=0.1))"),)),
        ("F.dropout", (net(TRUNK, "features = nn.functional.dropout(self.encoder(obs), p=0.1)"),)),
        ("between GRU layers", (net(GRU, "self.gru = nn.GRU(encoder_dim, hidden_dim, num_layers=2, batch_first=True, dropout=0.2)"),)),
        ("noise in act", (net(ACT_POLICY, "        latent = latent[:, 0] + 0.1 * torch.randn_like(latent[:, 0])\n" + POLICY),)),
    )),
    ("32", "batch norm", "batch-independence", (
        ("BatchNorm1d, flattened", (at_init("self.norm = nn.BatchNorm1d(encoder_dim)"), net(TRUNK, "features = self.encoder(obs)\n        features = self.norm(features.reshape(-1, features.size(-1))).view_as(features)"))),
        ("BatchNorm1d, transposed", (at_init("self.norm = nn.BatchNorm1d(encoder_dim)"), net(TRUNK, "features = self.norm(self.encoder(obs).transpose(1, 2)).transpose(1, 2)"))),
        ("F.batch_norm", (net(TRUNK, "features = self.encoder(obs)\n        features = nn.functional.batch_norm(features.flatten(0, 1), None, None, training=True).view_as(features)"),)),
    )),
    ("33", "normalise by batch", "batch-independence", (
        ("mean(0), std(0)", (net(TRUNK, "features = self.encoder((obs - obs.mean(0)) / (obs.std(0) + 1e-5))"),)),
        ("layer_norm over all dimensions", (net(TRUNK, "features = self.encoder(nn.functional.layer_norm(obs, obs.shape))"),)),
        ("running mean in forward", (at_init('self.register_buffer("obs_mean", torch.zeros(obs_dim))'), net(TRUNK, "if self.training:\n            self.obs_mean.mul_(0.9).add_(0.1 * obs.detach().mean(dim=(0, 1)))\n        features = self.encoder(obs - self.obs_mean)"))),
    )),
    ("34", "modules in a plain container", "state-roundtrip", (
        ("list", with_heads("self.heads = [nn.Linear(hidden_dim, size) for size in sizes]", *(f"self.heads[{k}]" for k in range(3)))),
        ("dict", with_heads('self.heads = dict(zip(("move", "aim", "item"), (nn.Linear(hidden_dim, size) for size in sizes)))', *(f'self.heads["{name}"]' for name in ("move", "aim", "item")))),
        ("tuple", with_heads("self.heads = tuple(nn.Linear(hidden_dim, size) for size in sizes)", *(f"self.heads[{k}]" for k in range(3)))),
        ("append", with_heads("self.heads = []\n        for size in sizes:\n            self.heads.append(nn.Linear(hidden_dim, size))", *(f"self.heads[{k}]" for k in range(3)))),
    )),
    ("35", "buffer as a plain tensor", "device-moves", (
        ("torch.ones", (at_init("self.scale = torch.ones(hidden_dim)"), SCALED)),
        ("made in forward", (net(CORE, "return torch.cat(outputs, dim=1) * torch.linspace(0.5, 1.0, self.gru.hidden_size), hidden"),)),
        ("property", (net(INITIAL_METHOD, "    @property\n    def scale(self) -> Tensor:\n        return torch.ones(self.gru.hidden_size)\n\n" + INITIAL_METHOD), SCALED)),
        ("random", (at_init("self.scale = torch.randn(hidden_dim)"), SCALED)),
    )),
    ("36", "non-persistent buffer", "state-roundtrip", (
        ("persistent=False", (at_init('self.register_buffer("scale", torch.rand(hidden_dim) + 0.5, persistent=False)'), SCALED)),
        ("nn.Buffer", (at_init("self.scale = nn.Buffer(torch.rand(hidden_dim) + 0.5, persistent=False)"), SCALED)),
        ("state_dict without it", (at_init('self.register_buffer("scale", torch.rand(hidden_dim) + 0.5)'), SCALED, net(INITIAL_METHOD, '    def state_dict(self, *args, **kwargs):\n        return {key: value for key, value in super().state_dict(*args, **kwargs).items() if key != "scale"}\n\n' + INITIAL_METHOD))),
    )),
    ("37", "result kept on self", "graph-kept", (
        ("latent", (net(CORE, "self.latent = torch.cat(outputs, dim=1)\n        return self.latent, hidden"),)),
        ("hidden", (net(CORE, "self.hidden = hidden\n        " + CORE),)),
        ("last log-probs", (net("        return move, aim, item\n", "        self.last_policy = (move, aim, item)\n        return move, aim, item\n"),)),
    )),
    ("38", "head gain", "init-policy", (
        ("gain=1.0", (net(GAINS, GAINS.replace("0.01", "1.0")),)),
        ("calls removed", (net(GAINS, ""),)),
        ("one head only", (net(GAINS, GAINS.partition("\n")[0] + "\n"),)),
        ("small gain before the loop", (net("        for module in self.modules():\n", GAINS + "        for module in self.modules():\n"), net(GAINS + "        nn.init.orthogonal_(self.value_head[-1]", "        nn.init.orthogonal_(self.value_head[-1]"))),
    )),
    ("39", "orthogonal over all gates", "init-gates", (
        ("whole weight", (net(GATES, "        nn.init.orthogonal_(self.gru.weight_hh_l0)\n"),)),
        ("loop over parameters", (net(GATES, '        for name, parameter in self.gru.named_parameters():\n            if "weight" in name:\n                nn.init.orthogonal_(parameter)\n'),)),
        ("chunks of another number", (net(GATES, GATES.replace("chunk(3)", "chunk(4)")),)),
    )),
    ("41", "softmax over the wrong dimension", "log-prob-normalised", (
        ("dim=0", (mask(NORMALISED, "return masked - masked.logsumexp(dim=0, keepdim=True)"),)),
        ("log_softmax(dim=1)", (mask(NORMALISED, "return torch.log_softmax(masked, dim=1)"),)),
        ("nn.LogSoftmax()", (mask(NORMALISED, "return torch.nn.LogSoftmax()(masked)"),)),
        ("log of softmax(0)", (mask(NORMALISED, "return masked.softmax(0).clamp(min=1e-38).log()"),)),
    )),
    ("42", "double softmax", "policy-range", (
        ("softmax of the logits", (mask(FLOAT, "    logits = logits.float().softmax(dim=-1)\n"),)),
        ("in the call of one head", (net(MOVE, MOVE.replace("self.move_head(latent)", "self.move_head(latent).softmax(-1)")),)),
        ("nn.Softmax in the head", (net("        self._init_weights()\n", "        self._init_weights()\n        self.move_head = nn.Sequential(self.move_head, nn.Softmax(dim=-1))\n"),)),
        ("twice over the mask", (mask(FILL, FILL + "\n    masked = masked.softmax(-1).masked_fill(~mask, MASKED_LOGIT)"),)),
    )),
    ("43", "log(p + eps)", "log-prob-normalised policy-range", (
        ("1e-3", (mask(NORMALISED, "return (masked.softmax(dim=-1) + 1e-3).log()"),)),
        ("1e-8", (mask(NORMALISED, "return torch.log(torch.softmax(masked, dim=-1) + 1e-8)"),)),
        ("clamp", (mask(NORMALISED, "return torch.softmax(masked, dim=-1).clamp_min(1e-6).log()"),)),
    )),
    ("44", "temperature only in act", "act-evaluate", (
        ("/ 1.5", (net(ACT_POLICY, ACT_POLICY.replace("latent[:, 0]", "latent[:, 0] / 1.5")),)),
        ("log-probs scaled", (net(ACT_POLICY, ACT_POLICY + "        move, aim, item = ((each * 1.1).log_softmax(-1) for each in (move, aim, item))\n"),)),
        ("clamp", (net(ACT_POLICY, ACT_POLICY + "        move = move.clamp(min=-3.0)\n"),)),
    )),
    ("45", "heads crossed", "act-evaluate", (
        ("indices swapped in evaluate", (net(MOVE_LOG_PROB, MOVE_LOG_PROB.replace("0]", "1]")), net(AIM_LOG_PROB, AIM_LOG_PROB.replace("1]", "0] % 4")))),
        ("stacked in another order", (net(ACTIONS, "actions = torch.stack([chosen[0], chosen[2], chosen[1]], dim=-1)\n"), net(ACT_SECOND, ACT_SECOND.replace("1]", "2]")), net(ACT_THIRD, ACT_THIRD.replace("2]", "1]")))),
        ("one mask for another head", (net(ITEM, ITEM.replace('masks["item"]', 'masks["aim"][..., : self.item_head.out_features]')),)),
        ("second sampled with the first", (net(SAMPLED, "move_choice = sample(move)\n            chosen = [move_choice, move_choice % 4, sample(item)]"),)),
    )),
    ("46", "hidden state on self", "output-shape state-roundtrip", (
        ("core keeps its own", (at_init("self._hidden = None"), net(TRUNK, "if self._hidden is not None and self._hidden.shape == hidden.shape:\n            hidden = self._hidden\n        " + TRUNK), net(CORE, "self._hidden = hidden.detach()\n        " + CORE))),
        ("act keeps its own", (at_init("self._hidden = None"), net(ACT_RUN, "        if self._hidden is not None and self._hidden.shape == hidden.shape:\n            hidden = self._hidden\n" + ACT_RUN + "        self._hidden = hidden\n"))),
        ("initial state cached", (at_init("self._initial = {}"), net(ZEROS, "if batch not in self._initial:\n            self._initial[batch] = torch.zeros(self.gru.num_layers, batch, self.gru.hidden_size, dtype=weight.dtype, device=device)\n        return self._initial[batch]"))),
    )),
    ("51", "Categorical by position", "log-prob-normalised policy-range", (
        ("Categorical(logits)", (net(MOVE_LOG_PROB, 'move_log_prob = torch.distributions.Categorical(self.move_head(latent).masked_fill(~masks["move"], -1e8)).log_prob(actions[..., 0])'),)),
        ("probs=log-probs", (net(AIM_LOG_PROB, "aim_log_prob = torch.distributions.Categorical(probs=aim).log_prob(actions[..., 1])"),)),
        ("unvalidated", (net(ITEM_LOG_PROB, "item_log_prob = torch.distributions.Categorical(item, validate_args=False).log_prob(actions[..., 2])"),)),
    )),
    ("52", "mask without a time axis", "mask-rank", (
        ("check removed", (mask(SHAPE_CHECK, ""),)),
        ("expand", (mask(SHAPE_CHECK, ""), mask(CHECKED, "    mask = mask.expand_as(logits)\n" + CHECKED))),
        ("last dimension compared", (mask(SHAPE_CHECK, SHAPE_CHECK.replace("mask.shape != logits.shape", "mask.shape[-1] != logits.shape[-1]")),)),
    )),
    ("53", "row without a valid action", "empty-mask-row", (
        ("check removed", (mask(ROW_CHECK, ""),)),
        ("behind a switch that is off", (mask(ROW_CHECK, f"    if VALIDATE:\n    {ROW_CHECK}"), mask(CONSTANT, "VALIDATE = False\nMASKED_LOGIT = -1e8"))),
        ("try, pass", (mask(ROW_CHECK, "    try:\n    " + ROW_CHECK + "    except RuntimeError:\n        pass\n"),)),
    )),
    ("54", "~ on a mask that is not bool", "mask-kinds", (
        ("(~mask).bool()", (UNTYPED, mask(FILL, "masked = logits.masked_fill((~mask).bool(), MASKED_LOGIT)"))),
        ("where(~mask != 0)", (UNTYPED, mask(FILL, "masked = torch.where(~mask != 0, MASKED_LOGIT, logits)"))),
        ("uint8 first", (UNTYPED, mask(FILL, "mask = mask.to(torch.uint8)\n    masked = logits.masked_fill((~mask).bool(), MASKED_LOGIT)"))),
    )),
    ("55", "starts used as an index", "episode-reset", (
        ("long()", (net(RESET, "hidden = hidden.clone()\n            hidden[:, starts[:, t].long()] = 0"),)),
        ("index_fill", (net(RESET, "hidden = hidden.index_fill(1, starts[:, t].to(torch.int64), 0.0)"),)),
        ("first of nonzero()", (net(RESET, "hidden = hidden.clone()\n            hidden[:, starts[:, t].nonzero()[:1]] = 0"),)),
    )),
    ("+", "input changed in place", "inputs-changed", (
        ("hidden.masked_fill_", (net(RESET, "hidden = hidden.masked_fill_(begins, 0.0)"),)),
        ("hidden[:, starts] = 0", (net(RESET, "hidden[:, starts[:, t]] = 0.0"),)),
        ("obs.div_", (net(TRUNK, "features = self.encoder(obs.div_(10.0))"),)),
    )),
)  # fmt: skip

EVALUATED = f"{VALUES}        {{more}}\n        {EVALUATE_RETURN}"

COMPILED: Plants = (
    ("47", "validation of distributions", "graph-breaks", (
        ("validate_args=True", (net(MOVE_LOG_PROB, "move_log_prob = torch.distributions.Categorical(logits=move, validate_args=True).log_prob(actions[..., 0])"),)),
        ("default of a subclass", (net("class RecurrentActorCritic(", "class Checked(torch.distributions.Categorical):\n    def __init__(self, logits: Tensor) -> None:\n        super().__init__(logits=logits, validate_args=True)\n\n\nclass RecurrentActorCritic("), net(AIM_LOG_PROB, "aim_log_prob = Checked(aim).log_prob(actions[..., 1])"))),
        ("partial()", (net(IMPORTS, "import functools\n\n" + IMPORTS), net(AIM_LOG_PROB, "make = functools.partial(torch.distributions.Categorical, validate_args=True)\n        aim_log_prob = make(logits=aim).log_prob(actions[..., 1])"))),
    )),
    ("48", "branch on a tensor", "graph-breaks", (
        ("if mask.any()", (mask(ROW_CHECK, '    if not mask.any(dim=-1).all():\n        raise ValueError(f"{name} mask: a row has no valid choice")\n'),)),
        ("x if t > 0 else y", (net(EVALUATE_VALUES, EVALUATED.format(more="values = values if values.mean() > 0 else values + 0.0")),)),
        ("while", (net(EVALUATE_VALUES, EVALUATED.format(more="while values.abs().max() > 1e6:\n            values = values / 2")),)),
        ("skip the reset", (net(RESET, "if begins.any():\n                " + RESET),)),
    )),
    ("49", "counter on self", "recompiles", (
        ("+= 1", (at_init("self.calls = 0"), net(TRUNK, "self.calls += 1\n        features = self.encoder(obs + 0 * self.calls)"))),
        ("in a dict", (at_init('self.stats = {"calls": 0}'), net(TRUNK, 'self.stats["calls"] += 1\n        features = self.encoder(obs + 0 * self.stats["calls"])'))),
        ("len of a list", (at_init("self.seen = []"), net(TRUNK, "self.seen.append(1)\n        features = self.encoder(obs + 0 * len(self.seen))"))),
    )),
    ("50", "to the host and back", "graph-breaks", (
        (".item()", (net(EVALUATE_VALUES, EVALUATED.format(more="values = values + 0 * values.mean().item()")),)),
        ("tolist()", (net(EVALUATE_VALUES, EVALUATED.format(more="values = values + 0 * sum(values.flatten().tolist())")),)),
        ("print", (net(EVALUATE_VALUES, EVALUATED.format(more='print(f"values {values.mean()}")')),)),
        ("np.random", (net(IMPORTS, "import numpy as np\n\n" + IMPORTS), net(EVALUATE_VALUES, EVALUATED.format(more="values = values + 0 * np.random.rand()")))),
    )),
)  # fmt: skip

BENIGN: Twins = (
    ("`[..., 0]` for squeeze(-1)", (mask(GATHER, "return log_probs.gather(-1, action.unsqueeze(-1))[..., 0]"), net(EVALUATE_VALUES, EVALUATE_VALUES.replace(".squeeze(-1)", "[..., 0]")))),
    ("new_zeros", (net(ZEROS, "return weight.new_zeros(self.gru.num_layers, batch, self.gru.hidden_size, device=device)"),)),
    ("where for masked_fill", (mask(FILL, "masked = torch.where(mask, logits, torch.full_like(logits, MASKED_LOGIT))"),)),
    ("logical_not", (mask(FILL, "masked = logits.masked_fill(mask.logical_not(), MASKED_LOGIT)"),)),
    ("names for what is forbidden", (mask(FILL, "forbidden = ~mask\n    masked = torch.where(forbidden, MASKED_LOGIT, logits)"),)),
    ("torch.log_softmax", (mask(NORMALISED, "return torch.log_softmax(masked, dim=-1)"),)),
    ("-1e4 in half precision", (mask(CONSTANT, "MASKED_LOGIT = -1e4"), mask(FLOAT, ""))),
    ("-inf, entropy of valid entries only", (NEG_INF, mask(ENTROPY, "return -(probs * log_probs.masked_fill(probs == 0, 0.0)).sum(dim=-1)"))),
    ("starts by multiplication", (net(RESET, "hidden = hidden * (~begins).to(hidden.dtype)"),)),
    ("starts as a bool index of a copy", (net(RESET, "hidden = hidden.clone()\n            hidden[:, starts[:, t]] = 0.0"),)),
    ("ModuleList", with_heads("self.heads = nn.ModuleList(nn.Linear(hidden_dim, size) for size in sizes)", *(f"self.heads[{k}]" for k in range(3)))),
    ("ModuleDict", with_heads('self.heads = nn.ModuleDict({name: nn.Linear(hidden_dim, size) for name, size in zip(("move", "aim", "item"), sizes)})', *(f'self.heads["{name}"]' for name in ("move", "aim", "item")))),
    ("log-probs stacked and summed", (net(JOINT, "log_prob = torch.stack([move_log_prob, aim_log_prob, item_log_prob], dim=-1).sum(dim=-1)"),)),
    ("log-probs with +=", (net(JOINT, "log_prob = move_log_prob.clone()\n        log_prob += aim_log_prob\n        log_prob += item_log_prob"),)),
    ("registered buffer", (at_init('self.register_buffer("scale", torch.ones(hidden_dim))'), SCALED)),
    ("detached number for telemetry", (net(CORE, "self.hidden_norm = hidden.detach().norm()\n        " + CORE),)),
    ("detached state for the next rollout", (net(ACT_RETURN, "return actions, values, log_prob, hidden.detach()"),)),
    ("temperature in both", (mask(FLOAT, "    logits = logits.float() / 1.5\n"),)),
    ("multinomial for Gumbel", (mask("    noise = -torch.empty_like(log_probs).exponential_().log()\n    return (log_probs + noise).argmax(dim=-1)\n", "    return torch.multinomial(log_probs.exp(), 1).squeeze(-1)\n"),)),
    ("normalised per row", (net(TRUNK, "features = self.encoder(nn.functional.layer_norm(obs, (self.obs_dim,)))"),)),
)  # fmt: skip

BASE = Base("explicit", STYLES / "explicit", "policy.py", "RecurrentActorCritic", PLANTED, COMPILED, BENIGN)
