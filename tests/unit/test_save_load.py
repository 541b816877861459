"""save and load: round trips, sharing, devices, restrictions, damaged and hostile files."""

import io
import os
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

import lampion
from lampion import serialization
from lampion.utils._pt import unpickler


def saved(obj, **options):
    buffer = io.BytesIO()
    lampion.save(obj, buffer, **options)
    buffer.seek(0)
    return buffer


def round_trip(obj, **options):
    return lampion.load(saved(obj), **options)


def archive_of(pickled, **records):
    """A checkpoint container around a hand-made pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        z.writestr("archive/data.pkl", pickled)
        z.writestr("archive/byteorder", "little")
        z.writestr("archive/version", "3\n")
        for name, data in records.items():
            z.writestr(f"archive/data/{name.lstrip('r')}", data)
    buffer.seek(0)
    return buffer


def test_paths_and_file_objects(tmp_path):
    value = {"t": lampion.arange(5)}
    for target in (tmp_path / "a.pt", str(tmp_path / "b.pt")):
        lampion.save(value, target)
        assert lampion.load(target)["t"].tolist() == [0, 1, 2, 3, 4]
    assert zipfile.ZipFile(tmp_path / "a.pt").namelist()[0] == "a/data.pkl"
    with open(tmp_path / "c.pt", "wb") as f:
        lampion.save(value, f)
    with open(tmp_path / "c.pt", "rb") as f:
        assert lampion.load(f)["t"].tolist() == [0, 1, 2, 3, 4]


class Unseekable(io.RawIOBase):
    """A stream such as a socket's."""

    def __init__(self, data=b""):
        self.inner = io.BytesIO(data)

    def writable(self):
        return True

    def readable(self):
        return True

    def seekable(self):
        return False

    def write(self, data):
        return self.inner.write(data)

    def readinto(self, target):
        return self.inner.readinto(target)


def test_streams_without_seek():
    out = Unseekable()
    lampion.save(lampion.ones(3), out)
    back = lampion.load(Unseekable(out.inner.getvalue()))
    assert back.tolist() == [1, 1, 1]


def test_several_checkpoints_in_one_stream_are_told_apart():
    first, second = saved(lampion.ones(1)).getvalue(), saved(lampion.zeros(1)).getvalue()
    stream = io.BytesIO(first + second)
    stream.seek(len(first))
    assert lampion.load(stream).tolist() == [0]


def test_geometry_survives():
    base = lampion.arange(24).reshape(2, 3, 4)
    views = {
        "permuted": base.permute(2, 0, 1),
        "sliced": base[:, 1:, ::2],
        "expanded": lampion.ones(1).expand(4),
        "empty": base[:0],
        "scalar": base[0, 0, 3],
    }
    for name, loaded in round_trip(views).items():
        assert loaded.tolist() == views[name].tolist(), name
        assert tuple(loaded.stride()) == tuple(views[name].stride()), name


def test_sharing_survives():
    a = lampion.zeros(4)
    loaded = round_trip([a, a[1:3], a])
    assert loaded[0] is loaded[2]
    loaded[0].fill_(5)
    assert loaded[1].tolist() == [5, 5]


def test_every_device(device):
    """Memory returns to the device it was saved from, or to another one."""
    a = lampion.tensor([[1.0, 2.0], [3.0, 4.0]], device=device)
    value = {"a": a, "column": a[:, 1], "flipped": a.t()}
    loaded = round_trip(value)
    assert loaded["a"].device == a.device and loaded["flipped"].tolist() == [[1, 3], [2, 4]]
    loaded["a"].fill_(7.0)
    assert loaded["column"].tolist() == [7, 7]
    here = round_trip(value, map_location="cpu")
    assert here["column"].device.type == "cpu" and here["column"].tolist() == [2, 4]
    there = round_trip({"b": lampion.ones(3)}, map_location=device)
    assert there["b"].device == a.device and there["b"].tolist() == [1, 1, 1]
    assert pickle.loads(pickle.dumps(a.t())).tolist() == [[1, 3], [2, 4]]


def test_bytes_are_stored_once():
    a = lampion.zeros(10_000)
    alone = len(saved(a).getvalue())
    assert len(saved([a, a[5:], a.reshape(100, 100)]).getvalue()) < alone + 2000


