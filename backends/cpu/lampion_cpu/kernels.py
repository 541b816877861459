"""Library kernels of the CPU backend: what the direct kernels, oneDNN and BLAS do better than
generated code.

Each builder turns an OpCall into the steps of a program, or declines with None: the next kernel,
in the end the generated one, takes the call then.

May import lampion's floors 0-2 and this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lampion.runtime.backend import KernelImpl, Launch, OpCall


def kernels() -> Sequence[KernelImpl]:
    """All of them."""
    table = {
        "contract": (build_contract, "gemm"),
        "conv_forward": (build_conv_forward, "conv"),
        "conv_backward_data": (build_conv_backward_data, "conv"),
        "conv_backward_weight": (build_conv_backward_weight, "conv"),
        "conv_backward_weight_bias": (build_conv_backward_weight, "conv"),
        "fused_attention": (build_attention, "attention"),
        "fused_attention_backward": (build_attention_backward, "attention"),
    }
    from . import fourier, sorting

    return [*(KernelImpl(op, "cpu", build, priority=10, source=f"cpu.{source}")
              for op, (build, source) in table.items()), *fourier.kernels(),
            *sorting.kernels()]


def _view(slot: int, m: Any) -> Any:
    from .gemm import View

    return View(slot, m.shape, m.strides, m.dtype.name)


def _launch(call: OpCall, plan: Any, name: str) -> Launch | None:
    """The program of a plan whose slots are the call's outputs, inputs and its own scratch."""
    from .program import make_program

    if plan is None:
        return None
    made = make_program(plan.steps, "s" * len(call.inputs), [m.span for m in call.outputs],
                        plan.scratch)
    made.packed = getattr(plan, "packed", None)
    return Launch(made.launch, made.into, [name], made)


def build_contract(call: OpCall) -> Launch | None:
    """Matrix products: gemm.matmul_steps chooses the kernels."""
    from .gemm import matmul_steps

    out = call.outputs[0]
    bias = None if call.bias is None else _view(3, call.bias)
    plan = matmul_steps(_view(1, call.a), _view(2, call.b), _view(0, out), bias,
                        first_scratch=1 + len(call.inputs))
    return _launch(call, plan, "gemm")


def build_conv_forward(call: OpCall) -> Launch | None:
    """Convolutions through oneDNN, else as products over columns."""
    from . import conv_columns
    from .conv import conv_steps

    bias = None if call.bias is None else _view(3, call.bias)
    plan = conv_steps(_view(1, call.input), _view(2, call.weight), _view(0, call.outputs[0]), bias,
                      call.stride, call.padding, call.dilation, call.groups,
                      first_scratch=1 + len(call.inputs))
    return _launch(call, plan or conv_columns.forward(call), "conv")


def build_conv_backward_data(call: OpCall) -> Launch | None:
    """Gradients for the input, and transposed convolutions."""
    from . import conv_columns
    from .conv import conv_backward_data_steps

    plan = conv_backward_data_steps(
        _view(1, call.grad), _view(2, call.weight), _view(0, call.outputs[0]), call.stride,
        call.padding, call.dilation, call.groups, first_scratch=3)
    return _launch(call, plan or conv_columns.backward_data(call), "conv")


def build_conv_backward_weight(call: OpCall) -> Launch | None:
    """Gradients for the weight, and for the bias if it is a second output."""
    from . import conv_columns
    from .conv import conv_backward_weights_steps

    first = len(call.outputs)
    bias = _view(1, call.outputs[1]) if first == 2 else None
    plan = conv_backward_weights_steps(
        _view(first, call.input), _view(first + 1, call.grad), _view(0, call.outputs[0]), bias,
        call.stride, call.padding, call.dilation, call.groups, first_scratch=first + 2)
    return _launch(call, plan or conv_columns.backward_weight(call), "conv")


def build_attention(call: OpCall) -> Launch | None:
    """Attention in blocks, where that leaves scores out or saves much memory."""
    from . import attention

    return attention.forward(call)


def build_attention_backward(call: OpCall) -> Launch | None:
    """The gradients of attention in blocks."""
    from . import attention

    return attention.backward(call)
