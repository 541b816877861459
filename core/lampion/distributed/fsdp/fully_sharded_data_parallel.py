"""`FullyShardedDataParallel`, where there is nothing to shard: in one process, or with NO_SHARD.

Floor 7; imports the reducer, which averages gradients.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import lampion

from ...nn.modules.module import Module
from ...nn.utils import clip_grad_norm_
from ...tensor import Tensor
from .. import collectives, groups
from ..checkpoint import state_dict as states
from ..reducing import Reducer
from . import _casting
from .api import (
    CONFIGS,
    BackwardPrefetch,
    CPUOffload,
    FullOptimStateDictConfig,
    FullStateDictConfig,
    LocalOptimStateDictConfig,
    LocalStateDictConfig,
    MixedPrecision,
    OptimStateDictConfig,
    OptimStateKeyType,
    ShardedOptimStateDictConfig,
    ShardedStateDictConfig,
    ShardingStrategy,
    StateDictConfig,
    StateDictSettings,
    StateDictType,
)
from .wrap import wrap_inside

__all__ = ["BackwardPrefetch", "CPUOffload", "FullOptimStateDictConfig", "FullStateDictConfig",
           "FullyShardedDataParallel", "LocalOptimStateDictConfig", "LocalStateDictConfig",
           "MixedPrecision", "OptimStateDictConfig", "OptimStateKeyType",
           "ShardedOptimStateDictConfig", "ShardedStateDictConfig", "ShardingStrategy",
           "StateDictConfig", "StateDictSettings", "StateDictType"]
_INSIDE = "_fsdp_wrapped_module"


class FullyShardedDataParallel(Module):
    """A module whose parameters are shared out among processes; here each process keeps all.

    That is what FSDP does in a group of one process, and with `ShardingStrategy.NO_SHARD`:
    gradients are averaged as by `DistributedDataParallel`. NotImplementedError for strategies that
    shard, in a larger group. `mixed_precision`, `auto_wrap_policy` and the forms of state dicts are
    as PyTorch's; keys of state dicts are those of the module.
    """

    def __init__(self, module: Module, process_group: Any = None,
                 sharding_strategy: ShardingStrategy | None = None,
                 cpu_offload: CPUOffload | None = None, auto_wrap_policy: Any = None,
                 backward_prefetch: BackwardPrefetch | None = BackwardPrefetch.BACKWARD_PRE,
                 mixed_precision: MixedPrecision | None = None,
                 ignored_modules: Iterable[Module] | None = None, param_init_fn: Any = None,
                 device_id: Any = None, sync_module_states: bool = False,
                 forward_prefetch: bool = False, limit_all_gathers: bool = True,
                 use_orig_params: bool = False, ignored_states: Any = None,
                 device_mesh: Any = None) -> None:
        super().__init__()
        if isinstance(process_group, tuple):
            process_group = process_group[0]
        group = groups._the(device_mesh.get_group(0) if device_mesh is not None else process_group)
        strategy = sharding_strategy or ShardingStrategy.FULL_SHARD
        if group.size() > 1 and strategy is not ShardingStrategy.NO_SHARD:
            raise NotImplementedError(
                f"FullyShardedDataParallel: {strategy} in a group of {group.size()} processes; "
                "lampion does not share parameters out. Use ShardingStrategy.NO_SHARD or "
                "DistributedDataParallel, if the model fits into each process")
        if cpu_offload is not None and cpu_offload.offload_params and any(
                not p.is_cpu for p in module.parameters()):
            raise NotImplementedError("FullyShardedDataParallel: cpu_offload for parameters on "
                                      "another device")
        if device_id is not None:
            module = module.to(device_id)
        given = {"process_group": process_group, "sharding_strategy": sharding_strategy,
                 "mixed_precision": mixed_precision, "device_mesh": device_mesh}
        if auto_wrap_policy is not None:
            wrap_inside(module, auto_wrap_policy, FullyShardedDataParallel, given,
                        set(ignored_modules or ()))
        self._modules[_INSIDE] = module
        self.process_group, self.sharding_strategy = group, strategy
        self.mixed_precision = mixed_precision or MixedPrecision()
        self._is_root = True
        for inner in self.fsdp_modules(module):
            inner._is_root = False
            inner._reducer = None
        self._reducer: Reducer | None = None
        if group.size() > 1:
            self._prepare(sync_module_states)
        self._register_load_state_dict_pre_hook(_renamed)

    def _prepare(self, sync: bool) -> None:
        """Average gradients; with `sync` everything is as in the first process."""
        if sync:
            for t in (*self.parameters(), *self.buffers()):
                collectives.broadcast(t.detach(), group=self.process_group, group_src=0)
        if any(p.requires_grad for p in self.parameters()):
            self._reducer = Reducer(list(self.named_parameters()), self.process_group, 25, True)

    @property
    def module(self) -> Module:
        """The module inside."""
        found = self._modules[_INSIDE]
        assert found is not None
        return found

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules[_INSIDE], name)

    def __getitem__(self, key: Any) -> Any:
        return self.module[key]  # type: ignore[index]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        mp = self.mixed_precision
        inputs = mp.param_dtype if (
            mp.cast_root_forward_inputs if self._is_root else mp.cast_forward_inputs) else None
        outputs = _casting.run(self.module, args, kwargs, mp.param_dtype, mp.buffer_dtype, inputs,
                               tuple(mp._module_classes_to_ignore))
        reducer = self.__dict__.get("_reducer")
        if reducer is not None and reducer.sync and lampion.is_grad_enabled():
            reducer.prepare(outputs)
        return outputs

    # ---- modules and parameters

    def check_is_root(self) -> bool:
        """Whether this is not inside another one."""
        return self._is_root

    @staticmethod
    def fsdp_modules(module: Module, root_only: bool = False) -> list[FullyShardedDataParallel]:
        """The wrapped modules in a model."""
        return [m for m in module.modules() if isinstance(m, FullyShardedDataParallel)
                and (m._is_root or not root_only)]

    @staticmethod
    @contextlib.contextmanager
    def summon_full_params(module: Module, recurse: bool = True, writeback: bool = True,
                           rank0_only: bool = False, offload_to_cpu: bool = False,
                           with_grads: bool = False) -> Iterator[None]:
        """A block in which parameters are whole: they are."""
        yield

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Add gradients up without averaging them over the group."""
        reducer = self._reducer
        before = reducer is None or reducer.sync
        if reducer is not None:
            reducer.sync = False
        try:
            yield
        finally:
            if reducer is not None:
                reducer.sync = before

    def clip_grad_norm_(self, max_norm: float, norm_type: float = 2.0) -> Tensor:
        """Scale gradients down to this norm; what it was."""
        return clip_grad_norm_(self.parameters(), max_norm, norm_type)

    def register_comm_hook(self, state: Any, hook: Any) -> None:
        """Let `hook(state, bucket)` combine gradients."""
        if self._reducer is None:
            raise NotImplementedError("register_comm_hook: one process combines no gradients")
        self._reducer.state, self._reducer.hook = state, hook

    # ---- state dicts

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "",
                   keep_vars: bool = False) -> dict[str, Any]:
        """The module's; on the host where the settings say so."""
        found = self.module.state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)
        settings = self.__dict__.get("_state_dict_settings")
        config = None if settings is None else settings.state_dict_config
        if config is not None and config.offload_to_cpu:
            for key, value in list(found.items()):
                if isinstance(value, Tensor):
                    found[key] = value.cpu()
        if getattr(config, "rank0_only", False) and self.process_group.rank() != 0:
            return type(found)()
        return found

    @staticmethod
    def set_state_dict_type(module: Module, state_dict_type: StateDictType,
                            state_dict_config: StateDictConfig | None = None,
                            optim_state_dict_config: OptimStateDictConfig | None = None,
                            ) -> StateDictSettings:
        """How state dicts of the wrapped modules are made from now on; how they were."""
        first, second = CONFIGS[state_dict_type]
        config, optim = state_dict_config or first(), optim_state_dict_config or second()
        if not isinstance(config, first) or not isinstance(optim, second):
            raise RuntimeError(f"Expected state_dict_config of type {first} and "
                               f"optim_state_dict_config of type {second} but got {type(config)} "
                               f"and {type(optim)}")
        before = FullyShardedDataParallel.get_state_dict_type(module)
        for m in FullyShardedDataParallel.fsdp_modules(module):
            m._state_dict_settings = StateDictSettings(state_dict_type, config, optim)
        return before

    @staticmethod
    def get_state_dict_type(module: Module) -> StateDictSettings:
        """How state dicts of the wrapped modules are made."""
        for m in FullyShardedDataParallel.fsdp_modules(module):
            settings = m.__dict__.get("_state_dict_settings")
            if settings is not None:
                found: StateDictSettings = settings
                return found
        return StateDictSettings(StateDictType.FULL_STATE_DICT, FullStateDictConfig(),
                                 FullOptimStateDictConfig(offload_to_cpu=False))

    @staticmethod
    @contextlib.contextmanager
    def state_dict_type(module: Module, state_dict_type: StateDictType,
                        state_dict_config: StateDictConfig | None = None,
                        optim_state_dict_config: OptimStateDictConfig | None = None,
                        ) -> Iterator[None]:
        """A block with `set_state_dict_type`."""
        cls = FullyShardedDataParallel
        before = cls.set_state_dict_type(module, state_dict_type, state_dict_config,
                                         optim_state_dict_config)
        try:
            yield
        finally:
            cls.set_state_dict_type(module, before.state_dict_type, before.state_dict_config,
                                    before.optim_state_dict_config)

    @staticmethod
    def optim_state_dict(model: Module, optim: Any, optim_state_dict: Any = None,
                         group: Any = None) -> dict[str, Any]:
        """The state of an optimizer, by names of parameters."""
        return states.by_name(model, optim, optim_state_dict)

    full_optim_state_dict = sharded_optim_state_dict = staticmethod(
        lambda model, optim, *args, **kwargs: states.by_name(model, optim))

    @staticmethod
    def optim_state_dict_to_load(model: Module, optim: Any, optim_state_dict: dict[str, Any],
                                 is_named_optimizer: bool = False, load_directly: bool = False,
                                 group: Any = None) -> dict[str, Any]:
        """Such a state as `Optimizer.load_state_dict` takes it."""
        found = states.by_number(model, optim, optim_state_dict)
        if load_directly:
            optim.load_state_dict(found)
        return found

    @staticmethod
    def rekey_optim_state_dict(optim_state_dict: dict[str, Any],
                               optim_state_key_type: OptimStateKeyType, model: Module,
                               optim_input: Any = None, optim: Any = None) -> dict[str, Any]:
        """The state of an optimizer, by names or numbers of parameters."""
        if optim_state_key_type is OptimStateKeyType.PARAM_ID:
            return states.by_number(model, optim, optim_state_dict)
        return states.by_name(model, optim, optim_state_dict)


def _renamed(state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Keys of a state dict as the wrapped module has them."""
    for key in [k for k in state if k.startswith(prefix)]:
        if not key.startswith(f"{prefix}{_INSIDE}."):
            state[f"{prefix}{_INSIDE}.{key[len(prefix):]}"] = state.pop(key)
