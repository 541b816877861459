"""People's PyTorch programs, unmodified: `import torch` means lampion.

    import lampion.compat
    lampion.compat.install()      # then: import torch, import torch.nn.functional as F, ...

or `lampion run train.py --args` from the command line. Everything that the program and the packages
it uses import as `torch` or `torch.X` is lampion's. What PyTorch has and lampion lacks can be
imported, and raises an error that names it when it is used. PyTorch itself is never loaded; the
names it has are read from `torch_surface.json`.

`[compat]` in lampion.toml maps device names that programs write to devices that are there:

    [compat]
    NAME = "cpu"

Floor 7; imports lampion.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from .. import config, device_namespaces
from ..base import device as _device
from ..base import dtype
from . import children, surface
from .absent import Absent
from .finder import Finder
from .surface import VERSION

__all__ = ["VERSION", "Absent", "install", "installed", "uninstall"]


def install() -> Any:
    """Make `torch` and its submodules mean lampion in this process; returns the module `torch`.

    RuntimeError if PyTorch has been imported already. Installing twice is once.

    >>> torch = lampion.compat.install()
    >>> import torch.nn.functional as F
    >>> F.relu(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    >>> lampion.compat.uninstall()
    """
    loaded = sys.modules.get("torch")
    if loaded is not None and not getattr(loaded, "_is_lampion", False):
        raise RuntimeError("torch has been imported already, from "
                           f"{getattr(loaded, '__file__', '?')}: call lampion.compat.install(), or "
                           "use `lampion run`, before anything imports it")
    if Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)
    _device.aliases.update(config.get("compat"))
    dtype._PREFIX = "torch"  # programs take names of dtypes and layouts apart
    device_namespaces.also_named.update(surface.devices())
    device_namespaces.attach_names()
    children.install()
    torch = import_module("torch")
    for name in surface.devices():  # packages read `Module.NAME` from the class
        if name in surface.names("torch.Tensor") and not hasattr(torch.nn.Module, name):
            setattr(torch.nn.Module, name, device_namespaces.mover(name))
    return torch


def uninstall() -> None:
    """Let `torch` mean PyTorch again; modules that were imported meanwhile keep what they have."""
    if Finder in sys.meta_path:
        sys.meta_path.remove(Finder)
    for name in [n for n in sys.modules if n == "torch" or n.startswith("torch.")]:
        if getattr(sys.modules[name], "_is_lampion", False):
            del sys.modules[name]
    _device.aliases.clear()
    dtype._PREFIX = "lampion"
    device_namespaces.also_named.clear()
    children.uninstall()


def installed() -> bool:
    """Whether `import torch` gives lampion."""
    return Finder in sys.meta_path
