"""Attention in one kernel: builders for `fused_attention` and its gradient.

float16, bfloat16 and float32 with heads up to 256 wide, any masks and layouts, on GPUs of compute
capability 8.0 and newer (see `attention_kernels` for the kernels). Every builder takes an OpCall
and gives a Launch, or None where the core's composition serves. Imports this package and lampion's
floors 0-2.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lampion import config
from lampion.base import dtype as dt
from lampion.base.meta import Meta, expand_strides
from lampion.runtime.backend import Launch, OpCall

from . import attention_kernels as text
from .compiler import Bound, Compiled, build
from .driver import check
from .handwritten import ADDRESS
from .launch import make_launch
from .matrix import HALVES

if TYPE_CHECKING:
    from .driver import Device

TYPES = (*HALVES, dt.float32)
WIDTHS = (32, 64, 96, 128, 192, 256)
_INT = 2**31


def forward(device: Device, call: OpCall) -> Launch | None:
    """out, logsumexp of query, key, value and mask."""
    p = _Problem(device, call, {"out": call.outputs[0], "query": call.query, "key": call.key,
                                "value": call.value, "mask": call.mask})
    if not p.suits(text.forward_shape, 1):
        return None
    made = p.kernel(text.forward_text, "attention", text.forward_shape, 1, p.queries, (0, 1, 2, 3,
                    4) + ((5,) if p.mask else ()))
    return make_launch(device, [made], "s" * len(call.inputs), [m.span for m in call.outputs], [],
                       ["fused_attention"])


def backward(device: Device, call: OpCall) -> Launch | None:
    """The gradients of query, key and value, by two kernels after the sums of grad * output."""
    gq, gk, gv = call.outputs
    p = _Problem(device, call, {
        "out": gq, "out_key": gk, "out_value": gv, "grad": call.grad, "query": call.query,
        "key": call.key, "value": call.value, "mask": call.mask})
    if not (p.suits(text.keys_shape, 2) and p.suits(text.queries_shape, 2)) or not (
            call.output.dtype is call.grad.dtype is p.dtype):
        return None
    # slots: three outputs, grad, query, key, value, mask, output, logsumexp, then scratch
    masked = (7,) if p.mask else ()
    output, logsumexp, sums = (7 + len(masked) + k for k in range(3))
    ins = (3, 4, 5, 6, *masked, logsumexp, sums)
    calls = [p.sums(call.grad, call.output, (sums, 3, output)),
             p.kernel(text.queries_text, "attention_queries", text.queries_shape, 2, p.queries,
                      (0, *ins))]
    p.share()
    for wanted in ("kv",) if p.width <= 128 else ("k", "v"):
        outs = {"kv": (1, 2), "k": (1,), "v": (2,)}[wanted]
        p.wanted = wanted
        calls.append(p.kernel(text.keys_text, "attention_keys", text.keys_shape, 2, p.keys,
                              (*outs, *ins)))
    return make_launch(device, calls, "s" * len(call.inputs), [m.span for m in call.outputs],
                       [4 * math.prod(call.query.shape[:-1])], ["fused_attention_backward"])


class _Problem:
    """Sizes and strides of a call, by the names of the kernels' arguments."""

    def __init__(self, device: Device, call: OpCall, tensors: dict[str, Meta | None]) -> None:
        q, k, v, m = call.query, call.key, call.value, call.mask
        self.device, self.dtype, self.call = device, q.dtype, call
        self.queries, self.keys = q.shape[-2], k.shape[-2]
        self.columns, self.depth = q.shape[-1], v.shape[-1]
        self.width = min((w for w in WIDTHS if w >= max(self.columns, self.depth)), default=0)
        self.mask = "" if m is None else "bool" if m.dtype.kind == "b" else "added"
        self.tf32 = q.dtype is dt.float32 and config.get("float32_matmul_precision") != "highest"
        self.batch = q.shape[:-2]
        self.dims = [d for d, n in enumerate(self.batch) if n != 1]
        self.shared, self.wanted, self.kept = 0, "kv", self.dims
        self.strides: dict[str, tuple[int, ...]] = {}
        for name, t in tensors.items():
            if t is not None:
                rows = self.queries if name in ("out", "query", "grad", "mask") else self.keys
                columns = self.keys if name == "mask" else t.shape[-1]
                shape = (*self.batch, rows, columns)
                self.strides[name] = expand_strides(t.shape, t.strides, shape)
        step, known = self.queries, [0] * len(self.batch)
        for d in reversed(range(len(self.batch))):
            known[d], step = step, step * self.batch[d]
        self.strides["known"] = tuple(known)

    def suits(self, shape: Callable[[text.Form], text.Shape], owned: int) -> bool:
        """Whether the kernels can do it."""
        scale = self.call.scale
        blocks = math.prod(self.batch) * max(self.queries, self.keys)
        return (self.dtype in TYPES and self.device.capability >= (8, 0) and self.width > 0
                and 0 < scale < math.inf and 0 < blocks < _INT
                and 0 not in (self.queries, self.keys, self.columns, self.depth)
                and shape(self.form()).shared_memory(self.form(), owned)
                <= self.device.shared_memory
                and all(s[-1] == 1 for n, s in self.strides.items() if n.startswith("out"))
                and all(abs(x) < _INT for s in self.strides.values() for x in s[-2:]))

    def share(self) -> None:
        """Order the batch dims so that those that share keys come last."""
        shared = [d for d in self.dims if self.call.key.shape[d] == 1]
        self.kept = [d for d in self.dims if d not in shared]
        self.dims, self.shared = self.kept + shared, len(shared)

    def aligned(self, *names: str) -> bool:
        """Whether rows can be read 16 bytes at a time, if the tensors start at such a place."""
        chunk = 16 // self.dtype.itemsize
        return self.columns % chunk == self.depth % chunk == 0 and all(
            self.strides[n][-1] == 1 and all(x % chunk == 0 for x in self.strides[n][:-1])
            for n in names)

    def integers(self, names: Sequence[str]) -> tuple[int, ...]:
        """The values of a kernel's integer arguments."""
        grad = "grad" in self.strides and self.aligned("grad")
        scale = struct.unpack("i", struct.pack("f", self.call.scale * math.log2(math.e)))[0]
        shares = [self.batch[d] for d in self.dims if d not in self.kept]
        known = {"queries": self.queries, "keys": self.keys, "width": self.columns,
                 "depth": self.depth, "scale_bits": scale, "shares": math.prod(shares),
                 "flags": self.aligned("query", "key", "value") + 2 * grad + 4 * self.call.causal,
                 "rows": math.prod(self.batch) * self.queries}
        for j, d in enumerate(self.dims):
            known[f"d{j}"] = self.batch[d]
        for t, s in self.strides.items():
            known |= {f"{t}_s{j}": s[d] for j, d in enumerate(self.dims)}
            known |= {f"{t}_row": s[-2], f"{t}_column": s[-1]} if t != "known" else {}
        return tuple(known[n] for n in names)

    def form(self) -> text.Form:
        """What the kernels' text depends on."""
        return text.Form(self.dtype, self.width, self.mask, len(self.dims), self.shared,
                         self.wanted, self.tf32)

    def kernel(self, write: Callable[[text.Form], tuple[str, list[str]]], name: str,
               shape: Callable[[text.Form], text.Shape], owned: int, rows: int,
               slots: Sequence[int]) -> tuple[Bound, list[Any], Sequence[int]]:
        """A call of a kernel, as `make_launch` takes it; a block of threads for each block of
        `rows` of each batch."""
        form = self.form()
        source, names = write(form)
        size = shape(form)
        memory = size.shared_memory(form, owned)
        batch = math.prod(self.batch[d] for d in self.kept)
        bound = Bound(build_tiled(self.device, source, name, memory),
                      (-(-rows // size.rows) * batch, 1, 1), (32 * size.warps, 1, 1), memory,
                      self.integers(names))
        return bound, [ADDRESS] * len(slots), slots

    def sums(self, grad: Meta, out: Meta, slots: Sequence[int],
             ) -> tuple[Bound, list[Any], Sequence[int]]:
        """The call of the kernel that adds up grad * out over rows."""
        source, names = text.sums_text(self.form())
        gradient = self.strides["out"]
        self.strides["out"] = out.strides
        rows = math.prod(self.batch) * self.queries
        bound = Bound(build(self.device, source, "row_sums"), (-(-rows // text.WARPS), 1, 1),
                      (32 * text.WARPS, 1, 1), 0, self.integers(names))
        self.strides["out"] = gradient
        return bound, [ADDRESS] * len(slots), slots


def build_tiled(device: Device, source: str, name: str, memory: int) -> Compiled:
    """A kernel that may use `memory` bytes of dynamic shared memory."""
    compiled = build(device, source, name)
    attribute = device.drv.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    check(device.drv.cuFuncSetAttribute(compiled.function, attribute, memory),
          f"giving the kernel {name!r} {memory} bytes of shared memory")
    return compiled
