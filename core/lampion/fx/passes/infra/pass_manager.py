"""`PassManager`: passes one after the other. Floor 7; imports pass_base."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....nn.modules.module import Module
from .pass_base import PassResult

__all__ = ["PassManager", "pass_result_wrapper", "this_before_that_pass_constraint"]


def pass_result_wrapper(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A pass that returns nothing, as one that says that it changed the module."""
    def wrapped(module: Any) -> PassResult:
        result = fn(module)
        return result if isinstance(result, PassResult) else PassResult(
            module if result is None else result, True)

    wrapped.__name__ = getattr(fn, "__name__", type(fn).__name__)
    return wrapped


def this_before_that_pass_constraint(this: Callable[..., Any], that: Callable[..., Any]) -> Any:
    """A constraint of a PassManager: one pass never comes after another."""
    def constraint(a: Callable[..., Any], b: Callable[..., Any]) -> bool:
        return not (a == that and b == this)

    return constraint


class PassManager:
    """Runs passes in turn, `steps` times or until nothing changes."""

    def __init__(self, passes: list[Callable[..., Any]] | None = None,
                 constraints: list[Callable[..., Any]] | None = None, steps: int | None = None,
                 run_checks_after_each_pass: bool = False,
                 suppress_check_failures: bool = False) -> None:
        self.passes = list(passes or [])
        self.constraints = list(constraints or [])
        self.steps = steps or 1
        self.run_checks_after_each_pass = run_checks_after_each_pass
        self.suppress_check_failures = suppress_check_failures
        self._checks: list[Callable[..., Any]] = []

    def add_pass(self, _pass: Callable[..., Any]) -> None:
        """Add a pass."""
        self.passes.append(_pass)

    def add_constraint(self, constraint: Callable[..., Any]) -> None:
        """Add a constraint on the order of passes."""
        self.constraints.append(constraint)

    def add_checks(self, check: Callable[..., Any]) -> None:
        """Add a function that is given the module after every pass."""
        self._checks.append(check)

    def validate_constraints(self) -> None:
        """RuntimeError if the order of the passes breaks a constraint."""
        for constraint in self.constraints:
            for k, a in enumerate(self.passes):
                for b in self.passes[k + 1:]:
                    if not constraint(a, b):
                        raise RuntimeError(f"pass schedule constraint violated: {b} comes after "
                                           f"{a}")

    def __call__(self, module: Module) -> PassResult:
        self.validate_constraints()
        changed = False
        for _ in range(self.steps):
            step = False
            for fn in self.passes:
                result = fn(module)
                if not isinstance(result, PassResult):
                    raise TypeError(f"The result of the pass {fn} should be type PassResult. "
                                    "Please wrap it with pass_result_wrapper()")
                module, step = result.graph_module, step or result.modified
                if self.run_checks_after_each_pass:
                    for check in self._checks:
                        check(module)
            changed |= step
            if not step:
                break
        return PassResult(module, changed)  # type: ignore[arg-type]
