"""Collectives: what the processes of a group do together.

Tensors travel as bytes through the host, whatever device they are on. Contributions are combined in
the order of ranks, by one process for each part of a tensor, so that all have the same bits. With
`async_op=True` a call gives a `Work` to wait for. Floor 7; imports the tensor and groups.
"""

from __future__ import annotations

import enum
import pickle
import threading
from collections.abc import Callable, Sequence
from typing import Any

import lampion

from ..autograd.modes import no_grad
from ..futures import Future
from ..tensor import Tensor
from .groups import ProcessGroup, _outside, _the


class ReduceOp(enum.Enum):
    """How the contributions are combined."""

    SUM = 0
    AVG = 1
    PRODUCT = 2
    MIN = 3
    MAX = 4
    BAND = 5
    BOR = 6
    BXOR = 7


ReduceOp.RedOpType = ReduceOp  # type: ignore[attr-defined]
reduce_op = ReduceOp
_COMBINE: dict[ReduceOp, Callable[[Tensor, Tensor], Tensor]] = {
    ReduceOp.SUM: lampion.add, ReduceOp.AVG: lampion.add, ReduceOp.PRODUCT: lampion.mul,
    ReduceOp.MIN: lampion.minimum, ReduceOp.MAX: lampion.maximum,
    ReduceOp.BAND: lampion.bitwise_and, ReduceOp.BOR: lampion.bitwise_or,
    ReduceOp.BXOR: lampion.bitwise_xor}


def supports_complex(reduceOp: ReduceOp) -> bool:
    """Whether complex numbers are combined this way."""
    return reduceOp in (ReduceOp.SUM, ReduceOp.AVG, ReduceOp.PRODUCT)


class Work:
    """A collective that was begun."""

    def __init__(self, result: Sequence[Tensor] = (), run: Callable[[], Any] | None = None) -> None:
        self._result, self._error = list(result), None
        self._done = threading.Event()
        self._source = -1
        self._future: Future[Any] = Future()
        if run is None:
            self._finish(None)
        else:
            threading.Thread(target=self._begin, args=(run,), daemon=True,
                             name="lampion collective").start()

    def _begin(self, run: Callable[[], Any]) -> None:
        try:
            found = run()
        except BaseException as error:
            self._finish(error)
        else:
            self._source = found if isinstance(found, int) else -1
            self._finish(None)

    def _finish(self, error: Any) -> None:
        self._error = error
        if error is None:
            self._future.set_result(self._result)
        else:
            self._future.set_exception(error)
        self._done.set()

    def wait(self, timeout: Any = None) -> bool:
        """Wait until it is done; raises what went wrong."""
        limit = None if timeout is None else timeout.total_seconds()
        if not self._done.wait(limit or None):
            raise RuntimeError(f"Work.wait: not done within {limit:g} s")
        if self._error is not None:
            raise self._error
        return True

    def is_completed(self) -> bool:
        """Whether it is done."""
        return self._done.is_set()

    def is_success(self) -> bool:
        """Whether it is done and nothing went wrong."""
        return self._done.is_set() and self._error is None

    def exception(self) -> Any:
        """What went wrong, or None."""
        return self._error

    def source_rank(self) -> int:
        """Who sent what was received."""
        return self._source

    def get_future(self) -> Future[Any]:
        """A future of the tensors that are written."""
        return self._future

    def result(self) -> list[Tensor]:
        """The tensors that were written."""
        return self._result


# ---- tensors as bytes

def _packed(t: Tensor) -> Any:
    """The elements as bytes."""
    flat = t.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(lampion.uint8).numpy()) if flat.numel() else b""


def _unpacked(body: bytearray, like: Tensor, shape: Any = None) -> Tensor:
    """Elements of the dtype and on the device of `like`."""
    shape = like.shape if shape is None else shape
    if not body:
        return lampion.empty(shape, dtype=like.dtype, device=like.device)
    flat = lampion.frombuffer(body, dtype=lampion.uint8).view(like.dtype)
    return flat.view(shape).to(like.device)


def combined(parts: list[Tensor], op: ReduceOp) -> Tensor:
    """Contributions in the order of ranks as one tensor."""
    op = op if isinstance(op, ReduceOp) else ReduceOp(getattr(op, "value", op))
    if parts[0].is_complex() and not supports_complex(op):
        raise ValueError(f"{op} does not support complex tensors")
    total = parts[0]
    for part in parts[1:]:
        total = _COMBINE[op](total, part)
    if op is ReduceOp.AVG:
        total = total / len(parts) if total.is_floating_point() or total.is_complex() else (
            lampion.div(total, len(parts), rounding_mode="trunc"))
    return total


