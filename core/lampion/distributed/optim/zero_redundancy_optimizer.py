"""`ZeroRedundancyOptimizer`: each process updates its share of the parameters, and keeps the state
of these only.

Floor 7; imports optim and the collectives.
"""

from __future__ import annotations

from typing import Any

from ...autograd.modes import no_grad
from ...optim.optimizer import Optimizer
from .. import collectives
from ..algorithms.join import Joinable, JoinHook
from ..groups import _the


class ZeroRedundancyOptimizer(Optimizer, Joinable):
    """An optimizer of a class, `optimizer_class(params, **defaults)`, whose state is shared out: a
    process updates the parameters that are its own and sends them to the others. Gradients must be
    the same in all processes, as `DistributedDataParallel` makes them. NotImplementedError for
    `overlap_with_ddp`."""

    def __init__(self, params: Any, optimizer_class: type[Optimizer], process_group: Any = None,
                 parameters_as_bucket_view: bool = False, overlap_with_ddp: bool = False,
                 **defaults: Any) -> None:
        if overlap_with_ddp:
            raise NotImplementedError("ZeroRedundancyOptimizer: overlap_with_ddp is not in lampion")
        self.process_group = _the(process_group)
        self._class, self._defaults = optimizer_class, defaults
        self.optim: Optimizer | None = None
        Optimizer.__init__(self, params, dict(defaults))
        Joinable.__init__(self)
        self._share_out()

    def _share_out(self) -> None:
        """Deal the parameters out, the largest first, each to the process that has least."""
        sizes = [0] * self.process_group.size()
        self._owner: dict[int, int] = {}
        every = [p for group in self.param_groups for p in group["params"]]
        for p in sorted(every, key=lambda p: -p.numel()):
            owner = sizes.index(min(sizes))
            self._owner[id(p)] = owner
            sizes[owner] += p.numel()
        mine = [{**group, "params": [p for p in group["params"]
                                     if self._owner[id(p)] == self.process_group.rank()]}
                for group in self.param_groups]
        self.optim = self._class(mine, **self._defaults)

    def step(self, closure: Any = None, **kwargs: Any) -> Any:
        """Update this process's parameters, and take over those of the others."""
        assert self.optim is not None
        for group, local in zip(self.param_groups, self.optim.param_groups):
            local.update({k: v for k, v in group.items() if k != "params"})
        loss = self.optim.step(closure, **kwargs)
        for group, local in zip(self.param_groups, self.optim.param_groups):
            group.update({k: v for k, v in local.items() if k != "params"})
        if self.process_group.size() > 1:
            with no_grad():
                for group in self.param_groups:
                    for p in group["params"]:
                        collectives.broadcast(p, group=self.process_group,
                                              group_src=self._owner[id(p)])
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """More parameters; all are dealt out again, so that it must be done before the first
        step."""
        Optimizer.add_param_group(self, param_group)
        if self.optim is not None:
            if self.optim.state:
                raise RuntimeError("ZeroRedundancyOptimizer: parameters are added before the first "
                                   "step")
            self._share_out()

    def consolidate_state_dict(self, to: int = 0) -> None:
        """Collect the state of all processes in one, before `state_dict()` there."""
        assert self.optim is not None
        found: list[Any] = [None] * self.process_group.size()
        mine = {n: self.optim.state[p] for n, p in self._numbered() if p in self.optim.state}
        collectives.all_gather_object(found, mine, self.process_group)
        self._collected = {n: s for part in found for n, s in part.items()} if (
            self.process_group.rank() == to) else None

    def _numbered(self) -> list[tuple[int, Any]]:
        return list(enumerate(p for group in self.param_groups for p in group["params"]))

    def state_dict(self) -> dict[str, Any]:
        """The state of all parameters. RuntimeError unless it was collected in this process."""
        if self.process_group.size() == 1:
            self.consolidate_state_dict()
        collected = self.__dict__.get("_collected")
        if collected is None:
            raise RuntimeError("Optimizer state has not been consolidated on this rank. Please "
                               "call `consolidate_state_dict(to=...)` on all ranks beforehand")
        numbers = iter(range(len(self._numbered())))
        groups = [{**{k: v for k, v in g.items() if k != "params"},
                   "params": [next(numbers) for _ in g["params"]]} for g in self.param_groups]
        return {"state": collected, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of all parameters; this process keeps that of its own."""
        assert self.optim is not None
        mine = {id(p) for g in self.optim.param_groups for p in g["params"]}
        order = [n for n, p in self._numbered() if id(p) in mine]
        place = {n: k for k, n in enumerate(order)}
        groups, count = [], 0
        for given, group, local in zip(state_dict["param_groups"], self.param_groups,
                                       self.optim.param_groups):
            options = {k: v for k, v in given.items() if k != "params"}
            group.update(options)
            numbers = list(range(count, count + len(local["params"])))
            count += len(numbers)
            groups.append({**options, "params": numbers})
        state = {place[n]: s for n, s in state_dict["state"].items() if n in place}
        self.optim.load_state_dict({"state": state, "param_groups": groups})

    # ---- uneven inputs

    def join_hook(self, **kwargs: Any) -> JoinHook:
        """A process that is done goes on taking steps with the others."""
        return _Steps(self)

    @property
    def join_device(self) -> Any:
        """Where the parameters are."""
        return self.param_groups[0]["params"][0].device

    @property
    def join_process_group(self) -> Any:
        """The group."""
        return self.process_group


class _Steps(JoinHook):
    def __init__(self, optimizer: ZeroRedundancyOptimizer) -> None:
        self.optimizer = optimizer

    def main_hook(self) -> None:
        self.optimizer.step()
