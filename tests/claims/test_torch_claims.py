"""What the pages of the rules say about PyTorch, run: one test per claim, in the order of the codes.

The pages speak of torch 2.13.0. A test that fails on another version is news for the page, not a reason to bend the
test. `page` runs the code of a page itself, so that its example keeps the fault and its cure stays one.
"""

from __future__ import annotations

import ast
import functools
import importlib
import math
import subprocess
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

nn = torch.nn
Categorical = torch.distributions.Categorical

RULES = Path(__file__).parents[2] / "rules" / "esper_rules"
INF = float("inf")
HALF, BFLOAT16, DOUBLE = torch.float16, torch.bfloat16, torch.float64
FLOAT_MIN = torch.finfo(torch.float32).min
HALF_MIN = torch.finfo(HALF).min
RECURRENT = [nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell]

NOT_SAVED = "Inference tensors cannot be saved for backward"
NO_GRADIENT = "does not require grad and does not have a grad_fn"
OVERFLOW = "cannot be converted to type c10::Half without overflow"

FIRST_ONLY_AND_FIRST_TWO = torch.tensor([[True, False, False], [True, True, False]])


class CountingBackend:
    """A backend that compiles nothing and counts the graphs it is given."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, module: Any, _inputs: Any) -> Any:
        self.graphs += 1
        return module.forward


class Policy(nn.Module):  # type: ignore[name-defined,misc]
    """The methods that a trainer calls, once through `self.forward(...)` and once through `self(...)`."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.action_head = nn.Linear(8, 4)

    def forward(self, obs: Any) -> Any:
        return self.action_head(self.trunk(obs))

    def get_action(self, obs: Any) -> Any:
        return Categorical(logits=self.forward(obs)).sample()

    def evaluate_actions(self, obs: Any, actions: Any) -> Any:
        return Categorical(logits=self.forward(obs)).log_prob(actions)

    def evaluate_through_call(self, obs: Any, actions: Any) -> Any:
        return Categorical(logits=self(obs)).log_prob(actions)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers in any order of tests, and distributions that validate, whoever compiled something before."""
    torch.manual_seed(0)
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)


@pytest.fixture
def dynamo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Dynamo with empty caches, in a process where torch.compile was called."""
    module = importlib.import_module("torch._dynamo")
    module.reset()
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", False)
    yield module
    module.reset()


@pytest.fixture
def backend(dynamo: Any, monkeypatch: pytest.MonkeyPatch) -> CountingBackend:  # noqa: ARG001  (its caches are empty)
    """What torch.compile hands its graphs to unless told otherwise: no compiler is needed."""
    counting = CountingBackend()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counting))
    return counting


def code_block(code: str, section: str) -> str:
    """The code of a section of a rule's page."""
    for path in RULES.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        if f'code = "{code}"' in source:
            pages = [ast.get_docstring(node) for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
            text = next(text for text in pages if text is not None and f"## {section}\n" in text)
            return text.split(f"## {section}\n")[1].split("```python\n")[1].split("```")[0]
    raise LookupError(code)


def run(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, "<page>", "exec"), names)  # noqa: S102  (the project's own pages)
    return names


def page(code: str, section: str) -> dict[str, Any]:
    """The names that the code of a section of a rule's page defines."""
    return run(code_block(code, section))


def in_inference_mode(make: Callable[[], Any]) -> Any:
    with torch.inference_mode():
        return make()