def _write(name: str, to: Any, source: Tensor) -> None:
    if to.shape.numel() != source.shape.numel() or to.dtype != source.dtype:
        raise ValueError(f"{name}: the output is {to.dtype} of shape {tuple(to.shape)}, the input "
                         f"{source.dtype} of shape {tuple(source.shape)}")
    with no_grad():
        to.copy_(source.reshape(to.shape))


# ---- checks

def _member(name: str, group: ProcessGroup | None) -> ProcessGroup | None:
    """The group, or None where this process is not in it."""
    return None if _outside(group) else _the(group)


def _place(name: str, pg: ProcessGroup, rank: int | None, place: int | None) -> int:
    """A place in the group, given as a rank of the world or as a place; 0 by default."""
    if rank is not None and place is not None:
        raise ValueError(f"{name}: give the rank in the world or the place in the group, not both")
    if place is None:
        rank = pg.ranks[0] if rank is None else rank
        if rank not in pg.ranks:
            raise ValueError(f"{name}: there is no rank {rank} in a group of {pg.size()} process"
                             f"{'es' * (pg.size() != 1)}")
        return pg.ranks.index(rank)
    if not 0 <= place < pg.size():
        raise ValueError(f"{name}: there is no place {place} in a group of {pg.size()} process"
                         f"{'es' * (pg.size() != 1)}")
    return place


def _tensor(name: str, tensor: Any, what: str = "tensor") -> Tensor:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: `{what}` must be a Tensor, not {type(tensor).__name__}")
    return tensor


def _list(name: str, items: Any, what: str, size: int, tensors: bool = True) -> Any:
    """A list with a place for every process."""
    if not isinstance(items, list | tuple):
        raise TypeError(f"{name}: `{what}` must be a list, not {type(items).__name__}")
    if len(items) != size:
        raise ValueError(f"{name}: `{what}` has {len(items)} entries for {size} process"
                         f"{'es' * (size != 1)}")
    return [_tensor(name, t, what) for t in items] if tensors else items


def _run(work: Callable[[], Any], async_op: bool, *result: Tensor) -> Work | None:
    if async_op:
        return Work(result, work)
    work()
    return None


# ---- exchanges that the collectives are made of; each has a tag of its own

def _exchange(pg: ProcessGroup, tag: str, bodies: list[Any]) -> list[bytearray]:
    """Send one message to every place, and take one from each, in the order of places."""
    for place, body in enumerate(bodies):
        pg.send(place, tag, body)
    return [pg.receive(place, tag) for place in range(pg.size())]


def _reduce_scatter(pg: ProcessGroup, tag: str, parts: list[Tensor], op: ReduceOp) -> Tensor:
    """Part k of all processes, combined, at place k."""
    mine = parts[pg.rank()]
    if pg.size() == 1:
        return combined(parts, op)
    got = _exchange(pg, tag, [_packed(p) for p in parts])
    return combined([_unpacked(b, mine) for b in got], op)


def _all_gather(pg: ProcessGroup, tag: str, mine: Tensor, shapes: list[Any]) -> list[Tensor]:
    """The tensors of all processes."""
    if pg.size() == 1:
        return [mine]
    got = _exchange(pg, tag, [_packed(mine)] * pg.size())
    return [_unpacked(b, mine, s) for b, s in zip(got, shapes)]


def reduced(pg: ProcessGroup, tag: str, tensor: Tensor, op: ReduceOp) -> Tensor:
    """All contributions combined: each process combines a part, and sends it to all."""
    flat = tensor.detach().reshape(-1)
    parts = list(flat.tensor_split(pg.size()))
    mine = _reduce_scatter(pg, f"{tag} parts", parts, op)
    return lampion.cat(_all_gather(pg, tag, mine, [p.shape for p in parts])).view(tensor.shape)


# ---- the collectives

def all_reduce(tensor: Tensor, op: ReduceOp = ReduceOp.SUM, group: ProcessGroup | None = None,
               async_op: bool = False) -> Work | None:
    """Combine `tensor` over the group, in place.

    >>> lampion.distributed.init_process_group(world_size=1, rank=0)
    >>> lampion.distributed.all_reduce(lampion.ones(2))
    >>> lampion.distributed.destroy_process_group()
    """
    return all_reduce_coalesced([_tensor("all_reduce", tensor)], op, group, async_op)


