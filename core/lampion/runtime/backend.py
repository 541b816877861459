"""The contract between lampion and a device: the one class a backend subclasses.

Floor 2; imports base and ir. A backend is found through the entry-point group
`lampion.backends`, created once on first use, and asked for memory, copies and launches.
The built-in backends come in by this class and nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..base.device import device
from ..base.dtype import dtype
from ..base.meta import Meta

if TYPE_CHECKING:
    from ..ir.kernel import Kernel, Program

# Told when the values of a tensor are read on the host (what follows may depend on them), and of
# each storage that is filled with values from the host.
host_readers: list[Callable[[], None]] = []
host_writers: list[Callable[[Any], None]] = []


def host_read() -> None:
    """Tell the host readers."""
    for told in host_readers:
        told()


def host_wrote(storage: Any) -> None:
    """Tell the host writers."""
    for told in host_writers:
        told(storage)


UNCOUNTED = -1  # the epoch of a view whose writes autograd is not told about: `Tensor.data`


def counted(storage: Any) -> Any:
    """A storage itself, or a view of it whose writes are counted if its own are not."""
    return storage.view(0) if storage.epoch == UNCOUNTED else storage


class Storage:
    """A piece of device memory (the portable implementation; a backend may bring its own type).

    `handle` is whatever the backend's allocator returned and is shared by all views; `offset` is
    where this view starts, in bytes. `version` counts in-place writes, `epoch` is the global
    write number of the last one and `writer` says who did it; all three live on `base`.
    """

    __slots__ = ("handle", "nbytes", "offset", "_base", "version", "epoch", "writer", "device",
                 "__weakref__")

    def __init__(self, handle: Any, nbytes: int, device: device, *,
                 base: "Storage | None" = None, offset: int = 0) -> None:
        self.handle = handle
        self.nbytes = nbytes
        self.device = device
        self.offset = offset
        self._base = base  # None for a base: a reference to itself would be a cycle
        self.version = 0
        self.epoch = 0
        self.writer: Any = None

    @property
    def base(self) -> "Storage":
        """The storage that owns the memory: itself, or what this is a view of."""
        return self if self._base is None else self._base

    def view(self, byte_offset: int) -> "Storage":
        """The memory from `byte_offset` past this view's start on; keeps the base alive."""
        base, at = self.base, self.offset + byte_offset
        if not 0 <= at <= base.nbytes:
            raise IndexError(f"byte {at} is outside a storage of {base.nbytes} bytes")
        return type(self)(self.handle, base.nbytes - at, self.device, base=base, offset=at)


class OpCall:
    """One op on concrete metas: what kernel builders see.

    `inputs` are the program's input slots in argument order: a Meta per tensor that is there
    (absent optional tensors have no slot, lists are flattened), and for a number passed at run
    time the dtype of its slot (float64 or int64). `args` has every argument by name: Meta, None,
    list of Metas, or the attribute's value; it is an attribute of the call, too. `outputs` are the
    result metas.
    """

    __slots__ = ("op", "inputs", "args", "outputs", "device")

    def __init__(self, op: str, inputs: tuple[Any, ...], args: dict[str, Any],
                 outputs: tuple[Meta, ...], device: device) -> None:
        self.op = op
        self.inputs = inputs
        self.args = args
        self.outputs = outputs
        self.device = device

    def __getattr__(self, name: str) -> Any:
        try:
            return self.args[name]
        except KeyError:
            raise AttributeError(f"op {self.op!r} has no argument {name!r}") from None

    def __str__(self) -> str:
        args = ", ".join(
            f"{m.dtype.name}{list(m.shape)}" if isinstance(m, Meta) else str(m)
            for m in self.inputs)
        extra = "".join(f", {k}={v!r}" for k, v in self.args.items()
                        if v is not None and not isinstance(v, (Meta, list)))
        return f"{self.op}({args}{extra}) on {self.device}"