def entropy(logits: Any) -> Any:
    """The entropy as people write it by hand."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def is_nan(tensor: Any) -> bool:
    return bool(tensor.isnan().any())


def zero_state(core: Any, dtype: Any = torch.float32) -> Any:
    """A fresh hidden state on the CPU for a batch of 2, as the core under test takes it."""
    shape = (2, 4) if isinstance(core, (nn.LSTMCell, nn.GRUCell)) else (1, 2, 4)
    state = torch.zeros(shape, dtype=dtype)
    return (state, state.clone()) if isinstance(core, (nn.LSTM, nn.LSTMCell)) else state


def observations(core: Any, dtype: Any = torch.float32, device: str = "cpu") -> Any:
    shape = (2, 3) if isinstance(core, (nn.LSTMCell, nn.GRUCell)) else (5, 2, 3)
    return torch.ones(shape, dtype=dtype, device=device)


# ESP101 compile-inside-network


@pytest.mark.usefixtures("backend")
def test_every_key_of_a_compiled_module_begins_with_orig_mod() -> None:
    keys = torch.compile(Policy()).state_dict()
    assert list(keys) == [f"_orig_mod.{key}" for key in Policy().state_dict()]


def test_compiling_in_place_keeps_the_keys(backend: CountingBackend) -> None:
    net = Policy()
    net.compile(backend=backend)
    assert list(net.state_dict()) == list(Policy().state_dict())


@pytest.mark.usefixtures("backend")
def test_compiling_a_method_by_assignment_keeps_the_keys() -> None:
    net = Policy()
    net.evaluate_actions = torch.compile(net.evaluate_actions)  # type: ignore[method-assign]
    assert list(net.state_dict()) == list(Policy().state_dict())


@pytest.mark.usefixtures("backend")
def test_a_submodule_stored_as_its_compiled_wrapper_renames_its_own_keys_and_no_others() -> None:
    fault = set(page("ESP101", "Example")["Policy"](8, 4).state_dict())
    cure = set(page("ESP101", "Use instead")["Policy"](8, 4).state_dict())
    assert fault - cure == {"trunk._orig_mod.0.weight", "trunk._orig_mod.0.bias"}
    assert fault & cure == {"action_head.weight", "action_head.bias"}


@pytest.mark.usefixtures("backend")
def test_a_checkpoint_saved_with_a_compiled_submodule_does_not_load_without_and_the_other_way_round() -> None:
    compiled = page("ESP101", "Example")["Policy"](8, 4)
    plain = page("ESP101", "Use instead")["Policy"](8, 4)
    with pytest.raises(RuntimeError, match="Missing key"):
        plain.load_state_dict(compiled.state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        compiled.load_state_dict(plain.state_dict())


@pytest.mark.usefixtures("backend")
def test_a_load_that_is_not_strict_passes_and_leaves_the_submodule_at_its_random_weights() -> None:
    compiled = page("ESP101", "Example")["Policy"](8, 4)
    plain = page("ESP101", "Use instead")["Policy"](8, 4)
    before = plain.trunk[0].weight.detach().clone()
    plain.load_state_dict(compiled.state_dict(), strict=False)
    assert torch.equal(plain.trunk[0].weight, before)
    assert torch.equal(plain.action_head.weight, compiled.action_head.weight)


# ESP102 disabled-function-in-hot-path


def refuse_empty_rows(mask: Any) -> None:
    if not mask.any(-1).all():
        raise ValueError(mask)


def calls_between_tensor_operations(check: Callable[[Any], None], calls: int) -> Callable[[Any, Any], Any]:
    def one(logits: Any, mask: Any) -> Any:
        logits = logits + 1
        check(mask)
        return logits * 2

    def four(logits: Any, mask: Any) -> Any:
        logits = logits + 1
        check(mask)
        logits = logits * 2
        check(mask)
        logits = logits * 2
        check(mask)
        logits = logits * 2
        check(mask)
        return logits * 2

    return {1: one, 4: four}[calls]


@pytest.mark.parametrize("calls", [1, 4])
@pytest.mark.parametrize("spelling", ["torch.compiler", "torch._dynamo"])
def test_a_disabled_function_between_tensor_operations_is_one_graph_break_per_call(
    dynamo: Any, spelling: str, calls: int
) -> None:
    check = importlib.import_module(spelling).disable(refuse_empty_rows)
    mask = torch.ones(5, 4, dtype=torch.bool)
    explained = dynamo.explain(calls_between_tensor_operations(check, calls))(torch.zeros(5, 4), mask)
    assert (explained.graph_break_count, explained.graph_count) == (calls, calls + 1)


def test_dynamo_starts_a_new_graph_after_each_call_of_a_disabled_function(
    backend: CountingBackend,
) -> None:
    function = calls_between_tensor_operations(torch.compiler.disable(refuse_empty_rows), 4)
    torch.compile(function)(torch.zeros(5, 4), torch.ones(5, 4, dtype=torch.bool))
    assert backend.graphs == 5


def test_explain_counts_no_break_for_a_call_that_opens_the_method_as_in_the_example(dynamo: Any) -> None:
    net = page("ESP102", "Example")["Policy"](8, 4)
    explained = dynamo.explain(net.get_action)(torch.zeros(5, 8), torch.ones(5, 4, dtype=torch.bool))
    assert (explained.graph_break_count, explained.graph_count) == (0, 1)


@pytest.mark.usefixtures("backend")
def test_a_full_graph_is_refused_for_the_example_all_the_same() -> None:
    act = torch.compile(page("ESP102", "Example")["Policy"](8, 4).get_action, fullgraph=True)
    with pytest.raises(RuntimeError, match=r"torch.compiler.disable"):
        act(torch.zeros(5, 8), torch.ones(5, 4, dtype=torch.bool))


def test_without_the_disabled_function_the_method_is_one_graph(
    backend: CountingBackend,
) -> None:
    act = torch.compile(page("ESP102", "Use instead")["Policy"](8, 4).get_action, fullgraph=True)
    assert act(torch.zeros(5, 8), torch.ones(5, 4, dtype=torch.bool)).shape == (5,)
    assert backend.graphs == 1


def test_a_disabled_function_in_a_loop_gives_the_whole_method_back_to_eager(dynamo: Any) -> None:
    check = torch.compiler.disable(refuse_empty_rows)

    def heads(logits: Any, mask: Any) -> Any:
        masked = []
        for scale in range(4):
            check(mask)
            masked.append((logits * scale).masked_fill(~mask, -1e4))
        return masked

    explained = dynamo.explain(heads)(torch.zeros(5, 4), torch.ones(5, 4, dtype=torch.bool))
    assert (explained.graph_break_count, explained.graph_count) == (-1, 0)


@pytest.mark.usefixtures("backend")
def test_a_check_with_a_truth_test_does_not_trace() -> None:
    with pytest.raises(RuntimeError, match="Data-dependent branching"):
        torch.compile(refuse_empty_rows, fullgraph=True)(torch.ones(5, 4, dtype=torch.bool))


@pytest.mark.usefixtures("backend")
def test_a_check_without_a_truth_test_traces_and_still_raises() -> None:
    assert_async = getattr(torch, "_assert_async")  # noqa: B009  (the only such check there is, and private)

    def check(mask: Any) -> Any:
        assert_async(mask.any(-1).all())
        return mask + 0

    compiled = torch.compile(check, fullgraph=True)
    compiled(torch.ones(5, 4, dtype=torch.bool))
    with pytest.raises(RuntimeError, match="nonzero"):
        compiled(torch.zeros(5, 4, dtype=torch.bool))


@pytest.mark.usefixtures("backend")
def test_a_forward_that_returns_a_plain_dict_traces() -> None:
    head = nn.Linear(8, 4)

    def forward(obs: Any) -> dict[str, Any]:
        return {"logits": head(obs), "value": obs.sum(-1)}

    assert set(torch.compile(forward, fullgraph=True)(torch.zeros(5, 8))) == {"logits", "value"}


# ESP103 compile-covers-forward-only


@pytest.mark.parametrize("method", ["evaluate_actions", "evaluate_through_call"])
def test_the_methods_of_a_compiled_wrapper_run_without_a_single_graph(backend: CountingBackend, method: str) -> None:
    net = torch.compile(Policy())
    actions = net.get_action(torch.zeros(5, 8))
    getattr(net, method)(torch.zeros(5, 8), actions)
    assert backend.graphs == 0
    net(torch.zeros(5, 8))
    assert backend.graphs == 1


def test_compiling_in_place_covers_a_method_that_calls_self_and_none_that_calls_self_forward(
    backend: CountingBackend,
) -> None:
    net = Policy()
    net.compile(backend=backend)
    actions = net.get_action(torch.zeros(5, 8))
    net.evaluate_actions(torch.zeros(5, 8), actions)
    assert backend.graphs == 0
    net.evaluate_through_call(torch.zeros(5, 8), actions)
    assert backend.graphs == 1


@pytest.mark.parametrize(("section", "graphs"), [("Example", 0), ("Use instead", 1)])
def test_the_update_of_the_page_runs_compiled_only_as_its_cure_is_written(
    backend: CountingBackend, section: str, graphs: int
) -> None:
    page("ESP103", section)["Trainer"]().update(torch.zeros(5, 8), torch.zeros(5, dtype=torch.long))
    assert backend.graphs == graphs


def test_the_call_of_torch_compile_alone_loads_dynamo_and_switches_the_validation_of_distributions_off() -> None:
    script = """if True:
        import sys
        import torch
        from torch.distributions import Categorical, Distribution

        net = torch.nn.Linear(8, 4)
        print("torch._dynamo" in sys.modules, Distribution._validate_args)
        torch.compile(net, backend="eager")
        print("torch._dynamo" in sys.modules, Distribution._validate_args)
        nan = Categorical(logits=torch.full((1, 4), float("nan"))).log_prob(torch.zeros(1))
        print(bool(nan.isnan().all()))
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["False", "True", "True", "False", "True"]


def test_compiling_in_place_calls_torch_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(torch, "compile", compiled.append)
    Policy().compile()
    assert len(compiled) == 1


# ESP201 hidden-without-dtype


@pytest.mark.parametrize("core", RECURRENT)
@pytest.mark.parametrize("dtype", [BFLOAT16, HALF, DOUBLE], ids=str)
def test_a_float32_state_fails_in_a_core_of_another_dtype(core: Any, dtype: Any) -> None:
    network = core(3, 4).to(dtype)
    with pytest.raises(RuntimeError):
        network(observations(network, dtype), zero_state(network))


