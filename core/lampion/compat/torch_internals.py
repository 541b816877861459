"""Names inside PyTorch that packages reach for, with what they mean here: questions to its
extension module, to its function transforms, to its exporter.

`EXTRA` is as in `torch_names`. Imports lampion.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from . import surface


class _KeyNames(type):
    """Any key by its name."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class DispatchKey(metaclass=_KeyNames):
    """Names of the layers that PyTorch's dispatcher has; here they are names only."""


class DispatchKeySet(frozenset):
    """A set of names of layers."""

    def __new__(cls, *keys: Any) -> DispatchKeySet:
        names = [k for given in keys for k in ([given] if isinstance(given, str) else given)]
        return super().__new__(cls, names)

    def has(self, key: str) -> bool:
        """Whether the name is in the set."""
        return key in self


class Guard:
    """A block in which layers of PyTorch's dispatcher are skipped; there are none here."""

    def __init__(self, *args: Any) -> None:
        pass

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *error: Any) -> None:
        pass


def _disabled(func: Any, types: Any = (), args: Any = (), kwargs: Any = None) -> Any:
    """For `__torch_function__`: results are plain tensors."""
    from lampion import overrides

    with overrides.DisableTorchFunctionSubclass():
        return func(*args, **(kwargs or {}))


def _nothing(*args: Any, **kwargs: Any) -> None:
    """None: nothing is traced, counted or switched."""


def _never(*args: Any, **kwargs: Any) -> bool:
    """False."""
    return False


_GUARDS = ("ExcludeDispatchKeyGuard", "_ExcludeDispatchKeyGuard", "_IncludeDispatchKeyGuard",
           "_ForceDispatchKeyGuard", "_AutoDispatchBelowAutograd", "_DisableTorchDispatch",
           "_DisableFuncTorch", "_DisableAutocast")


def _c() -> dict[str, Any]:
    """The extension module."""
    import lampion
    from lampion import overrides
    from lampion.nn.modules.module import parse_to

    def same_memory(a: Any, b: Any) -> bool:
        """Whether two tensors share a storage."""
        return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()

    def accelerator() -> Any:
        """The device that is not the processor, or the processor."""
        return lampion.accelerator.current_accelerator() or lampion.device("cpu")

    functorch = _functorch()
    return {**dict.fromkeys(surface.switches("nothing"), _nothing),
            **dict.fromkeys(surface.switches("never"), _never),
            **dict.fromkeys(_GUARDS, Guard),
            "DispatchKey": DispatchKey, "DispatchKeySet": DispatchKeySet,
            "_TensorMeta": type(lampion.Tensor), "TensorBase": lampion.Tensor,
            "_TensorBase": lampion.Tensor, "_LinAlgError": lampion.linalg.LinAlgError,
            "_disabled_torch_function_impl": _disabled,
            "DisableTorchFunctionSubclass": overrides.DisableTorchFunctionSubclass,
            "_is_torch_function_mode_enabled": lambda: bool(overrides._modes()),
            "_len_torch_function_stack": lambda: len(overrides._modes()),
            "_len_torch_dispatch_stack": lambda: 0,
            "_are_functorch_transforms_active": functorch["running"],
            "_is_alias_of": same_memory, "_get_accelerator": accelerator,
            "_get_default_device": lambda: str(lampion.get_default_device()),
            "_get_privateuse1_backend_name": lambda: "privateuse1",
            "_functorch": _module("torch._C._functorch", functorch),
            "_nn": _module("torch._C._nn", {"_parse_to": lambda *a, **k: parse_to(a, k)})}


def _functorch() -> dict[str, Any]:
    """Questions to the function transforms."""
    from lampion.transforms import batching, levels

    def batched(tensor: Any) -> bool:
        """Whether a tensor stands for a batch in vmap."""
        return isinstance(tensor.data_, batching.Batched)

    def transformed(tensor: Any) -> bool:
        """Whether a tensor stands for others in a transform."""
        return isinstance(tensor.data_, levels.Virtual)

    def unwrapped(tensor: Any) -> Any:
        """The tensor below."""
        return tensor.data_.value if transformed(tensor) else tensor

    def level(tensor: Any) -> int:
        """The depth of the transform of a tensor; -1 if it is an ordinary one."""
        held = tensor.data_
        return levels.stack.levels.index(held.level) + 1 if transformed(tensor) else -1

    return {"is_batchedtensor": batched, "is_functorch_wrapped_tensor": transformed,
            "is_legacy_batchedtensor": _never, "is_gradtrackingtensor": _never,
            "is_functionaltensor": _never, "get_unwrapped": unwrapped,
            "maybe_get_level": level, "running": lambda: bool(levels.stack.levels)}