def all_reduce_coalesced(tensors: Sequence[Tensor], op: ReduceOp = ReduceOp.SUM,
                         group: ProcessGroup | None = None, async_op: bool = False) -> Work | None:
    """`all_reduce` of several tensors."""
    pg = _member("all_reduce_coalesced", group)
    if pg is None:
        return None
    tensors = [_tensor("all_reduce_coalesced", t) for t in tensors]
    tag = pg.tag("all_reduce")

    def work() -> None:
        for k, t in enumerate(tensors):
            if pg.size() > 1:
                _write("all_reduce", t, reduced(pg, f"{tag} {k}", t, op))
            else:
                combined([t], op)  # which checks the kind

    return _run(work, async_op, *tensors)


def reduce(tensor: Tensor, dst: int | None = None, op: ReduceOp = ReduceOp.SUM,
           group: ProcessGroup | None = None, async_op: bool = False,
           group_dst: int | None = None) -> Work | None:
    """Combine `tensor` over the group, in place, on the process `dst`."""
    pg = _member("reduce", group)
    if pg is None:
        return None
    to, tensor, tag = _place("reduce", pg, dst, group_dst), _tensor("reduce", tensor), pg.tag(
        "reduce")

    def work() -> None:
        pg.send(to, tag, _packed(tensor))
        if pg.rank() == to:
            parts = [_unpacked(pg.receive(k, tag), tensor) for k in range(pg.size())]
            _write("reduce", tensor, combined(parts, op))

    return _run(work, async_op, tensor)


def broadcast(tensor: Tensor, src: int | None = None, group: ProcessGroup | None = None,
              async_op: bool = False, group_src: int | None = None) -> Work | None:
    """Give every process the `tensor` of the process `src`, in place."""
    pg = _member("broadcast", group)
    if pg is None:
        return None
    source, tensor = _place("broadcast", pg, src, group_src), _tensor("broadcast", tensor)
    tag = pg.tag("broadcast")

    def work() -> None:
        if pg.rank() != source:
            _write("broadcast", tensor, _unpacked(pg.receive(source, tag), tensor))
        elif pg.size() > 1:
            body = _packed(tensor)
            for k in range(pg.size()):
                if k != source:
                    pg.send(k, tag, body)

    return _run(work, async_op, tensor)


def all_gather(tensor_list: list[Tensor], tensor: Tensor, group: ProcessGroup | None = None,
               async_op: bool = False) -> Work | None:
    """Write the `tensor` of every process into `tensor_list`."""
    pg = _member("all_gather", group)
    if pg is None:
        return None
    to = _list("all_gather", tensor_list, "tensor_list", pg.size())
    tensor, tag = _tensor("all_gather", tensor), pg.tag("all_gather")

    def work() -> None:
        for a, b in zip(to, _all_gather(pg, tag, tensor, [t.shape for t in to])):
            _write("all_gather", a, b)

    return _run(work, async_op, *to)


def all_gather_coalesced(output_tensor_lists: list[list[Tensor]], input_tensor_list: list[Tensor],
                         group: ProcessGroup | None = None, async_op: bool = False) -> Work | None:
    """`all_gather` of several tensors: `output_tensor_lists[k]` are those of process k."""
    pg = _member("all_gather_coalesced", group)
    if pg is None:
        return None
    works = [all_gather([row[n] for row in output_tensor_lists], t, group, True)
             for n, t in enumerate(input_tensor_list)]

    def work() -> None:
        for w in works:
            assert w is not None
            w.wait()

    return _run(work, async_op, *[t for row in output_tensor_lists for t in row])


def all_gather_into_tensor(output_tensor: Tensor, input_tensor: Tensor,
                           group: ProcessGroup | None = None,
                           async_op: bool = False) -> Work | None:
    """Write the tensors of all processes, one after the other or stacked, into `output_tensor`."""
    pg = _member("all_gather_into_tensor", group)
    if pg is None:
        return None
    to, source = _tensor("all_gather_into_tensor", output_tensor, "output"), _tensor(
        "all_gather_into_tensor", input_tensor, "input")
    tag = pg.tag("all_gather")

    def work() -> None:
        got = _all_gather(pg, tag, source, [source.shape] * pg.size())
        _write("all_gather_into_tensor", to, lampion.cat([t.reshape(-1) for t in got]))

    return _run(work, async_op, to)


