"""Floor 3: the op registry and one file per op family. Imports base, ir, runtime."""