@pytest.mark.parametrize("core", RECURRENT)
@pytest.mark.parametrize("dtype", [BFLOAT16, HALF, DOUBLE], ids=str)
def test_a_state_of_the_dtype_of_the_core_does_not(core: Any, dtype: Any) -> None:
    network = core(3, 4).to(dtype)
    assert network(observations(network, dtype), zero_state(network, dtype))[0].dtype is dtype


@pytest.mark.parametrize("dtype", [BFLOAT16, HALF, DOUBLE], ids=str)
def test_the_policy_of_the_page_serves_other_dtypes_only_as_its_cure_is_written(dtype: Any) -> None:
    obs = torch.ones(2, 5, 3, dtype=dtype)
    fault = page("ESP201", "Example")["Policy"](3, 4, 6).to(dtype)
    with pytest.raises(RuntimeError):
        fault(obs, fault.initial_state(2, "cpu"))
    cure = page("ESP201", "Use instead")["Policy"](3, 4, 6).to(dtype)
    logits, (h, c) = cure(obs, cure.initial_state(2))
    assert {logits.dtype, h.dtype, c.dtype} == {dtype}


def test_a_fresh_state_without_dtype_serves_a_float32_network() -> None:
    net = page("ESP201", "Example")["Policy"](3, 4, 6)
    assert net(torch.ones(2, 5, 3), net.initial_state(2, "cpu"))[0].shape == (2, 5, 6)


def under_autocast(core: Any, *state: Any) -> Any:
    with torch.autocast("cpu", dtype=BFLOAT16):
        return core(observations(core), *state)


@pytest.fixture
def onednn_lstm() -> Any:
    """A float32 LSTM that oneDNN runs in bfloat16 under autocast, which takes a processor that can."""
    lstm = nn.LSTM(3, 4)
    try:
        out = under_autocast(lstm)[0]
    except RuntimeError:
        pytest.skip("oneDNN has no bfloat16 LSTM for this processor, so none runs under autocast, whatever its state")
    if out.dtype is torch.float32:
        pytest.skip("this build of torch runs the LSTM without oneDNN")
    return lstm


def test_a_float32_state_passes_under_bfloat16_autocast(onednn_lstm: Any) -> None:
    under_autocast(onednn_lstm, zero_state(onednn_lstm))


@pytest.mark.parametrize("core", RECURRENT[1:])
def test_a_float32_state_passes_under_bfloat16_autocast_in_the_other_cores(core: Any) -> None:
    network = core(3, 4)
    under_autocast(network, zero_state(network))


def test_a_low_precision_state_from_autocast_fails_in_a_later_float32_forward(onednn_lstm: Any) -> None:
    state = under_autocast(onednn_lstm, zero_state(onednn_lstm))[1]
    assert {tensor.dtype for tensor in state} == {BFLOAT16}
    with pytest.raises(RuntimeError):
        onednn_lstm(observations(onednn_lstm), state)


def test_without_onednn_the_lstm_keeps_its_state_in_float32_under_autocast() -> None:
    lstm = nn.LSTM(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about TF32 on Intel GPUs, whenever these flags are read
        with torch.backends.mkldnn.flags(enabled=False):
            state = under_autocast(lstm, zero_state(lstm))[1]
    assert {tensor.dtype for tensor in state} == {torch.float32}
    lstm(observations(lstm), state)


@pytest.mark.parametrize("core", [nn.GRU, nn.GRUCell, nn.LSTMCell])
def test_grus_and_cells_keep_their_state_in_float32_under_autocast(core: Any) -> None:
    network = core(3, 4)
    result = under_autocast(network)
    state = result[1] if core is nn.GRU else result
    network(observations(network), state)
    assert (state if torch.is_tensor(state) else state[0]).dtype is torch.float32


@pytest.mark.parametrize(("dtype", "name"), [(HALF, "Half"), (DOUBLE, "Double")], ids=str)
def test_the_error_of_a_half_or_double_lstm_names_both_dtypes(dtype: Any, name: str) -> None:
    lstm = nn.LSTM(3, 4).to(dtype)
    with pytest.raises(RuntimeError, match=f"same dtype, but got Float and {name}"):
        lstm(observations(lstm, dtype), zero_state(lstm))


def test_the_error_of_a_bfloat16_lstm_in_onednn_names_no_dtype(onednn_lstm: Any) -> None:
    lstm = onednn_lstm.bfloat16()
    with pytest.raises(RuntimeError) as raised:
        lstm(observations(lstm, BFLOAT16), zero_state(lstm))
    message = str(raised.value).lower()
    assert "primitive" in message
    assert not any(word in message for word in ("dtype", "float", "bf16"))


# ESP202 hidden-without-device


@pytest.mark.parametrize("core", RECURRENT)
def test_a_core_on_meta_raises_for_a_state_on_the_cpu(core: Any) -> None:
    network = core(3, 4, device="meta")
    with pytest.raises(RuntimeError, match="device"):
        network(observations(network, device="meta"), zero_state(network))


def test_the_policy_of_the_page_moves_only_as_its_cure_is_written() -> None:
    obs = torch.ones(5, 2, 3, device="meta")
    fault = page("ESP202", "Example")["Policy"](3, 4).to("meta")
    with pytest.raises(RuntimeError, match="found input tensor at meta and hidden tensor at cpu"):
        fault(obs, fault.init_hidden(2))
    cure = page("ESP202", "Use instead")["Policy"](3, 4).to("meta")
    assert cure(obs, cure.init_hidden(2))[1].device.type == "meta"


def test_on_the_cpu_the_fault_does_not_show() -> None:
    net = page("ESP202", "Example")["Policy"](3, 4)
    assert net(torch.ones(5, 2, 3), net.init_hidden(2))[0].shape == (5, 2, 4)


def test_type_as_moves_a_state_as_well() -> None:
    assert torch.zeros(1, 2, 4).type_as(torch.empty(1, device="meta")).device.type == "meta"


# ESP203 mask-constant-overflow

TOO_LOW = [-1e5, -1e8, -1e9]
SCALARS: dict[str, Callable[[Any, Any, float], Any]] = {
    "masked_fill": lambda x, valid, low: x.masked_fill(~valid, low),
    "full": lambda x, valid, low: torch.where(valid, x, torch.full(x.shape, low, dtype=x.dtype)),
    "full_like": lambda x, valid, low: torch.where(valid, x, torch.full_like(x, low)),
}


def by_index(x: Any, valid: Any, low: float) -> Any:
    x = x.clone()
    x[~valid] = low
    return x


TENSORS: dict[str, Callable[[Any, Any, float], Any]] = {
    "where": lambda x, valid, low: torch.where(valid, x, low),
    "where with a tensor": lambda x, valid, low: torch.where(valid, x, torch.tensor(low)),
    "tensor": lambda x, valid, low: torch.where(valid, x, torch.tensor(low, dtype=x.dtype)),
    "index assignment": by_index,
    "addition": lambda x, valid, low: x + (1 - valid.to(x.dtype)) * low,
}


def test_float16_ends_at_minus_65504() -> None:
    assert HALF_MIN == -65504


@pytest.mark.parametrize("low", TOO_LOW)
@pytest.mark.parametrize("spelling", SCALARS)
def test_masked_fill_and_full_raise_for_a_constant_below_it(spelling: str, low: float) -> None:
    with pytest.raises(RuntimeError, match=OVERFLOW):
        SCALARS[spelling](torch.zeros(2, 3, dtype=HALF), FIRST_ONLY_AND_FIRST_TWO, low)


@pytest.mark.parametrize("low", TOO_LOW)
@pytest.mark.parametrize("spelling", TENSORS)
def test_the_other_spellings_turn_it_into_minus_infinity(spelling: str, low: float) -> None:
    masked = TENSORS[spelling](torch.zeros(2, 3, dtype=HALF), FIRST_ONLY_AND_FIRST_TWO, low)
    assert masked.dtype is HALF
    assert torch.equal(masked == -INF, ~FIRST_ONLY_AND_FIRST_TWO)


@pytest.mark.parametrize("spelling", TENSORS)
def test_hand_written_entropies_are_nan_from_then_on(spelling: str) -> None:
    logits = TENSORS[spelling](torch.zeros(2, 3, dtype=HALF), FIRST_ONLY_AND_FIRST_TWO, -1e9)
    assert bool(entropy(logits).isnan().all())


@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.float32], ids=str)
def test_adding_a_bool_or_float32_mask_times_the_constant_gives_finite_float32(mask_dtype: Any) -> None:
    invalid = (~FIRST_ONLY_AND_FIRST_TWO).to(mask_dtype)
    masked = torch.zeros(2, 3, dtype=HALF) + invalid * -1e9
    assert masked.dtype is torch.float32
    assert bool(masked.isfinite().all())


