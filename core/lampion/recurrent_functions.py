"""Recurrent layers as functions of their weights: `lstm`, `gru`, `rnn_tanh`, `rnn_relu`.

Floor 7; imports nn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .nn.modules.module import Module
from .nn.modules.rnn import GRU, LSTM, RNN, RNNBase
from .tensor import Tensor


def _layer(cls: type[RNNBase], mode: str, params: Sequence[Tensor], has_biases: bool,
           num_layers: int, dropout: float, train: bool, bidirectional: bool,
           batch_first: bool) -> Any:
    """A layer that has these weights without owning them."""
    layer: Any = _OF[cls].__new__(_OF[cls])
    Module.__init__(layer)
    per = len(params) // (num_layers * (1 + bidirectional))
    layer.__dict__.update(
        mode=mode, num_layers=num_layers, bias=has_biases, batch_first=batch_first,
        dropout=float(dropout), bidirectional=bidirectional, training=train,
        _params=params, _per=per, input_size=params[0].shape[-1],
        hidden_size=params[1].shape[0] // _GATES[mode])
    projected = mode == "LSTM" and per == (5 if has_biases else 3)
    layer.__dict__["proj_size"] = params[per - 1].shape[0] if projected else 0
    return layer


_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


class _Borrowing:
    """Weights from a list, in the order of `RNNBase`'s."""

    _params: Sequence[Tensor]
    _per: int

    def _weights_of(self, index: int) -> list[Tensor]:
        return list(self._params[index * self._per:(index + 1) * self._per])


_OF: dict[type[RNNBase], type] = {
    cls: type(cls.__name__, (_Borrowing, cls), {}) for cls in (LSTM, GRU, RNN)}


def _function(name: str, cls: type[RNNBase], mode: str, text: str) -> Callable[..., Any]:
    def run(input: Tensor, *args: Any) -> Any:
        if isinstance(args[2], (list, tuple)):  # the weights: after the sizes of packed data
            sizes, hx, params, has_biases, num_layers, dropout, train, both = args
            first = False
        else:
            hx, params, has_biases, num_layers, dropout, train, both, first = args
            sizes = None
        layer = _layer(cls, mode, params, has_biases, num_layers, dropout, train, both, first)
        hx = tuple(hx) if mode == "LSTM" else hx
        layer.check_forward_args(input, hx, sizes)
        output, state = layer._run(input, hx, sizes)
        return (output, *state) if mode == "LSTM" else (output, state)

    run.__name__ = run.__qualname__ = name
    run.__doc__ = text
    return run


_ARGUMENTS = ("Arguments: (input, hx, params, has_biases, num_layers, dropout, train, "
              "bidirectional, batch_first), or for packed data (data, batch_sizes, hx, params, "
              "has_biases, num_layers, dropout, train, bidirectional); `params` are the weights of "
              "all layers in the order of the layer's `_flat_weights`.")
lstm = _function("lstm", LSTM, "LSTM", f"`nn.LSTM` as a function: (output, h, c). {_ARGUMENTS}")
gru = _function("gru", GRU, "GRU", f"`nn.GRU` as a function: (output, h). {_ARGUMENTS}")
rnn_tanh = _function("rnn_tanh", RNN, "RNN_TANH",
                     f"`nn.RNN` as a function: (output, h). {_ARGUMENTS}")
rnn_relu = _function("rnn_relu", RNN, "RNN_RELU",
                     f"`nn.RNN` with relu as a function: (output, h). {_ARGUMENTS}")
