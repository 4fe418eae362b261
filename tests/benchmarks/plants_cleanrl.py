"""What is planted into the agent of `styles/cleanrl`: one method that acts and evaluates, steps first, torch's Categorical.

Faults of the rollout or of the update stand in `ppo.py`, as they would: no experiment runs that file, so none is
expected to see them.
"""

from __future__ import annotations

from planting import STYLES, Base, Edit, Plants, Twins

# ruff: noqa: E501 - a fault is text to be replaced, and reads best in one line


def net(old: str, new: str) -> Edit:
    """A change of the agent."""
    return "agent.py", old, new


def ppo(old: str, new: str) -> Edit:
    """A change of the rollout or the update."""
    return "ppo.py", old, new


CONSTANT = "MASKED = -1e8"
WHERE = "part = torch.where(mask, part, MASKED)"
LOGITS = "logits = self.actor(hidden)"
SPLIT_LOGITS = "torch.split(logits.float(), self.nvec, dim=-1)"
SPLIT_MASKS = "torch.split(masks.bool(), self.nvec, dim=-1)"
SHAPE_CHECK = """        if masks.shape != logits.shape:
            raise ValueError(f"masks: expected shape {tuple(logits.shape)}, got {tuple(masks.shape)}")
"""
ROW_CHECK = '            torch._assert_async(mask.any(dim=-1).all(), "a row of the masks has no valid choice")\n'
CATEGORICAL = "Categorical(logits=part)"
STATES = "hidden, lstm_state = self.get_states(x, lstm_state, done)\n"
DISTS = "        dists = self.get_dists(hidden, masks)\n        if action is None:\n"
BOTH = STATES + DISTS
GREEDY = "[dist.probs.argmax(dim=-1) for dist in dists]"
GREEDY_DISTS = "dists = self.get_dists(hidden, masks)\n        action = "
SAMPLE = "            action = torch.stack([dist.sample() for dist in dists], dim=-1)\n"
LOGPROB = "logprob = torch.stack([dist.log_prob(a) for a, dist in zip(action.unbind(-1), dists)], dim=-1)"
ENTROPY = "entropy = torch.stack([dist.entropy() for dist in dists], dim=-1)"
ENTROPIES = "dist.entropy() for dist in dists"
RETURN = "return action, logprob.sum(-1), entropy.sum(-1), value, lstm_state"
VALUE = "value = self.critic(hidden).squeeze(-1)"
ZEROS = "return weight.new_zeros(shape), weight.new_zeros(shape)"
TRUNK = "hidden = self.network(x)"
RESHAPE = "hidden = hidden.reshape(-1, num_envs, self.lstm.input_size)"
KEEP = "keep = (1.0 - done.to(hidden.dtype)).reshape(-1, 1, num_envs, 1)"
STATE = "state = (h * keep[t], c * keep[t])"
STEP = "output, (h, c) = self.lstm(hidden[t : t + 1], state)\n"
CAT = "torch.cat(outputs, dim=0).flatten(0, 1)"
NORM = "new_hidden = self.norm(new_hidden)"
CORE = "return new_hidden, (h, c)"
LSTM = "nn.LSTM(64, hidden_size)"
NORM_INIT = "self.norm = nn.LayerNorm(hidden_size)"
ACTOR = "self.actor = layer_init(nn.Linear(hidden_size, sum(self.nvec)), std=0.01)"
CRITIC = "self.critic = layer_init(nn.Linear(hidden_size, 1), std=1.0)"
GATES = """            for gate in param.data.chunk(4):
                nn.init.orthogonal_(gate)
"""
FORGET = """            if "bias_ih" in name:
                n = param.shape[0]
                param.data[n // 4 : n // 2].fill_(1.0)
"""
EVALUATE_METHOD = "    def get_action_and_value("
INITIAL_METHOD = "    def get_initial_state("
NEG_INF = net(CONSTANT, 'MASKED = float("-inf")')
HALF = net(SPLIT_LOGITS, "torch.split(logits, self.nvec, dim=-1)")

ROLLOUT_CALL = """            with torch.no_grad():
                action, logprob, _, value, next_state = agent.get_action_and_value(
                    next_obs, next_state, next_done, masks=next_masks
                )
"""
ROLLOUT_PLAIN = """            action, logprob, _, value, next_state = agent.get_action_and_value(
                next_obs, next_state, next_done, masks=next_masks
            )
"""
UPDATE_MASKS = "                    masks=masks[:, inds].flatten(0, 1),\n"
UPDATE_DONES = "dones[:, inds].flatten(),"
UPDATE_STATE = "(initial_state[0][:, inds], initial_state[1][:, inds]),"
UPDATE_ACTIONS = "action=actions[:, inds].flatten(0, 1),"
STORED = "obs[step], masks[step], dones[step] = next_obs, next_masks, next_done"
STEPPED = "next_obs, next_masks, rewards[step], next_done = envs.step(action)"


def at_init(more: str) -> Edit:
    """A line added at the end of the constructor."""
    return net(CRITIC, f"{CRITIC}\n        {more}")


