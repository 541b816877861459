"""What goes wrong says what it is and what to do: drivers, kernels, memory, forks, exits."""

from __future__ import annotations

import pytest
from programs_apart import run
from real import REAL

pytestmark = [pytest.mark.skipif(REAL, reason="faults of the simulator, in processes of their own"),
              pytest.mark.usefixtures("simulator_session")]

FAILS = """
def fails(call, *words, kind=RuntimeError):
    try:
        call()
    except kind as error:
        text = str(error)
        assert all(w in text for w in words), (words, text)
    else:
        raise AssertionError("nothing was raised")
"""


def test_no_driver():
    out = run("""
        import lampion.cuda
        assert not lampion.cuda.is_available()
        try:
            lampion.ones(1, device="cuda")
        except RuntimeError as error:
            print(error)
    """, simulated=False, environment={"LD_LIBRARY_PATH": "/nonexistent"})
    if "out of device memory" not in out:
        assert "no NVIDIA driver was found" in out and "libcuda.so.1" in out
        assert "docker run --gpus all" in out and "lampion doctor" in out


def test_no_bindings():
    out = run("""
        import sys
        sys.modules["cuda"] = sys.modules["cuda.bindings"] = None
        try:
            lampion.ones(1, device="cuda")
        except RuntimeError as error:
            print(error)
    """, simulated=False)
    assert "cuda.bindings cannot be imported" in out and "pip install lampion-cuda" in out


def test_no_compiler():
    out = run("""
        import sys
        from lampion_cuda import compiler
        compiler._toolchain.clear()
        sys.modules["cuda.bindings.nvrtc"] = None
        import cuda.bindings
        if hasattr(cuda.bindings, "nvrtc"): del cuda.bindings.nvrtc
        try:
            lampion.ones(1, device="cuda")
        except RuntimeError as error:
            print(error)
    """)
    assert "NVRTC cannot be loaded" in out and "pip install nvidia-cuda-nvrtc" in out


def test_an_old_driver():
    out = run("""
        assert not lampion.cuda.is_available()
        try:
            lampion.ones(1, device="cuda")
        except RuntimeError as error:
            print(error)
    """, driver_version=12080)
    assert "supports CUDA 12.8" in out and "Update the driver" in out
    assert 'nvidia-cuda-nvrtc==12.*' in out


@pytest.mark.parametrize("code, words", [
    (100, "no GPU that CUDA can use"), (803, "reboot after an update"), (999, "(999)")])
def test_a_driver_that_does_not_start(code, words):
    out = run("""
        try:
            lampion.ones(1, device="cuda")
        except RuntimeError as error:
            print(error)
    """, init_error=code)
    assert words in out


def test_a_wrong_number():
    run(FAILS + """
fails(lambda: lampion.ones(1, device="cuda:3"), "device cuda:3 does not exist", "'cuda' has 1")
fails(lambda: lampion.cuda.set_device(7), "device cuda:7 does not exist: there is 1")
""")


def test_out_of_memory_says_who_holds_what():
    run(FAILS + """
a = lampion.zeros(1 << 20, device="cuda")
b = [lampion.zeros(1 << 18, device="cuda") for _ in range(3)]
simulator.set(fail_after_bytes=1 << 20)
fails(lambda: lampion.zeros(1 << 22, device="cuda"), "out of device memory",
      "allocating 16 MiB on cuda", "1 x 4 MiB", "3 x 1 MiB", kind=lampion.cuda.OutOfMemoryError)
simulator.set(fail_after_bytes=-1)
assert lampion.zeros(1 << 22, device="cuda").sum().item() == 0
""")


def test_freed_memory_is_given_back_before_giving_up():
    run("""
        x = lampion.zeros(1 << 20, device="cuda")
        del x
        y = lampion.zeros((1 << 20) - (1 << 18), device="cuda")  # another bin
        assert y.sum().item() == 0 and lampion.cuda.memory_reserved() < 1 << 22
    """, total_memory=6 << 20)


def test_a_launch_that_fails_names_the_op():
    run(FAILS + """
from cuda.bindings import driver
x = lampion.ones(5, device="cuda")
launch, driver.cuLaunchKernel = driver.cuLaunchKernel, lambda *a: (driver.CUresult(701),)
fails(lambda: x * 3, "(701)", "launching mul", "blocks of", "more registers or shared memory")
driver.cuLaunchKernel = launch
assert (x + 3).tolist() == [4.0] * 5
""")


def test_a_late_fault_says_how_to_find_it():
    run(FAILS + """
x = lampion.ones(5, device="cuda")
(x + x).tolist()
simulator.set(fail_launch=1, fail_code=700)
def late():
    y = x * 3
    y.tolist()
fails(late, "(700)", "memory that is not its own", "LAMPION_CUDA_SYNC=1", "context is lost")
import os; os._exit(0)
""")


def test_sync_mode_names_the_op():
    run(FAILS + """
x = lampion.ones(5, device="cuda")
(x + x).tolist()
simulator.set(fail_launch=1, fail_code=700)
fails(lambda: x * 3, "(700)", "mul", "on cuda")
import os; os._exit(0)
""", environment={"LAMPION_CUDA_SYNC": "1"})


