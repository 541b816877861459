"""Recurrent layers RNN, LSTM, GRU and their cells, composed of matrix products and activations.

The input projection of a whole sequence is one product; each step adds the recurrent one. The
steps of a direction live in `_recurrence`. May import: nn.functional, nn.init, nn.parameter,
nn.modules.module, nn.modules._recurrence, nn.utils.rnn.
"""
from __future__ import annotations

import math
import warnings
from typing import Any

import lampion
from lampion.base.located import located
from lampion.nn import functional as F
from lampion.nn import init
from lampion.nn.modules import _recurrence
from lampion.nn.modules.module import Module
from lampion.nn.parameter import Parameter
from lampion.nn.utils.rnn import PackedSequence
from lampion.tensor import Tensor


def apply_permutation(tensor: Tensor, permutation: Tensor, dim: int = 1) -> Tensor:
    """`tensor` with its axis `dim` permuted (older name of index_select)."""
    warnings.warn("apply_permutation is deprecated, please use tensor.index_select(dim, "
                  "permutation) instead", FutureWarning, stacklevel=2)
    return tensor.index_select(dim, permutation)


class RNNBase(Module):
    """Weights, checks and the walk over layers and directions of RNN, LSTM and GRU."""

    __constants__ = ["mode", "input_size", "hidden_size", "num_layers", "bias", "batch_first",
                     "dropout", "bidirectional", "proj_size"]

    def __init__(self, mode: str, input_size: int, hidden_size: int, num_layers: int = 1,
                 bias: bool = True, batch_first: bool = False, dropout: float = 0.0,
                 bidirectional: bool = False, proj_size: int = 0, device: Any = None,
                 dtype: Any = None) -> None:
        super().__init__()
        _check_sizes(mode, input_size, hidden_size, num_layers, batch_first, dropout, proj_size)
        self.mode = mode
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self._all_weights: list[list[str]] = []
        for layer in range(num_layers):
            for suffix in (f"_l{layer}", f"_l{layer}_reverse")[:self._directions]:
                self._make_weights(layer, suffix, {"device": device, "dtype": dtype})
        self.reset_parameters()

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def _out_size(self) -> int:
        return self.proj_size if self.proj_size > 0 else self.hidden_size

    def _make_weights(self, layer: int, suffix: str, kind: dict[str, Any]) -> None:
        rows = _recurrence.GATES[self.mode] * self.hidden_size
        width = self.input_size if layer == 0 else self._out_size * self._directions
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, width),
                                              "weight_hh": (rows, self._out_size)}
        if self.bias:
            shapes.update(bias_ih=(rows,), bias_hh=(rows,))
        if self.proj_size > 0:
            shapes["weight_hr"] = (self.proj_size, self.hidden_size)
        for name, shape in shapes.items():
            setattr(self, name + suffix, Parameter(lampion.empty(shape, **kind)))
        self._all_weights.append([name + suffix for name in shapes])

    @property
    def _flat_weights_names(self) -> list[str]:
        return [name for names in self._all_weights for name in names]

    @property
    def _flat_weights(self) -> list[Parameter]:
        return [getattr(self, name) for name in self._flat_weights_names]

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The weights of each layer and direction."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    def flatten_parameters(self) -> None:
        """Nothing to do: the weights are used where they are."""

    def reset_parameters(self) -> None:
        """Draw all weights anew, uniform in ±1/sqrt(hidden_size)."""
        bound = 1.0 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for weight in self.parameters():
            init.uniform_(weight, -bound, bound)

    # ---- checks ---------------------------------------------------------------------------------

    def check_input(self, input: Tensor, batch_sizes: Tensor | None) -> None:
        """RuntimeError if the input has the wrong number of axes or features."""
        wanted = 2 if batch_sizes is not None else 3
        if input.dim() != wanted:
            raise RuntimeError(f"input must have {wanted} dimensions, got {input.dim()}")
        if input.size(-1) != self.input_size:
            raise RuntimeError("input.size(-1) must be equal to input_size. Expected "
                               f"{self.input_size}, got {input.size(-1)}")

    def get_expected_hidden_size(self, input: Tensor,
                                 batch_sizes: Tensor | None) -> tuple[int, int, int]:
        """(layers directions, batch, hidden or projected size)."""
        return (self.num_layers * self._directions, self._batch(input, batch_sizes), self._out_size)

    def _batch(self, input: Tensor, batch_sizes: Tensor | None) -> int:
        if batch_sizes is not None:
            return int(batch_sizes[0])
        return input.size(0) if self.batch_first else input.size(1)

    def check_hidden_size(self, hx: Tensor, expected_hidden_size: tuple[int, int, int],
                          msg: str = "Expected hidden size {}, got {}") -> None:
        """RuntimeError if `hx` has another shape."""
        if tuple(hx.size()) != tuple(expected_hidden_size):
            raise RuntimeError(msg.format(expected_hidden_size, list(hx.size())))

    @located
    def check_forward_args(self, input: Tensor, hidden: Any, batch_sizes: Tensor | None) -> None:
        """The checks of input and hidden state together."""
        self.check_input(input, batch_sizes)
        self.check_hidden_size(hidden, self.get_expected_hidden_size(input, batch_sizes))

    def permute_hidden(self, hx: Any, permutation: Tensor | None) -> Any:
        """The hidden state with its batch axis permuted."""
        return hx if permutation is None else hx.index_select(1, permutation)

    # ---- forward --------------------------------------------------------------------------------

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        packed = isinstance(input, PackedSequence)
        if packed:
            data, batch_sizes, order, back = input
            if hx is not None:
                hx = self.permute_hidden(hx, order)
        else:
            if input.dim() not in (2, 3):
                raise ValueError(f"{self._get_name()}: Expected input to be 2D or 3D, got "
                                 f"{input.dim()}D tensor instead")
            data, batch_sizes, back = input, None, None
        unbatched = not packed and input.dim() == 2
        if unbatched:
            data = data.unsqueeze(0 if self.batch_first else 1)
            hx = self._batched_state(hx)
        if hx is None:
            hx = self._zero_state(data, batch_sizes)
        self.check_forward_args(data, hx, batch_sizes)
        output, state = self._run(data, hx, batch_sizes)
        if packed:
            return (PackedSequence(output, batch_sizes, order, back),
                    self.permute_hidden(state, back))
        if unbatched:
            output = output.squeeze(0 if self.batch_first else 1)
            state = self._map_state(lambda t: t.squeeze(1), state)
        return output, state

    def _map_state(self, fn: Any, hx: Any) -> Any:
        return fn(hx)

    @located
    def _batched_state(self, hx: Any) -> Any:
        """The state of an unbatched call with a batch axis of one."""
        if hx is None:
            return None
        if hx.dim() != 2:
            raise RuntimeError(
                f"For unbatched 2-D input, hx should also be 2-D but got {hx.dim()}-D tensor")
        return hx.unsqueeze(1)

    def _zero_state(self, data: Tensor, batch_sizes: Tensor | None) -> Any:
        shape = (self.num_layers * self._directions, self._batch(data, batch_sizes), self._out_size)
        return lampion.zeros(shape, dtype=data.dtype, device=data.device)

    def _run(self, data: Tensor, hx: Any, batch_sizes: Tensor | None) -> tuple[Tensor, Any]:
        """Layers over time-major (or packed) data, directions joined, dropout in between."""
        swap = batch_sizes is None and self.batch_first
        layer_input = data.transpose(0, 1) if swap else data
        sizes = None if batch_sizes is None else batch_sizes.tolist()
        states, finals = self._split_state(hx), []
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(self._directions):
                index = layer * self._directions + direction
                weights = self._weights_of(index)
                output, final = _recurrence.run(
                    self.mode, layer_input, states[index], weights, self.bias, self.proj_size > 0,
                    direction == 1, sizes)
                outputs.append(output)
                finals.append(final)
            layer_input = outputs[0] if len(outputs) == 1 else lampion.cat(outputs, -1)
            if self.dropout and self.training and layer < self.num_layers - 1:
                layer_input = F.dropout(layer_input, self.dropout, True)
        return (layer_input.transpose(0, 1) if swap else layer_input), self._join_state(finals)

    def _weights_of(self, index: int) -> list[Tensor]:
        """The weights of one layer and direction (see Linear.forward for the table)."""
        names, params = self._all_weights[index], self._parameters
        try:
            return [params[name] for name in names]
        except KeyError:
            return [getattr(self, name) for name in names]

    def _split_state(self, hx: Any) -> list[Any]:
        return list(hx.unbind(0))

    def _join_state(self, finals: list[Any]) -> Any:
        return lampion.stack(finals, 0)

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        if self.proj_size != 0:
            text += f", proj_size={self.proj_size}"
        if self.num_layers != 1:
            text += f", num_layers={self.num_layers}"
        for name, usual in (("bias", True), ("batch_first", False), ("dropout", 0),
                            ("bidirectional", False)):
            if getattr(self, name) != usual:
                text += f", {name}={getattr(self, name)}"
        return text


