"""Functions of the top level that take the arguments of PyTorch's native functions.

Most are `nn.functional`'s with a number for the reduction (0 none, 1 mean, 2 sum) and no defaults;
others are methods called as functions. Floor 7; imports nn when one is called.
"""

from __future__ import annotations

from typing import Any

from .tensor import Tensor

_REDUCTIONS = ("none", "mean", "sum")


def _assert(condition: Any, message: str) -> None:
    """AssertionError with this message unless the condition holds. A call, which can be traced,
    where the statement could not."""
    if not condition:
        raise AssertionError(message)


def _functional() -> Any:
    from .nn import functional

    return functional


def _reduction(number: int) -> str:
    return number if isinstance(number, str) else _REDUCTIONS[number]


def batch_norm(input: Tensor, weight: Tensor | None, bias: Tensor | None,
               running_mean: Tensor | None, running_var: Tensor | None, training: bool,
               momentum: float, eps: float, cudnn_enabled: bool = True) -> Tensor:
    """`nn.functional.batch_norm` with all arguments; the last chooses nothing here."""
    return _functional().batch_norm(input, running_mean, running_var, weight, bias, training,
                                    momentum, eps)


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`nn.functional.bilinear`."""
    return _functional().bilinear(input1, input2, weight, bias)


def binary_cross_entropy_with_logits(input: Tensor, target: Tensor, weight: Tensor | None = None,
                                     pos_weight: Tensor | None = None, reduction: int = 0,
                                     ) -> Tensor:
    """`nn.functional.binary_cross_entropy_with_logits`."""
    return _functional().binary_cross_entropy_with_logits(
        input, target, weight, pos_weight=pos_weight, reduction=_reduction(reduction))


def cosine_embedding_loss(input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0,
                          reduction: int = 0) -> Tensor:
    """`nn.functional.cosine_embedding_loss`."""
    return _functional().cosine_embedding_loss(input1, input2, target, margin,
                                               reduction=_reduction(reduction))


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """`nn.functional.cosine_similarity`."""
    return _functional().cosine_similarity(x1, x2, dim, eps)


def ctc_loss(log_probs: Tensor, targets: Tensor, input_lengths: Any, target_lengths: Any,
             blank: int = 0, reduction: int = 0, zero_infinity: bool = False) -> Tensor:
    """`nn.functional.ctc_loss`."""
    return _functional().ctc_loss(log_probs, targets, input_lengths, target_lengths, blank,
                                  _reduction(reduction), zero_infinity)


def hinge_embedding_loss(input: Tensor, target: Tensor, margin: float = 1.0, reduction: int = 0,
                         ) -> Tensor:
    """`nn.functional.hinge_embedding_loss`."""
    return _functional().hinge_embedding_loss(input, target, margin,
                                              reduction=_reduction(reduction))


def kl_div(input: Tensor, target: Tensor, reduction: int = 0, *, log_target: bool = False,
           ) -> Tensor:
    """`nn.functional.kl_div`."""
    return _functional().kl_div(input, target, reduction=_reduction(reduction),
                                log_target=log_target)


def margin_ranking_loss(input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0,
                        reduction: int = 0) -> Tensor:
    """`nn.functional.margin_ranking_loss`."""
    return _functional().margin_ranking_loss(input1, input2, target, margin,
                                             reduction=_reduction(reduction))


def poisson_nll_loss(input: Tensor, target: Tensor, log_input: bool, full: bool, eps: float,
                     reduction: int) -> Tensor:
    """`nn.functional.poisson_nll_loss`."""
    return _functional().poisson_nll_loss(input, target, log_input, full, None, eps, None,
                                          _reduction(reduction))


def triplet_margin_loss(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 1.0,
                        p: float = 2, eps: float = 1e-6, swap: bool = False, reduction: int = 0,
                        ) -> Tensor:
    """`nn.functional.triplet_margin_loss`."""
    return _functional().triplet_margin_loss(anchor, positive, negative, margin, p, eps, swap,
                                             reduction=_reduction(reduction))


def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2, eps: float = 1e-6,
                      keepdim: bool = False) -> Tensor:
    """`nn.functional.pairwise_distance`."""
    return _functional().pairwise_distance(x1, x2, p, eps, keepdim)


def embedding_bag(weight: Tensor, indices: Tensor, offsets: Tensor,
                  scale_grad_by_freq: bool = False, mode: int = 0, sparse: bool = False,
                  per_sample_weights: Tensor | None = None, include_last_offset: bool = False,
                  padding_idx: int | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(bags, bag of each index, bag sizes, index of each maximum); mode 0 sum, 1 mean, 2 max."""
    from . import library

    bags = _functional().embedding_bag(
        indices, weight, offsets, scale_grad_by_freq=scale_grad_by_freq,
        mode=("sum", "mean", "max")[mode], sparse=sparse, per_sample_weights=per_sample_weights,
        include_last_offset=include_last_offset, padding_idx=padding_idx)
    op = library.public("")
    ends = offsets[1:] if include_last_offset else op["cat"].fn(
        [offsets[1:], offsets.new_tensor([indices.shape[0]])])
    starts = offsets[:-1] if include_last_offset else offsets
    sizes = ends - starts
    of = op["repeat_interleave"].fn(sizes)
    return bags, of, sizes, sizes.new_zeros(bags.shape if mode == 2 else (0,))


def rrelu(input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False,
          generator: Any = None) -> Tensor:
    """`nn.functional.rrelu`."""
    return _functional().rrelu(input, lower, upper, training)


def rrelu_(input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False,
           generator: Any = None) -> Tensor:
    """`rrelu` in place."""
    return _functional().rrelu(input, lower, upper, training, inplace=True)


