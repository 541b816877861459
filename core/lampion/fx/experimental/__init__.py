"""Parts of fx whose names may change. Floor 7; imports nothing by itself."""
