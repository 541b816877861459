"""Hands the public functions out, each when it is first asked for.

Floor 7 (imported by `lampion/__init__`): after it, the registry has every built-in op, most of them
waiting for their family (see `ops/families.py`).
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from . import device_namespaces
from . import tensor as _tensor
from .base.dtype import NAMED as _NAMED
from .ops import families as _families
from .ops import registry as _registry

if not any(isinstance(op, _families.Awaited) for op in _registry.REGISTRY.values()):
    _families.load(_registry.REGISTRY)

MODULES = ("nn", "optim", "utils", "autograd", "linalg", "fft", "special", "func",
            "config", "plugins", "ops", "testing", "random", "serialization",
            "overrides", "printing", "cli", "demos", "return_types", "masked", "nested", "signal",
            "amp", "compat", "compiler", "jit", "backends", "accelerator", "distributed",
            "multiprocessing", "profiler", "hub", "types", "storage", "distributions", "fx",
            "onnx", "sparse", "export", "futures",
            "quasirandom")

# Functions of the top level whose module is only imported when one of them is used.
FUNCTIONS = {
    "save": "serialization", "load": "serialization", "vmap": "func",
    "set_printoptions": "printing", "fallbacks": "runtime.fallback",
    "reset_fallbacks": "runtime.fallback", **dict.fromkeys(
        ("bartlett_window", "blackman_window", "hamming_window", "hann_window", "kaiser_window"),
        "signal.windows"), **dict.fromkeys(
        ("autocast", "is_autocast_enabled", "set_autocast_enabled", "get_autocast_dtype",
         "set_autocast_dtype", "is_autocast_cache_enabled", "set_autocast_cache_enabled",
         "clear_autocast_cache", "autocast_increment_nesting", "autocast_decrement_nesting"),
        "amp.autocast_mode"), "GradScaler": "amp.grad_scaler", "compile": "compiler",
    "kernel": "raw_kernels", "requires": "requirements",
    **dict.fromkeys(
        ("are_deterministic_algorithms_enabled", "compiled_with_cxx11_abi",
         "get_deterministic_debug_mode", "get_num_interop_threads", "is_anomaly_check_nan_enabled",
         "is_anomaly_enabled", "is_deterministic_algorithms_warn_only_enabled",
         "is_warn_always_enabled", "set_default_tensor_type", "set_deterministic_debug_mode",
         "set_flush_denormal", "set_num_interop_threads", "set_warn_always", "typename",
         "use_deterministic_algorithms"), "flags"),
    **dict.fromkeys(
        ("_assert", "affine_grid_generator", "as_strided_", "batch_norm", "bilinear",
         "binary_cross_entropy_with_logits", "cosine_embedding_loss", "cosine_similarity",
         "ctc_loss", "detach", "detach_", "embedding_bag", "fill_", "frobenius_norm", "get_device",
         "grid_sampler", "gru_cell", "hinge_embedding_loss", "is_distributed", "is_inference",
         "is_signed", "is_storage", "kl_div", "lstm_cell", "margin_ranking_loss",
         "max_pool1d_with_indices", "norm_except_dim", "nuclear_norm", "pairwise_distance",
         "poisson_nll_loss", "resize_as_", "rnn_relu_cell", "rnn_tanh_cell", "rrelu", "rrelu_",
         "triplet_margin_loss", "zero_"), "native_functions"),
    **dict.fromkeys(
        ("BFloat16Storage", "BoolStorage", "ByteStorage", "CharStorage", "ComplexDoubleStorage",
         "ComplexFloatStorage", "DoubleStorage", "FloatStorage", "HalfStorage", "IntStorage",
         "LongStorage", "ShortStorage", "TypedStorage", "UntypedStorage"), "storage"),
    **dict.fromkeys(
        ("ccol_indices_copy", "col_indices_copy", "crow_indices_copy", "embedding_renorm_",
         "indices_copy", "native_norm", "row_indices_copy", "unsafe_split_with_sizes",
         "values_copy"), "native_functions"),
    "thread_safe_generator": "random",
    **dict.fromkeys(("gru", "lstm", "rnn_relu", "rnn_tanh"), "recurrent_functions"),
    **dict.fromkeys(("AcceleratorError", "FatalError"), "base.errors"),
    **dict.fromkeys(_NAMED, "base.dtype"),
    **dict.fromkeys(("sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc",
                     "jagged"), "base.layout"),
    **dict.fromkeys(("sparse_coo_tensor", "sparse_csr_tensor", "sparse_csc_tensor",
                     "sparse_bsr_tensor", "sparse_bsc_tensor", "sparse_compressed_tensor"),
                    "sparse.construct"),
    "Future": "futures", "get_device_module": "accelerator",
    "legacy_contiguous_format": "base.layout", **dict.fromkeys(
        ("SymBool", "SymFloat", "SymInt", "sym_float", "sym_fresh_size", "sym_int", "sym_ite",
         "sym_constrain_range", "sym_constrain_range_for_size", "sym_max", "sym_min", "sym_not",
         "sym_sqrt", "sym_sum", "_check", "_check_index",
         "_check_value", "_check_type", "_check_not_implemented", "_check_is_size",
         "_check_tensor_all", "_assert_async", "_shape_as_tensor"), "symbolic"),
    **dict.fromkeys(("_convert_indices_from_coo_to_csr", "_convert_indices_from_csr_to_coo"),
                    "sparse.construct"),
    **dict.fromkeys(("smm", "spmm", "dsmm", "hspmm", "hsmm", "saddmm", "sspaddmm",
                     "resize_as_sparse_"), "sparse.ops")}


def lookup(module: str, name: str) -> Any:
    """Module `__getattr__`: a public op of the module's namespace, or a submodule."""
    where = module.partition(".")[2]
    if not where and name in MODULES:
        return importlib.import_module(f"{module}.{name}")
    if not where and name.startswith("_foreach_"):
        fn = getattr(importlib.import_module(".foreach", __package__), name)
    elif not where and name in FUNCTIONS:
        fn = getattr(importlib.import_module(f"{module}.{FUNCTIONS[name]}"), name)
    else:
        found = public(where).get(name)
        if found is None:
            device = None if where else device_namespaces.find(name)
            if device is not None:
                return device
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        fn = getattr(_tensor.Tensor, found) if isinstance(found, str) else found.fn
    setattr(sys.modules[module], name, fn)  # the next look-up is a plain one
    return fn