def heads_in(container: str, heads: str = "self.actors") -> tuple[Edit, ...]:
    """One head per component, kept in some container."""
    return net(ACTOR, container), net(LOGITS, f"logits = torch.cat([head(hidden) for head in {heads}], dim=-1)")


def acting(more: str) -> Edit:
    """A line for when no action is given."""
    return net(SAMPLE, f"            {more}\n{SAMPLE}")


def evaluating(*lines: str) -> Edit:
    """Lines for when an action is given."""
    return net(SAMPLE, SAMPLE + "        else:\n" + "".join(f"            {line}\n" for line in lines))


def before(*lines: str) -> Edit:
    """Lines in front of the features that act and evaluate."""
    return net(BOTH, "\n        ".join((*lines, BOTH)))


SCALED = net(NORM, "new_hidden = self.norm(new_hidden) * self.scale")

PLANTED: Plants = (
    ("1", "drop mask in evaluate", "act-evaluate", (
        ("not passed in the update", (ppo(UPDATE_MASKS, ""),)),
        ("None where an action is given", (net(DISTS, DISTS.replace("hidden, masks)", "hidden, masks if action is None else None)")),)),
        ("Categorical(logits)", (evaluating("parts = torch.split(self.actor(hidden), self.nvec, dim=-1)", "dists = [Categorical(logits=part) for part in parts]"),)),
        ("ones_like(masks)", (before("if action is not None and masks is not None:", "    masks = torch.ones_like(masks)"),)),
    )),
    ("2", "invert mask", "mask-semantics", (
        ("where(mask, NEG, x)", (net(WHERE, "part = torch.where(mask, MASKED, part)"),)),
        ("masked_fill(mask)", (net(WHERE, "part = part.masked_fill(mask, MASKED)"),)),
        ("where(mask == 0, x, NEG)", (net(WHERE, "part = torch.where(mask == 0, part, MASKED)"),)),
        ("inverted before the split", (net(SPLIT_MASKS, "torch.split(~masks.bool(), self.nvec, dim=-1)"), net(ROW_CHECK, ""))),
    )),
    ("3", "constant -1e9 in half precision", "mask-dtype", (
        ("module constant", (net(CONSTANT, "MASKED = -1e9"), HALF)),
        ("literal in masked_fill", (HALF, net(WHERE, "part = part.masked_fill(~mask, -1e9)"))),
        ("additive", (HALF, net(WHERE, "part = part + (1 - mask.to(part.dtype)) * -1e9"))),
        ("tensor of the dtype", (HALF, net(WHERE, "part = torch.where(mask, part, torch.tensor(-1e8, dtype=part.dtype, device=part.device))"))),
    )),
    ("4", "weak constant -5", "mask-semantics", (
        ("module constant", (net(CONSTANT, "MASKED = -5.0"),)),
        ("additive", (net(WHERE, "part = part + (~mask).float() * -5.0"),)),
        ("literal in masked_fill", (net(WHERE, "part = part.masked_fill(~mask, -5)"),)),
        ("scaled by temperature", (net(CONSTANT, "MASKED = -50.0"), net(CATEGORICAL, "Categorical(logits=part / 10.0)"))),
    )),
    ("5", "-inf and p * log p", "mask-entropy", (
        ('float("-inf")', (NEG_INF, net(ENTROPIES, "-(dist.probs * dist.logits).sum(-1) for dist in dists"))),
        ("-torch.inf", (net(WHERE, "part = part.masked_fill(~mask, -torch.inf)"), net(ENTROPIES, "-(dist.probs * dist.logits).sum(-1) for dist in dists"))),
        ("log(mask)", (net(WHERE, "part = part + mask.float().log()"), net(ENTROPIES, "-(dist.probs * dist.logits).sum(-1) for dist in dists"))),
        ("finite constant, probs.log()", (net(ENTROPIES, "-(dist.probs * dist.probs.log()).sum(-1) for dist in dists"),)),
    )),
    ("6", "-inf and p * log p * mask", "mask-entropy", (
        ("product", (NEG_INF, net(ENTROPIES, "-(dist.probs * dist.logits * (dist.probs > 0)).sum(-1) for dist in dists"))),
        ("einsum", (NEG_INF, net(ENTROPIES, '-torch.einsum("bn,bn,bn->b", dist.probs, dist.logits, (dist.probs > 0).float()) for dist in dists'))),
        ("mul", (NEG_INF, net(ENTROPIES, "torch.mul(dist.probs, dist.logits).mul((dist.probs > 0).float()).sum(-1).neg() for dist in dists"))),
    )),
    ("7", "entropy guarded after the product", "mask-entropy", (
        ("where(p > 0)", (NEG_INF, net(ENTROPIES, "-torch.where(dist.probs > 0, dist.probs * dist.logits, 0.0).sum(-1) for dist in dists"))),
        ("nan_to_num", (NEG_INF, net(ENTROPIES, "-torch.nan_to_num(dist.probs * dist.logits).sum(-1) for dist in dists"))),
        ("masked_fill", (NEG_INF, net(ENTROPIES, "-(dist.probs * dist.logits).masked_fill(dist.probs == 0, 0.0).sum(-1) for dist in dists"))),
    )),
    ("8", "argmax on raw logits", "mask-semantics", (
        ("split of the raw logits", (net(GREEDY, "[part.argmax(dim=-1) for part in torch.split(self.actor(hidden), self.nvec, dim=-1)]"),)),
        ("Categorical(raw).probs", (net(GREEDY, "[Categorical(logits=part).probs.argmax(dim=-1) for part in self.actor(hidden).split(self.nvec, dim=-1)]"),)),
        ("masks left out", (net(GREEDY_DISTS, GREEDY_DISTS.replace(", masks)", ", None)")),)),
    )),
    ("9", "log-prob keeps its dimension", "output-shape", (
        ("not summed", (net(RETURN, RETURN.replace("logprob.sum(-1)", "logprob")),)),
        ("sum with keepdim", (net(RETURN, RETURN.replace("logprob.sum(-1)", "logprob.sum(-1, keepdim=True)")),)),
        ("action with a last axis", (net(LOGPROB, LOGPROB.replace("dist.log_prob(a)", "dist.log_prob(a.unsqueeze(-1))")),)),
    )),
    ("10", "shape of the value", "output-shape", (
        ("bare squeeze", (net(VALUE, "value = self.critic(hidden).squeeze()"),)),
        ("no squeeze", (net(VALUE, "value = self.critic(hidden)"),)),
        ("view(-1, 1)", (net(VALUE, "value = self.critic(hidden).view(-1, 1)"),)),
    )),
    ("11", "head missing in evaluate's log-prob", "act-evaluate", (
        ("slice of the distributions", (evaluating("dists = dists[:-1]"),)),
        ("actions cut in the update", (ppo(UPDATE_ACTIONS, "action=actions[:, inds, :-1].flatten(0, 1),"),)),
        ("last column dropped", (net(RETURN, "joint = logprob[:, :-1].sum(-1) if given else logprob.sum(-1)\n        " + RETURN.replace("logprob.sum(-1)", "joint")), before("given = action is not None"))),
    )),
    ("12", "head missing in both log-probs", "log-prob-normalised", (
        ("slice of the distributions", (net(LOGPROB, LOGPROB.replace("dists)]", "dists[:-1])]")),)),
        ("last column dropped", (net(RETURN, RETURN.replace("logprob.sum(-1)", "logprob[:, :-1].sum(-1)")),)),
        ("first column", (net(RETURN, RETURN.replace("logprob.sum(-1)", "logprob[:, 0]")),)),
        ("break", (net(LOGPROB, "total = 0.0\n        for a, dist in zip(action.unbind(-1), dists):\n            total = total + dist.log_prob(a)\n            break"), net(RETURN, RETURN.replace("logprob.sum(-1)", "total")))),
    )),
    ("13", "entropy overwritten", "entropy-consistent", (
        ("last head only", (net(ENTROPY, "entropy = torch.stack([dists[-1].entropy()], dim=-1)"),)),
        ("= for +=", (net(ENTROPY, "for dist in dists:\n            entropy = dist.entropy()"), net(RETURN, RETURN.replace("entropy.sum(-1)", "entropy")))),
        ("mean of the heads", (net(RETURN, RETURN.replace("entropy.sum(-1)", "entropy.mean(-1)")),)),
        ("left variable of a loop", (net(ENTROPY, "for dist in dists:\n            pass\n        entropy = dist.entropy().unsqueeze(-1)"),)),
    )),
    ("14", "log-prob detached in evaluate", "gradient-flow", (
        ("detach", (net(RETURN, RETURN.replace("logprob.sum(-1)", "logprob.sum(-1).detach()")),)),
        (".data", (net(RETURN, RETURN.replace("logprob.sum(-1)", "logprob.data.sum(-1)")),)),
        ("no_grad block", (net(LOGPROB, "with torch.no_grad():\n            " + LOGPROB),)),
        ("no_grad on the method", (net(EVALUATE_METHOD, "    @torch.no_grad()\n" + EVALUATE_METHOD),)),
    )),
    ("15", "log-prob rebuilt", "gradient-flow", (
        ("torch.tensor(list)", (net(RETURN, RETURN.replace("logprob.sum(-1)", "torch.tensor(logprob.sum(-1).tolist())")),)),
        ("as_tensor(numpy)", (net(RETURN, RETURN.replace("logprob.sum(-1)", "torch.as_tensor(logprob.sum(-1).detach().cpu().numpy())")),)),
        ("from floats", (net(RETURN, RETURN.replace("logprob.sum(-1)", "torch.tensor([float(row.sum()) for row in logprob])")),)),
    )),
    ("16", "trunk detached for the critic", "shared-features", (
        ("detach", (net(VALUE, "value = self.critic(hidden.detach()).squeeze(-1)"),)),
        ("no_grad block", (net(VALUE, "with torch.no_grad():\n            frozen = hidden.clone()\n        value = self.critic(frozen).squeeze(-1)"),)),
        (".data", (net(VALUE, "value = self.critic(hidden.data).squeeze(-1)"),)),
    )),
    ("17", "hidden without dtype", "hidden-dtype", (
        ("zeros", (net(ZEROS, "return torch.zeros(shape, device=weight.device), torch.zeros(shape, device=weight.device)"),)),
        ("zeros().to(device)", (net(ZEROS, "return torch.zeros(*shape).to(weight.device), torch.zeros(*shape).to(weight.device)"),)),
        ("FloatTensor", (net(ZEROS, "h, c = (torch.FloatTensor(*shape).zero_().to(weight.device) for _ in range(2))\n        return h, c"),)),
    )),
    ("18", "hidden without device", "hidden-device", (
        ("zeros", (net(ZEROS, "return torch.zeros(shape, dtype=weight.dtype), torch.zeros(shape, dtype=weight.dtype)"),)),
        ('.to("cpu")', (net(ZEROS, 'return weight.new_zeros(shape).to("cpu"), weight.new_zeros(shape).to("cpu")'),)),
        (".cpu()", (net(ZEROS, "return weight.new_zeros(shape).cpu(), weight.new_zeros(shape).cpu()"),)),
    )),
    ("19", "hidden by expand", "initial-hidden-alias", (
        ("expand", (net(ZEROS, "zero = weight.new_zeros(1, 1, self.lstm.hidden_size)\n        return zero.expand(shape), zero.clone().expand(shape)"),)),
        ("expand_as", (net(ZEROS, "like = weight.new_zeros(shape)\n        return like[:, :1].expand_as(like), like[:, :1].clone().expand_as(like)"),)),
        ("broadcast_to", (net(ZEROS, "return torch.broadcast_to(weight.new_zeros(1), shape), torch.broadcast_to(weight.new_zeros(1), shape)"),)),
    )),
    ("20", "h and c are one tensor", "initial-hidden-alias", (
        ("(z, z)", (net(ZEROS, "zeros = weight.new_zeros(shape)\n        return (zeros, zeros)"),)),
        ("[z] * 2", (net(ZEROS, "return tuple([weight.new_zeros(shape)] * 2)"),)),
        ("h = c = zeros", (net(ZEROS, "h = c = weight.new_zeros(shape)\n        return h, c"),)),
    )),
    ("21", "no reset", "episode-reset", (
        ("done unused", (net(STATE, "state = (h, c)"),)),
        ("keep = 1", (net(KEEP, "keep = torch.ones_like(done, dtype=hidden.dtype).reshape(-1, 1, num_envs, 1)"),)),
        ("done overwritten", (net(KEEP, "done = torch.zeros_like(done)\n        " + KEEP),)),
    )),
    ("22", "only h is reset", "episode-reset", (
        ("c untouched", (net(STATE, "state = (h * keep[t], c)"),)),
        ("h untouched", (net(STATE, "state = (h, c * keep[t])"),)),
        ("h twice", (net(STATE, "state = (h * keep[t], h * keep[t])"),)),
        ("assigned to h alone", (net(STATE, "h = h * keep[t]\n            state = (h, c)"),)),
    )),
    ("23", "reset one step off", "episode-reset", (
        ("late", (net(STATE, "state = (h * keep[max(t - 1, 0)], c * keep[max(t - 1, 0)])"),)),
        ("early", (net(STATE, "after = min(t + 1, keep.shape[0] - 1)\n            state = (h * keep[after], c * keep[after])"),)),
        ("after the step", (net(STATE, "state = (h, c)"), net(STEP, STEP + "            h, c = h * keep[t], c * keep[t]\n"))),
        ("ends stored for starts", (ppo(STORED, "obs[step], masks[step] = next_obs, next_masks"), ppo(STEPPED, STEPPED + "\n            dones[step] = next_done"))),
    )),
    ("24", "evaluate ignores starts", "episode-reset", (
        ("zeros in the update", (ppo(UPDATE_DONES, "torch.zeros_like(dones[:, inds]).flatten(),"),)),
        ("where an action is given", (before("done = done if action is None else torch.zeros_like(done)"),)),
        ("not multiplied", (before("if action is not None:", "    done = done * 0"),)),
    )),
    ("24", "act ignores starts", "act-evaluate", (
        ("zeros in the rollout", (ppo("next_obs, next_state, next_done, masks=next_masks", "next_obs, next_state, torch.zeros_like(next_done), masks=next_masks"),)),
        ("where no action is given", (before("done = torch.zeros_like(done) if action is None else done"),)),
        ("new tensor", (before("if action is None:", "    done = x.new_zeros(x.shape[0])"),)),
    )),
    ("25", "evaluate ignores hidden", "act-evaluate", (
        ("initial state in the update", (ppo(UPDATE_STATE, "agent.get_initial_state(len(inds)),"),)),
        ("initial state where an action is given", (before("if action is not None:", "    lstm_state = self.get_initial_state(lstm_state[0].shape[1])"),)),
        ("zeros_like", (before("if action is not None:", "    lstm_state = tuple(torch.zeros_like(s) for s in lstm_state)"),)),
        ("c only", (before("if action is not None:", "    lstm_state = (lstm_state[0], torch.zeros_like(lstm_state[1]))"),)),
    )),
    ("26", "batch_first against the data", "causality episode-reset", (
        ("keyword", (net(LSTM, "nn.LSTM(64, hidden_size, batch_first=True)"),)),
        ("positional", (net(LSTM, "nn.LSTM(64, hidden_size, 1, True, True)"),)),
        ("step transposed", (net(STEP, STEP.replace("hidden[t : t + 1]", "hidden[t : t + 1].transpose(0, 1)")),)),
    )),
    ("27", "reshape for transpose", "batch-independence", (
        ("rows read as environments first", (net(RESHAPE, "hidden = hidden.reshape(num_envs, -1, self.lstm.input_size).transpose(0, 1)"),)),
        ("outputs flattened the other way", (net(CAT, "torch.cat(outputs, dim=0).transpose(0, 1).flatten(0, 1)"),)),
        ("stack on dim 1, reshape", (net(CAT, "torch.stack([output[0] for output in outputs], dim=1).reshape(-1, self.lstm.hidden_size)"),)),
        ("observations of the update", (ppo("obs[:, inds].flatten(0, 1),", "obs[:, inds].transpose(0, 1).flatten(0, 1),"),)),
    )),
    ("28", "act returns the old hidden state", "act-evaluate", (
        ("_", (net(BOTH, BOTH.replace("lstm_state = self", "_ = self", 1)),)),
        ("shadowed name", (net(BOTH, BOTH.replace("lstm_state = self", "new_state = self", 1)),)),
        ("features return what they took", (net(CORE, "return new_hidden, lstm_state"),)),
        ("not taken over in the rollout", (ppo("_, value, next_state = agent", "_, value, _ = agent"),)),
    )),
    ("29", "inference_mode on act", "inference-tensors gradient-flow", (
        ("decorator", (net(EVALUATE_METHOD, "    @torch.inference_mode()\n" + EVALUATE_METHOD),)),
        ("mode=True", (net(EVALUATE_METHOD, "    @torch.inference_mode(mode=True)\n" + EVALUATE_METHOD),)),
        ("block where no action is given", (net(BOTH, "with torch.inference_mode(action is None):\n            " + BOTH),)),
    )),
    ("30", "no no_grad in act", "", (
        ("removed", (ppo(ROLLOUT_CALL, ROLLOUT_PLAIN),)),
        ("only around the environment", (ppo(ROLLOUT_CALL, ROLLOUT_PLAIN), ppo(STEPPED, "with torch.no_grad():\n                " + STEPPED))),
        ("enable_grad", (ppo(ROLLOUT_CALL, ROLLOUT_CALL.replace("no_grad", "enable_grad")),)),
    )),
    ("31", "dropout", "randomness act-evaluate", (
        ("nn.Dropout", (net("            nn.ReLU(),\n", "            nn.ReLU(),\n            nn.Dropout(0.1),\n"),)),
        ("F.dropout", (net(NORM, "new_hidden = nn.functional.dropout(self.norm(new_hidden), 0.1)"),)),
        ("between LSTM layers", (net(LSTM, "nn.LSTM(64, hidden_size, num_layers=2, dropout=0.2)"),)),
        ("noise in act", (acting("dists = [Categorical(logits=dist.logits + 0.1 * torch.randn_like(dist.logits)) for dist in dists]"),)),
    )),
    ("32", "batch norm", "batch-independence", (
        ("in the trunk", (net("            nn.ReLU(),\n", "            nn.BatchNorm1d(64),\n            nn.ReLU(),\n"),)),
        ("for LayerNorm", (net(NORM_INIT, "self.norm = nn.BatchNorm1d(hidden_size)"),)),
        ("F.batch_norm", (net(NORM, "new_hidden = torch.nn.functional.batch_norm(new_hidden, None, None, training=True)"),)),
    )),
    ("33", "normalise by batch", "batch-independence", (
        ("mean(0), std(0)", (net(TRUNK, "hidden = self.network((x - x.mean(0)) / (x.std(0) + 1e-5))"),)),
        ("keepdim", (net(TRUNK, "centred = x - x.mean(dim=0, keepdim=True)\n        hidden = self.network(centred / centred.pow(2).mean(dim=0, keepdim=True).add(1e-5).sqrt())"),)),
        ("running mean in forward", (at_init('self.register_buffer("mean", torch.zeros(obs_dim))'), net(TRUNK, "if self.training:\n            self.mean.lerp_(x.detach().mean(0), 0.1)\n        hidden = self.network(x - self.mean)"))),
    )),
    ("34", "modules in a plain container", "state-roundtrip", (
        ("list", heads_in("self.actors = [layer_init(nn.Linear(hidden_size, n), std=0.01) for n in self.nvec]")),
        ("append", heads_in("self.actors = []\n        for n in self.nvec:\n            self.actors.append(layer_init(nn.Linear(hidden_size, n), std=0.01))")),
        ("dict", heads_in("self.actors = {str(k): layer_init(nn.Linear(hidden_size, n), std=0.01) for k, n in enumerate(self.nvec)}", "self.actors.values()")),
        ("tuple", heads_in("self.actors = tuple(layer_init(nn.Linear(hidden_size, n), std=0.01) for n in self.nvec)")),
    )),
    ("35", "buffer as a plain tensor", "device-moves", (
        ("torch.ones", (at_init("self.scale = torch.ones(hidden_size)"), SCALED)),
        ("made in forward", (net(NORM, "new_hidden = self.norm(new_hidden) * torch.linspace(0.5, 1.0, self.lstm.hidden_size)"),)),
        ("property", (net(INITIAL_METHOD, "    @property\n    def scale(self):\n        return torch.full((self.lstm.hidden_size,), 0.5)\n\n" + INITIAL_METHOD), SCALED)),
        ("random", (at_init("self.scale = torch.rand(hidden_size) + 0.5"), SCALED)),
    )),
    ("36", "non-persistent buffer", "state-roundtrip", (
        ("persistent=False", (at_init('self.register_buffer("scale", torch.rand(hidden_size) + 0.5, persistent=False)'), SCALED)),
        ("positional False", (at_init('self.register_buffer("scale", torch.rand(hidden_size) + 0.5, False)'), SCALED)),
        ("state_dict without it", (at_init('self.register_buffer("scale", torch.rand(hidden_size) + 0.5)'), SCALED, net(INITIAL_METHOD, '    def state_dict(self, *args, **kwargs):\n        state = super().state_dict(*args, **kwargs)\n        state.pop("scale", None)\n        return state\n\n' + INITIAL_METHOD))),
    )),
    ("37", "result kept on self", "graph-kept", (
        ("latent", (net(NORM, "new_hidden = self.latent = self.norm(new_hidden)"),)),
        ("hidden", (net(CORE, "self.last_state = (h, c)\n        " + CORE),)),
        ("last distributions", (net(DISTS, DISTS.replace("dists = ", "self.dists = dists = ")),)),
    )),
    ("38", "head gain", "init-policy", (
        ("std=1.0", (net(ACTOR, ACTOR.replace("std=0.01", "std=1.0")),)),
        ("default of layer_init", (net(ACTOR, ACTOR.replace(", std=0.01", "")),)),
        ("default of nn.Linear", (net(ACTOR, "self.actor = nn.Linear(hidden_size, sum(self.nvec))"),)),
    )),
    ("39", "orthogonal over all gates", "init-gates", (
        ("whole weight", (net(GATES, "            nn.init.orthogonal_(param)\n"),)),
        ("whole weight, gain", (net(GATES, "            torch.nn.init.orthogonal_(param.data, 1.0)\n"),)),
        ("loop without chunk", (net(GATES, GATES.replace("param.data.chunk(4)", "[param.data]")),)),
    )),
    ("40", "forget bias", "init-forget-bias", (
        ("both biases", (net(FORGET, FORGET.replace('"bias_ih" in name', '"bias" in name')),)),
        ("+= in both", (net(FORGET, "            n = param.shape[0]\n            param.data[n // 4 : n // 2] += 1.0\n"),)),
        ("wrong slice n/2:3n/4", (net(FORGET, FORGET.replace("n // 4 : n // 2", "n // 2 : 3 * n // 4")),)),
        ("input gate", (net(FORGET, FORGET.replace("n // 4 : n // 2", ": n // 4")),)),
    )),
    ("41", "softmax over the wrong dimension", "log-prob-normalised batch-independence", (
        ("probs=softmax(dim=0)", (net(CATEGORICAL, "Categorical(probs=torch.softmax(part, dim=0))"),)),
        ("logits=log_softmax(dim=0)", (net(CATEGORICAL, "Categorical(logits=torch.log_softmax(part, dim=0))"),)),
        ("nn.Softmax(0)", (net(CATEGORICAL, "Categorical(nn.Softmax(0)(part))"),)),
    )),
    ("42", "double softmax", "policy-range", (
        ("softmax of the logits", (net(LOGITS, "logits = torch.softmax(self.actor(hidden), dim=-1)"),)),
        ("logits=softmax", (net(CATEGORICAL, "Categorical(logits=part.softmax(dim=-1))"),)),
        ("nn.Softmax in the head", (net(ACTOR, "self.actor = nn.Sequential(layer_init(nn.Linear(hidden_size, sum(self.nvec)), std=0.01), nn.Softmax(dim=-1))"),)),
    )),
    ("43", "log(p + eps)", "log-prob-normalised policy-range", (
        ("1e-3", (net(CATEGORICAL, "Categorical(logits=(part.softmax(-1) + 1e-3).log())"),)),
        ("1e-8", (net(CATEGORICAL, "Categorical(logits=torch.log(torch.softmax(part, dim=-1) + 1e-8))"),)),
        ("clamp", (net(CATEGORICAL, "Categorical(logits=part.softmax(-1).clamp(min=1e-6).log())"),)),
    )),
    ("44", "temperature only in act", "act-evaluate", (
        ("/ 1.5", (acting("dists = [Categorical(logits=dist.logits / 1.5) for dist in dists]"),)),
        ("scaled", (before("scale = 1.0 if action is not None else 1.1"), net(DISTS, DISTS.replace("hidden, masks", "scale * hidden, masks")))),
        ("clamp", (acting("dists = [Categorical(logits=dist.logits.clamp(-10, 10)) for dist in dists]"),)),
    )),
    ("45", "heads crossed", "act-evaluate log-prob-normalised", (
        ("scored in reverse", (net(LOGPROB, LOGPROB.replace("zip(action.unbind(-1), dists)", "zip(action.flip(-1).unbind(-1), dists)")),)),
        ("sampled in reverse", (net(SAMPLE, SAMPLE.replace("for dist in dists", "for dist in reversed(dists)")),)),
        ("second sampled with the first", (net(SAMPLE, SAMPLE + "            action[:, 1] = action[:, 0] % self.nvec[1]\n"),)),
    )),
    ("46", "hidden state on self", "output-shape state-roundtrip", (
        ("features keep their own", (at_init("self._state = None"), net("        h, c = lstm_state\n", "        h, c = self._state if self._state is not None and self._state[0].shape == lstm_state[0].shape else lstm_state\n"), net(CORE, "self._state = (h.detach(), c.detach())\n        " + CORE))),
        ("act keeps its own", (at_init("self._state = None"), net(BOTH, "if action is None and self._state is not None and self._state[0].shape == lstm_state[0].shape:\n            lstm_state = self._state\n        " + STATES + "        if action is None:\n            self._state = lstm_state\n" + DISTS))),
        ("initial state cached", (at_init("self._initial = {}"), net(ZEROS, "if num_envs not in self._initial:\n            self._initial[num_envs] = (weight.new_zeros(shape), weight.new_zeros(shape))\n        return self._initial[num_envs]"))),
    )),
    ("51", "Categorical by position", "log-prob-normalised policy-range", (
        ("Categorical(logits)", (net(CATEGORICAL, "Categorical(part)"),)),
        ("probs=logits", (net(CATEGORICAL, "Categorical(probs=part)"),)),
        ("unvalidated", (net(CATEGORICAL, "Categorical(part, validate_args=False)"),)),
        ("partial()", (net("MASKED = -1e8", "make = functools.partial(Categorical, validate_args=False)\nMASKED = -1e8"), net("import math\n", "import functools\nimport math\n"), net(CATEGORICAL, "make(part.relu() + 1e-6)"))),
    )),
    ("52", "mask without a time axis", "mask-rank", (
        ("check removed", (net(SHAPE_CHECK, ""),)),
        ("repeated over the steps", (net(SHAPE_CHECK, "        masks = masks.repeat(logits.shape[0] // masks.shape[0], 1)\n"),)),
        ("first step in the update", (ppo(UPDATE_MASKS, UPDATE_MASKS.replace("masks[:, inds].flatten(0, 1)", "masks[0, inds].repeat(num_steps, 1)")),)),
    )),
    ("53", "row without a valid action", "empty-mask-row", (
        ("check removed", (net(ROW_CHECK, ""),)),
        ("behind a switch that is off", (at_init("self.validate = False"), net(ROW_CHECK, "            if self.validate:\n    " + ROW_CHECK))),
        ("try, pass", (net(ROW_CHECK, "            try:\n    " + ROW_CHECK + "            except RuntimeError:\n                pass\n"),)),
    )),
    ("54", "~ on a mask that is not bool", "mask-kinds", (
        ("(~mask).bool()", (net(SPLIT_MASKS, "torch.split(masks, self.nvec, dim=-1)"), net(WHERE, "part = part.masked_fill((~mask).bool(), MASKED)"))),
        ("where(~mask != 0)", (net(SPLIT_MASKS, "torch.split(masks, self.nvec, dim=-1)"), net(WHERE, "part = torch.where(~mask != 0, MASKED, part)"))),
        ("uint8 buffer", (ppo("dtype=torch.bool)\n    actions", "dtype=torch.uint8)\n    actions"), net(SPLIT_MASKS, "torch.split((~masks).bool(), self.nvec, dim=-1)"), net(WHERE, "part = part.masked_fill(mask, MASKED)"), net(ROW_CHECK, ""))),
    )),
    ("55", "starts used as an index", "episode-reset", (
        ("long()", (net(STATE, "h, c = h.clone(), c.clone()\n            rows = done.reshape(-1, num_envs)[t].long()\n            h[:, rows] = 0\n            c[:, rows] = 0\n            state = (h, c)"),)),
        ("int(), written in place", (net(STATE, "over = done.reshape(-1, num_envs).int()\n            h, c = h.index_fill(1, over[t].long(), 0.0), c.index_fill(1, over[t].long(), 0.0)\n            state = (h, c)"),)),
        ("first of nonzero()", (net(STATE, "rows = done.reshape(-1, num_envs)[t].nonzero().flatten()[:1]\n            h, c = h.clone(), c.clone()\n            h[:, rows] = 0.0\n            c[:, rows] = 0.0\n            state = (h, c)"),)),
    )),
    ("+", "input changed in place", "inputs-changed", (
        ("h.mul_", (net(STATE, "state = (h.mul_(keep[t]), c.mul_(keep[t]))"),)),
        ("x.div_", (net(TRUNK, "hidden = self.network(x.div_(10.0))"),)),
        ("x *=", (net(TRUNK, "x *= 0.1\n        hidden = self.network(x)"),)),
    )),
)  # fmt: skip