def test_a_fork_is_refused_by_name():
    run("""
        import os
        x = lampion.ones(3, device="cuda")
        calls = [lambda: x + 1, lambda: lampion.ones(3, device="cuda"), lambda: x.tolist(),
                 lambda: x.cpu(), lambda: lampion.cuda.synchronize(),
                 lambda: lampion.ones(3).cuda(), lambda: lampion.cuda.Stream(),
                 lambda: lampion.cuda.current_stream().query()]
        child = os.fork()
        if not child:
            wrong = 0
            for call in calls:
                try:
                    call()
                    wrong += 1
                except RuntimeError as error:
                    wrong += "forked" not in str(error) or "'spawn'" not in str(error)
            import threading
            def other():
                global wrong
                try:
                    x + 1
                    wrong += 1
                except RuntimeError as error:
                    wrong += "forked" not in str(error)
            t = threading.Thread(target=other); t.start(); t.join()
            wrong += lampion.ones(2).add(1).tolist() != [2.0, 2.0]
            del x, calls
            os._exit(wrong)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0, os.waitstatus_to_exitcode(status)
        assert (x + 1).tolist() == [2.0] * 3
    """)


def test_a_fork_before_the_first_use_works():
    run("""
        import os
        child = os.fork()
        if not child:
            os._exit(lampion.ones(3, device="cuda").add(1).tolist() != [2.0] * 3)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert lampion.ones(3, device="cuda").add(1).tolist() == [2.0] * 3
    """)


def test_the_interpreter_ends_with_everything_alive():
    """Tensors, events, graphs, pinned memory and threads that live to the end do not hurt it."""
    run("""
        import threading, time
        import lampion.cuda as cuda
        x = lampion.ones(3, device="cuda", requires_grad=True)
        y = (x * 2).sum()
        g = cuda.CUDAGraph()
        z = lampion.ones(3, device="cuda")
        with cuda.graph(g):
            w = z * 2
        g.replay()
        e = cuda.Event(); e.record()
        p = lampion.ones(3).pin_memory()
        s = cuda.Stream()
        with cuda.stream(s):
            q = z + 1
        q.record_stream(cuda.default_stream())
        keep = [x, y, g, w, e, p, s, q]
        keep.append(keep)
        threading.Thread(target=lambda: time.sleep(0.2) or (z + 1), daemon=True).start()
        print("done")
    """)


def test_the_doctor_shows_what_is_there():
    out = run("""
        from lampion.cli import main
        import sys
        sys.argv = ["lampion", "doctor", "cuda"]
        try:
            main()
        except SystemExit:
            pass
    """)
    assert "Simulated GPU" in out and "driver" in out and "CUDA 13.0" in out
    for library in ("cuBLASLt", "cuDNN", "cuFFT", "cuSOLVER", "NVRTC"):
        assert library in out, out


def test_an_index_out_of_range_is_found_late():
    run(FAILS + """
x = lampion.arange(10.0, device="cuda")
weights = lampion.ones(5, 3, device="cuda", requires_grad=True)
good, bad = (lampion.tensor(v, device="cuda") for v in ([1, 2], [1, 77]))
before = simulator.get("pinned")
y = x[good] + x[bad]                    # nobody waits, nothing is raised
late = ("index 77 is out of bounds for dimension 0 with size 10", "found late", "checks =")
fails(y.tolist, *late, kind=IndexError)
assert y.shape == (2,) and (x[good]).tolist() == [1.0, 2.0]
z = lampion.nn.functional.embedding(bad, weights)
fails(lampion.cuda.synchronize, "77", "embedding", "found late", kind=IndexError)
lampion.cuda.synchronize()
logits = lampion.zeros(2, 4, device="cuda")
loss = lampion.nn.functional.cross_entropy(logits, bad)
fails(loss.item, "Target 77 is out of bounds", kind=IndexError)
def many():
    for _ in range(200):
        x[bad]
fails(many, *late, kind=IndexError)     # sooner or later
try:
    lampion.cuda.synchronize()
except IndexError:
    pass
kept = bad.clone()
y = x[kept]; kept.zero_()               # the culprit has gone since
fails(y.tolist, "index out of range", kind=IndexError)
assert simulator.get("pinned") - before <= 2
""", environment={"LAMPION_CUDA_CHECKS": "late"})


def test_an_index_out_of_range_in_a_graph():
    run(FAILS + """
from lampion import cuda
x = lampion.arange(10.0, device="cuda")
i = lampion.tensor([1, 2], device="cuda")
x[i]
g = cuda.CUDAGraph()
with cuda.graph(g):
    y = x[i] * 2
g.replay()
assert y.tolist() == [2.0, 4.0]
i.fill_(55)
g.replay()
fails(y.tolist, "index 55 is out of bounds", kind=IndexError)
i.fill_(3)
for _ in range(3):
    g.replay()
assert y.tolist() == [6.0, 6.0]
i.fill_(55); g.replay(); i.fill_(3); cuda.current_stream().query()
def again():
    g.replay(); g.replay(); cuda.synchronize()
fails(again, "out of range", kind=IndexError)
""", environment={"LAMPION_CUDA_CHECKS": "late"})


def test_an_index_out_of_range_at_its_call():
    for environment in ({"LAMPION_CUDA_CHECKS": "now"},
                        {"LAMPION_CUDA_CHECKS": "late", "LAMPION_CUDA_SYNC": "1"}):
        run(FAILS + """
x, bad = lampion.arange(10.0, device="cuda"), lampion.tensor([1, 77], device="cuda")
fails(lambda: x[bad], "index 77 is out of bounds", kind=IndexError)
assert (x + 1)[0].item() == 1.0
""", environment=environment)
