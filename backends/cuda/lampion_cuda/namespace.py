"""`lampion.cuda`: what programs call around the device, by PyTorch's names.

Imports without a driver and without a GPU: then `is_available()` is False and what needs a GPU
raises the reason. A part of the public face, so that, unlike the rest of the package, it may use
the public `lampion`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from lampion import plugins
from lampion.base.device import device as _device_type
from lampion.base.errors import OutOfMemoryError
from lampion.runtime.arguments import human

from . import nvtx
from .driver import _devices, check
from .graphs import (
    CUDAGraph,
    graph,
    graph_pool_handle,
    is_current_stream_capturing,
    make_graphed_callables,
)
from .streams import Event, Stream, opened

__all__ = [
    "can_device_access_peer", "clock_rate", "CUDAGraph", "current_device", "current_stream",
    "default_stream", "device", "device_count", "device_of", "empty_cache",
    "Event", "ExternalStream", "get_allocator_backend", "get_arch_list", "get_device_capability",
    "get_device_name", "get_device_properties", "get_per_process_memory_fraction",
    "get_rng_state", "get_rng_state_all", "get_stream_from_external", "graph",
    "graph_pool_handle", "host_memory_stats", "init", "initial_seed", "ipc_collect",
    "is_available", "is_bf16_supported", "is_current_stream_capturing", "is_initialized",
    "is_tf32_supported", "make_graphed_callables", "manual_seed", "manual_seed_all",
    "max_memory_allocated", "max_memory_cached", "max_memory_reserved", "mem_get_info",
    "memory_allocated", "memory_cached", "memory_reserved", "memory_stats",
    "memory_stats_as_nested_dict", "memory_summary", "memory_usage", "nvtx", "OutOfMemoryError",
    "power_draw", "reset_accumulated_memory_stats", "reset_max_memory_allocated",
    "reset_max_memory_cached", "reset_peak_memory_stats", "seed", "seed_all", "set_device",
    "set_per_process_memory_fraction", "set_rng_state", "set_rng_state_all", "set_stream",
    "Stream", "stream", "StreamContext", "synchronize", "temperature", "utilization"]

__path__: list[str] = []  # submodules are attributes: `import lampion.cuda.nvtx`


def __getattr__(name: str) -> Any:
    if name == "amp":  # mixed precision is the same on every device
        from lampion.amp.autocast_mode import of_device

        return globals().setdefault("amp", of_device("cuda"))
    if name == "_initialized":
        return is_initialized()
    if name == "default_generators":
        return tuple(_generators())
    raise AttributeError(f"module 'lampion.cuda' has no attribute {name!r}")


# ---- devices -----------------------------------------------------------------------------------

def _backend() -> Any:
    return plugins.backend("cuda")


_gpu = opened


def is_available() -> bool:
    """Whether there is a GPU that works: with a driver, a compiler and a large enough version."""
    return device_count() > 0


def device_count() -> int:
    """Number of GPUs; 0 without a driver."""
    try:
        return len(plugins.devices("cuda"))
    except plugins.PluginError:
        return 0


def init() -> None:
    """Start the driver; otherwise the first use does. RuntimeError with the reason if it fails."""
    _gpu()


def is_initialized() -> bool:
    """Whether a GPU has been used in this process."""
    return bool(_devices)


def current_device() -> int:
    """The number of this thread's current GPU, which `cuda` without a number means."""
    return int(_gpu().index)


def set_device(device: Any) -> None:
    """Make a GPU (number, device or name) this thread's current one; negative numbers and None
    do nothing."""
    if device is None or (isinstance(device, int) and device < 0):
        return
    chosen = _gpu(device)
    _backend().chosen.index = chosen.index
    chosen.activate()


class device:
    """Context manager: a GPU is the current one in the block. None or a negative number: no
    change."""

    def __init__(self, device: Any) -> None:
        self.idx, self._before = device, -1

    def __enter__(self) -> device:
        self._before = current_device()
        set_device(self.idx)
        return self

    def __exit__(self, *exc: Any) -> None:
        set_device(self._before)


class device_of(device):
    """Context manager: the GPU of a tensor is the current one; others change nothing."""

    def __init__(self, obj: Any) -> None:
        super().__init__(obj.device if obj.device.type == "cuda" else None)