COMPILED: Plants = (
    ("47", "validation of distributions", "graph-breaks", (
        ("validate_args=True", (net(CATEGORICAL, "Categorical(logits=part, validate_args=True)"),)),
        ("default of a subclass", (net("class Agent(", "class Checked(Categorical):\n    def __init__(self, logits):\n        super().__init__(logits=logits, validate_args=True)\n\n\nclass Agent("), net(CATEGORICAL, "Checked(part)"))),
        ("global setter", (net("MASKED = -1e8", "torch.distributions.Distribution.set_default_validate_args(True)\nMASKED = -1e8"),)),
    )),
    ("48", "branch on a tensor", "graph-breaks", (
        ("if mask.any()", (net(ROW_CHECK, '            if not mask.any(dim=-1).all():\n                raise ValueError("a row of the masks has no valid choice")\n'),)),
        ("x if t > 0 else y", (net(VALUE, VALUE + "\n        value = value if value.mean() > 0 else value + 0.0"),)),
        ("while", (net(VALUE, VALUE + "\n        while value.abs().max() > 1e6:\n            value = value / 2"),)),
    )),
    ("49", "counter on self", "recompiles", (
        ("+= 1", (at_init("self.calls = 0"), net(TRUNK, "self.calls += 1\n        hidden = self.network(x + 0 * self.calls)"))),
        ("in a dict", (at_init('self.stats = {"calls": 0}'), net(TRUNK, 'self.stats["calls"] += 1\n        hidden = self.network(x + 0 * self.stats["calls"])'))),
        ("len of a list", (at_init("self.seen = []"), net(TRUNK, "self.seen.append(x.shape[0])\n        hidden = self.network(x + 0 * len(self.seen))"))),
    )),
    ("50", "to the host and back", "graph-breaks", (
        (".item()", (net(VALUE, VALUE + "\n        value = value + 0 * value.mean().item()"),)),
        ("tolist()", (net(VALUE, VALUE + "\n        value = value + 0 * sum(value.flatten().tolist())"),)),
        ("print", (net(VALUE, VALUE + '\n        print(f"value {value.mean()}")'),)),
        ("np.random", (net("import math\n", "import math\n\nimport numpy as np\n"), net(VALUE, VALUE + "\n        value = value + 0 * np.random.rand()"))),
    )),
)  # fmt: skip

