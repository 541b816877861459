"""Tools for modules and parameters: clipping, vectors, norms of weights, sequences.

`weight_norm` and `spectral_norm` are functions here and, under the same names, modules: the
imports below bind the functions last.
"""
from lampion.nn.utils import parametrizations, parametrize, rnn, stateless
from lampion.nn.utils.clip_grad import (
    clip_grad_norm,
    clip_grad_norm_,
    clip_grad_value_,
    clip_grads_with_norm_,
    get_total_norm,
)
from lampion.nn.utils.convert_parameters import parameters_to_vector, vector_to_parameters
from lampion.nn.utils.fusion import (
    fuse_conv_bn_eval,
    fuse_conv_bn_weights,
    fuse_linear_bn_eval,
    fuse_linear_bn_weights,
)
from lampion.nn.utils.init import skip_init
from lampion.nn.utils.memory_format import (
    convert_conv2d_weight_memory_format,
    convert_conv3d_weight_memory_format,
)
from lampion.nn.utils.spectral_norm import remove_spectral_norm, spectral_norm
from lampion.nn.utils.weight_norm import remove_weight_norm, weight_norm

__all__ = [
    "clip_grad_norm", "clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_",
    "convert_conv2d_weight_memory_format", "convert_conv3d_weight_memory_format",
    "fuse_conv_bn_eval", "fuse_conv_bn_weights", "fuse_linear_bn_eval", "fuse_linear_bn_weights",
    "get_total_norm", "parameters_to_vector", "parametrizations", "parametrize",
    "remove_spectral_norm", "remove_weight_norm", "rnn", "skip_init", "spectral_norm", "stateless",
    "vector_to_parameters", "weight_norm",
]