@pytest.mark.parametrize("spelling", [*SCALARS, *TENSORS])
def test_minus_1e4_passes_in_float16(spelling: str) -> None:
    masked = {**SCALARS, **TENSORS}[spelling](torch.zeros(2, 3, dtype=HALF), FIRST_ONLY_AND_FIRST_TWO, -1e4)
    assert bool(masked.isfinite().all())
    assert bool(entropy(masked).isfinite().all())


@pytest.mark.parametrize("low", TOO_LOW)
@pytest.mark.parametrize("spelling", [*SCALARS, *TENSORS])
def test_bfloat16_is_not_affected(spelling: str, low: float) -> None:
    masked = {**SCALARS, **TENSORS}[spelling](torch.zeros(2, 3, dtype=BFLOAT16), FIRST_ONLY_AND_FIRST_TWO, low)
    assert bool(masked.isfinite().all())


def test_bfloat16_has_the_range_of_float32() -> None:
    assert torch.finfo(BFLOAT16).min == pytest.approx(FLOAT_MIN, rel=0.01)
    assert torch.finfo(BFLOAT16).smallest_normal == torch.finfo(torch.float32).smallest_normal


def test_the_example_raises_in_half_and_its_cure_does_not() -> None:
    obs, mask = torch.ones(2, 8, dtype=HALF), FIRST_ONLY_AND_FIRST_TWO
    with pytest.raises(RuntimeError, match=OVERFLOW):
        page("ESP203", "Example")["Policy"](8, 3).half().act(obs, mask)
    assert page("ESP203", "Use instead")["Policy"](8, 3).half().act(obs, mask)[0] == 0


def test_the_example_raises_under_half_autocast_and_its_cure_does_not() -> None:
    obs, mask = torch.ones(2, 8), FIRST_ONLY_AND_FIRST_TWO
    with torch.autocast("cpu", dtype=HALF):
        with pytest.raises(RuntimeError, match=OVERFLOW):
            page("ESP203", "Example")["Policy"](8, 3).act(obs, mask)
        assert page("ESP203", "Use instead")["Policy"](8, 3).act(obs, mask)[0] == 0


# ESP301 undocumented-gradient-free-log-prob

GRADIENT_FREE = pytest.mark.parametrize("section", ["Example", "Use instead"])  # inference_mode, no_grad


def acted(section: str) -> tuple[Any, Any]:
    net = page("ESP301", section)["Policy"](8, 4)
    return net, net.get_action(torch.ones(2, 8))[1]


@GRADIENT_FREE
def test_the_log_prob_of_the_act_method_carries_no_gradient(section: str) -> None:
    assert not acted(section)[1].requires_grad


@GRADIENT_FREE
def test_backward_on_such_a_log_prob_alone_raises(section: str) -> None:
    log_prob = acted(section)[1]
    with pytest.raises(RuntimeError, match=NO_GRADIENT):
        log_prob.sum().backward()
    with pytest.raises(RuntimeError, match=NO_GRADIENT):
        (-log_prob * torch.ones(2)).mean().backward()


@GRADIENT_FREE
def test_added_to_an_entropy_bonus_it_is_silent_and_without_effect(section: str) -> None:
    net, log_prob = acted(section)

    def gradient(policy_term: Any) -> Any:
        net.zero_grad()
        (policy_term + Categorical(logits=net.action_head(torch.ones(2, 8))).entropy()).sum().backward()
        return net.action_head.weight.grad.clone()

    assert torch.equal(gradient(log_prob), gradient(torch.zeros(2)))


@GRADIENT_FREE
def test_added_to_a_value_loss_it_is_silent_and_the_policy_head_gets_no_gradient(section: str) -> None:
    net, log_prob = acted(section)
    value_head = nn.Linear(8, 1)
    (-log_prob.mean() + value_head(torch.ones(2, 8)).pow(2).mean()).backward()
    assert value_head.weight.grad is not None
    assert net.action_head.weight.grad is None


def test_a_product_with_something_differentiable_raises_after_inference_mode_and_not_after_no_grad() -> None:
    weight = torch.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match=NOT_SAVED):
        (acted("Example")[1] * weight).sum().backward()
    (acted("Use instead")[1] * weight).sum().backward()


# ESP302 neg-inf-mask


def value_and_gradient(function: Callable[[Any], Any], low: float) -> tuple[bool, bool]:
    """Whether a function of masked logits, and its gradient, are free of NaN."""
    raw = torch.tensor([[0.5, -0.2, 0.1], [0.3, 0.4, -0.6]], requires_grad=True)
    value = function(raw.masked_fill(~FIRST_ONLY_AND_FIRST_TWO, low))
    value.sum().backward()
    return not is_nan(value), not is_nan(raw.grad)


def entropy_times_mask(logits: Any) -> Any:
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p * FIRST_ONLY_AND_FIRST_TWO).sum(-1)


def entropy_where_possible(logits: Any) -> Any:
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    return -torch.where(p > 0, p * log_p, 0.0).sum(-1)


@pytest.mark.parametrize("written", [entropy, entropy_times_mask])
def test_a_hand_written_entropy_is_nan_with_minus_infinity_also_times_the_mask(written: Any) -> None:
    assert value_and_gradient(written, -INF) == (False, False)


