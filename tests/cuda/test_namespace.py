"""`lampion.cuda` as programs written for PyTorch call it, with a GPU and without."""

from __future__ import annotations

import gc

import pytest
from real import REAL

import lampion
from lampion import nn

pytestmark = pytest.mark.usefixtures("gpu")
apart = pytest.mark.skipif(REAL, reason="needs the simulator in a process of its own")


@pytest.fixture
def cuda():
    import lampion.cuda

    return lampion.cuda


def test_what_is_there(cuda):
    assert cuda.is_available() and cuda.device_count() >= 1 and cuda.current_device() == 0
    name, (major, minor) = cuda.get_device_name(), cuda.get_device_capability()
    p = cuda.get_device_properties(0)
    assert (p.name, p.major, p.minor) == (name, major, minor) and p.warp_size == 32
    assert p.multi_processor_count > 0
    assert p.total_memory == pytest.approx(cuda.mem_get_info()[1], rel=0.02)
    assert p.max_threads_per_multi_processor >= 1024 and not p.is_integrated
    assert cuda.get_device_properties("cuda") is p and f"sm_{major}{minor}" in cuda.get_arch_list()
    assert cuda.is_bf16_supported() and repr(p).startswith("_CudaDeviceProperties(name=")
    cuda.init()
    assert cuda.is_initialized()
    for name in cuda.__all__:
        assert getattr(cuda, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = cuda.nonsense


def test_imports_of_parts():
    import lampion.cuda.nvtx
    from lampion.cuda import CUDAGraph, Stream  # noqa: F401
    from lampion.cuda.nvtx import range_pop, range_push

    assert range_push("outer") == 0 and range_push("inner") == 1
    assert range_pop() == 1 and range_pop() == 0 and range_pop() < 0
    with lampion.cuda.nvtx.range("step {}", 3):
        lampion.cuda.nvtx.mark("here")


def test_mixed_precision(gpu):
    from lampion.cuda.amp import GradScaler, autocast

    model = nn.Linear(3, 2).cuda()
    x = lampion.ones(4, 3, device=gpu)
    with autocast():
        assert model(x).dtype is lampion.float16
    with autocast(dtype=lampion.bfloat16):
        y = model(x)
    assert y.dtype is lampion.bfloat16 and model(x).dtype is lampion.float32
    optimizer, scaler = lampion.optim.SGD(model.parameters(), lr=0.1), GradScaler()
    before = model.bias.tolist()
    scaler.scale(y.float().sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert model.bias.tolist() == pytest.approx([b - 0.4 for b in before], rel=1e-2)


def test_devices_by_every_name(cuda, gpu):
    for where in (None, 0, "cuda", "cuda:0", lampion.device("cuda"), lampion.device("cuda", 0)):
        assert cuda.get_device_name(where) == cuda.get_device_name()
    with pytest.raises(ValueError, match="Expected a cuda device, but got: cpu"):
        cuda.get_device_name("cpu")
    with pytest.raises(RuntimeError, match=r"device cuda:99 does not exist"):
        cuda.set_device(99)
    cuda.set_device(-1)
    with cuda.device(None), cuda.device(0), cuda.device_of(lampion.ones(2)):
        assert cuda.current_device() == 0


def test_tensors_and_modules_move(gpu):
    x = lampion.ones(2, 3, requires_grad=True)
    y = x.cuda()
    assert y.is_cuda and not x.is_cuda and y.get_device() == 0 and y.cuda(0) is y
    y.sum().backward()
    assert x.grad.tolist() == [[1.0] * 3] * 2
    assert x.cuda("cuda:0", non_blocking=True).is_cuda
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).cuda()
    assert all(t.is_cuda for t in (*model.parameters(), *model.buffers()))
    assert model(y).is_cuda and not model.cpu().state_dict()["0.weight"].is_cuda


def test_memory_is_counted(cuda, gpu):
    gc.collect()
    cuda.empty_cache()
    before, peak = cuda.memory_allocated(), cuda.max_memory_allocated()
    x = lampion.zeros(1 << 20, device=gpu)
    assert cuda.memory_allocated() - before == 1 << 22
    assert cuda.max_memory_allocated() >= max(peak, cuda.memory_allocated())
    del x
    assert cuda.memory_allocated() == before
    assert cuda.memory_reserved() - before >= 1 << 22
    cuda.reset_peak_memory_stats()
    assert cuda.max_memory_allocated() == before
    assert cuda.max_memory_reserved() == cuda.memory_reserved()
    stats = cuda.memory_stats()
    assert stats["allocated_bytes.all.current"] == before
    assert stats["reserved_bytes.all.current"] == cuda.memory_reserved()
    free, total = cuda.mem_get_info()
    assert 0 < free <= total
    table = cuda.memory_summary()
    assert "allocated" in table and "reserved" in table and cuda.get_device_name() in table
    cuda.empty_cache()
    assert cuda.memory_reserved() < before + (1 << 22)
    nested = cuda.memory_stats_as_nested_dict()
    assert nested["allocated_bytes"]["all"]["current"] == before and "num_ooms" in nested
    assert set(cuda.host_memory_stats()) == {"reserved_bytes.current"}
    cuda.reset_accumulated_memory_stats()
    assert cuda.memory_stats()["num_ooms"] == 0


def test_memory_can_be_limited(cuda, gpu):
    fraction = cuda.get_per_process_memory_fraction()
    with pytest.raises(ValueError, match="Allowed range: 0~1"):
        cuda.set_per_process_memory_fraction(1.5)
    with pytest.raises(TypeError, match="must be `float`"):
        cuda.set_per_process_memory_fraction(1)
    kept = lampion.zeros(1 << 18, device=gpu)
    cuda.empty_cache()
    try:
        cuda.set_per_process_memory_fraction(
            (cuda.memory_reserved() + (1 << 20)) / cuda.mem_get_info()[1])
        with pytest.raises(cuda.OutOfMemoryError) as caught:
            lampion.zeros(1 << 20, device=gpu)
    finally:
        cuda.set_per_process_memory_fraction(fraction)
    text = str(caught.value)
    assert "allocating 4 MiB on cuda" in text and "Live tensors hold" in text, text
    assert "1 MiB" in text and "memory_fraction" in text
    assert isinstance(caught.value, RuntimeError) and cuda.memory_stats()["num_ooms"] == 1
    assert lampion.zeros(1 << 20, device=gpu).sum().item() == 0 and kept.is_cuda


def test_the_management_library_is_asked(cuda, monkeypatch):
    import sys
    import types

    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(ModuleNotFoundError, match="nvidia-ml-py"):
        cuda.temperature()
    asked = []
    fake = types.SimpleNamespace(
        nvmlInit=lambda: None, nvmlDeviceGetHandleByPciBusId=lambda bus: bus,
        nvmlDeviceGetTemperature=lambda handle, kind: asked.append(handle) or 44)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert cuda.temperature() == 44
    p = cuda.get_device_properties()
    assert asked == [f"{p.pci_domain_id:08x}:{p.pci_bus_id:02x}:{p.pci_device_id:02x}.0".encode()]


def test_random_states(cuda, gpu):
    cuda.manual_seed(123)
    assert cuda.initial_seed() == 123
    state, first = cuda.get_rng_state(), lampion.rand(5, device=gpu).tolist()
    assert state.device == lampion.device("cpu") and state.dtype is lampion.uint8
    cuda.set_rng_state(state)
    assert lampion.rand(5, device=gpu).tolist() == first
    states = cuda.get_rng_state_all()
    second = lampion.rand(5, device=gpu).tolist()
    cuda.set_rng_state_all(states)
    assert lampion.rand(5, device=gpu).tolist() == second != first
    cuda.manual_seed_all(123)
    assert lampion.rand(5, device=gpu).tolist() == first
    assert [g.initial_seed() for g in cuda.default_generators] == [123] * cuda.device_count()
    cuda.seed()
    cuda.seed_all()
    assert cuda.initial_seed() != 123
    lampion.manual_seed(123)
    assert lampion.rand(5, device=gpu).tolist() == first == (
        lampion.manual_seed(123) and lampion.rand(5).tolist())


def test_the_default_device(gpu):
    with lampion.device("cuda"):
        assert lampion.zeros(2).is_cuda and lampion.tensor([1.0]).is_cuda
        assert lampion.randn(2).is_cuda and nn.Linear(1, 1).weight.is_cuda
    assert lampion.zeros(2).is_cpu


@apart
def test_the_default_device_from_a_file(tmp_path, monkeypatch):
    from programs_apart import run

    (tmp_path / "lampion.toml").write_text('[device]\ndefault = ["cuda:1", "cpu"]\n')
    monkeypatch.chdir(tmp_path)
    run("""
        assert lampion.zeros(3).device == lampion.device("cuda:1")
        assert (lampion.arange(3) + 1).tolist() == [1, 2, 3]
    """, devices=2)


@apart
def test_a_pytorch_program_without_a_gpu():
    """The calls that programs make before they know whether there is a GPU."""
    from programs_apart import run

    run("""
        import lampion as torch
        from lampion.cuda import nvtx
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        assert device.type == "cpu" and torch.cuda.device_count() == 0
        torch.cuda.manual_seed(1); torch.cuda.manual_seed_all(1); torch.cuda.empty_cache()
        assert torch.cuda.memory_allocated() == torch.cuda.max_memory_allocated() == 0
        assert not torch.cuda.is_initialized() and torch.cuda.get_arch_list() == []
        assert not torch.cuda.is_bf16_supported() and torch.cuda.memory_stats() == {}
        assert torch.cuda.get_rng_state_all() == []
        assert not torch.cuda.is_current_stream_capturing()
        x = torch.ones(2)
        assert not x.is_cuda
        for call in (x.cuda, torch.nn.Linear(1, 1).cuda, torch.cuda.synchronize,
                     torch.cuda.current_device, torch.cuda.Stream, torch.cuda.init,
                     torch.cuda.get_device_name, lambda: torch.ones(1, device="cuda")):
            try:
                call()
            except RuntimeError as error:
                assert "no GPU that CUDA can use" in str(error), error
            else:
                raise AssertionError(call)
        assert torch.cuda.Event().query()
    """, devices=0)
