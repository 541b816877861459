"""`lampion.nn`: modules, layers, losses, start values and the functions behind them.

Floor 7: imports the public tensor API and below; nothing imports it but programs and other public
modules.
"""
from lampion.nn import attention, functional, init, parallel, utils
from lampion.nn import parameter as parameter
from lampion.nn._chunked_loss import LinearCrossEntropyOptions
from lampion.nn.modules import *  # noqa: F403
from lampion.nn.modules import __all__ as _layers
from lampion.nn.parallel import DataParallel
from lampion.nn.parameter import Buffer, Parameter, UninitializedBuffer, UninitializedParameter

__all__ = ["Buffer", "DataParallel", "LinearCrossEntropyOptions", "Parameter",
           "UninitializedBuffer", "UninitializedParameter", "attention", "functional", "init",
           "parallel", "utils", *_layers]


def factory_kwargs(kwargs):
    """{'device', 'dtype'} (and memory_format) of the keyword arguments of a layer's constructor.

    `factory_kwargs` inside `kwargs` may hold them too; TypeError for any other key or one given
    twice.

    >>> nn.factory_kwargs({"dtype": lampion.float32})
    {'dtype': lampion.float32}
    """
    if kwargs is None:
        return {}
    simple = {"device", "dtype", "memory_format"}
    unexpected = kwargs.keys() - simple - {"factory_kwargs"}
    if unexpected:
        raise TypeError(f"unexpected kwargs {unexpected}")
    result = dict(kwargs.get("factory_kwargs", {}))
    for key in simple & kwargs.keys():
        if key in result:
            raise TypeError(f"{key} specified twice, in **kwargs and in factory_kwargs")
        result[key] = kwargs[key]
    return result