def test_where_p_is_positive_makes_the_value_finite_and_leaves_the_gradient_nan() -> None:
    assert value_and_gradient(entropy_where_possible, -INF) == (True, False)


def test_categorical_copes_with_minus_infinity_in_value_and_gradient() -> None:
    assert value_and_gradient(lambda logits: Categorical(logits=logits).entropy(), -INF) == (True, True)
    first = torch.tensor([0, 0])
    assert value_and_gradient(lambda logits: Categorical(logits=logits).log_prob(first), -INF) == (True, True)


@pytest.mark.parametrize("low", [-1e4, -1e9, FLOAT_MIN])
@pytest.mark.parametrize("written", [entropy, entropy_times_mask, entropy_where_possible])
def test_with_a_finite_constant_in_place_of_the_logit_all_three_are_finite(written: Any, low: float) -> None:
    assert value_and_gradient(written, low) == (True, True)


def test_zero_times_minus_infinity_is_nan() -> None:
    assert is_nan(torch.tensor(0.0) * -INF)


def updated_after_a_nan_bonus(*, clip: bool) -> list[Any]:
    net = Policy()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    mask = torch.tensor([[True, True, True, False], [True, True, True, True]])
    logits = net(torch.ones(2, 8)).masked_fill(~mask, -INF)
    loss = -logits.log_softmax(-1)[:, 0].mean() - 0.01 * entropy(logits).mean()
    loss.backward()
    if clip:
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
    optimizer.step()
    return list(net.parameters())


def test_one_update_with_a_nan_bonus_makes_every_layer_nan() -> None:
    assert all(is_nan(weight) for weight in updated_after_a_nan_bonus(clip=False))


def test_with_gradient_clipping_it_makes_every_single_weight_nan() -> None:
    assert all(bool(weight.isnan().all()) for weight in updated_after_a_nan_bonus(clip=True))


def test_a_row_without_a_valid_action_raises_under_validation() -> None:
    with pytest.raises(ValueError, match="invalid values"):
        Categorical(logits=torch.full((1, 3), -INF))


def test_a_row_without_a_valid_action_is_nan_without_validation() -> None:
    distribution = Categorical(logits=torch.full((1, 3), -INF), validate_args=False)
    assert is_nan(distribution.probs)
    assert is_nan(distribution.entropy())
    assert is_nan(distribution.log_prob(torch.tensor([0])))


def test_with_a_finite_constant_a_row_without_a_valid_action_is_silently_uniform() -> None:
    distribution = Categorical(logits=torch.zeros(1, 3).masked_fill(torch.ones(1, 3, dtype=torch.bool), -1e4))
    assert torch.allclose(distribution.probs, torch.full((1, 3), 1 / 3))


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.int64], ids=str)
def test_the_log_of_a_mask_is_minus_infinity_where_it_is_zero(dtype: Any) -> None:
    assert torch.equal(torch.log(FIRST_ONLY_AND_FIRST_TWO.to(dtype)) == -INF, ~FIRST_ONLY_AND_FIRST_TWO)


@pytest.mark.parametrize(("logit", "overflows"), [(-1.0, False), (-15.0, False), (-16.0, True), (-100.0, True)])
def test_the_smallest_float16_plus_a_logit_of_minus_16_or_less_is_minus_infinity(logit: float, overflows: bool) -> None:
    assert bool(torch.tensor(logit, dtype=HALF) + HALF_MIN == -INF) is overflows


@pytest.mark.parametrize("dtype", [torch.float32, BFLOAT16], ids=str)
def test_the_smallest_float32_or_bfloat16_swallows_any_ordinary_logit(dtype: Any) -> None:
    low = torch.finfo(dtype).min
    assert torch.tensor(-1e4, dtype=dtype) + low == low


@pytest.mark.parametrize("dtype", [torch.float32, BFLOAT16, HALF], ids=str)
def test_the_smallest_float_added_twice_is_minus_infinity_and_makes_the_entropy_nan(dtype: Any) -> None:
    bias = torch.zeros(2, 3, dtype=dtype).masked_fill(~FIRST_ONLY_AND_FIRST_TWO, torch.finfo(dtype).min)
    assert is_nan(entropy(torch.zeros(2, 3, dtype=dtype) + bias + bias))
    assert not is_nan(entropy(torch.zeros(2, 3, dtype=dtype) + bias))


def test_the_smallest_float_divided_by_a_temperature_below_one_is_minus_infinity() -> None:
    assert torch.tensor(FLOAT_MIN) / 0.5 == -INF
    assert torch.tensor(FLOAT_MIN) / 2.0 > -INF


@pytest.mark.parametrize(("logit", "nan"), [(15.0, False), (16.0, True)])
def test_in_float16_the_softmax_takes_it_to_minus_infinity_beside_a_valid_logit_of_16(logit: float, nan: bool) -> None:
    logits = torch.tensor([[logit, 0.0, HALF_MIN]], dtype=HALF)
    assert is_nan(entropy(logits)) is nan


def test_the_entropy_of_the_example_is_nan_and_that_of_its_cure_is_not() -> None:
    obs, actions, mask = torch.ones(2, 8), torch.zeros(2, 1, dtype=torch.long), FIRST_ONLY_AND_FIRST_TWO
    fault = page("ESP302", "Example")["Policy"](8, 3).evaluate_actions(obs, actions, mask)
    cure = page("ESP302", "Use instead")["Policy"](8, 3).evaluate_actions(obs, actions, mask)
    assert [is_nan(tensor) for tensor in (*fault, *cure)] == [False, True, False, False]


# ESP303 inference-tensor-escape


def laundered(state: Any, wash: Callable[[Any], Any]) -> Any:
    return tuple(map(wash, state)) if isinstance(state, tuple) else wash(state)


def born_state(core: Any) -> tuple[Any, Any]:
    network = core(3, 4)
    result = in_inference_mode(lambda: network(observations(network)))
    return network, result if isinstance(network, (nn.LSTMCell, nn.GRUCell)) else result[1]


def train_on(network: Any, state: Any) -> None:
    network(observations(network), state)[0].sum().backward()


def into_a_buffer(tensor: Any) -> Any:
    buffer = torch.zeros(3, *tensor.shape)
    buffer[1] = tensor
    return buffer[1]


SAME_TENSOR: dict[str, Callable[[Any], Any]] = {
    "as it is": lambda tensor: tensor,
    "detach": lambda tensor: tensor.detach(),
    "unsqueeze": lambda tensor: tensor.unsqueeze(0)[0],
    "to the same dtype": lambda tensor: tensor.to(tensor.dtype),
}
NEW_TENSOR: dict[str, Callable[[Any], Any]] = {
    "clone": lambda tensor: tensor.clone(),
    "a copy into a buffer": into_a_buffer,
    "copy_": lambda tensor: torch.zeros(tensor.shape).copy_(tensor),
    "stack": lambda tensor: torch.stack([tensor])[0],
    "times a mask of episodes": lambda tensor: tensor * torch.ones(1),
}