def test_one_memory_as_two_dtypes_is_refused():
    a = lampion.zeros(4)
    with pytest.raises(RuntimeError, match="different types"):
        saved([a, a.view(lampion.int32)])


def test_a_failing_save_leaves_a_buffer_untouched():
    buffer = io.BytesIO()
    with pytest.raises((pickle.PicklingError, AttributeError)):
        lampion.save({"f": lambda: 0}, buffer)
    assert buffer.getvalue() == b""


def test_records_are_aligned():
    buffer = saved({k: lampion.ones(k) for k in range(1, 6)})
    with zipfile.ZipFile(buffer) as z:
        for info in z.infolist():
            header = buffer.getvalue()[info.header_offset :]
            lengths = struct.unpack_from("<HH", header, 26)
            assert (info.header_offset + 30 + sum(lengths)) % 64 == 0
    assert saved(lampion.ones(3)).getvalue() == saved(lampion.ones(3)).getvalue()


def test_mmap_is_private(tmp_path):
    path = tmp_path / "x.pt"
    lampion.save({"a": lampion.arange(1000), "b": lampion.zeros(0)}, path)
    before = path.read_bytes()
    loaded = lampion.load(path, mmap=True)
    assert loaded["a"].sum().item() == 499500 and loaded["b"].tolist() == []
    loaded["a"].fill_(1)
    assert loaded["a"].sum().item() == 1000
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="file path"):
        lampion.load(io.BytesIO(before), mmap=True)


def test_big_endian_files():
    t = lampion.tensor([1.0, -2.5])
    swapped = np.array([1.0, -2.5], ">f4").tobytes()
    plain = saved(t).getvalue()
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(plain)) as z, zipfile.ZipFile(out, "w") as o:
        for name in z.namelist():
            data = z.read(name)
            if name.endswith("byteorder"):
                data = b"big"
            elif name.endswith("data/0"):
                data = swapped
            o.writestr(name, data, zipfile.ZIP_DEFLATED)  # compressed records are read too
    out.seek(0)
    assert lampion.load(out).tolist() == [1.0, -2.5]


class Point:
    def __init__(self, x):
        self.x = x


class Slotted:
    __slots__ = ("x",)


def harmless(*args):
    return args


def test_unknown_classes_are_refused_with_a_remedy():
    buffer = saved({"p": Point(1)})
    with pytest.raises(pickle.UnpicklingError) as caught:
        lampion.load(buffer)
    text = str(caught.value)
    assert "Point" in text and "add_safe_globals" in text and "weights_only=False" in text
    buffer.seek(0)
    names = serialization.get_unsafe_globals_in_checkpoint(buffer)
    assert len(names) == 1 and names[0].endswith("test_save_load.Point")
    buffer.seek(0)
    assert lampion.load(buffer, weights_only=False)["p"].x == 1


def test_safe_globals():
    slotted = Slotted()
    slotted.x = lampion.ones(1)
    buffer = saved([Point(3), slotted])
    with serialization.safe_globals([Point, Slotted]):
        assert serialization.get_safe_globals() == [Point, Slotted]
        a, b = lampion.load(buffer)
    assert a.x == 3 and b.x.tolist() == [1]
    assert serialization.get_safe_globals() == []
    buffer.seek(0)
    with pytest.raises(pickle.UnpicklingError):
        lampion.load(buffer)
    serialization.add_safe_globals([Point, (Slotted, f"{Slotted.__module__}.Slotted")])
    try:
        buffer.seek(0)
        assert lampion.load(buffer)[0].x == 3
    finally:
        serialization.clear_safe_globals()


def test_numpy_is_allowed():
    value = {"a": np.arange(6.0).reshape(2, 3), "n": np.int16(4), "f": np.asfortranarray(np.eye(2))}
    loaded = round_trip(value)
    assert loaded["a"].tolist() == value["a"].tolist() and loaded["n"] == 4
    assert loaded["f"].tolist() == [[1, 0], [0, 1]]
    with pytest.raises(pickle.UnpicklingError):
        round_trip(np.array([object()]))


class Evil:
    """Pickles as a call of anything."""

    def __init__(self, *recipe):
        self.recipe = recipe

    def __reduce__(self):
        return self.recipe


