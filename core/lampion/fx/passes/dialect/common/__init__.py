"""Passes for graphs of any dialect. Floor 7; imports nothing."""