def _check_sizes(mode: str, input_size: Any, hidden_size: Any, num_layers: int, batch_first: Any,
                 dropout: Any, proj_size: int) -> None:
    if mode not in _recurrence.GATES:
        raise ValueError("Unrecognized RNN mode: " + mode)
    if not isinstance(dropout, (int, float)) or isinstance(dropout, bool) or not 0 <= dropout <= 1:
        raise ValueError("dropout should be a number in range [0, 1] representing the probability "
                         "of an element being zeroed")
    if dropout > 0 and num_layers == 1:
        warnings.warn("dropout option adds dropout after all but last recurrent layer, so non-zero "
                      f"dropout expects num_layers greater than 1, but got dropout={dropout} and "
                      f"num_layers={num_layers}", stacklevel=4)
    if not isinstance(hidden_size, int):
        raise TypeError(f"hidden_size should be of type int, got: {type(hidden_size).__name__}")
    if hidden_size <= 0:
        raise ValueError("hidden_size must be greater than zero")
    if num_layers <= 0:
        raise ValueError("num_layers must be greater than zero")
    if proj_size < 0:
        raise ValueError("proj_size should be a positive integer or zero to disable projections")
    if proj_size >= hidden_size:
        raise ValueError("proj_size has to be smaller than hidden_size")


