"""Views in place: `t_`, `transpose_`, `squeeze_` and their kin show the same memory in another way.

Floor 5; imports tensor, callpath. Each is made from the view op of its name: the tensor takes over
the view's geometry and, if it is recorded, its history.
"""

from __future__ import annotations

from typing import Any

from . import callpath
from .ops import registry as R
from .tensor import Tensor

OPS = ("t", "transpose", "squeeze", "unsqueeze", "as_strided")


def _in_place(op: R.Op, name: str) -> Any:
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        callpath.check_leaf(self, name + "_")
        view = op.fn(self, *args, **kwargs)
        self.data_, self.meta, self.node = view.data_, view.meta, view.node
        callpath.wrote(self, name + "_", 2)
        return self

    method.__name__ = name + "_"
    method.__doc__ = f"`{name}` in place: no element moves, the tensor itself becomes the view."
    return method


for _op in map(R.REGISTRY.__getitem__, OPS):
    for _name in (_op.name, *_op.aliases):
        setattr(Tensor, _name + "_", _in_place(_op, _name))