@pytest.mark.parametrize("core", RECURRENT)
@pytest.mark.parametrize("wash", SAME_TENSOR)
def test_a_hidden_state_from_inference_mode_raises_in_training_also_detached(core: Any, wash: str) -> None:
    network, state = born_state(core)
    with pytest.raises(RuntimeError, match=NOT_SAVED):
        train_on(network, laundered(state, SAME_TENSOR[wash]))


@pytest.mark.parametrize("core", RECURRENT)
@pytest.mark.parametrize("wash", NEW_TENSOR)
def test_a_clone_or_a_copy_outside_the_block_helps(core: Any, wash: str) -> None:
    network, state = born_state(core)
    train_on(network, laundered(state, NEW_TENSOR[wash]))


def test_a_clone_inside_the_block_does_not_help() -> None:
    network, state = born_state(nn.LSTM)
    inside = in_inference_mode(lambda: laundered(state, NEW_TENSOR["clone"]))
    with pytest.raises(RuntimeError, match=NOT_SAVED):
        train_on(network, inside)


def test_a_buffer_that_was_itself_made_in_inference_mode_takes_no_copy() -> None:
    buffer = in_inference_mode(lambda: torch.zeros(3, 4))
    with pytest.raises(RuntimeError, match="Inplace update to inference tensor"):
        buffer[0] = torch.ones(4)


@pytest.mark.parametrize("validate", [True, False])
def test_the_log_prob_of_an_action_from_inference_mode_raises_in_training(validate: bool) -> None:
    head = nn.Linear(3, 4)
    actions = in_inference_mode(lambda: Categorical(logits=head(torch.ones(2, 3))).sample())
    distribution = Categorical(logits=head(torch.ones(2, 3)), validate_args=validate)
    with pytest.raises(RuntimeError, match=NOT_SAVED):
        distribution.log_prob(actions)
    distribution.log_prob(actions.clone()).sum().backward()


def test_an_action_from_inference_mode_raises_as_the_index_of_a_gather() -> None:
    actions = in_inference_mode(lambda: torch.zeros(2, 1, dtype=torch.long))
    log_probs = nn.Linear(3, 4)(torch.ones(2, 3)).log_softmax(-1)
    with pytest.raises(RuntimeError, match=NOT_SAVED):
        log_probs.gather(-1, actions)


def test_observations_from_inference_mode_raise_as_the_input_of_a_layer() -> None:
    obs = in_inference_mode(lambda: torch.ones(2, 3))
    with pytest.raises(RuntimeError, match=NOT_SAVED):
        nn.Linear(3, 4)(obs)


def test_old_log_probs_from_inference_mode_that_are_only_subtracted_do_not_raise() -> None:
    new = nn.Linear(3, 4)(torch.ones(2, 3))
    old = in_inference_mode(lambda: torch.zeros(2, 4))
    (new - old).exp().mean().backward()


@pytest.mark.parametrize(("section", "fails"), [("Example", True), ("Use instead", False)])
def test_the_hidden_state_of_the_page_trains_only_as_its_cure_is_written(section: str, fails: bool) -> None:
    net = page("ESP303", section)["Policy"](3, 4)
    _, hidden = net.get_action(torch.ones(1, 2, 3), torch.zeros(1, 2, 32))
    if fails:
        with pytest.raises(RuntimeError, match=NOT_SAVED):
            net.gru(torch.ones(5, 2, 3), hidden)
    else:
        net.gru(torch.ones(5, 2, 3), hidden)[0].sum().backward()


# ESP304 normaliser-clamp-underflow


def test_1e_minus_8_is_zero_in_float16() -> None:
    assert torch.tensor(1e-8, dtype=HALF) == 0


def test_the_smallest_positive_float16_is_about_6e_minus_8_and_bounds_below_half_of_it_are_zero() -> None:
    assert torch.tensor(2.0**-24, dtype=HALF).item() == pytest.approx(6e-8, rel=0.01)
    assert torch.tensor(3.0e-8, dtype=HALF) > 0
    assert torch.tensor(2.9e-8, dtype=HALF) == 0


@pytest.mark.parametrize(
    "guarded",
    [
        lambda y: y.clamp(min=1e-8),
        lambda y: y.clamp_min(1e-8),
        lambda y: torch.clamp(y, min=1e-8),
        lambda y: torch.clip(y, min=1e-8),
    ],
    ids=["clamp", "clamp_min", "torch.clamp", "torch.clip"],
)
def test_such_a_bound_guards_nothing_in_float16(guarded: Callable[[Any], Any]) -> None:
    zero = torch.zeros(1, dtype=HALF)
    assert is_nan(zero / guarded(zero))
    assert not is_nan(zero.float() / guarded(zero.float()))


def normalised(valid_counts: Any, low: float = -1e4) -> tuple[Any, Any, Any]:
    """Entropy over log count with a tiny bound in float16: the result, and the gradients of entropy and logits."""
    raw = torch.zeros(2, 3, dtype=HALF, requires_grad=True)
    raw_entropy = entropy(raw.masked_fill(~FIRST_ONLY_AND_FIRST_TWO, low))
    raw_entropy.retain_grad()
    result = raw_entropy / torch.log(valid_counts.clamp(min=1)).clamp(min=1e-8)
    result.sum().backward()
    return result, raw_entropy.grad, raw.grad


def test_over_the_log_of_a_float16_count_the_entropy_is_nan_for_the_row_with_one_valid_action_alone() -> None:
    result, _, gradient = normalised(FIRST_ONLY_AND_FIRST_TWO.sum(-1).to(HALF))
    assert result.isnan().tolist() == [True, False]
    assert gradient.isnan().any(-1).tolist() == [True, False]


def test_over_the_log_of_an_integer_count_its_value_is_finite_and_its_gradient_overflows_to_nan() -> None:
    result, gradient_of_entropy, gradient = normalised(FIRST_ONLY_AND_FIRST_TWO.sum(-1))
    assert result.dtype is torch.float32
    assert not is_nan(result)
    assert gradient_of_entropy.isinf().tolist() == [True, False]
    assert gradient.isnan().any(-1).tolist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.float32, BFLOAT16, DOUBLE], ids=str)
def test_the_example_is_sound_in_other_dtypes(dtype: Any) -> None:
    net = page("ESP304", "Example")["Policy"](8, 3).to(dtype)
    result = net.evaluate_actions(torch.ones(2, 8, dtype=dtype), FIRST_ONLY_AND_FIRST_TWO)
    result.sum().backward()
    assert not is_nan(result)
    assert not any(is_nan(weight.grad) for weight in net.parameters())


@pytest.mark.parametrize(("section", "nan"), [("Example", True), ("Use instead", False)])
def test_the_gradients_of_the_page_in_half_are_finite_only_as_its_cure_is_written(section: str, nan: bool) -> None:
    net = page("ESP304", section)["Policy"](8, 3).half()
    net.evaluate_actions(torch.ones(2, 8, dtype=HALF), FIRST_ONLY_AND_FIRST_TWO).sum().backward()
    assert [is_nan(weight.grad) for weight in net.parameters()] == [nan, nan]


