"""Datasets, samplers and collation."""

import collections
import warnings

import numpy as np
import pytest

import lampion
from lampion.utils.data import (
    BatchSampler,
    ChainDataset,
    ConcatDataset,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    default_convert,
    random_split,
)


def generator(seed=0):
    made = lampion.Generator()
    made.manual_seed(seed)
    return made


class Range(Dataset):
    def __init__(self, start, stop):
        self.items = range(start, stop)

    def __getitem__(self, i):
        return self.items[i]

    def __len__(self):
        return len(self.items)


class Stream(IterableDataset):
    def __init__(self, *items):
        self.items = items

    def __iter__(self):
        return iter(self.items)

    def __len__(self):
        return len(self.items)


def test_tensor_dataset():
    data = TensorDataset(lampion.arange(4), lampion.arange(8).reshape(4, 2))
    assert len(data) == 4
    x, y = data[2]
    assert x.item() == 2 and y.tolist() == [4, 5]
    with pytest.raises(AssertionError, match="Size mismatch"):
        TensorDataset(lampion.arange(3), lampion.arange(4))


def test_concat_finds_the_part():
    data = Range(0, 3) + Range(10, 12)
    assert isinstance(data, ConcatDataset)
    assert [data[i] for i in range(5)] == [0, 1, 2, 10, 11]
    assert (data[-1], data[-5]) == (11, 0)
    assert data.cumulative_sizes == [3, 5]
    with pytest.raises(ValueError, match="absolute value"):
        data[-6]
    with pytest.raises(IndexError):
        data[5]
    with pytest.raises(AssertionError, match="IterableDataset"):
        ConcatDataset([Stream(1)])
    with pytest.raises(AssertionError, match="empty"):
        ConcatDataset([])


def test_chain():
    data = Stream(1, 2) + Stream(3)
    assert isinstance(data, ChainDataset)
    assert list(data) == [1, 2, 3] and len(data) == 3
    with pytest.raises(AssertionError, match="only supports"):
        list(ChainDataset([Range(0, 1)]))


def test_stack():
    rows = StackDataset(Range(0, 3), Range(5, 8))
    assert rows[1] == (1, 6) and rows.__getitems__([0, 2]) == [(0, 5), (2, 7)]
    named = StackDataset(a=Range(0, 3), b=Range(5, 8))
    assert named[1] == {"a": 1, "b": 6}
    assert named.__getitems__([2]) == [{"a": 2, "b": 7}] and len(named) == 3
    for bad in (lambda: StackDataset(), lambda: StackDataset(Range(0, 1), a=Range(0, 1)),
                lambda: StackDataset(Range(0, 1), Range(0, 2))):  # fmt: skip
        with pytest.raises(ValueError):
            bad()


def test_subset():
    part = Subset(Range(10, 20), [5, 0, 5])
    assert [part[i] for i in range(3)] == [15, 10, 15]
    assert part.__getitems__([2, 1]) == [15, 10] and len(part) == 3


def test_random_split():
    parts = random_split(Range(0, 10), [3, 7], generator=generator())
    assert [len(p) for p in parts] == [3, 7]
    assert sorted(x for p in parts for x in (p[i] for i in range(len(p)))) == list(range(10))
    again = random_split(Range(0, 10), [3, 7], generator=generator())
    assert parts[0].indices == again[0].indices
    assert [len(p) for p in random_split(Range(0, 10), [0.34, 0.33, 0.33])] == [4, 3, 3]
    with pytest.raises(ValueError, match="Sum of input lengths"):
        random_split(Range(0, 10), [3, 3])
    with pytest.raises(ValueError, match="Fraction at index"):
        random_split(Range(0, 10), [1.5, -0.5])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        random_split(Range(0, 1), [0.5, 0.5])
    assert "is 0" in str(caught[0].message)


def test_sequential_and_batches():
    assert list(SequentialSampler(range(4))) == [0, 1, 2, 3]
    sampler = SequentialSampler(range(5))
    assert list(BatchSampler(sampler, 2, False)) == [[0, 1], [2, 3], [4]]
    assert list(BatchSampler(sampler, 2, True)) == [[0, 1], [2, 3]]
    assert (len(BatchSampler(sampler, 2, False)), len(BatchSampler(sampler, 2, True))) == (3, 2)
    for size, drop in ((0, False), (True, False), (1.5, False), (2, 1)):
        with pytest.raises(ValueError):
            BatchSampler(sampler, size, drop)


def test_random_sampler():
    order = list(RandomSampler(range(50), generator=generator(1)))
    assert sorted(order) == list(range(50)) and order != list(range(50))
    assert order == list(RandomSampler(range(50), generator=generator(1)))
    assert len(list(RandomSampler(range(5), num_samples=12))) == 12
    drawn = list(RandomSampler(range(5), replacement=True, num_samples=2000))
    assert len(drawn) == 2000 and set(drawn) == set(range(5))
    with pytest.raises(TypeError):
        RandomSampler(range(5), replacement=2)
    with pytest.raises(ValueError):
        RandomSampler(range(5), num_samples=0)