def _send_object(pg: ProcessGroup, place: int, tag: str, obj: Any) -> None:
    pg.send(place, tag, pickle.dumps(obj))


def _receive_object(pg: ProcessGroup, place: int, tag: str) -> Any:
    """An object that a process of the group sent; it is unpickled, so the group must be trusted."""
    return pickle.loads(pg.receive(place, tag))


def all_gather_object(object_list: list[Any], obj: Any,
                      group: ProcessGroup | None = None) -> None:
    """Write the object of every process into `object_list`. Objects are pickled."""
    pg = _member("all_gather_object", group)
    if pg is None:
        return
    to = _list("all_gather_object", object_list, "object_list", pg.size(), tensors=False)
    tag = pg.tag("all_gather_object")
    if pg.size() == 1:
        to[0] = obj
        return
    body = pickle.dumps(obj)
    to[:] = [pickle.loads(b) for b in _exchange(pg, tag, [body] * pg.size())]


def gather(tensor: Tensor, gather_list: list[Tensor] | None = None, dst: int | None = None,
           group: ProcessGroup | None = None, async_op: bool = False,
           group_dst: int | None = None) -> Work | None:
    """Write the `tensor` of every process into `gather_list` on the process `dst`."""
    pg = _member("gather", group)
    if pg is None:
        return None
    at, tensor, tag = _place("gather", pg, dst, group_dst), _tensor("gather", tensor), pg.tag(
        "gather")
    if pg.rank() != at and gather_list:
        raise ValueError("gather: `gather_list` is given on the process `dst` only")
    to = _list("gather", gather_list, "gather_list", pg.size()) if pg.rank() == at else []

    def work() -> None:
        pg.send(at, tag, _packed(tensor))
        for k, t in enumerate(to):
            _write("gather", t, _unpacked(pg.receive(k, tag), tensor, t.shape))

    return _run(work, async_op, *to)


def gather_object(obj: Any, object_gather_list: list[Any] | None = None, dst: int | None = None,
                  group: ProcessGroup | None = None, group_dst: int | None = None) -> None:
    """Write the object of every process into `object_gather_list` on the process `dst`."""
    pg = _member("gather_object", group)
    if pg is None:
        return
    at, tag = _place("gather_object", pg, dst, group_dst), pg.tag("gather_object")
    if pg.rank() != at:
        _send_object(pg, at, tag, obj)
        return
    to = _list("gather_object", object_gather_list, "object_gather_list", pg.size(), tensors=False)
    to[:] = [obj if k == at else _receive_object(pg, k, tag) for k in range(pg.size())]


def scatter(tensor: Tensor, scatter_list: list[Tensor] | None = None, src: int | None = None,
            group: ProcessGroup | None = None, async_op: bool = False,
            group_src: int | None = None) -> Work | None:
    """Write to `tensor` this process's entry of the `scatter_list` of the process `src`."""
    pg = _member("scatter", group)
    if pg is None:
        return None
    at, tensor, tag = _place("scatter", pg, src, group_src), _tensor("scatter", tensor), pg.tag(
        "scatter")
    if pg.rank() != at and scatter_list:
        raise ValueError("scatter: `scatter_list` is given on the process `src` only")
    given = _list("scatter", scatter_list, "scatter_list", pg.size()) if pg.rank() == at else []

    def work() -> None:
        for k, t in enumerate(given):
            pg.send(k, tag, _packed(t))
        _write("scatter", tensor, given[at] if given else _unpacked(pg.receive(at, tag), tensor))

    return _run(work, async_op, tensor)


def scatter_object_list(scatter_object_output_list: list[Any],
                        scatter_object_input_list: list[Any] | None = None,
                        src: int | None = None, group: ProcessGroup | None = None,
                        group_src: int | None = None) -> None:
    """Write to the first place of the output list this process's entry of the input list."""
    pg = _member("scatter_object_list", group)
    if pg is None:
        return
    at, tag = _place("scatter_object_list", pg, src, group_src), pg.tag("scatter_object")
    if not isinstance(scatter_object_output_list, list) or not scatter_object_output_list:
        raise ValueError("scatter_object_list: `scatter_object_output_list` must be a list with at "
                         "least one entry")
    if pg.rank() == at:
        given = _list("scatter_object_list", scatter_object_input_list,
                      "scatter_object_input_list", pg.size(), tensors=False)
        for k, obj in enumerate(given):
            if k != at:
                _send_object(pg, k, tag, obj)
        scatter_object_output_list[0] = given[at]
    else:
        scatter_object_output_list[0] = _receive_object(pg, at, tag)


