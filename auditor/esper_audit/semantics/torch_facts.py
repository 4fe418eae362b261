"""What the functions and methods of torch do to a value: ranks, dtypes, roles and histories.

Every entry was checked against torch 2.13. Anything not listed gives an unknown value.
"""

from __future__ import annotations

# Layers that drop at random, with the position of `p` or of the keyword that turns it on, and what it is by default.
DROPOUT = {
    **{
        f"torch.nn.{name}": ("p", 0, 0.5) for name in ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout")
    },
    **{f"torch.nn.{name}": ("dropout", 5, 0.0) for name in ("LSTM", "GRU")},
    "torch.nn.TransformerEncoderLayer": ("dropout", 3, 0.1),
    "torch.nn.TransformerDecoderLayer": ("dropout", 3, 0.1),
    "torch.nn.MultiheadAttention": ("dropout", 2, 0.0),
    "torch.nn.functional.dropout": ("p", 1, 0.5),
}
COLLECTIONS = frozenset({"torch.nn.ModuleList", "torch.nn.ModuleDict"})
BATCH_NORM = frozenset(
    f"torch.nn.{name}"
    for name in (*(f"{lazy}BatchNorm{d}d" for lazy in ("", "Lazy") for d in (1, 2, 3)), "SyncBatchNorm")
)
FUNCTIONAL_BATCH_NORM = frozenset({"torch.nn.functional.batch_norm", "torch.batch_norm"})
RECURRENT = frozenset({"torch.nn.LSTM", "torch.nn.GRU", "torch.nn.RNN"})
CELLS = frozenset({"torch.nn.LSTMCell", "torch.nn.GRUCell", "torch.nn.RNNCell"})
LSTM_LIKE = frozenset({"torch.nn.LSTM", "torch.nn.LSTMCell"})

# Factories that take a size first; dtype falls back to the global default and device to the CPU.
SIZE_FACTORIES = frozenset(f"torch.{name}" for name in ("zeros", "ones", "empty", "rand", "randn")) | {"torch.full"}
LEGACY_FACTORIES = frozenset(
    {"torch.Tensor", "torch.FloatTensor", "torch.DoubleTensor", "torch.HalfTensor", "torch.cuda.FloatTensor"}
)
LIKE_FACTORIES = frozenset(f"torch.{name}_like" for name in ("zeros", "ones", "empty", "full", "rand", "randn"))
NEW_FACTORIES = frozenset({"new_zeros", "new_ones", "new_full", "new_empty", "new_tensor", "new"})
INDEX_FACTORIES = frozenset(
    f"torch.{name}" for name in "arange eye linspace logspace randperm tril_indices triu_indices".split()
)
TYPED_FACTORIES = frozenset({"torch.LongTensor", "torch.IntTensor", "torch.BoolTensor"})
DATA_FACTORIES = frozenset({"torch.tensor", "torch.as_tensor", "torch.from_numpy", "torch.asarray"})

# Methods (and functions of the same name) that give back the same values in another guise.
SAME = frozenset(
    "clone contiguous detach requires_grad_ cuda cpu pin_memory share_memory_ expand_as view_as reshape_as type_as to "
    "float double half bfloat16 long int bool type byte clamp clip clamp_min clamp_max clamp_ nan_to_num roll flip "
    "zero_ fill_ copy_ normal_ uniform_ index_copy index_fill masked_scatter where abs neg relu tanh sigmoid exp exp_ "
    "sqrt log log1p square pow cumsum cumprod dropout gelu silu elu leaky_relu softplus mish selu celu relu6 hardtanh "
    "hardswish layer_norm rms_norm group_norm instance_norm batch_norm normalize".split()
)
KEEPS_IDENTITY = frozenset(
    "clone contiguous detach requires_grad_ cuda cpu pin_memory to float double half bfloat16 long int bool type byte "
    "type_as view_as reshape_as expand_as repeat expand view reshape unsqueeze squeeze transpose permute flatten t "
    "zero_ normal_ uniform_ fill_ copy_ tile swapaxes movedim expand_dims broadcast_to unflatten".split()
)
DRAWN_IN_PLACE = frozenset({"normal_", "uniform_", "exponential_", "geometric_", "log_normal_", "cauchy_"})
# Methods whose outcome shares its memory with the tensor, whatever that is.
VIEWS = frozenset(
    "detach view view_as unsqueeze squeeze transpose permute expand expand_as t swapaxes movedim unbind split chunk "
    "requires_grad_ narrow select".split()
)
# What refuses operands on two devices. Indexing is not among them: indices may stay on the CPU.
MEETINGS = frozenset(
    "add sub mul div add_ sub_ mul_ div_ true_divide maximum minimum matmul mm bmm eq ne lt le gt ge gather scatter "
    "scatter_ scatter_add index_select masked_fill masked_fill_ where logical_and logical_or".split()
)
REDUCTIONS = frozenset(
    "sum mean max min any all argmax argmin logsumexp prod norm std var amax amin median nansum".split()
)
DTYPE_METHODS = {
    "float": "float32",
    "double": "float64",
    "half": "half",
    "bfloat16": "bfloat16",
    "long": "int64",
    "int": "int32",
    "bool": "bool",
    "byte": "uint8",
}
DTYPE_NAMES = {
    "torch.float": "float32",
    "torch.float32": "float32",
    "torch.float64": "float64",
    "torch.double": "float64",
    "torch.half": "half",
    "torch.float16": "half",
    "torch.bfloat16": "bfloat16",
    "torch.bool": "bool",
    "torch.long": "int64",
    "torch.int64": "int64",
    "torch.int": "int32",
    "torch.int32": "int32",
    "torch.uint8": "uint8",
    "torch.int8": "int8",
}
FINITE_DISTRIBUTIONS = frozenset(
    f"torch.distributions.{path}{name}"
    for name in (
        "Categorical",
        "OneHotCategorical",
        "OneHotCategoricalStraightThrough",
        "RelaxedOneHotCategorical",
        "Multinomial",
    )
    for path in ("", "categorical.", "one_hot_categorical.", "relaxed_categorical.", "multinomial.")
)
ELEMENTWISE_DISTRIBUTIONS = frozenset(
    f"torch.distributions.{path}{name}"
    for name in ("Normal", "Beta", "Bernoulli", "Laplace")
    for path in ("", f"{name.lower()}.")
)
NO_GRAD = {"torch.no_grad": "no_grad", "torch.inference_mode": "inference_mode", "torch.set_grad_enabled": "no_grad"}
AUTOCAST = frozenset({"torch.autocast", "torch.amp.autocast", "torch.cuda.amp.autocast", "torch.cpu.amp.autocast"})
COMPILER_DISABLED = frozenset(
    {
        "torch.compiler.disable",
        "torch._dynamo.disable",
        "torch._dynamo.disallow_in_graph",
        "torch.compiler.disallow_in_graph",
        "torch._dynamo.graph_break",
        "torch._dynamo.eval_frame.disable",
    }
)
DDP = frozenset({"torch.nn.parallel.DistributedDataParallel", "torch.nn.parallel.distributed.DistributedDataParallel"})
COMPILE = frozenset({"torch.compile", "torch._dynamo.optimize"})


def is_distribution(name: str) -> bool:
    """Whether a qualified name is a class of torch.distributions."""
    return name.startswith("torch.distributions.") and name.rsplit(".", 1)[1][:1].isupper()
