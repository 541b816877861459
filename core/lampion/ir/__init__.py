"""Floor 1: scalar expressions, loop-nest kernels, derivatives, printers. Imports base only."""