@pytest.mark.parametrize(
    "recipe",
    [
        (os.system, ("true",)),
        (eval, ("1",)),
        (getattr, ("", "join")),
        (print, ()),
        (bytes.fromhex, ("00",)),
        (harmless, (1,)),
    ],
)
def test_calls_are_refused(recipe):
    for protocol in (2, 4):
        with pytest.raises(pickle.UnpicklingError):
            lampion.load(archive_of(pickle.dumps(Evil(*recipe), protocol)))


def assemble(*parts):
    return b"\x80\x02" + b"".join(parts) + b"."


TENSOR = b"ctorch\nTensor\n"


@pytest.mark.parametrize(
    "program",
    [
        assemble(TENSOR, b"}U\x05shapeK\x01sb"),  # change a class
        assemble(b"ctorch._utils\n_rebuild_tensor\n", b"N}U\x08__code__K\x01s\x86b"),  # or function
        assemble(b"K\x01)R"),  # call a number
        assemble(b"K\x01)\x81"),  # instance of a number
        assemble(b"ccollections\nOrderedDict\n)RK\x01b"),  # malformed state
        assemble(b"cnumpy\ndtype\nU\x01O\x85R"),  # objects in memory
        assemble(b"ctorch\nFloatStorage\n)R"),  # storages come by reference only
        assemble(b"(U\x07storageK\x01K\x02tQ"),  # malformed reference
        assemble(b"ctorch._utils\n_rebuild_tensor\n(]K\x00K\x01\x85K\x01\x85tR"),  # no storage
        assemble(b"N)R"),
        assemble(b"]]a]K\x01}s"),  # item of a list
        assemble(b"h\x05"),  # nothing kept there
        assemble(b"t"),
        assemble(b"X\xff\xff\xff\x7fabc"),
        b"\x80\x63.",
        b"",
        b"\x80\x02",
        assemble(b"i"),
    ],
)
def test_hostile_programs_end_in_an_unpickling_error(program):
    with pytest.raises((pickle.UnpicklingError, RuntimeError)) as caught:
        result = lampion.load(archive_of(program))
        pytest.fail(f"loaded {result!r}")
    assert not isinstance(caught.value, RecursionError)
    assert lampion.ones(2).shape == (2,)


def test_a_dtype_keeps_its_flags():
    """The state in the file may set the byte order of a NumPy dtype and nothing else."""
    program = assemble(
        b"cnumpy\ndtype\nU\x02f4\x85R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb"
    )
    loaded = lampion.load(archive_of(program))
    assert loaded == np.dtype("<f4") and loaded.flags == 0


def tensor_program(offset, size, stride, count=4):
    storage = ("storage", Global("torch", "FloatStorage"), "0", "cpu", count)
    args = (Persistent(storage), offset, size, stride, False, OrderedDict())
    buffer = io.BytesIO()
    Assembler(buffer, 2).dump(Evil(Global("torch._utils", "_rebuild_tensor_v2"), args))
    return buffer.getvalue()


class Global:
    def __init__(self, module, name):
        self.line = f"c{module}\n{name}\n".encode()

    def __call__(self):
        raise AssertionError


class Persistent:
    def __init__(self, pid):
        self.pid = pid


class Assembler(pickle._Pickler):
    dispatch = dict(pickle._Pickler.dispatch)

    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, Persistent) else None

    def save_line(self, obj):
        self.write(obj.line)

    dispatch[Global] = save_line


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (5,), (1,)), (3, (2,), (1,)), (-1, (1,), (1,)), (0, (2,), (-1,)), (0, (-1,), (1,)),
     (0, (2, 2), (3, 1)), (1 << 60, (1,), (1,)), (0, (1 << 60,), (1,))],
)  # fmt: skip
def test_tensors_may_not_reach_outside_their_storage(offset, size, stride):
    data = np.arange(4, dtype=np.float32).tobytes()
    good = lampion.load(archive_of(tensor_program(1, (3,), (1,)), r0=data))
    assert good.tolist() == [1, 2, 3]
    with pytest.raises(RuntimeError, match="checkpoint has a tensor"):
        lampion.load(archive_of(tensor_program(offset, size, stride), r0=data))