class Launch:
    """A built kernel, ready to run on tensors of the metas it was built for.

    `launch(*inputs)` allocates the outputs, runs, and returns a Storage (one output) or a tuple.
    `into(*outputs, *inputs)` writes into given storages. Inputs are Storages and Python numbers.
    Both must raise before they write when an argument is of the wrong kind. `inner` belongs to a
    launch that looks at status words afterwards: the launch without the look, whose last output
    they are, and their bytes. `program` is the kernel program that it was compiled from, if it was.
    """

    __slots__ = ("launch", "into", "kernels", "keep", "inner", "program")

    def __init__(self, launch: Callable[..., Any], into: Callable[..., None],
                 kernels: Sequence[str] = (), keep: Any = None,
                 inner: tuple["Launch", int] | None = None) -> None:
        self.inner = inner
        self.program: Any = None
        self.launch = launch
        self.into = into
        self.kernels = tuple(kernels)
        self.keep = keep


class Capabilities(NamedTuple):
    """What a backend's devices can hold and do.

    `dtypes`: element types with arithmetic. `features`: free words; "kernel-ir" (compiles every
    kernel), "host-memory" (storages are addressable by the host), "host-functions" (ops that are
    functions on NumPy arrays, such as the LAPACK set, may run on the host's processor).
    """

    dtypes: frozenset[dtype]
    features: frozenset[str] = frozenset()


class KernelImpl(NamedTuple):
    """One registered kernel: `build(call)` returns a Launch, or None to decline this call.

    `constraint(call)` is asked first and must be cheap. Higher `priority` is tried first; two
    impls of equal priority for one op and backend are refused when the second is registered.
    """

    op: str
    backend: str
    build: Callable[[OpCall], Launch | None]
    constraint: Callable[[OpCall], bool] | None = None
    priority: int = 0
    source: str = ""


class TextKernel(NamedTuple):
    """A kernel written by hand in one of a backend's `languages`, with the sizes of one call.

    `source` defines the function `entry`. Its parameters are those of `args` in order, outputs
    first: ("memory", dtype) the address of a tensor's first element (tensors are contiguous),
    ("number", dtype) a number of that type; then one signed 64-bit integer for each of `sizes`.
    It is to run for every point of `grid` (1 to 3 sizes); `group` says how many points of each
    size work together, () leaves that to the backend. A backend may run it for more points than
    there are, or hand it a range of them, as its documentation says.
    """

    language: str
    source: str
    entry: str
    args: tuple[tuple[str, dtype], ...]
    sizes: tuple[int, ...]
    grid: tuple[int, ...]
    group: tuple[int, ...] = ()


class DeviceInfo:
    """What `lampion devices` and `lampion doctor` show of one device."""

    __slots__ = ("name", "description", "details")

    def __init__(self, name: str, description: str, details: dict[str, Any] | None = None) -> None:
        self.name = name
        self.description = description
        self.details = {} if details is None else details

    def __repr__(self) -> str:
        return f"DeviceInfo({self.name!r}, {self.description!r}, {self.details!r})"


