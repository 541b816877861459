"""Floor 5: function transforms (forward mode, vmap) on the call path. Imported on first use."""