def get_device_name(device: Any = None) -> str:
    """The name of a GPU."""
    return str(_gpu(device).name)


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """The compute capability, (major, minor)."""
    major, minor = _gpu(device).capability
    return major, minor


class _CudaDeviceProperties(NamedTuple):
    """What the driver says of a GPU."""

    name: str
    major: int
    minor: int
    total_memory: int
    multi_processor_count: int
    max_threads_per_multi_processor: int
    max_threads_per_block: int
    warp_size: int
    regs_per_multiprocessor: int
    shared_memory_per_block: int
    shared_memory_per_block_optin: int
    shared_memory_per_multiprocessor: int
    L2_cache_size: int
    clock_rate: int
    memory_clock_rate: int
    memory_bus_width: int
    is_integrated: bool
    is_multi_gpu_board: bool
    pci_domain_id: int
    pci_bus_id: int
    pci_device_id: int


_ATTRIBUTES = (
    "MAX_THREADS_PER_MULTIPROCESSOR", "MAX_THREADS_PER_BLOCK", "WARP_SIZE",
    "MAX_REGISTERS_PER_MULTIPROCESSOR", "MAX_SHARED_MEMORY_PER_BLOCK",
    "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN", "MAX_SHARED_MEMORY_PER_MULTIPROCESSOR", "L2_CACHE_SIZE",
    "CLOCK_RATE", "MEMORY_CLOCK_RATE", "GLOBAL_MEMORY_BUS_WIDTH", "INTEGRATED", "MULTI_GPU_BOARD",
    "PCI_DOMAIN_ID", "PCI_BUS_ID", "PCI_DEVICE_ID")
_properties: dict[int, _CudaDeviceProperties] = {}


def get_device_properties(device: Any = None) -> _CudaDeviceProperties:
    """Name, compute capability, memory, sizes and numbers of a GPU."""
    g = _gpu(device)
    found = _properties.get(g.index)
    if found is None:
        values = [g.attribute(name) for name in _ATTRIBUTES]
        values[11:13] = map(bool, values[11:13])
        found = _properties[g.index] = _CudaDeviceProperties(
            g.name, *g.capability, g.memory, g.units, *values)
    return found


def can_device_access_peer(device: Any, peer_device: Any) -> bool:
    """Whether one GPU can read and write the memory of another without the host."""
    a, b = _gpu(device), _gpu(peer_device)
    return a is not b and bool(check(a.drv.cuDeviceCanAccessPeer(a.handle, b.handle),
                                     "asking for peer access"))


def get_arch_list() -> list[str]:
    """The architectures that kernels are compiled for: those of the GPUs that are here."""
    return sorted({f"sm_{g.capability[0]}{g.capability[1]}"
                   for g in _backend()._found}) if is_available() else []


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """Whether bfloat16 can be used; natively from compute capability 8.0 on."""
    return is_available() and (including_emulation or get_device_capability()[0] >= 8)


def is_tf32_supported() -> bool:
    """Whether products of float32 may use TF32, from compute capability 8.0 on."""
    return is_available() and get_device_capability()[0] >= 8


def synchronize(device: Any = None) -> None:
    """Wait for all work of all streams of a GPU."""
    d = _gpu(device).where
    _backend().synchronize(d)


def ipc_collect() -> None:
    """Memory is not shared between processes here; there is nothing to collect."""


# ---- streams -----------------------------------------------------------------------------------

def ExternalStream(stream_ptr: int, device: Any = None) -> Stream:
    """The `Stream` over another library's stream, by its handle; its owner must outlive it."""
    return Stream(device, handle=stream_ptr)


get_stream_from_external = ExternalStream


def current_stream(device: Any = None) -> Stream:
    """This thread's current stream of a GPU."""
    found: Stream = _gpu(device).current.stream
    return found


def default_stream(device: Any = None) -> Stream:
    """The stream that every thread starts with."""
    found: Stream = _gpu(device).default_stream
    return found


def set_stream(stream: Stream | None) -> None:
    """Make a stream the current one of this thread, for its GPU. Prefer `stream(s)`."""
    if stream is not None:
        stream.gpu.current.stream = stream
        set_device(stream.gpu.index)