def test_random_sampler_follows_the_global_seed():
    orders = []
    for _ in range(2):
        lampion.manual_seed(3)
        orders.append(list(RandomSampler(range(20))))
    assert orders[0] == orders[1]
    assert orders[1] != list(RandomSampler(range(20)))


def test_subset_random_sampler():
    order = list(SubsetRandomSampler([3, 5, 7], generator=generator()))
    assert sorted(order) == [3, 5, 7]


def test_weighted_sampler():
    drawn = list(WeightedRandomSampler([0.0, 1.0, 3.0, 0.0], 4000, generator=generator()))
    counts = np.bincount(drawn, minlength=4)
    assert counts[0] == counts[3] == 0
    assert abs(counts[2] / 4000 - 0.75) < 0.05
    unique = list(WeightedRandomSampler([1, 0, 2, 5], 3, False, generator()))
    assert sorted(unique) == [0, 2, 3]
    with pytest.raises(RuntimeError, match="only 3"):
        list(WeightedRandomSampler([1, 0, 2, 5], 4, False))
    with pytest.raises(RuntimeError, match="positive"):
        list(WeightedRandomSampler([0.0, 0.0], 1))
    with pytest.raises(ValueError, match="1d"):
        WeightedRandomSampler([[1.0]], 1)
    with pytest.raises(ValueError, match="num_samples"):
        WeightedRandomSampler([1.0], -1)


def test_weighted_sampler_without_replacement_prefers_heavy():
    first = [
        list(WeightedRandomSampler([1.0, 9.0], 1, False, generator(seed)))[0]
        for seed in range(300)
    ]
    assert 0.82 < np.mean(first) < 0.97


@pytest.mark.parametrize("drop_last", [False, True])
def test_distributed_sampler_covers(drop_last):
    shares = [
        list(DistributedSampler(range(10), 3, rank, shuffle=True, drop_last=drop_last))
        for rank in range(3)
    ]
    assert {len(share) for share in shares} == {3 if drop_last else 4}
    seen = {x for share in shares for x in share}
    assert seen == set(range(10)) if not drop_last else len(seen) == 9
    sampler = DistributedSampler(range(10), 3, 0)
    before = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != before
    with pytest.raises(ValueError, match="Invalid rank"):
        DistributedSampler(range(10), 3, 3)


def test_sampler_base_is_abstract():
    with pytest.raises(NotImplementedError):
        iter(Sampler())
    with pytest.raises(NotImplementedError):
        Dataset()[0]


Point = collections.namedtuple("Point", "x y")


def test_collate_numbers_and_strings():
    ints, floats = default_collate([1, 2]), default_collate([1.5, 2.5])
    assert (ints.dtype, floats.dtype) == (lampion.int64, lampion.float64)
    assert default_collate([True, False]).dtype == lampion.bool
    assert default_collate(["a", "b"]) == ["a", "b"]
    assert default_collate([b"a"]) == [b"a"]


def test_collate_arrays():
    out = default_collate([np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)])
    assert out.dtype == lampion.float32 and tuple(out.shape) == (2, 2, 3)
    assert default_collate([np.int16(3), np.int16(4)]).dtype == lampion.int16
    with pytest.raises(TypeError, match="found"):
        default_collate([np.array(["a"]), np.array(["b"])])
    with pytest.raises(RuntimeError, match="equal size"):
        default_collate([np.ones(2), np.ones(3)])


def test_collate_tensors():
    out = default_collate([lampion.arange(2), lampion.arange(2)])
    assert out.tolist() == [[0, 1], [0, 1]]
    with pytest.raises(RuntimeError, match="equal size"):
        default_collate([lampion.arange(2), lampion.arange(3)])


def test_collate_containers():
    out = default_collate([{"a": 1, "b": (2.0, "x")}, {"a": 3, "b": (4.0, "y")}])
    assert out["a"].tolist() == [1, 3]
    assert out["b"][0].tolist() == [2.0, 4.0] and out["b"][1] == ("x", "y")
    point = default_collate([Point(1, 2), Point(3, 4)])
    assert isinstance(point, Point) and point.y.tolist() == [2, 4]
    ordered = default_collate([collections.OrderedDict(a=1)])
    assert type(ordered) is collections.OrderedDict
    nested = default_collate([[1, [2]], [3, [4]]])
    assert nested[1][0].tolist() == [2, 4]
    with pytest.raises(RuntimeError, match="equal size"):
        default_collate([[1], [1, 2]])
    with pytest.raises(TypeError, match="found"):
        default_collate([object()])


def test_convert():
    data = default_convert({"a": np.arange(2), "b": (np.float32(1), "s"), "c": Point([1], None)})
    assert data["a"].tolist() == [0, 1]
    assert data["b"][0].item() == 1.0 and data["b"][1] == "s"
    assert isinstance(data["c"], Point) and data["c"].x == [1]
    frozen = np.arange(3)
    frozen.flags.writeable = False
    assert default_convert(frozen).tolist() == [0, 1, 2]
