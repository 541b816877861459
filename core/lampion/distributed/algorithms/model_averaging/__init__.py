"""Averages of parameters instead of gradients."""