class RNN(RNNBase):
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu, over a sequence.

    input (L, N, input_size), batch first if batch_first, unbatched without N, or a PackedSequence;
    h0 (layers directions, N, hidden_size), zeros by default. Returns (output (L, N, directions
    hidden_size), h_n).

    >>> out, h = nn.RNN(10, 20, 2)(lampion.zeros(5, 3, 10))
    >>> out.shape, h.shape
    (lampion.Size([5, 3, 20]), lampion.Size([2, 3, 20]))
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "proj_size" in kwargs:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        if len(args) > 3:
            self_nonlinearity = args[3]
            args = args[:3] + args[4:]
        else:
            self_nonlinearity = kwargs.pop("nonlinearity", "tanh")
        if self_nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{self_nonlinearity}'. Select from 'tanh' or "
                             "'relu'.")
        super().__init__(f"RNN_{self_nonlinearity.upper()}", *args, **kwargs)
        self.nonlinearity = self_nonlinearity


class LSTM(RNNBase):
    """Long short-term memory: gates i, f, g, o; c' = f c + i g; h' = o tanh(c'), over a sequence.

    As RNN, the state being (h0, c0). proj_size > 0 multiplies h' by W_hr.

    >>> out, (h, c) = nn.LSTM(10, 20, 2)(lampion.zeros(5, 3, 10))
    >>> out.shape, c.shape
    (lampion.Size([5, 3, 20]), lampion.Size([2, 3, 20]))
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("LSTM", *args, **kwargs)

    def get_expected_cell_size(self, input: Tensor,
                               batch_sizes: Tensor | None) -> tuple[int, int, int]:
        """(layers directions, batch, hidden size)."""
        return (self.num_layers * self._directions, self._batch(input, batch_sizes),
                self.hidden_size)

    @located
    def check_forward_args(self, input: Tensor, hidden: Any, batch_sizes: Tensor | None) -> None:
        """The checks of input, h0 and c0 together."""
        self.check_input(input, batch_sizes)
        self.check_hidden_size(hidden[0], self.get_expected_hidden_size(input, batch_sizes),
                               "Expected hidden[0] size {}, got {}")
        self.check_hidden_size(hidden[1], self.get_expected_cell_size(input, batch_sizes),
                               "Expected hidden[1] size {}, got {}")

    def permute_hidden(self, hx: Any, permutation: Tensor | None) -> Any:
        if permutation is None:
            return hx
        return tuple(t.index_select(1, permutation) for t in hx)

    def _map_state(self, fn: Any, hx: Any) -> Any:
        return tuple(fn(t) for t in hx)

    @located
    def _batched_state(self, hx: Any) -> Any:
        if hx is None:
            return None
        if hx[0].dim() != 2 or hx[1].dim() != 2:
            raise RuntimeError("For unbatched 2-D input, hx and cx should also be 2-D but got "
                               f"({hx[0].dim()}-D, {hx[1].dim()}-D) tensors")
        return tuple(t.unsqueeze(1) for t in hx)

    def _zero_state(self, data: Tensor, batch_sizes: Tensor | None) -> Any:
        hidden = super()._zero_state(data, batch_sizes)
        if self.proj_size == 0:
            return hidden, hidden
        shape = (hidden.size(0), hidden.size(1), self.hidden_size)
        return hidden, lampion.zeros(shape, dtype=data.dtype, device=data.device)

    def _split_state(self, hx: Any) -> list[Any]:
        return list(zip(hx[0].unbind(0), hx[1].unbind(0)))

    def _join_state(self, finals: list[Any]) -> Any:
        return tuple(lampion.stack(parts, 0) for parts in zip(*finals))


class GRU(RNNBase):
    """Gated recurrent unit: h' = (1 - z) n + z h, n = tanh(W_in x + b_in + r (W_hn h + b_hn)).

    As RNN.

    >>> out, h = nn.GRU(10, 20, bidirectional=True)(lampion.zeros(5, 3, 10))
    >>> out.shape
    lampion.Size([5, 3, 40])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "proj_size" in kwargs:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        super().__init__("GRU", *args, **kwargs)


