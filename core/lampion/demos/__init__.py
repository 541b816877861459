"""Demos on real data: `lampion demo digits`, `lampion demo text`. Floor 7."""
