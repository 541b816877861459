"""Which nodes some other executor can run. Floor 7; imports tools_common."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Any

from ..node import Node
from .tools_common import CALLABLE_NODE_OPS, get_node_target

__all__ = ["OperatorSupportBase", "OperatorSupport", "create_op_support", "chain", "any_chain",
           "OpSupports"]

SupportDict = Mapping[str, Any]


class OperatorSupportBase(abc.ABC):
    """Says of a node whether it is supported."""

    @abc.abstractmethod
    def is_node_supported(self, submodules: Mapping[str, Any], node: Node) -> bool:
        """Whether the node is supported; `submodules` has the module's, by path."""


class OperatorSupport(OperatorSupportBase):
    """Supports what a dict names: what is called (see `get_node_target`), and None, or the dtypes
    that its inputs may have ((dtypes of each positional input), {name: dtypes})."""

    def __init__(self, support_dict: SupportDict | None = None) -> None:
        self._support_dict = support_dict or {}

    def is_node_supported(self, submodules: Mapping[str, Any], node: Node) -> bool:
        """Whether the dict has what the node calls, for the dtypes of its inputs."""
        if node.op not in CALLABLE_NODE_OPS:
            return True
        target = get_node_target(submodules, node)
        if target not in self._support_dict:
            return False
        wanted = self._support_dict[target]
        if wanted is None:
            return True
        places, names = wanted
        return all(self._fits(node.args[k] if k < len(node.args) else None, dtypes)
                   for k, dtypes in enumerate(places)) and all(
            self._fits(node.kwargs.get(name), dtypes) for name, dtypes in names.items())

    @staticmethod
    def _fits(arg: Any, dtypes: Any) -> bool:
        if not isinstance(arg, Node):
            return None in dtypes if arg is None else True
        return _dtype(arg) in dtypes


def _dtype(node: Node) -> Any:
    """The dtype that shape propagation found."""
    found = node.meta.get("tensor_meta")
    return getattr(found, "dtype", None)


class _Function(OperatorSupportBase):
    def __init__(self, fn: Callable[[Mapping[str, Any], Node], bool]) -> None:
        self.fn = fn

    def is_node_supported(self, submodules: Mapping[str, Any], node: Node) -> bool:
        return self.fn(submodules, node)


def create_op_support(is_node_supported: Callable[[Mapping[str, Any], Node], bool]
                      ) -> OperatorSupportBase:
    """The support that a function says."""
    return _Function(is_node_supported)


def chain(*op_support: OperatorSupportBase) -> OperatorSupportBase:
    """Supported if all say so."""
    return create_op_support(lambda submodules, node: all(
        s.is_node_supported(submodules, node) for s in op_support))


def any_chain(*op_support: OperatorSupportBase) -> OperatorSupportBase:
    """Supported if one says so."""
    return create_op_support(lambda submodules, node: any(
        s.is_node_supported(submodules, node) for s in op_support))


class OpSupports:
    """Ready-made supports."""

    @staticmethod
    def decline_if_input_dtype(dtype: Any) -> OperatorSupportBase:
        """All but nodes with an input of a dtype."""
        return create_op_support(lambda submodules, node: all(
            _dtype(n) is not dtype for n in node.all_input_nodes))

    @staticmethod
    def decline_if_node_in_names(disallow_set: set[str]) -> OperatorSupportBase:
        """All but nodes of these names."""
        return create_op_support(lambda submodules, node: node.name not in disallow_set)