def test_a_count_of_at_least_two_before_the_log_is_finite_in_value_and_gradient() -> None:
    result, _, gradient = normalised(FIRST_ONLY_AND_FIRST_TWO.sum(-1).to(HALF).clamp(min=2))
    assert bool(result.isfinite().all())
    assert bool(gradient.isfinite().all())


# ESP390 normalised-core


def test_layer_norm_on_the_output_of_an_lstm_leaves_h_and_c_bit_identical() -> None:
    lstm, norm, obs = nn.LSTM(8, 32), nn.LayerNorm(32), torch.randn(50, 2, 8)
    out, (h, c) = lstm(obs)
    again, (h_again, c_again) = lstm(obs)
    normed = norm(again)
    assert torch.equal(h, h_again)
    assert torch.equal(c, c_again)
    assert not torch.equal(out, normed)


@pytest.mark.parametrize("steps", [1, 10, 500])
def test_behind_it_the_heads_see_features_of_one_scale_whatever_the_length_of_the_episode(steps: int) -> None:
    net = page("ESP390", "Use instead")["Policy"]()
    features = net(10 * torch.randn(steps, 2, 8))[0]
    assert torch.allclose(features.mean(-1), torch.zeros(steps, 2), atol=1e-5)
    assert torch.allclose(features.std(-1, unbiased=False), torch.ones(steps, 2), atol=1e-2)


# ESP401 dead-attribute


@pytest.mark.parametrize("num_actions", [2, 4, 100])
def test_the_log_of_the_number_of_actions_is_the_largest_entropy(num_actions: int) -> None:
    net = page("ESP401", "Use instead")["Policy"](8, num_actions)
    uniform = Categorical(logits=torch.zeros(num_actions)).entropy()
    assert net.normalised(uniform).item() == pytest.approx(1)
    assert net.normalised(Categorical(logits=torch.randn(num_actions)).entropy()) < 1


# ESP402 mask-applied-twice


def test_a_second_masking_changes_nothing_and_copies_the_logits() -> None:
    once = torch.randn(2, 3).masked_fill(~FIRST_ONLY_AND_FIRST_TWO, -1e4)
    twice = once.masked_fill(~FIRST_ONLY_AND_FIRST_TWO, -1e4)
    assert torch.equal(once, twice)
    assert once.data_ptr() != twice.data_ptr()


def test_of_two_different_constants_the_second_is_in_force() -> None:
    once = torch.zeros(2, 3).masked_fill(~FIRST_ONLY_AND_FIRST_TWO, -1e4)
    twice = once.masked_fill(~FIRST_ONLY_AND_FIRST_TWO, -1e9)
    assert torch.unique(twice[~FIRST_ONLY_AND_FIRST_TWO]).tolist() == [-1e9]


@pytest.mark.parametrize(("section", "calls"), [("Example", 2), ("Use instead", 1)])
def test_the_page_masks_twice_per_head_and_its_cure_once(
    monkeypatch: pytest.MonkeyPatch, section: str, calls: int
) -> None:
    masked: list[Any] = []
    masked_fill = torch.Tensor.masked_fill

    def counted(logits: Any, *words: Any) -> Any:
        masked.append(logits)
        return masked_fill(logits, *words)

    monkeypatch.setattr(torch.Tensor, "masked_fill", counted)
    page("ESP402", section)["Policy"](8, 3).act(torch.ones(2, 8), FIRST_ONLY_AND_FIRST_TWO)
    assert len(masked) == calls


# ESP490 narrow-heads


def numbers_kept_for_backward(head: Any, features: Any) -> int:
    """How many of them are the head's own: neither its weights nor what it reads."""
    kept: dict[int, int] = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.update({tensor.data_ptr(): tensor.numel()}) or tensor, lambda tensor: tensor
    ):
        head(features)
    given = {tensor.data_ptr() for tensor in (features, *head.parameters())}
    return sum(size for pointer, size in kept.items() if pointer not in given)


def test_a_hidden_layer_holds_most_of_a_head_and_half_of_its_width_is_half_of_that() -> None:
    wide = page("ESP490", "Example")["Policy"](128).move_head
    narrow = page("ESP490", "Use instead")["Policy"](128).move_head
    assert wide[0].weight.numel() == 128 * 128
    assert narrow[0].weight.numel() == 128 * 64
    assert wide[0].weight.numel() > 0.9 * sum(weight.numel() for weight in wide.parameters())


def test_half_of_its_width_keeps_half_of_the_activations_for_the_backward_pass() -> None:
    features = torch.ones(10, 128)
    wide = numbers_kept_for_backward(page("ESP490", "Example")["Policy"](128).move_head, features)
    narrow = numbers_kept_for_backward(page("ESP490", "Use instead")["Policy"](128).move_head, features)
    assert (wide, narrow) == (10 * 128, 10 * 64)


# ESP501 mask-rank-asymmetry, ESP502 mask-rank-mismatch


@pytest.mark.parametrize(("batch", "steps", "shape"), [(4, 4, (4, 4, 7)), (4, 1, (4, 4, 7)), (1, 5, (1, 5, 7))])
def test_a_2d_mask_on_3d_logits_is_accepted_for_equal_axes_a_single_step_and_a_single_row(
    batch: int, steps: int, shape: tuple[int, ...]
) -> None:
    mask = torch.ones(batch, 7, dtype=torch.bool)
    assert torch.zeros(batch, steps, 7).masked_fill(~mask, -1e4).shape == shape


@pytest.mark.parametrize(("batch", "steps"), [(4, 5), (5, 4), (2, 4), (4, 2)])
def test_a_2d_mask_on_3d_logits_raises_for_other_sizes(batch: int, steps: int) -> None:
    with pytest.raises(RuntimeError, match="must match the size"):
        torch.zeros(batch, steps, 7).masked_fill(~torch.ones(batch, 7, dtype=torch.bool), -1e4)


def test_for_a_single_row_the_result_is_right() -> None:
    mask = torch.tensor([[True, False, True]])
    logits = torch.zeros(1, 5, 3)
    assert torch.equal(logits.masked_fill(~mask, -1e4), logits.masked_fill(~mask.unsqueeze(1), -1e4))


def test_for_equal_axes_each_step_gets_the_mask_of_another_environment() -> None:
    mask = torch.eye(4, dtype=torch.bool)  # environment i may only do action i
    probs = torch.zeros(4, 4, 4).masked_fill(~mask, -1e4).softmax(-1)
    for environment in range(4):
        for step in range(4):
            assert probs[environment, step].argmax() == step
            assert probs[environment, step, environment] == (1 if step == environment else 0)


def test_the_forward_of_the_page_takes_a_mask_of_the_wrong_rank_and_its_cure_refuses_it() -> None:
    obs, mask = torch.ones(4, 4, 8), torch.ones(4, 7, dtype=torch.bool)
    assert page("ESP501", "Example")["Policy"](8, 7).forward(obs, mask).shape == (4, 4, 7)
    with pytest.raises(ValueError, match="expected a mask of shape"):
        page("ESP501", "Use instead")["Policy"](8, 7).forward(obs, mask)


