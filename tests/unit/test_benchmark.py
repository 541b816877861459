"""Measuring statements: units, figures, tables; and small helpers of programs."""

from __future__ import annotations

import pytest

import lampion
from lampion import jit, overrides, serialization
from lampion.utils import benchmark, swap_tensors
from lampion.utils.benchmark import Compare, Measurement, TaskSpec, Timer


def measured(times, number=10, **words):
    return Measurement(number, [t * number for t in times], TaskSpec("f(x)", "pass", **words))


def test_statistics():
    m = measured([1.0, 2.0, 3.0, 4.0, 5.0])
    assert m.median == 3 and m.mean == 3 and m.iqr == 2 and m.has_warnings
    assert m.times == [1, 2, 3, 4, 5] and m.as_row_name == "f(x)" and m.num_threads == 1
    steady = measured([1.0, 1.001, 1.002] * 20)
    assert steady.significant_figures >= 3 and not steady.has_warnings
    assert "Median: 3.00 s" in repr(m) and "WARNING" in repr(m) and "WARNING" not in repr(steady)
    both = Measurement.merge([m, measured([6.0], number=20)])
    assert len(both) == 1 and sorted(both[0].times) == pytest.approx([1, 2, 3, 4, 5, 6])
    with pytest.raises(ValueError, match="without runs"):
        _ = measured([]).median


def test_units_and_figures():
    assert benchmark.select_unit(3e-9) == ("ns", 1e-9) and benchmark.select_unit(0.5)[0] == "ms"
    assert benchmark.unit_to_english("us") == "microsecond"
    assert benchmark.trim_sigfig(0.012345, 2) == pytest.approx(0.012)
    assert benchmark.ordered_unique("abca") == list("abc")
    before = lampion.get_num_threads()
    with benchmark.set_torch_threads(1):
        assert lampion.get_num_threads() == 1
    assert lampion.get_num_threads() == before


def test_timers():
    counted = []
    ticks = iter(range(10**9))
    clock = Timer("counted.append(1)", timer=lambda: next(ticks) * 0.01,
                  globals={"counted": counted})
    m = clock.timeit(50)
    assert m.number_per_run == 50 and len(counted) == 52 and m.median == pytest.approx(0.01 / 50)
    found = Timer("x + 1", setup="x = torch.ones(4)").blocked_autorange(min_run_time=0.02)
    assert sum(found.raw_times) >= 0.02 and 0 < found.median < 1e-3
    assert Timer("sum(range(100))").adaptive_autorange(max_run_time=0.2).median > 0
    with pytest.raises(NotImplementedError, match="C\\+\\+"):
        Timer("x", language="c++")
    with pytest.raises(NotImplementedError, match="instructions"):
        clock.collect_callgrind()


def test_tables():
    table = Compare([measured([1e-6], label="add", sub_label=row, description=column)
                     for row in ("small", "large") for column in ("ours", "theirs")])
    table.extend_results([measured([3e-6] * 2 + [9e-6], label="add", sub_label="large",
                                   description="wide")])
    table.trim_significant_figures()
    table.highlight_warnings()
    lines = str(table).splitlines()
    assert lines[0].startswith("[-") and " add " in lines[0] and "theirs" in lines[1]
    assert lines[2].startswith("1 threads: ---") and "small" in lines[3] and "(! " in lines[4]
    assert lines[-1] == "Times are in microseconds (us)."
    table.colorize(rowwise=True)
    assert "\033[92m" in str(table)
    with pytest.raises(ValueError, match="Measurement"):
        Compare([1])


def test_swapping_tensors():
    a, b = lampion.zeros(2), lampion.nn.Parameter(lampion.ones(3))
    kept = a
    swap_tensors(a, b)
    assert kept is a and a.tolist() == [1, 1, 1] and a.requires_grad and not b.requires_grad
    assert isinstance(a, lampion.nn.Parameter) and not isinstance(b, lampion.nn.Parameter)
    seen = []
    a.register_post_accumulate_grad_hook(seen.append)
    a.sum().backward()
    assert seen[0] is a
    assert a.grad.tolist() == [1, 1, 1] and b.grad is None
    view = b[:1]
    with pytest.raises(RuntimeError, match="view"):
        swap_tensors(a, b)
    del view


def test_types_of_scripts():
    assert jit.isinstance_({"a": [1]}, dict[str, list[int]]) and jit.isinstance_(None, int | None)
    before = jit.set_fusion_strategy([("STATIC", 1)])
    assert jit.set_fusion_strategy(before) == [("STATIC", 1)]
    with jit.strict_fusion(), pytest.raises(NotImplementedError, match="compiler"):
        jit.CompilationUnit("def f(): pass")


def test_settings_of_files():
    assert serialization.get_default_load_endianness() is None and serialization.get_crc32_options()
    serialization.set_default_load_endianness(serialization.LoadEndianness.NATIVE)
    serialization.set_default_load_endianness(None)
    with pytest.raises(NotImplementedError, match="endian"):
        for kind in serialization.LoadEndianness:
            serialization.set_default_load_endianness(kind)
    serialization.set_default_load_endianness(None)


def test_lists_of_functions():
    dummies = overrides.get_testing_overrides()
    assert dummies[lampion.matmul](1, 2) == -1
    assert lampion.zeros in overrides.get_ignored_functions()
    assert overrides.is_tensor_method_or_property(lampion.Tensor.add)
    assert not overrides.is_tensor_method_or_property(lampion.nn.functional.linear)
