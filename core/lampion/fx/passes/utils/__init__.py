"""Helpers of passes. Floor 7; imports fx."""

from __future__ import annotations

from .matcher_utils import InternalMatch, SubgraphMatcher

__all__ = ["InternalMatch", "SubgraphMatcher"]