class Backend(ABC):
    """Subclass this, export it by a `lampion.backends` entry point, and your device works.

    Required: `devices`, `allocate`, `copy_from_host`, `copy_to_host` and `compile` (or a
    `kernels` table that covers the primitives). Everything else has a default.
    """

    name: str = ""

    # The index that the device's name without an index means, if a program can choose it (a
    # property then; tensors name their device with its index). None: it is the first.
    current: int | None = None

    @abstractmethod
    def devices(self) -> list[DeviceInfo]:
        """The devices present, in index order. Raise RuntimeError with the remedy if the driver
        or a library is missing."""

    @abstractmethod
    def capabilities(self, index: int) -> Capabilities:
        """What device `index` can do."""

    @abstractmethod
    def allocate(self, nbytes: int, device: device) -> Any:
        """A Storage of `nbytes` (0 is legal). Raise OutOfMemoryError when there is none."""

    @abstractmethod
    def copy_from_host(self, data: Any, storage: Any) -> None:
        """Copy a C-contiguous bytes-like `data` into the storage, from its offset on."""

    @abstractmethod
    def copy_to_host(self, storage: Any, nbytes: int) -> Any:
        """`nbytes` bytes from the storage's offset on, as bytes-like, after all pending work."""

    def compile(self, kernel: Kernel) -> Callable[[Sequence[Any], Sequence[int]], None]:
        """Build a kernel: the result is called as run(args, params), args in slot order
        (Storages and Python numbers). Needed unless `program` is overridden."""
        raise NotImplementedError(f"backend {self.name!r} compiles no kernels")

    def program(self, program: Program, outputs: Sequence[int], device: device) -> Launch:
        """Bind a lowered op. The default compiles each kernel and calls them in turn."""
        runs = [(self.compile(c.kernel), c.params, c.slots) for c in program.calls]
        allocate, scratch, sizes = self.allocate, program.scratch, tuple(outputs)

        def into(*args: Any) -> None:
            slots = args + tuple(allocate(n, device) for n in scratch)
            for run, params, where in runs:
                run([slots[k] for k in where], params)

        def launch(*inputs: Any) -> Any:
            outs = tuple(allocate(n, device) for n in sizes)
            into(*outs, *inputs)
            return outs[0] if len(outs) == 1 else outs

        return Launch(launch, into, [c.kernel.name for c in program.calls])

    def sequence(self, parts: Sequence[tuple[Launch, Sequence[tuple[int, int]]]], kinds: str,
                 constants: dict[int, Any], device: device) -> Callable[..., None]:
        """One function that runs launches in order, for compiled graphs.

        A part is a launch and, in the order of its `into`, where each argument is: the number of a
        slot and an offset in bytes. `kinds` has a letter per slot: "s" a storage, "f" and "i"
        numbers passed as float64 and int64. The function takes the slots that are not in
        `constants`, which are numbers, and storages that the graph always uses. By default it
        calls `into` of each.
        """
        given = [k for k in range(len(kinds)) if k not in constants]
        calls = [(launch.into, tuple(where)) for launch, where in parts]

        def run(*arguments: Any) -> None:
            slots = dict(zip(given, arguments))
            slots.update(constants)
            for into, where in calls:
                into(*[slots[k].view(at) if at else slots[k] for k, at in where])

        return run

    def allocator(self, nbytes: int, device: device) -> Callable[[], Any]:
        """A function that allocates `nbytes`, for memory of a compiled graph, which asks in every
        run. Where `sequence` records work, addresses that come again save recording it anew."""
        return partial(self.allocate, nbytes, device)

    def kernels(self) -> Sequence[KernelImpl]:
        """Library or hand-written kernels for ops. Asked for once, after the backend was made, if
        its plug-in has no hook `lampion_kernels`, by which kernels for any device are offered."""
        return ()

    def languages(self) -> Sequence[str]:
        """The languages of kernels that people may bring as text (`lampion.kernel`), the usual
        one first. A backend that names some has `text_program`."""
        return ()

    def text_program(self, text: TextKernel, outputs: Sequence[int], device: device) -> Launch:
        """Build a kernel that came as text. `outputs` are the sizes of its results in bytes; the
        Launch takes the rest of `text.args`. RuntimeError with the compiler's message if the text
        does not build."""
        raise NotImplementedError(f"backend {self.name!r} takes no kernels as text")

    def copy(self, src: Any, dst: Any, nbytes: int) -> bool:
        """Copy between two storages of this backend's devices. False: go through the host."""
        return False

    def check_later(self, status: Any, nbytes: int, explain: Callable[..., None], call: OpCall,
                    inputs: tuple[Any, ...]) -> None:
        """A launch of `call` was enqueued that leaves `nbytes` of status words in a storage. When
        they are known and not all 0, `explain(call, inputs)` must be called, which raises; where
        `inputs` holds None it does not look. Override it on devices that run later than they are
        called; by default the status is read at once."""
        raise NotImplementedError

    def host_view(self, storage: Any) -> memoryview | None:
        """The storage's memory as a writable memoryview, or None if the host cannot see it."""
        return None

    def wrap_host(self, pointer: int, nbytes: int, owner: Any, device: device) -> Any:
        """A Storage over host memory that `owner` keeps alive, or None if impossible."""
        return None

    # Copies between the host and the device that nobody waits for.

    def pinned(self, nbytes: int) -> Any:
        """Host memory from and to which this backend copies without anyone waiting: an object with
        the address `pointer`, which owns the memory. None if there is no such memory."""
        return None

    def is_pinned(self, source: Any) -> bool:
        """Whether a storage of the host's backend lies in such memory."""
        return False

    def send(self, source: Any, storage: Any, nbytes: int) -> bool:
        """Begin to copy from a storage of the host's backend and return. False: not done, since
        `source` is not pinned. The memory must stay the source's until the copy is over."""
        return False

    def fetch(self, storage: Any, target: Any, nbytes: int, wait: bool) -> bool:
        """Copy into a storage of the host's backend, or (wait=False) begin to, if that is pinned.
        False: not done; the copy then goes by `copy_to_host`."""
        return False

    # Sharing memory with other libraries. `dlpack` is DLPack's number of the device type.

    dlpack: int | None = None

    def wrap_device(self, pointer: int, nbytes: int, owner: Any, device: device) -> Any:
        """A Storage over device memory that `owner` keeps alive. Needed with `dlpack`."""
        raise BufferError(f"device {self.name!r} cannot use another library's memory")

    def share(self, device: device, stream: int | None) -> None:  # noqa: B027
        """Make later work on another library's stream (a number by DLPack's rules) come after what
        is enqueued here."""

    def stream_number(self, device: device) -> int | None:
        """The stream, by DLPack's rules, that other libraries are to hand memory over to."""
        return None

    def adopt(self, data: Any) -> tuple[int, dtype, Sequence[int], Sequence[int] | None,
                                        device] | None:
        """(address, dtype, shape, strides in elements, device) of an object that shows memory of
        this backend's devices by a protocol of its own; None for anything else."""
        return None

    def using(self, storage: Any, stream: Any) -> None:
        """Work enqueued on `stream` (the backend's own kind of object) uses the storage: its
        memory is not to be used anew before that work is done. Needed by devices with streams."""
        raise RuntimeError(f"device {self.name!r} has no streams")

    def synchronize(self, device: device) -> None:  # noqa: B027 - nothing to do is a default
        """Wait for everything enqueued on the device."""

    def set_num_threads(self, count: int) -> None:  # noqa: B027
        """Use `count` host threads for kernels; without host threads there is nothing to set."""

    def get_num_threads(self) -> int:
        """Number of host threads that a large kernel uses."""
        return 1

    def report(self) -> dict[str, str]:
        """What `lampion doctor` shows beside the devices, by name: drivers, compilers, libraries,
        found or not, with versions and paths. Called by the doctor alone; it may take its time."""
        return {}

    def mark(self, device: device) -> Any:
        """Enqueue a mark whose time on the device's clock `mark_times` tells, for profiles. None:
        there are no such marks, or none can be set now; a profile then waits for the device after
        every launch (`synchronize`), and takes the host's times."""
        return None

    def mark_times(self, device: device, marks: Sequence[Any]) -> list[int]:
        """When marks were reached, in nanoseconds from the first of them on, after waiting for
        the last. Needed with `mark`."""
        raise NotImplementedError

    def memory_stats(self, device: device) -> dict[str, int]:
        """Bytes by name: allocated, reserved, peak... Empty if not tracked."""
        return {}

    def empty_cache(self) -> None:  # noqa: B027
        """Give cached free memory back to the system."""