def broadcast_object_list(object_list: list[Any], src: int | None = None,
                          group: ProcessGroup | None = None, device: Any = None,
                          group_src: int | None = None) -> None:
    """Give every process the objects of the process `src`, in place. Objects are pickled."""
    pg = _member("broadcast_object_list", group)
    if pg is None:
        return
    at, tag = _place("broadcast_object_list", pg, src, group_src), pg.tag("broadcast_object")
    if pg.rank() != at:
        object_list[:] = _receive_object(pg, at, tag)
        return
    for k in range(pg.size()):
        if k != at:
            _send_object(pg, k, tag, list(object_list))


def reduce_scatter(output: Tensor, input_list: list[Tensor], op: ReduceOp = ReduceOp.SUM,
                   group: ProcessGroup | None = None, async_op: bool = False) -> Work | None:
    """Combine lists of tensors over the group; `output` is this process's entry."""
    pg = _member("reduce_scatter", group)
    if pg is None:
        return None
    parts = _list("reduce_scatter", input_list, "input_list", pg.size())
    output, tag = _tensor("reduce_scatter", output, "output"), pg.tag("reduce_scatter")
    return _run(lambda: _write("reduce_scatter", output, _reduce_scatter(pg, tag, parts, op)),
                async_op, output)


def reduce_scatter_tensor(output: Tensor, input: Tensor, op: ReduceOp = ReduceOp.SUM,
                          group: ProcessGroup | None = None,
                          async_op: bool = False) -> Work | None:
    """Combine tensors over the group; `output` is this process's part of them."""
    pg = _member("reduce_scatter_tensor", group)
    if pg is None:
        return None
    flat = _tensor("reduce_scatter_tensor", input, "input").reshape(-1)
    if flat.shape[0] % pg.size():
        raise ValueError(f"reduce_scatter_tensor: {flat.shape[0]} elements for {pg.size()} "
                         "processes")
    return reduce_scatter(output, list(flat.chunk(pg.size())) if flat.shape[0] else
                          [flat] * pg.size(), op, group, async_op)


def all_to_all(output_tensor_list: list[Tensor], input_tensor_list: list[Tensor],
               group: ProcessGroup | None = None, async_op: bool = False) -> Work | None:
    """Send one tensor to every process and receive one from each."""
    pg = _member("all_to_all", group)
    if pg is None:
        return None
    to = _list("all_to_all", output_tensor_list, "output_tensor_list", pg.size())
    given = _list("all_to_all", input_tensor_list, "input_tensor_list", pg.size())
    tag = pg.tag("all_to_all")

    def work() -> None:
        for t, body in zip(to, _exchange(pg, tag, [_packed(g) for g in given])):
            _write("all_to_all", t, _unpacked(body, t))

    return _run(work, async_op, *to)


