"""The pluggy manager: a function with a hook's prefix is a hook, decorated or not.

So a misspelt name is noticed even without the decorator. Imported when the first plug-in loads.
Floor 2.
"""

from __future__ import annotations

from typing import Any

import pluggy

from lampion.plugins.loader import is_own_function


class Manager(pluggy.PluginManager):
    """A PluginManager that takes undecorated functions named `lampion_*` for hooks."""

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        """The options of a hook, or None for an attribute that is no hook."""
        try:
            options = super().parse_hookimpl_opts(plugin, name)
        except Exception:  # an attribute that raises when looked at is not a hook
            return None
        if options is None and name.startswith("lampion_") and is_own_function(plugin, name):
            return {}
        return options
