"""A device written for plug-in API 0.1: memory in arrays, kernels interpreted, products by NumPy.

Not to be modernised: it stands for the wheels that exist. It has every hook of 0.1 for a backend
and overrides every method that a backend of 0.1 could have.
"""

from __future__ import annotations

import numpy as np

from lampion import config
from lampion.base import dtype as dt
from lampion.base.errors import OutOfMemoryError
from lampion.ir import interpret
from lampion.plugins import hookimpl
from lampion.runtime.backend import (
    Backend,
    Capabilities,
    DeviceInfo,
    KernelImpl,
    Launch,
    Storage,
)

LIMIT = 1 << 40


@hookimpl
def lampion_config_schema():
    return {"speed": (int, 3, "how fast"), "mode": (("slow", "fast"), "slow", "how to run")}


@hookimpl
def lampion_backend():
    return Oldest


def lampion_kernels(registry):
    registry.register_kernel(KernelImpl(
        op="contract", backend="oldest", build=product, priority=10, source="oldest-blas",
        constraint=lambda call: len(call.inputs) == 2))


class Oldest(Backend):
    name = "oldest"

    def __init__(self):
        self.allocated, self.threads, self.waited = 0, 1, 0
        self.speed = config.get("backend.oldest.speed")

    def devices(self):
        return [DeviceInfo("Oldest One", "a machine of long ago", {"speed": self.speed}),
                DeviceInfo("Oldest Two", "its twin")]

    def capabilities(self, index):
        return Capabilities(frozenset(dt.ALL), frozenset({"kernel-ir", "host-functions"}))

    def allocate(self, nbytes, device):
        if nbytes > LIMIT:
            raise OutOfMemoryError(f"oldest: {nbytes} bytes are too many")
        self.allocated += nbytes
        return Storage(np.zeros(nbytes, np.uint8), nbytes, device)

    def copy_from_host(self, data, storage):
        raw = np.frombuffer(data, np.uint8)
        storage.handle[storage.offset:storage.offset + raw.size] = raw

    def copy_to_host(self, storage, nbytes):
        return storage.handle[storage.offset:storage.offset + nbytes].tobytes()

    def copy(self, src, dst, nbytes):
        raw = src.handle[src.offset:src.offset + nbytes].copy()
        dst.handle[dst.offset:dst.offset + nbytes] = raw
        return True

    def compile(self, kernel):
        def run(args, params):
            buffers = [elements(a, slot.dtype) if isinstance(a, Storage) else a
                       for a, slot in zip(args, kernel.args)]
            with np.errstate(all="ignore"):
                interpret.run(kernel, params, buffers)

        return run

    def host_view(self, storage):
        return None

    def wrap_host(self, pointer, nbytes, owner, device):
        return None

    def synchronize(self, device):
        self.waited += 1

    def set_num_threads(self, count):
        self.threads = count

    def get_num_threads(self):
        return self.threads

    def memory_stats(self, device):
        return {"allocated": self.allocated}

    def empty_cache(self):
        pass


def elements(storage, dtype):
    raw = storage.handle[storage.offset:]
    return raw[:raw.size - raw.size % dtype.itemsize].view(dtype.np)


def product(call):
    a, b = call.inputs
    out = call.outputs[0]
    if out.dtype.name not in ("float32", "float64"):
        return None

    def array(storage, meta):
        return np.lib.stride_tricks.as_strided(
            elements(storage, meta.dtype), meta.shape,
            [s * meta.dtype.itemsize for s in meta.strides])

    def into(result, x, y):
        array(result, out)[...] = array(x, a) @ array(y, b)

    def launch(x, y):
        result = Storage(np.zeros(out.span, np.uint8), out.span, call.device)
        into(result, x, y)
        return result

    return Launch(launch, into, ["oldest_product"])