class StreamContext:
    """Context manager `stream(s)`: work goes to a stream, on whose GPU the block runs. None does
    nothing."""

    def __init__(self, stream: Stream | None) -> None:
        self.stream = stream
        self._before: Any = None

    def __enter__(self) -> None:
        s = self.stream
        if s is not None:
            self._before = (current_device(), s.gpu.current.stream)
            set_stream(s)

    def __exit__(self, *exc: Any) -> None:
        s = self.stream
        if s is not None:
            index, s.gpu.current.stream = self._before
            set_device(index)


def stream(stream: Stream | None) -> StreamContext:
    """`with lampion.cuda.stream(s):` enqueues the block's work on the stream `s`."""
    return StreamContext(stream)


# ---- memory ------------------------------------------------------------------------------------

def _pool(device: Any = None) -> Any:
    return _gpu(device).pool


def memory_allocated(device: Any = None) -> int:
    """Bytes of live tensors, rounded up to sizes of buffers."""
    return int(_pool(device).active) if is_initialized() else 0


def max_memory_allocated(device: Any = None) -> int:
    """The most bytes that were allocated since the start or `reset_peak_memory_stats`."""
    return int(_pool(device).peak) if is_initialized() else 0


def memory_reserved(device: Any = None) -> int:
    """Bytes taken from the driver: of live tensors and kept for new ones."""
    return int(_pool(device).reserved) if is_initialized() else 0


def max_memory_reserved(device: Any = None) -> int:
    """The most bytes that were reserved since the start or `reset_peak_memory_stats`."""
    return int(_pool(device).peak_reserved) if is_initialized() else 0


def reset_peak_memory_stats(device: Any = None) -> None:
    """Start the peaks anew from what is allocated and reserved now."""
    p = _pool(device)
    p.peak, p.peak_reserved = p.active, p.reserved


def reset_accumulated_memory_stats(device: Any = None) -> None:
    """Start the counts of allocations, retries and failures anew."""
    p = _pool(device)
    p.allocations = p.retries = p.failures = 0


reset_max_memory_allocated = reset_max_memory_cached = reset_peak_memory_stats
memory_cached, max_memory_cached = memory_reserved, max_memory_reserved


def memory_stats(device: Any = None) -> dict[str, int]:
    """Bytes and counts by PyTorch's names, e.g. "allocated_bytes.all.peak"."""
    if not is_initialized():
        return {}
    p = _pool(device)
    stats = {"num_alloc_retries": p.retries, "num_ooms": p.failures,
             "num_device_alloc": p.allocations}
    for name, now, peak in (("allocated", p.active, p.peak), ("active", p.active, p.peak),
                            ("reserved", p.reserved, p.peak_reserved)):
        stats[f"{name}_bytes.all.current"], stats[f"{name}_bytes.all.peak"] = now, peak
    return dict(sorted(stats.items()))


def memory_summary(device: Any = None, abbreviated: bool = False) -> str:
    """A table of what is allocated and reserved, and who holds it."""
    g = _gpu(device)
    p = g.pool
    rows = [("allocated", p.active, p.peak), ("reserved", p.reserved, p.peak_reserved)]
    lines = [f"{g.where}: {g.name}", f"{'':12}{'now':>12}{'peak':>12}"]
    lines += [f"{name:12}{human(now):>12}{human(peak):>12}" for name, now, peak in rows]
    lines.append(f"{'limit':12}{human(p.limit):>12}")
    if not abbreviated:
        lines += [f"{name:12}{value:>12}" for name, value in (
            ("buffers", p.allocations), ("retries", p.retries), ("failures", p.failures))]
        lines.append(p.holders())
    return "\n".join(lines)


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """(free, total) bytes of a GPU, whoever uses the rest."""
    g = _gpu(device)
    g.activate()
    free, total = check(g.drv.cuMemGetInfo(), "asking for free memory")
    return int(free), int(total)


def empty_cache() -> None:
    """Give the driver back what is reserved and not in use."""
    if is_initialized():
        _backend().empty_cache()


def set_per_process_memory_fraction(fraction: float, device: Any = None) -> None:
    """Limit what may be reserved to a part of the GPU's memory. ValueError beyond [0, 1]."""
    if not isinstance(fraction, float):
        raise TypeError("Invalid type for fraction argument, must be `float`")
    if not 0 <= fraction <= 1:
        raise ValueError(f"Invalid fraction value: {fraction}. Allowed range: 0~1")
    g = _gpu(device)
    g.pool.limit = int(g.memory * fraction)