def all_to_all_single(output: Tensor, input: Tensor, output_split_sizes: list[int] | None = None,
                      input_split_sizes: list[int] | None = None,
                      group: ProcessGroup | None = None, async_op: bool = False) -> Work | None:
    """Send a part of `input` to every process and receive the parts of `output`."""
    pg = _member("all_to_all_single", group)
    if pg is None:
        return None
    cut = []
    for tensor, sizes in ((output, output_split_sizes), (input, input_split_sizes)):
        rows, n = tensor.shape[0], pg.size()
        sizes = list(sizes) if sizes else [rows // n] * n
        if len(sizes) != n or sum(sizes) != rows:
            raise ValueError(f"all_to_all_single: split sizes {sizes} of a tensor with {rows} "
                             f"rows for {n} process{'es' * (n != 1)}")
        cut.append(list(tensor.detach().split(sizes)))
    return all_to_all(*cut, group=group, async_op=async_op)


def barrier(group: ProcessGroup | None = None, async_op: bool = False,
            device_ids: list[int] | None = None) -> Work | None:
    """Wait for all processes of the group."""
    pg = _member("barrier", group)
    if pg is None:
        return None
    tag = pg.tag("barrier")
    return _run(lambda: _exchange(pg, tag, [b""] * pg.size()), async_op)


def monitored_barrier(group: ProcessGroup | None = None, timeout: Any = None,
                      wait_all_ranks: bool = False) -> None:
    """`barrier`; the error names a process that is missing."""
    barrier(group)


# ---- from one process to another

def _tagged(pg: ProcessGroup, tag: int) -> str:
    return f"{pg.group_name}.p{tag}/send and recv"


def send(tensor: Tensor, dst: int | None = None, group: ProcessGroup | None = None, tag: int = 0,
         group_dst: int | None = None) -> None:
    """Send a tensor to a process. ValueError for this process itself."""
    pg = _member("send", group)
    if pg is None:
        return
    to = _place("send", pg, dst, group_dst)
    if to == pg.rank():
        raise ValueError("send: Invalid destination rank: destination rank should not be the same "
                         "as the rank of the current process.")
    pg.send(to, _tagged(pg, tag), _packed(_tensor("send", tensor)))


def recv(tensor: Tensor, src: int | None = None, group: ProcessGroup | None = None, tag: int = 0,
         group_src: int | None = None) -> int:
    """Receive a tensor, in place, from a process or from any; the rank of who sent it."""
    pg = _member("recv", group)
    if pg is None:
        return -1
    _tensor("recv", tensor)
    if src is None and group_src is None:
        others = tuple(r for r in pg.ranks if r != pg.wires.rank)
    else:
        others = (pg.ranks[_place("recv", pg, src, group_src)],)
    if not others or others == (pg.wires.rank,):
        raise ValueError("recv: there is no other process that could send")
    who, body = pg.wires.receive_any(others, _tagged(pg, tag))
    _write("recv", tensor, _unpacked(body, tensor))
    return who


def isend(tensor: Tensor, dst: int | None = None, group: ProcessGroup | None = None, tag: int = 0,
          group_dst: int | None = None) -> Work | None:
    """`send` that is waited for later; the tensor must not be written to before."""
    return None if _outside(group) else Work(
        [tensor], lambda: send(tensor, dst, group, tag, group_dst))


def irecv(tensor: Tensor, src: int | None = None, group: ProcessGroup | None = None, tag: int = 0,
          group_src: int | None = None) -> Work | None:
    """`recv` that is waited for later."""
    return None if _outside(group) else Work(
        [tensor], lambda: recv(tensor, src, group, tag, group_src))


class P2POp:
    """An `isend` or `irecv` for `batch_isend_irecv`."""

    def __init__(self, op: Any, tensor: Tensor, peer: int | None = None,
                 group: ProcessGroup | None = None, tag: int = 0,
                 group_peer: int | None = None) -> None:
        if op not in (isend, irecv):
            raise ValueError("Invalid ``op``. Expected ``op`` to be of type isend or irecv.")
        _tensor("P2POp", tensor)
        self.op, self.tensor, self.group, self.tag = op, tensor, group, tag
        self.group_peer = _place("P2POp", _the(group), peer, group_peer)
        self.peer = _the(group).ranks[self.group_peer]


def batch_isend_irecv(p2p_op_list: list[P2POp]) -> list[Work]:
    """Begin several sends and receives; what to wait for."""
    if not p2p_op_list or not all(isinstance(p, P2POp) for p in p2p_op_list):
        raise ValueError("p2p_op_list must be a list of P2POp with at least one entry")
    works = [p.op(p.tensor, p.peer, p.group, p.tag) for p in p2p_op_list]
    return [w for w in works if w is not None]


def send_object_list(object_list: list[Any], dst: int | None = None,
                     group: ProcessGroup | None = None, device: Any = None,
                     group_dst: int | None = None, use_batch: bool = False) -> None:
    """Send objects to a process. They are pickled."""
    pg = _member("send_object_list", group)
    if pg is not None:
        _send_object(pg, _place("send_object_list", pg, dst, group_dst), _tagged(pg, -1),
                     list(object_list))


def recv_object_list(object_list: list[Any], src: int | None = None,
                     group: ProcessGroup | None = None, device: Any = None,
                     group_src: int | None = None, use_batch: bool = False) -> int:
    """Receive objects, in place, from a process or from any; the rank of who sent them."""
    pg = _member("recv_object_list", group)
    if pg is None:
        return -1
    others = tuple(r for r in pg.ranks if r != pg.wires.rank) if (
        src is None and group_src is None) else (
        pg.ranks[_place("recv_object_list", pg, src, group_src)],)
    who, body = pg.wires.receive_any(others, _tagged(pg, -1))
    object_list[:] = pickle.loads(body)
    return who


all_gather_single = all_gather_into_tensor  # later names of the same
reduce_scatter_single = reduce_scatter_tensor