def max_pool1d_with_indices(input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0,
                            dilation: Any = 1, ceil_mode: bool = False) -> tuple[Tensor, Tensor]:
    """(maxima, their positions)."""
    return _functional().max_pool1d(input, kernel_size, stride or None, padding, dilation,
                                    ceil_mode, True)


def grid_sampler(input: Tensor, grid: Tensor, interpolation_mode: int, padding_mode: int,
                 align_corners: bool) -> Tensor:
    """`nn.functional.grid_sample` with numbers for the modes."""
    return _functional().grid_sample(input, grid, ("bilinear", "nearest", "bicubic")[
        interpolation_mode], ("zeros", "border", "reflection")[padding_mode], align_corners)


def affine_grid_generator(theta: Tensor, size: Any, align_corners: bool) -> Tensor:
    """`nn.functional.affine_grid`."""
    return _functional().affine_grid(theta, size, align_corners)


def frobenius_norm(input: Tensor, dim: Any, keepdim: bool = False, *, out: Any = None,
                   ) -> Tensor:
    """The root of the sum of squares over `dim` (all dims if it is empty)."""
    return _linalg().vector_norm(input, 2, dim if dim != () else None, keepdim, out=out)


def nuclear_norm(input: Tensor, dim: Any = None, keepdim: bool = False, *, out: Any = None,
                 ) -> Tensor:
    """The sum of singular values of matrices."""
    return _linalg().matrix_norm(input, "nuc", (-2, -1) if dim is None else dim, keepdim, out=out)


def _linalg() -> Any:
    from . import linalg

    return linalg


def norm_except_dim(v: Tensor, pow: int = 2, dim: int = 0) -> Tensor:
    """The norm over all dims but one; of everything if `dim` is -1."""
    if dim == -1:
        return v.norm(pow)
    others = [d for d in range(v.ndim) if d != dim % v.ndim]
    return v.norm(pow, others, True) if others else v.abs()


# ---- methods, called as functions ---------------------------------------------------------------

def _method(name: str) -> Any:
    def fn(input: Tensor, *args: Any, **kwargs: Any) -> Any:
        return getattr(input, name)(*args, **kwargs)

    fn.__name__ = fn.__qualname__ = name
    fn.__doc__ = f"`Tensor.{name}` as a function."
    return fn


for _name in ("as_strided_", "detach", "detach_", "fill_", "resize_as_", "zero_", "get_device",
              "is_inference", "is_signed"):
    globals()[_name] = _method(_name)


def is_distributed(input: Tensor) -> bool:
    """False: tensors live on one device."""
    return False


def is_storage(obj: Any, /) -> bool:
    """Whether an object is the memory of a tensor."""
    return type(obj).__name__ in ("UntypedStorage", "TypedStorage")


# ---- cells of recurrent networks ----------------------------------------------------------------

def _cell(kind: str, input: Tensor, state: Any, weights: Any) -> Any:
    from .nn.modules import _recurrence

    return _recurrence.cell(kind, input, state, weights)


def lstm_cell(input: Tensor, hx: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None,
              b_hh: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One step of an LSTM: (h, c)."""
    return _cell("LSTM", input, tuple(hx), (w_ih, w_hh, b_ih, b_hh))


def gru_cell(input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None,
             b_hh: Tensor | None = None) -> Tensor:
    """One step of a GRU."""
    return _cell("GRU", input, hx, (w_ih, w_hh, b_ih, b_hh))


def rnn_tanh_cell(input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor,
                  b_ih: Tensor | None = None, b_hh: Tensor | None = None) -> Tensor:
    """One step of an Elman network with tanh."""
    return _cell("RNN_TANH", input, hx, (w_ih, w_hh, b_ih, b_hh))


def rnn_relu_cell(input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor,
                  b_ih: Tensor | None = None, b_hh: Tensor | None = None) -> Tensor:
    """One step of an Elman network with relu."""
    return _cell("RNN_RELU", input, hx, (w_ih, w_hh, b_ih, b_hh))


__all__ = ["_assert"] + [n for n, v in list(globals().items())
           if not n.startswith("_") and callable(v) and n not in ("Any", "Tensor")]


def embedding_renorm_(weight: Tensor, indices: Tensor, max_norm: float,
                      norm_type: float) -> Tensor:
    """Scale the rows of a table that `indices` name, in place, down to a norm of `max_norm`."""
    from .autograd.modes import no_grad

    with no_grad():
        rows = indices.reshape(-1).unique()
        chosen = weight.detach()[rows]
        norms = chosen.norm(norm_type, dim=1, keepdim=True)
        weight.index_copy_(0, rows, chosen.where(norms <= max_norm,
                                                 chosen * (max_norm / (norms + 1e-7))))
    return weight


def native_norm(input: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False,
                dtype: Any = None) -> Tensor:
    """`norm` with all arguments by place."""
    return input.norm(p, dim, keepdim, dtype)


def unsafe_split_with_sizes(input: Tensor, split_sizes: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """`split_with_sizes`, whose parts may be written to in place as if they were no views."""
    found: tuple[Tensor, ...] = input.split_with_sizes(split_sizes, dim)
    return found


def _places_copy(name: str) -> Any:
    def copy(input: Tensor) -> Tensor:
        found: Tensor = getattr(input, name)().clone()
        return found

    copy.__name__ = copy.__qualname__ = f"{name}_copy"
    copy.__doc__ = f"A copy of `{name}()` of a sparse tensor."
    return copy


indices_copy, values_copy, crow_indices_copy, col_indices_copy, ccol_indices_copy, \
    row_indices_copy = map(_places_copy, ("indices", "values", "crow_indices", "col_indices",
                                          "ccol_indices", "row_indices"))
