"""Options of `[backend.cpu]`, and how they reach the modules that use them.

The modules of this package read environment variables, so that each can be used and tested alone.
`apply` hands them what the settings say, before any of them is imported; a variable that the user
set stays as it is. May import lampion.config only.
"""

from __future__ import annotations

import os

from lampion import config
from lampion.config import Option

SCHEMA = {
    "threading": Option(
        str,
        "auto",
        "whose threads run kernels",
        ("auto", "gomp", "own", "serial"),
        ("LAMPION_THREADING",),
    ),
    "onednn": Option(bool, True, "use oneDNN where it is installed", (), ("LAMPION_ONEDNN",)),
    "blas": Option(bool, True, "use NumPy's BLAS where it wins", (), ("LAMPION_BLAS",)),
    "native": Option(bool, True, "use the native storage type", (), ("LAMPION_NATIVE",)),
    "vector_bits": Option(
        int, 0, "width of vectors; 0: the widest there is", (), ("LAMPION_VECTOR_BITS",)
    ),
    "cache_bytes": Option(
        int, 0, "freed memory kept for reuse; 0: half of it", (), ("LAMPION_CPU_CACHE_BYTES",)
    ),
}

# Settings of the core that this backend follows.
_OF_THE_CORE = {
    "threads.count": "LAMPION_NUM_THREADS",
    "compile.cache_dir": "LAMPION_CACHE_DIR",
}


def apply() -> None:
    """Put settings that come from anywhere but the environment into the environment."""
    names = dict(_OF_THE_CORE)
    names.update({f"backend.cpu.{key}": option.env[0] for key, option in SCHEMA.items()})
    for setting in config.explain():
        variable = names.get(setting.name)
        if variable is None or variable in os.environ or setting.source == "default":
            continue
        value = setting.value
        if value == "auto" or (value == 0 and not isinstance(value, bool)):
            continue  # what the module does without the variable
        os.environ[variable] = str(int(value)) if isinstance(value, bool) else str(value)