_CELL_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class RNNCellBase(Module):
    """Weights of one step: weight_ih, weight_hh, bias_ih, bias_hh."""

    __constants__ = ["input_size", "hidden_size", "bias"]

    def __init__(self, input_size: int, hidden_size: int, bias: bool, num_chunks: int,
                 device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        rows, kind = num_chunks * hidden_size, {"device": device, "dtype": dtype}
        self.weight_ih = Parameter(lampion.empty((rows, input_size), **kind))
        self.weight_hh = Parameter(lampion.empty((rows, hidden_size), **kind))
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, Parameter(lampion.empty(rows, **kind)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew, uniform in ±1/sqrt(hidden_size)."""
        bound = 1.0 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for weight in self.parameters():
            init.uniform_(weight, -bound, bound)

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        if self.bias is not True:
            text += f", bias={self.bias}"
        if getattr(self, "nonlinearity", "tanh") != "tanh":
            text += f", nonlinearity={self.nonlinearity}"
        return text

    def _weights(self) -> list[Tensor | None]:
        params = self._parameters
        try:  # see Linear.forward
            return [params[name] for name in _CELL_WEIGHTS]
        except KeyError:
            return [getattr(self, name) for name in _CELL_WEIGHTS]

    @located
    def _check(self, input: Tensor, states: Any) -> None:
        if input.dim() not in (1, 2):
            raise ValueError(f"{self._get_name()}: Expected input to be 1D or 2D, got "
                             f"{input.dim()}D instead")
        for i, hidden in enumerate(states or ()):
            if hidden is not None and hidden.dim() not in (1, 2):
                name = f"hx[{i}]" if len(states) > 1 else "hidden"
                raise ValueError(f"{self._get_name()}: Expected {name} to be 1D or 2D, got "
                                 f"{hidden.dim()}D instead")

    def _zeros(self, input: Tensor) -> Tensor:
        return lampion.zeros((input.size(0), self.hidden_size), dtype=input.dtype,
                             device=input.device)

    def _one(self, mode: str, input: Tensor, hx: Tensor | None) -> Tensor:
        """A step on batched input and state; an unbatched pair gets and loses a batch axis."""
        self._check(input, () if hx is None else (hx,))
        batched = input.dim() == 2
        input = input if batched else input.unsqueeze(0)
        if hx is None:
            hx = self._zeros(input)
        elif not batched:
            hx = hx.unsqueeze(0)
        hidden = _recurrence.cell(mode, input, hx, self._weights())
        return hidden if batched else hidden.squeeze(0)


class RNNCell(RNNCellBase):
    """One step of RNN: (N, input_size) or (input_size), hidden alike, to the new hidden.

    >>> nn.RNNCell(10, 20)(lampion.zeros(3, 10)).shape
    lampion.Size([3, 20])
    """

    __constants__ = ["input_size", "hidden_size", "bias", "nonlinearity"]

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True,
                 nonlinearity: str = "tanh", device: Any = None, dtype: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        return self._one(f"RNN_{self.nonlinearity.upper()}", input, hx)


class LSTMCell(RNNCellBase):
    """One step of LSTM: input and (h, c) to the new (h, c).

    >>> h, c = nn.LSTMCell(10, 20)(lampion.zeros(3, 10))
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None,
                 dtype: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(self, input: Tensor,
                hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        self._check(input, hx)
        batched = input.dim() == 2
        input = input if batched else input.unsqueeze(0)
        if hx is None:
            hidden = cell = self._zeros(input)
        else:
            hidden, cell = hx if batched else (hx[0].unsqueeze(0), hx[1].unsqueeze(0))
        hidden, cell = _recurrence.cell("LSTM", input, (hidden, cell), self._weights())
        return (hidden, cell) if batched else (hidden.squeeze(0), cell.squeeze(0))


class GRUCell(RNNCellBase):
    """One step of GRU: input and hidden to the new hidden.

    >>> nn.GRUCell(10, 20)(lampion.zeros(3, 10)).shape
    lampion.Size([3, 20])
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None,
                 dtype: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._one("GRU", input, hx)