def _onnx() -> dict[str, Any]:
    """Packages say how their ops are exported when they are imported; that is kept."""
    symbolics: dict[tuple[str, int], Any] = {}

    def register(symbolic_name: str, symbolic_fn: Any, opset_version: int) -> None:
        """Keep how an op is exported."""
        symbolics[symbolic_name, opset_version] = symbolic_fn

    def unregister(symbolic_name: str, opset_version: int) -> None:
        """Forget it."""
        symbolics.pop((symbolic_name, opset_version), None)

    return {"register_custom_op_symbolic": register, "unregister_custom_op_symbolic": unregister,
            "is_in_onnx_export": _never}


def _foreach() -> dict[str, Any]:
    """Lists of tensors, as optimizers sort them."""
    import lampion

    def group(tensorlistlist: Any, with_indices: bool = False) -> dict[Any, Any]:
        """{(device, dtype) of the first list's tensors: (their parts of all lists, places)}."""
        places: dict[Any, list[int]] = {}
        for k, t in enumerate(tensorlistlist[0]):
            places.setdefault((t.device, t.dtype), []).append(k)
        return {key: ([[held[k] for k in found] if held else [] for held in tensorlistlist],
                      found if with_indices else []) for key, found in places.items()}

    def anywhere() -> list[str]:
        """Devices whose lists of tensors are worth more than loops: all."""
        return surface.devices()

    def plain(tensors: Any, device: Any = None) -> bool:
        """Whether all are tensors of no class of their own, or missing."""
        return all(t is None or type(t) is lampion.Tensor for t in tensors)

    return {"_group_tensors_by_device_and_dtype": group, "_foreach_supported_types":
            [lampion.Tensor], "_get_foreach_kernels_supported_devices": anywhere,
            "_get_fused_kernels_supported_devices": anywhere, "_has_foreach_support": plain,
            "_device_has_foreach_support": lambda device: True}


_CHECKS = {"_check": RuntimeError, "_check_index": IndexError, "_check_value": ValueError,
           "_check_type": TypeError, "_check_not_implemented": NotImplementedError}


def _checks() -> dict[str, Any]:
    """Conditions that hold, or an error of a class of one's own with a message made on demand."""
    def check_with(error_type: type[Exception], cond: bool, message: Any = None) -> None:
        """Raise the error unless the condition holds. TypeError for a condition that is no bool."""
        if not isinstance(cond, bool):
            raise TypeError(f"cond must be a bool, but got {type(cond).__name__}")
        if not cond:
            raise error_type("Expected cond to be True, but got False." if message is None
                             else str(message() if callable(message) else message))

    def check_all(cond: Any, message: Any = None) -> None:
        """RuntimeError unless all elements of a bool tensor are True."""
        check_with(RuntimeError, bool(cond.all()), message)

    def check_is_size(i: int, message: Any = None, *, max: int | None = None) -> None:
        """RuntimeError unless a number is a size, at most `max`."""
        check_with(RuntimeError, i >= 0 and (max is None or i <= max), message)

    return {**{name: partial(check_with, error) for name, error in _CHECKS.items()},
            "_check_with": check_with, "_check_tensor_all": check_all,
            "_check_is_size": check_is_size}


def _storage() -> dict[str, Any]:
    """What plain pickles of PyTorch's tensors ask for."""
    def load_from_bytes(b: bytes) -> Any:
        """The storage in a file's bytes."""
        import io

        from lampion.serialization import load

        return load(io.BytesIO(b), weights_only=False)

    return {"_load_from_bytes": load_from_bytes}


def _indexing() -> dict[str, Any]:
    """Indexing by single numbers under vmap needs no mode here."""
    return {"TransformGetItemToIndex": Guard}


def _probabilities() -> dict[str, Any]:
    from lampion.distributions import utils

    return {"_sum_rightmost": utils.sum_rightmost}


def _module(name: str, values: dict[str, Any]) -> Any:
    from .torch_names import module

    return module(name, **values)


EXTRA: dict[str, Callable[[], dict[str, Any]]] = {
    "torch._C": _c, "torch._C._functorch": _functorch, "torch.onnx": _onnx,
    "torch.storage": _storage, "torch.utils._foreach_utils": _foreach,
    "torch.distributions.utils": _probabilities,
    "torch._dynamo._trace_wrapped_higher_order_op": _indexing,
}
