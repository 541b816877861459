"""DataLoader: in-process, with workers, and when workers fail."""

import gc
import os
import signal
import time
import warnings

import numpy as np
import pytest

import lampion
from lampion.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    _transport,
    default_collate,
    get_worker_info,
)


class Squares(Dataset):
    def __init__(self, n=10):
        self.n = n

    def __getitem__(self, i):
        return i * i

    def __len__(self):
        return self.n


class Failing(Squares):
    """Misbehaves at index 5 in the given way."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def __getitem__(self, i):
        if i == 5:
            if self.how == "exit":
                os._exit(7)
            elif self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.how == "sleep":
                time.sleep(60)
            elif self.how == "key":
                raise KeyError("missing")
            elif self.how == "odd":
                raise Odd(1, 2)
            raise ValueError("five is bad")
        return i


class Odd(Exception):
    def __init__(self, a, b):
        super().__init__(a, b)


class Stream(IterableDataset):
    def __init__(self, n, split=True):
        self.n = n
        self.split = split

    def __iter__(self):
        info = get_worker_info()
        if info is None or not self.split:
            return iter(range(self.n))
        return iter(range(info.id, self.n, info.num_workers))


class Images(Dataset):
    """Large samples: payloads go through segments."""

    def __getitem__(self, i):
        return np.full((3, 64, 64), i, np.float32), {"label": i, "name": f"n{i}"}

    def __len__(self):
        return 12


class Facts(Dataset):
    """What a worker knows and draws."""

    def __getitem__(self, i):
        info = get_worker_info()
        return info.id, info.num_workers, info.seed, int(np.random.randint(1 << 30)), os.getpid()

    def __len__(self):
        return 8


def flat(loader):
    return [x for batch in loader for x in batch.tolist()]


def identity(batch):
    return batch


def test_batches():
    loader = DataLoader(Squares(), batch_size=4)
    assert [b.tolist() for b in loader] == [[0, 1, 4, 9], [16, 25, 36, 49], [64, 81]]
    assert len(loader) == 3
    assert len(DataLoader(Squares(), batch_size=4, drop_last=True)) == 2
    assert list(DataLoader(Squares(3), batch_size=None)) == [0, 1, 4]
    assert list(DataLoader(Squares(3), batch_size=2, collate_fn=identity)) == [[0, 1], [4]]


def test_shuffle_is_reproducible():
    orders = []
    for _ in range(2):
        generator = lampion.Generator()
        generator.manual_seed(5)
        loader = DataLoader(Squares(), 3, shuffle=True, generator=generator)
        orders.append((flat(loader), flat(loader)))
    assert orders[0] == orders[1]
    first, second = orders[0]
    assert first != second and sorted(first) == sorted(second) == [i * i for i in range(10)]


def test_tensor_dataset_rows_are_gathered():
    x = lampion.arange(12).reshape(6, 2)
    data = TensorDataset(x, lampion.arange(6))
    fast = list(DataLoader(data, 4))
    slow = list(DataLoader(data, 4, collate_fn=lambda batch: default_collate(batch)))
    assert len(fast) == len(slow) == 2
    for a, b in zip(fast, slow):
        assert type(a) is type(b) is list
        assert [t.tolist() for t in a] == [t.tolist() for t in b]
    part = next(iter(DataLoader(Subset(data, [5, 1]), 2)))
    assert part[1].tolist() == [5, 1]


def test_samplers_are_used():
    assert flat(DataLoader(Squares(), 2, sampler=[3, 1])) == [9, 1]
    batches = list(DataLoader(Squares(), batch_sampler=[[1, 2], [3]]))
    assert [b.tolist() for b in batches] == [[1, 4], [9]]


def test_streams():
    assert flat(DataLoader(Stream(5), 2)) == [0, 1, 2, 3, 4]
    assert flat(DataLoader(Stream(5), 2, drop_last=True)) == [0, 1, 2, 3]
    assert list(DataLoader(Stream(2), batch_size=None)) == [0, 1]
    with pytest.raises(TypeError):
        len(DataLoader(Stream(5)))


def test_streams_that_are_longer_than_promised():
    class Lying(Stream):
        def __len__(self):
            return 2

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(list(DataLoader(Lying(4)))) == 4
    assert len(caught) == 1 and "reported to be 2" in str(caught[0].message)


@pytest.mark.parametrize(
    "options",
    [
        {"num_workers": -1},
        {"timeout": -1},
        {"prefetch_factor": 2},
        {"num_workers": 1, "prefetch_factor": 0},
        {"persistent_workers": True},
        {"shuffle": True, "sampler": [1]},
        {"batch_sampler": [[1]], "batch_size": 2},
        {"batch_sampler": [[1]], "shuffle": True},
        {"batch_size": None, "drop_last": True},
        {"multiprocessing_context": "fork"},
        {"num_workers": 1, "multiprocessing_context": "teleport"},
        {"batch_size": 0},
    ],
)
def test_contradicting_options(options):
    with pytest.raises(ValueError):
        DataLoader(Squares(), **options)


def test_stream_options():
    for options in ({"shuffle": True}, {"sampler": [1]}, {"batch_sampler": [[1]]}):
        with pytest.raises(ValueError, match="IterableDataset"):
            DataLoader(Stream(3), **options)


def test_frozen_attributes():
    loader = DataLoader(Squares())
    with pytest.raises(ValueError, match="batch_size"):
        loader.batch_size = 3
    loader.collate_fn = identity


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_keep_order(context):
    # a dataset whose class any process can import, wherever this file is
    data = TensorDataset(lampion.arange(23) * 2)
    loader = DataLoader(data, 4, num_workers=2, multiprocessing_context=context)
    assert [x for (batch,) in loader for x in batch.tolist()] == [2 * i for i in range(23)]


def test_workers_send_large_and_nested_batches():
    batches = list(DataLoader(Images(), 5, num_workers=2))
    assert [tuple(x.shape) for x, _ in batches] == [(5, 3, 64, 64)] * 2 + [(2, 3, 64, 64)]
    for i, (x, info) in enumerate(batches):
        assert x.dtype == lampion.float32
        expected = list(range(5 * i, 5 * i + x.shape[0]))
        assert x[:, 0, 0, 0].tolist() == expected == info["label"].tolist()
        assert info["name"] == [f"n{k}" for k in expected]
        x.add_(1.0)  # memory is writable and not shared with another batch
    assert batches[0][0][0, 0, 0, 0].item() == 1.0


def test_segments_are_used_again_only_when_nobody_looks():
    loader = DataLoader(Images(), 2, num_workers=1, persistent_workers=True)
    pieces = []
    for x, info in loader:
        pieces.append((x[1, 1, :2, :2], info["label"][1].item()))
        del x
    for piece, label in pieces:
        assert piece.tolist() == [[label] * 2] * 2
    (worker,) = loader._iterator.workers
    assert len(worker.receiver.mapped) == len(pieces) == 6
    del piece, pieces
    gc.collect()
    for _ in range(4):
        for x, info in loader:
            assert x[:, 2, 5, 5].tolist() == info["label"].tolist()
    assert len(worker.receiver.mapped) <= 6
    assert os.listdir(loader._iterator._finalizer.peek()[2][1]) == []


def test_segments_are_removed():
    loader = DataLoader(Images(), 4, num_workers=1, persistent_workers=True)
    kept = list(loader)
    directory = loader._iterator._finalizer.peek()[2][1]
    assert os.path.isdir(directory) and os.listdir(directory) == []
    del loader
    gc.collect()
    assert not os.path.exists(directory)
    assert kept[0][0].sum().item() == sum(range(4)) * 3 * 64 * 64


def test_a_full_memory_file_system_is_survived(monkeypatch):
    def no_room(file, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_transport, "_write_all", no_room)
    loader = DataLoader(Images(), 4, num_workers=1, multiprocessing_context="fork")
    assert [x.shape[0] for x, _ in loader] == [4, 4, 4]


def test_in_any_order():
    loader = DataLoader(Squares(20), 2, num_workers=3, in_order=False)
    assert sorted(flat(loader)) == [i * i for i in range(20)]


def test_worker_streams():
    loader = DataLoader(Stream(11), 2, num_workers=2)
    assert sorted(flat(loader)) == list(range(11))
    doubled = DataLoader(Stream(3, split=False), 2, num_workers=2)
    assert sorted(flat(doubled)) == [0, 0, 1, 1, 2, 2]


def test_worker_info_and_seeds():
    assert get_worker_info() is None
    columns = list(zip(*DataLoader(Facts(), 1, num_workers=2)))
    ids, totals, seeds, draws, pids = [[int(t) for t in c] for c in columns]
    assert ids == [0, 1] * 4 and set(totals) == {2}
    assert len(set(seeds)) == 2 and len(set(pids)) == 2
    assert max(seeds) - min(seeds) == 1
    assert len(set(draws)) == 8


def test_persistent_workers_stay():
    loader = DataLoader(Facts(), 1, num_workers=2, persistent_workers=True)
    pids = [{int(b[4]) for b in loader} for _ in range(3)]
    assert pids[0] == pids[1] == pids[2] and len(pids[0]) == 2
    next(iter(loader))  # abandon a pass in the middle
    assert len(list(loader)) == 8
    streams = DataLoader(Stream(6), 2, num_workers=2, persistent_workers=True)
    assert [sorted(flat(streams)) for _ in range(2)] == [list(range(6))] * 2


def test_worker_init_fn():
    def init(worker):
        get_worker_info().dataset.n = 100 + worker

    class Sized(Squares):
        def __getitem__(self, i):
            return self.n

    loader = DataLoader(
        Sized(4), 1, num_workers=2, worker_init_fn=init, multiprocessing_context="fork"
    )
    assert flat(loader) == [100, 101, 100, 101]


@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        ("raise", ValueError, "five is bad"),
        ("key", KeyError, "missing"),
        ("odd", RuntimeError, "Odd"),
    ],
)
def test_exceptions_come_with_their_traceback(how, kind, text):
    loader = DataLoader(Failing(how), 1, num_workers=2)
    with pytest.raises(kind) as caught:
        list(loader)
    message = str(caught.value)
    assert "DataLoader worker process" in message and "Traceback" in message and text in message
    assert "__getitem__" in message


def test_failing_init_fn():
    def init(worker):
        raise ValueError("no start")

    with pytest.raises(ValueError, match="no start"):
        list(DataLoader(Squares(), num_workers=1, worker_init_fn=init,
                        multiprocessing_context="fork"))  # fmt: skip


def test_unpicklable_batch():
    loader = DataLoader(
        Squares(), 2, num_workers=1, collate_fn=lambda b: (lambda: b),
        multiprocessing_context="fork",
    )  # fmt: skip
    with pytest.raises(Exception, match="(?s)pickle.*Traceback|Traceback.*pickle"):
        list(loader)


@pytest.mark.parametrize(
    ("how", "text"), [("exit", "exit code 7"), ("kill", r"exit code -9 \(killed by SIGKILL\)")]
)
def test_dead_workers_are_reported(how, text):
    loader = DataLoader(Failing(how), 1, num_workers=2)
    with pytest.raises(RuntimeError, match=text):
        list(loader)


def test_timeout():
    loader = DataLoader(Failing("sleep"), 1, num_workers=1, timeout=0.5)
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="timed out after 0.5"):
        list(loader)
    assert time.monotonic() - start < 20


def test_abandoned_pass_ends_its_workers():
    iterator = iter(DataLoader(Facts(), 1, num_workers=2))
    pid = int(next(iterator)[4])
    os.kill(pid, 0)
    del iterator
    gc.collect()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_non_leaf_tensors_are_refused():
    def collate(batch):
        return lampion.ones(2).requires_grad_(True) * 2

    loader = DataLoader(
        Squares(), num_workers=1, collate_fn=collate, multiprocessing_context="fork"
    )
    with pytest.raises(RuntimeError, match="detach"):
        list(loader)
