"""Switches of graphs. Floor 7; imports nothing."""

from __future__ import annotations

shared = True  # `torch.fx.config` is this very module
# Whether nodes show the lines of the program that they come from in print_readable.
do_not_emit_stack_traces = False
disable_progress = True
verbose_progress = False
validate_shape_inference = False
