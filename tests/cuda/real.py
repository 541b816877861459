"""Whether tests of the CUDA backend run on a GPU instead of the simulator."""

import os

REAL = os.environ.get("LAMPION_CUDA_REAL", "") not in ("", "0")