def test_short_and_missing_records():
    with pytest.raises(RuntimeError, match="should have 16"):
        lampion.load(archive_of(tensor_program(0, (4,), (1,)), r0=b"\0" * 8))
    with pytest.raises(RuntimeError, match="missing"):
        lampion.load(archive_of(tensor_program(0, (4,), (1,))))


def test_damaged_files(tmp_path):
    data = bytearray(saved({"t": lampion.arange(1000)}).getvalue())
    with pytest.raises(RuntimeError, match="cut short or damaged"):
        lampion.load(io.BytesIO(data[: len(data) // 2]))
    at = data.find(np.arange(1000).tobytes()[:64])
    data[at + 80] ^= 1
    with pytest.raises(RuntimeError, match="checksum"):
        lampion.load(io.BytesIO(data))
    with pytest.raises(pickle.UnpicklingError, match="no checkpoint"):
        lampion.load(io.BytesIO(b"not a checkpoint at all"))
    with pytest.raises(EOFError):
        lampion.load(io.BytesIO(b""))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        z.writestr("readme.txt", "hello")
    buffer.seek(0)
    with pytest.raises(RuntimeError, match=r"no data\.pkl"):
        lampion.load(buffer)
    with pytest.raises(FileNotFoundError):
        lampion.load(tmp_path / "missing.pt")


def test_random_damage_never_does_worse_than_an_error():
    data = saved({"t": lampion.arange(8), "n": [1, 2.0, "x"]}).getvalue()
    rng = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            broken[at] = rng.integers(256)
        try:
            lampion.load(io.BytesIO(broken))
        except (RuntimeError, pickle.UnpicklingError, EOFError):
            pass


def test_argument_errors():
    buffer = saved(lampion.ones(1))
    with pytest.raises(TypeError, match="unexpected keyword"):
        lampion.load(buffer, surprise=1)
    with pytest.raises(AttributeError, match="read"):
        lampion.load(3)
    with pytest.raises(AttributeError, match="write"):
        lampion.save(1, 3)
    with pytest.raises(RuntimeError, match="map_location"):
        lampion.load(saved(lampion.ones(1)), map_location="nowhere")
    with pytest.raises(TypeError, match="must return"):
        lampion.load(saved(lampion.ones(1)), map_location=lambda m, name: 3)


def test_map_location_function_sees_memory_and_name():
    seen = []

    def where(memory, name):
        seen.append((name, memory.nbytes))
        return memory.cpu()

    assert lampion.load(saved(lampion.ones(2)), where).tolist() == [1, 1]
    assert seen == [("cpu", 8)]


def test_attributes_of_tensors_survive():
    p = lampion.nn.Parameter(lampion.ones(2))
    p.tag = "kept"
    t = lampion.zeros(1)
    t.note = [1]
    loaded = round_trip([p, t])
    assert type(loaded[0]) is lampion.nn.Parameter and loaded[0].tag == "kept"
    assert loaded[1].note == [1]


def test_whole_modules_need_trust():
    model = lampion.nn.Linear(2, 3)
    buffer = saved(model)
    with pytest.raises(pickle.UnpicklingError, match="Linear"):
        lampion.load(buffer)
    buffer.seek(0)
    loaded = lampion.load(buffer, weights_only=False)
    assert loaded.weight.tolist() == model.weight.tolist()


def test_files_name_torch():
    """What the file calls things is PyTorch's, so that PyTorch finds them."""
    with zipfile.ZipFile(saved(lampion.ones(2))) as z:
        text = z.read("archive/data.pkl")
    names = [a for op, a, _ in pickletools.genops(text) if op.name == "GLOBAL"]
    assert names == ["torch._utils _rebuild_tensor_v2", "torch FloatStorage",
                     "collections OrderedDict"]  # fmt: skip
    assert unpickler.referenced_names(text) == []


@pytest.mark.parametrize("protocol", range(2, 6))
def test_plain_pickle(protocol):
    t = lampion.arange(6, dtype=lampion.float32).reshape(2, 3).t()[1:]
    t.requires_grad_(True)
    back = pickle.loads(pickle.dumps(t, protocol))
    assert back.tolist() == t.tolist() and back.requires_grad and back.dtype == t.dtype
    p = pickle.loads(pickle.dumps(lampion.nn.Parameter(lampion.ones(2)), protocol))
    assert type(p) is lampion.nn.Parameter and p.requires_grad