BENIGN: Twins = (
    ("`[..., 0]` for squeeze(-1)", (net(VALUE, "value = self.critic(hidden)[..., 0]"),)),
    ("view(-1) of flat values", (net(VALUE, "value = self.critic(hidden).view(-1)"),)),
    ("zeros with dtype and device", (net(ZEROS, "return tuple(torch.zeros(shape, dtype=weight.dtype, device=weight.device) for _ in range(2))"),)),
    ("masked_fill for where", (net(WHERE, "part = part.masked_fill(~mask, MASKED)"),)),
    ("logical_not", (net(WHERE, "part = part.masked_fill(torch.logical_not(mask), MASKED)"),)),
    ("-inf and torch's Categorical", (NEG_INF,)),
    ("smallest number of the dtype", (net(WHERE, "part = torch.where(mask, part, torch.finfo(part.dtype).min)"),)),
    ("starts by where", (net(STATE, "state = (torch.where(keep[t] > 0, h, torch.zeros_like(h)), torch.where(keep[t] > 0, c, torch.zeros_like(c)))"),)),
    ("ModuleList, appended", heads_in("self.actors = nn.ModuleList()\n        for n in self.nvec:\n            self.actors.append(layer_init(nn.Linear(hidden_size, n), std=0.01))")),
    ("heads by setattr", heads_in('for k, n in enumerate(self.nvec):\n            setattr(self, f"actor{k}", layer_init(nn.Linear(hidden_size, n), std=0.01))', '(getattr(self, f"actor{k}") for k in range(len(self.nvec)))')),
    ("log-probs summed in a loop", (net(LOGPROB, "total = torch.zeros_like(hidden[:, 0])\n        for k, dist in enumerate(dists):\n            total = total + dist.log_prob(action[:, k])"), net(RETURN, RETURN.replace("logprob.sum(-1)", "total")))),
    ("registered buffer", (at_init('self.register_buffer("scale", torch.ones(hidden_size))'), SCALED)),
    ("greedy action in inference mode", (net("    @torch.no_grad()\n    def get_greedy_action(", "    @torch.inference_mode()\n    def get_greedy_action("),)),
    ("rollout in inference mode, copied", (ppo(ROLLOUT_CALL, ROLLOUT_CALL.replace("no_grad", "inference_mode")),)),
    ("detached number for telemetry", (net(NORM, NORM + "\n        self.feature_norm = new_hidden.detach().norm()"),)),
    ("temperature in both", (net(LOGITS, "logits = self.actor(hidden) / 1.5"),)),
    ("LayerNorm in the critic", (net(CRITIC, "self.critic = nn.Sequential(nn.LayerNorm(hidden_size), layer_init(nn.Linear(hidden_size, 1), std=1.0))"),)),
    ("normalised per row", (net(TRUNK, "hidden = self.network((x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5))"),)),
    ("two layers", (net(LSTM, "nn.LSTM(64, hidden_size, num_layers=2)"),)),
)  # fmt: skip

BASE = Base("cleanrl", STYLES / "cleanrl", "agent.py", "Agent", PLANTED, COMPILED, BENIGN)
