"""state_dict and load_state_dict of modules: keys, strictness, messages and their hooks.

May import: lampion.tensor, nn.modules._hooks. Imported by: nn.modules.module.
"""
from __future__ import annotations

import warnings
from collections import OrderedDict, namedtuple
from collections.abc import Mapping
from typing import Any

import lampion
from lampion.tensor import Tensor

EXTRA_STATE = "_extra_state"


class _IncompatibleKeys(namedtuple("IncompatibleKeys", ("missing_keys", "unexpected_keys"))):
    """What `load_state_dict` returns: the keys it missed and those it did not expect."""

    __slots__ = ()

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return super().__repr__()

    __str__ = __repr__


class StateDict:
    """The state_dict half of `Module`."""

    _version: int = 1
    _parameters: dict[str, Any]
    _buffers: dict[str, Any]
    _modules: dict[str, Any]
    _non_persistent_buffers_set: set[str]

    def get_extra_state(self) -> Any:
        """Override to put more than tensors in the state_dict, under the key `_extra_state`."""
        raise RuntimeError("get_extra_state() was called on a module that does not define it.")

    def set_extra_state(self, state: Any) -> None:
        """Override with `get_extra_state`: called with what it returned when a state is loaded."""
        raise RuntimeError("set_extra_state() was called on a module that does not define it.")

    # ---- saving ---------------------------------------------------------------------------------

    def _persistent(self) -> dict[str, Any]:
        """Own parameters and persistent buffers by name, those that are None left out."""
        skip = self._non_persistent_buffers_set
        named = dict(self._parameters)
        named.update((name, b) for name, b in self._buffers.items() if name not in skip)
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        for name, tensor in self._persistent().items():
            destination[prefix + name] = tensor if keep_vars else tensor.detach()
        if _overrides(self, "get_extra_state"):
            destination[prefix + EXTRA_STATE] = self.get_extra_state()

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "",
                   keep_vars: bool = False) -> Any:
        """All parameters and persistent buffers by dotted name, detached unless `keep_vars`.

        The tensors share storage with the module. The result has an attribute `_metadata` with the
        version of each module.

        >>> list(nn.Linear(2, 3).state_dict())
        ['weight', 'bias']
        """
        if args:
            warnings.warn("Positional args are being deprecated, use kwargs instead.",
                          FutureWarning, stacklevel=2)
            given = dict(zip(("destination", "prefix", "keep_vars"), args))
            destination = given.get("destination") if destination is None else destination
            prefix = given.get("prefix", "") if prefix == "" else prefix
            keep_vars = given.get("keep_vars", False) if keep_vars is False else keep_vars
        if destination is None:
            destination = OrderedDict()
            destination._metadata = OrderedDict()
        local_metadata = {"version": self._version}
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]] = local_metadata
        for hook in self._state_dict_pre_hooks.values():
            hook(self, prefix, keep_vars)
        self._save_to_state_dict(destination, prefix, keep_vars)
        for name, module in self._modules.items():
            if module is not None:
                module.state_dict(destination=destination, prefix=f"{prefix}{name}.",
                                  keep_vars=keep_vars)
        for hook in self._state_dict_hooks.values():
            replaced = hook(self, destination, prefix, local_metadata)
            if replaced is not None:
                destination = replaced
        return destination

    # ---- loading --------------------------------------------------------------------------------

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool,
                              missing_keys: list[str], unexpected_keys: list[str],
                              error_msgs: list[str]) -> None:
        """Load this module's own entries (not its children's); append what went wrong."""
        for hook in self._load_state_dict_pre_hooks.values():
            hook(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                 error_msgs)
        assign = local_metadata.get("assign_to_params_buffers", False)
        for name, param in self._persistent().items():
            key = prefix + name
            if key in state_dict:
                self._load_one(name, key, param, state_dict[key], assign, error_msgs)
            elif strict:
                missing_keys.append(key)
        self._load_extra_state(state_dict, prefix, strict, missing_keys, unexpected_keys)
        if strict:
            unexpected_keys.extend(self._unexpected(state_dict, prefix))

    def _load_extra_state(self, state_dict: Any, prefix: str, strict: bool,
                          missing_keys: list[str], unexpected_keys: list[str]) -> None:
        key = prefix + EXTRA_STATE
        if _overrides(self, "set_extra_state"):
            if key in state_dict:
                self.set_extra_state(state_dict[key])
            elif strict:
                missing_keys.append(key)
        elif strict and key in state_dict:
            unexpected_keys.append(key)

    def _unexpected(self, state_dict: Any, prefix: str) -> list[str]:
        """Keys under `prefix` that neither a child nor this module's own entries claim."""
        own, found = self._persistent(), []
        for key in state_dict:
            if not key.startswith(prefix) or key == prefix + EXTRA_STATE:
                continue
            first, _, rest = key[len(prefix):].partition(".")
            if first in self._modules if rest else first in own:
                continue
            found.append(key)
        return found

    def _load_one(self, name: str, key: str, param: Any, value: Any, assign: bool,
                  error_msgs: list[str]) -> None:
        """Copy or assign `value` to the parameter or buffer `name`."""
        if not isinstance(value, Tensor):
            error_msgs.append(f'While copying the parameter named "{key}", expected lampion.Tensor '
                              f'or '
                              f"Tensor-like object from checkpoint but received {type(value)}")
            return
        lazy = _is_lazy(param)
        if not lazy and len(param.shape) == 0 and len(value.shape) == 1 and value.shape[0] == 1:
            value = value[0]
        if not lazy and value.shape != param.shape:
            error_msgs.append(f"size mismatch for {key}: copying a param with shape {value.shape} "
                              f"from checkpoint, the shape in current model is {param.shape}.")
            return
        if _on_meta(param) and not _on_meta(value) and not assign:
            warnings.warn(f"for {key}: copying from a non-meta parameter in the checkpoint to a "
                          "meta parameter in the current model, which is a no-op. (Did you mean "
                          "to pass `assign=True` to assign items in the state dictionary to their "
                          "corresponding key in the module instead of copying them in place?)",
                          stacklevel=2)
        try:
            with lampion.no_grad():
                if assign:
                    self._assign(name, param, value)
                else:
                    param.copy_(value)
        except Exception as error:
            action = "assigning" if assign else "copying"
            error_msgs.append(
                f'While {action} the parameter named "{key}", whose dimensions in the model are '
                f"{param.size()} and whose dimensions in the checkpoint are {value.size()}, an "
                f"exception occurred : {error.args}.")

    def _assign(self, name: str, param: Any, value: Tensor) -> None:
        from lampion.nn.parameter import Parameter
        if isinstance(param, Parameter):
            if not isinstance(value, Parameter):
                value = Parameter(value, requires_grad=param.requires_grad)
            elif value.requires_grad != param.requires_grad:
                value.requires_grad_(param.requires_grad)
        setattr(self, name, value)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True,
                        assign: bool = False) -> _IncompatibleKeys:
        """Copy (or, with `assign`, take) the tensors of `state_dict` into this module and its
        children.

        Returns the missing and the unexpected keys. With `strict` either is a RuntimeError that
        lists them; a shape that does not fit is one in every case. TypeError if it is no mapping.

        >>> nn.Linear(2, 3).load_state_dict(nn.Linear(2, 3).state_dict())
        <All keys matched successfully>
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
        job = _Load(state_dict, strict, assign)
        job.load(self, job.state, "")
        problems = job.problems() + job.errors if strict else job.errors
        if problems:
            raise RuntimeError("Error(s) in loading state_dict for {}:\n\t{}".format(
                self.__class__.__name__, "\n\t".join(problems)))
        return _IncompatibleKeys(job.missing, job.unexpected)


class _Load:
    """One walk over a module tree that loads a state_dict."""

    def __init__(self, state_dict: Mapping[str, Any], strict: bool, assign: bool) -> None:
        self.metadata = getattr(state_dict, "_metadata", None)
        self.state = OrderedDict(state_dict)
        if self.metadata is not None:
            self.state._metadata = self.metadata
        self.strict, self.assign = strict, assign
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self.errors: list[str] = []

    def load(self, module: Any, state: Any, prefix: str) -> None:
        """Load `module` and then its children, each with the entries under its own prefix."""
        local = {} if self.metadata is None else self.metadata.get(prefix[:-1], {})
        if self.assign:
            local["assign_to_params_buffers"] = True
        module._load_from_state_dict(state, prefix, local, True, self.missing, self.unexpected,
                                     self.errors)
        for name, child in module._modules.items():
            if child is not None:
                below = f"{prefix}{name}."
                self.load(child, {k: v for k, v in state.items() if k.startswith(below)}, below)
        keys = _IncompatibleKeys(self.missing, self.unexpected)
        for hook in module._load_state_dict_post_hooks.values():
            if hook(module, keys) is not None:
                raise RuntimeError("Hooks registered with ``register_load_state_dict_post_hook`` "
                                   "are not expected to return new values, if incompatible_keys "
                                   "need to be modified, it should be done inplace.")

    def problems(self) -> list[str]:
        """The messages for keys that do not match."""
        kinds = (("Missing", self.missing), ("Unexpected", self.unexpected))
        return ["{} key(s) in state_dict: {}. ".format(kind, ", ".join(f'"{k}"' for k in keys))
                for kind, keys in kinds if keys]


def _overrides(module: Any, method: str) -> bool:
    return getattr(type(module), method) is not getattr(StateDict, method)


def _on_meta(tensor: Tensor) -> bool:
    return tensor.device.type == "meta"


def _is_lazy(param: Any) -> bool:
    from lampion.nn.parameter import is_lazy
    return is_lazy(param)