@pytest.mark.parametrize("section", ["Example", "Use instead"])
def test_the_get_action_of_the_page_takes_both_ranks(section: str) -> None:
    net = page("ESP501", section)["Policy"](8, 7)
    mask = torch.ones(4, 1, 7, dtype=torch.bool)
    assert net.get_action(torch.ones(4, 1, 8), mask).shape == net.get_action(torch.ones(4, 1, 8), mask[:, 0]).shape


@pytest.mark.parametrize(("section", "shape"), [("Example", (4, 4)), ("Use instead", (4, 1))])
def test_the_actions_of_the_page_have_one_step_only_as_its_cure_is_written(
    section: str, shape: tuple[int, int]
) -> None:
    assert page("ESP502", section)["Policy"](8, 6).act(torch.ones(4, 1, 8)).shape == shape


# ESP503 unchecked-head-size


def test_a_mask_whose_last_axis_is_1_is_accepted_and_masks_whole_rows() -> None:
    masked = torch.zeros(2, 3).masked_fill(~torch.tensor([[True], [False]]), -1e4)
    assert masked.tolist() == [[0, 0, 0], [-1e4, -1e4, -1e4]]


@pytest.mark.parametrize("width", [2, 4, 7])
def test_a_mask_of_another_width_raises(width: int) -> None:
    with pytest.raises(RuntimeError, match="must match the size"):
        torch.zeros(2, 3).masked_fill(~torch.ones(2, width, dtype=torch.bool), -1e4)


@pytest.mark.parametrize(("validate", "error"), [(True, ValueError), (False, RuntimeError)])
def test_an_action_beyond_the_head_raises(validate: bool, error: type[Exception]) -> None:
    with pytest.raises(error):
        Categorical(logits=torch.zeros(2, 3), validate_args=validate).log_prob(torch.tensor([5, 0]))


def test_a_head_larger_than_the_action_space_samples_actions_that_do_not_exist() -> None:
    assert Categorical(logits=torch.zeros(8)).sample((100,)).max() >= 6


def test_the_policy_of_the_page_takes_a_mask_of_width_1_and_its_cure_refuses_it() -> None:
    words = (torch.ones(2, 8), torch.zeros(2, dtype=torch.long), torch.ones(2, 1, dtype=torch.bool))
    assert page("ESP503", "Example")["Policy"](8).evaluate_actions(*words).shape == (2,)
    with pytest.raises(ValueError, match="expected 6 actions in the mask, got 1"):
        page("ESP503", "Use instead")["Policy"](8).evaluate_actions(*words)


# ESP504 buffer-head-mismatch


def test_without_the_mask_of_the_rollout_the_first_ratio_is_not_1() -> None:
    logits, action = torch.randn(2, 3), torch.tensor([0, 0])
    old = Categorical(logits=logits.masked_fill(~FIRST_ONLY_AND_FIRST_TWO, -1e4)).log_prob(action)
    new = Categorical(logits=logits).log_prob(action)
    assert bool(((new - old).exp() < 0.99).all())


def test_a_head_that_is_missing_from_the_joint_log_prob_gets_no_gradient_from_it() -> None:
    net = page("ESP504", "Use instead")["Policy"]()
    move_logits = net.move_head(torch.ones(2, 8))
    Categorical(logits=move_logits).log_prob(torch.tensor([0, 1])).sum().backward()
    assert net.move_head.weight.grad is not None
    assert net.tool_head.weight.grad is None


# ESP602 forget-bias-doubled


def forget_biases(net: Any) -> Any:
    return (net.lstm.bias_ih_l0 + net.lstm.bias_hh_l0)[32:64]


def test_the_loop_of_the_page_gives_a_forget_bias_of_2() -> None:
    assert forget_biases(page("ESP602", "Example")["Policy"]()).unique().tolist() == [2]


def test_its_cure_gives_about_1_since_the_other_bias_keeps_its_default() -> None:
    biases = forget_biases(page("ESP602", "Use instead")["Policy"]())
    assert bool(((biases - 1).abs() <= 1 / math.sqrt(32)).all())


def open_forget_gate(bias_ih: float, bias_hh: float) -> float:
    """What one step of a real LSTM cell leaves of c when nothing else acts on it."""
    cell = nn.LSTMCell(1, 1)
    for weight in cell.parameters():
        nn.init.zeros_(weight)
    with torch.no_grad():
        cell.bias_ih[0] = -1e4  # the input gate is shut; the order of the gates is i, f, g, o
        cell.bias_ih[1] = bias_ih
        cell.bias_hh[1] = bias_hh
    return float(cell(torch.zeros(1, 1), (torch.zeros(1, 1), torch.ones(1, 1)))[1].detach())


@pytest.mark.parametrize(("bias_hh", "gate", "half_life"), [(1.0, 0.881, 5.46), (0.0, 0.731, 2.21)])
def test_the_gate_starts_at_0881_instead_of_0731_and_the_half_life_at_546_steps_instead_of_221(
    bias_hh: float, gate: float, half_life: float
) -> None:
    left = open_forget_gate(1.0, bias_hh)
    assert left == pytest.approx(gate, abs=5e-4)
    assert left == pytest.approx(torch.sigmoid(torch.tensor(1.0 + bias_hh)).item())
    assert math.log(0.5) / math.log(left) == pytest.approx(half_life, abs=5e-3)


@pytest.mark.parametrize("gain", [math.sqrt(2), 0.01, 1.0])
@pytest.mark.parametrize("shape", [(4, 64), (64, 64), (64, 8)])
def test_orthogonal_initialisation_has_the_gain_it_was_asked_for(gain: float, shape: tuple[int, int]) -> None:
    weight = nn.init.orthogonal_(torch.empty(shape), gain=gain)
    singular_values = torch.linalg.svdvals(weight)
    assert torch.allclose(singular_values, torch.full_like(singular_values, gain), rtol=1e-5)


def test_with_a_gain_of_a_hundredth_the_policy_starts_near_uniform() -> None:
    head = nn.Linear(64, 4)
    nn.init.orthogonal_(head.weight, gain=0.01)
    nn.init.zeros_(head.bias)
    start = Categorical(logits=head(nn.LayerNorm(64)(torch.randn(100, 64)))).entropy() / math.log(4)
    assert start.min() > 0.999


# ESP603 untested-network


def test_a_network_that_is_evaluated_as_it_acted_has_a_ratio_of_1() -> None:
    net = Policy()
    obs = torch.randn(5, 8)
    actions = net.get_action(obs)
    with torch.no_grad():
        old = net.evaluate_actions(obs, actions)
    assert torch.allclose((net.evaluate_actions(obs, actions) - old).exp(), torch.ones(5))


def test_the_test_that_the_page_asks_for_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    network, test = code_block("ESP603", "Use instead").split("# --- test_network.py")
    monkeypatch.setitem(sys.modules, "network", types.SimpleNamespace(**run(network)))
    run(test)["test_an_action_per_row"]()
