"""Data pipes: streams and indexed pipes, chained by methods, also in a loader's workers."""

from __future__ import annotations

import pytest

import lampion
from lampion.utils.data import (
    DataChunk,
    DataLoader,
    IterDataPipe,
    MapDataPipe,
    functional_datapipe,
    guaranteed_datapipes_determinism,
    non_deterministic,
)
from lampion.utils.data.datapipes.iter import FileLister, FileOpener, IterableWrapper
from lampion.utils.data.datapipes.map import SequenceWrapper


def numbers(n):
    return IterableWrapper(range(n))


def test_streams_are_chained_by_methods():
    pipe = numbers(7).map(lambda x: 2 * x).filter(lambda x: x > 2).batch(2)
    assert list(pipe) == [[4, 6], [8, 10], [12]]
    assert all(isinstance(b, DataChunk) for b in pipe)
    assert len(numbers(7).batch(2)) == 4 and len(numbers(7).batch(2, drop_last=True)) == 3
    assert list(numbers(4).batch(2).batch(2).unbatch(-1)) == [0, 1, 2, 3]


def test_columns_of_samples():
    rows = IterableWrapper([(1, 2), (3, 4)])
    assert list(rows.map(lambda x: -x, input_col=1)) == [(1, -2), (3, -4)]
    assert list(rows.map(lambda x, y: x + y, input_col=[0, 1])) == [(3,), (7,)]
    assert list(rows.map(lambda x: -x, input_col=0, output_col=-1)) == [(1, 2, -1), (3, 4, -3)]
    with pytest.raises(ValueError, match="output_col"):
        rows.map(lambda x: x, output_col=1)


def test_joining_and_dividing():
    a, b = numbers(3), IterableWrapper("abc")
    assert list(a.zip(b)) == [(0, "a"), (1, "b"), (2, "c")]
    assert list(a.concat(b)) == [0, 1, 2, "a", "b", "c"]
    assert list(a.mux(b)) == [0, "a", 1, "b", 2, "c"]
    even, odd = numbers(7).demux(2, lambda x: x % 2)
    assert (list(even), list(odd)) == ([0, 2, 4, 6], [1, 3, 5])
    assert list(odd) == [1, 3, 5]  # a second pass
    one, two = numbers(4).fork(2)
    assert list(zip(one, two, strict=True)) == [(k, k) for k in range(4)]
    with pytest.raises(BufferError, match="ahead"):
        list(numbers(9).fork(2, buffer_size=3)[0])
    assert list(numbers(6).groupby(lambda x: x % 3)) == [[0, 3], [1, 4], [2, 5]]


def test_shuffle_keeps_all_and_has_seeds():
    pipe = numbers(20).shuffle(buffer_size=5)
    first = list(pipe.set_seed(3))
    assert sorted(first) == list(range(20)) and first != list(range(20))
    assert list(pipe.set_seed(3)) == first
    assert list(pipe.set_shuffle(False)) == list(range(20))


def test_pipes_with_places():
    pipe = SequenceWrapper([1, 2, 3, 4, 5]).map(lambda x: x * x)
    assert pipe[2] == 9 and len(pipe) == 5 and isinstance(pipe, MapDataPipe)
    assert pipe.batch(2)[1] == [9, 16] and len(pipe.batch(2, drop_last=True)) == 2
    assert pipe.concat(SequenceWrapper([0]))[5] == 0
    assert sorted(pipe.shuffle()) == [1, 4, 9, 16, 25]


def test_files(tmp_path):
    for name in ("b.txt", "a.txt", "c.bin"):
        (tmp_path / name).write_text(name)
    found = FileLister(str(tmp_path), "*.txt")
    assert [text for _, text in FileOpener(found).read_from_stream()] == ["a.txt", "b.txt"]


def test_a_loader_reads_pipes_in_batches_and_shares():
    (batch,) = DataLoader(numbers(3).map(float), batch_size=3)
    assert batch.dtype == lampion.float64 and batch.tolist() == [0, 1, 2]
    loader = DataLoader(numbers(7).sharding_filter(), batch_size=None, num_workers=2)
    assert sorted(loader) == list(range(7))


def test_methods_of_one_s_own():
    @functional_datapipe("plus_for_test")
    class Plus(IterDataPipe):
        def __init__(self, pipe, by):
            self.pipe, self.by = pipe, by

        def __iter__(self):
            for x in self.pipe:
                yield x + self.by

    try:
        assert list(numbers(2).plus_for_test(5)) == [5, 6]
        with pytest.raises(Exception, match="already taken"):
            functional_datapipe("plus_for_test")(Plus)
    finally:
        del IterDataPipe.functions["plus_for_test"]
    with pytest.raises(AttributeError, match="no_such_method"):
        numbers(1).no_such_method()


def test_determinism_can_be_asked_for():
    @non_deterministic
    class Loose(IterDataPipe):
        def __iter__(self):
            return iter(())

    Loose()
    with guaranteed_datapipes_determinism(), pytest.raises(TypeError, match="non-deterministic"):
        Loose()
