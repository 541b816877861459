"""Passes for graphs of one dialect. Floor 7; imports nothing."""