_public: dict[str, dict[str, Any]] = {}
_seen = [0]


def public(where: str) -> dict[str, Any]:
    """Public ops of a namespace ("" is the top level), by name; "name_" is an in-place form."""
    if _seen[0] != len(_registry.REGISTRY):
        _public.clear()
        _seen[0] = len(_registry.REGISTRY)
        for op in _registry.REGISTRY.values():
            if op.namespace:
                continue
            for place in op.where:
                table = _public.setdefault(place, {})
                for alias in (op.name, *op.aliases):
                    table[alias] = op
                    if op.inplace and place in ("", "nn.functional"):
                        table.setdefault(alias + "_", alias + "_")
    return _public.get(where, {})


# attach Tensor methods
for _module in ("conversion", "interop", "dlpack", "pinning", "overrides", "older_methods"):
    importlib.import_module(f".{_module}", __package__)
importlib.import_module(".updating", __package__)
importlib.import_module(".restriding", __package__)
importlib.import_module(".indexing", __package__)
_factories = importlib.import_module(".creation", __package__)
_draws = importlib.import_module(".sampling", __package__)
_seeds = importlib.import_module(".random", __package__)
_choices = importlib.import_module(".choices", __package__)
__all__ = []
for _module in (_factories, _seeds, _draws, _choices):
    globals().update({n: getattr(_module, n) for n in _module.__all__})
    __all__ += _module.__all__
