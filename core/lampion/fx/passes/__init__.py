"""Passes over graphs. Floor 7; imports fx."""

from __future__ import annotations

from . import shape_prop, split_module, tools_common

__all__ = ["shape_prop", "split_module", "tools_common"]