def get_per_process_memory_fraction(device: Any = None) -> float:
    """The part of the GPU's memory that may be reserved."""
    g = _gpu(device)
    return float(g.pool.limit / g.memory)


def memory_stats_as_nested_dict(device: Any = None) -> dict[str, Any]:
    """`memory_stats`, a dictionary for each part of the names."""
    nested: dict[str, Any] = {}
    for name, value in memory_stats(device).items():
        *path, last = name.split(".")
        place = nested
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return nested


def host_memory_stats() -> dict[str, int]:
    """Bytes of pinned host memory that were taken from the system."""
    from .pinned import POOL

    return {"reserved_bytes.current": POOL.reserved}


def get_allocator_backend() -> str:
    """Which of PyTorch's allocators is like this one: both use the driver's own pool."""
    return "cudaMallocAsync"


# ---- what the management library says ----------------------------------------------------------

def _managed(ask: str, device: Any, *args: Any) -> Any:
    """An answer of NVML about a GPU, by the package pynvml."""
    try:
        import pynvml
    except ImportError as error:
        raise ModuleNotFoundError(
            "pynvml does not seem to be installed or it can't be imported; install it with "
            "`pip install nvidia-ml-py`") from error
    g = _gpu(device)
    pynvml.nvmlInit()
    bus = "{:08x}:{:02x}:{:02x}.0".format(*map(g.attribute, (
        "PCI_DOMAIN_ID", "PCI_BUS_ID", "PCI_DEVICE_ID")))
    return getattr(pynvml, ask)(pynvml.nvmlDeviceGetHandleByPciBusId(bus.encode()), *args)


def utilization(device: Any = None) -> int:
    """Percent of the last seconds in which kernels ran."""
    return int(_managed("nvmlDeviceGetUtilizationRates", device).gpu)


def memory_usage(device: Any = None) -> int:
    """Percent of the last seconds in which memory was read or written."""
    return int(_managed("nvmlDeviceGetUtilizationRates", device).memory)


def temperature(device: Any = None) -> int:
    """Degrees Celsius of the GPU."""
    return int(_managed("nvmlDeviceGetTemperature", device, 0))


def power_draw(device: Any = None) -> int:
    """Milliwatts that the GPU draws."""
    return int(_managed("nvmlDeviceGetPowerUsage", device))


def clock_rate(device: Any = None) -> int:
    """MHz of the multiprocessors."""
    return int(_managed("nvmlDeviceGetClockInfo", device, 1))


# ---- random numbers ----------------------------------------------------------------------------

def _generators(device: Any = None) -> list[Any]:
    from lampion.random import generator_of
    from lampion.runtime.devices import resolve

    if not is_available():
        return []
    if device is None:
        return [generator_of(resolve(_device_type("cuda", k))) for k in range(device_count())]
    return [generator_of(_gpu(None if device == "cuda" else device).where)]


def manual_seed(seed: int) -> None:
    """Start the stream of `seed` on the current GPU; without a GPU nothing happens."""
    for g in _generators("cuda"):
        g.manual_seed(seed)


def manual_seed_all(seed: int) -> None:
    """Start the stream of `seed` on all GPUs."""
    for g in _generators():
        g.manual_seed(seed)


def seed() -> None:
    """Seed the current GPU from the system's entropy."""
    for g in _generators("cuda"):
        g.seed()


def seed_all() -> None:
    """Seed all GPUs with one number from the system's entropy."""
    from lampion.random import entropy

    manual_seed_all(entropy())


def initial_seed() -> int:
    """The seed of the current GPU's stream."""
    init()
    return int(_generators("cuda")[0].initial_seed())


def get_rng_state(device: Any = "cuda") -> Any:
    """The state of a GPU's generator: a tensor of bytes on the host."""
    init()
    return _generators(device)[0].get_state()


def get_rng_state_all() -> list[Any]:
    """The states of all GPUs' generators."""
    return [g.get_state() for g in _generators()]


def set_rng_state(new_state: Any, device: Any = "cuda") -> None:
    """Restore the state of a GPU's generator."""
    init()
    _generators(device)[0].set_state(new_state)


def set_rng_state_all(new_states: Iterable[Any]) -> None:
    """Restore the states of all GPUs' generators."""
    for g, state in zip(_generators(), new_states):
        g.set_state(state)
