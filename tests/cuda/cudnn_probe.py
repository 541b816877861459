"""Ask the real cuDNN about graphs, without a GPU: `python cudnn_probe.py FOLDER < works`.

Run in a process of its own by test_cudnn_graphs.py. Reads pickled `Work`s from its input; writes a
JSON list with, for each, the number of the library's plans, of which one at least may be used, or
why there is none. cuDNN gets the properties of an H200 as a document and, from FOLDER, a
driver and a runtime whose functions exist and do nothing: enough for it to choose plans, not to
build or to run them.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

# By public specifications; of interest to the library's heuristics.
H200 = {
    "cudaDeviceId": 0, "deviceName": "NVIDIA H200", "deviceVer": 900, "driverVer": 13000,
    "multiProcessorCount": 132, "smCountOrigin": 0, "warpSize": 32, "maxThreadsPerBlock": 1024,
    "maxThreadsPerSM": 2048, "maxCtasPerSM": 32, "maxRegistersPerSM": 65536, "regsPerBlock": 65536,
    "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": 232448,
    "reservedSharedMemoryPerBlock": 1024, "oversizedSharedMemoryPerBlock": 0,
    "maxGridSize": [2**31 - 1, 65535, 65535], "maxBlockSize": [1024, 1024, 64],
    "totalGlobalMem": 150754820096, "l2CacheSize": 62914560, "memoryBusWidth": 6144,
    "memClockRateKHz": 3201000, "smClockRateKHz": 1980000, "pciDeviceId": 0, "isTccDriver": 0,
    "supportCoopLaunch": 1}

RUNTIME = """
int cudaGetDevice(int *d) { *d = 0; return 0; }
int cudaGetDeviceCount(int *n) { *n = 1; return 0; }
const char *cudaGetErrorString(int e) { return e ? "error" : "no error"; }
int cudaGetLastError(void) { return 0; }
int cudaDriverGetVersion(int *v) { *v = 13000; return 0; }
int cudaRuntimeGetVersion(int *v) { *v = 13000; return 0; }
int cudaDeviceGetAttribute(int *v, int which, int d) {
  *v = which == 75 ? 9 : which == 16 ? 132 : 0;  // major version, multiprocessors
  return 0;
}
"""
# Functions of cuBLASLt that say "not supported".
BLAS = "unsigned long cublasLtGetVersion(void) { return 130100; }\n" + "".join(
    f"int cublasLt{name}(void) {{ return 15; }}\n" for name in (
        "Create", "Destroy", "Matmul", "MatmulAlgoGetHeuristic", "MatmulAlgoGetIds",
        "MatmulAlgoInit", "MatmulAlgoCheck", "MatmulAlgoCapGetAttribute",
        "MatmulAlgoConfigSetAttribute", "MatmulAlgoConfigGetAttribute", "MatmulDescCreate",
        "MatmulDescInit_internal", "MatmulDescDestroy", "MatmulDescSetAttribute",
        "MatmulDescGetAttribute", "MatrixLayoutCreate", "MatrixLayoutInit_internal",
        "MatrixLayoutDestroy", "MatrixLayoutSetAttribute", "MatrixLayoutGetAttribute",
        "MatmulPreferenceCreate", "MatmulPreferenceInit_internal", "MatmulPreferenceDestroy",
        "MatmulPreferenceSetAttribute", "MatmulPreferenceGetAttribute", "MatrixTransform",
        "MatrixTransformDescCreate", "MatrixTransformDescDestroy",
        "MatrixTransformDescSetAttribute", "LoggerSetLevel", "LoggerSetMask"))


def sources() -> dict[str, str]:
    """C text by the name of the library."""
    from cuda.bindings import driver

    names = [n for n in dir(driver) if re.fullmatch(r"cu[A-Z]\w+", n)
             and callable(getattr(driver, n))]
    names = sorted({n + end for n in names for end in ("", "_v2", "_v3")})
    functions = "".join(f"int {n}(void) {{ return 0; }}\n" for n in names)
    return {"libcuda.so.1": functions, "libcudart.so.13": RUNTIME, "libcublasLt.so.13": BLAS}


def build(folder: Path, compiler: list[str]) -> None:
    """Compile the libraries into a folder."""
    for name, text in sources().items():
        source = folder / f"{name}.c"
        source.write_text(f'extern "C" {{\n{text}}}\n')
        subprocess.run([*compiler, "-x", "c++", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o",
                        str(folder / name), str(source)], check=True, capture_output=True)


def libraries() -> list[str]:
    """Folders of NVIDIA's libraries that pip installed, for the loader's path."""
    found = []
    for place in sys.path:
        found += [str(p) for p in Path(place or ".").glob("nvidia/*/lib")]
    return found


def installed() -> bool:
    """Whether the frontend and cuDNN are there."""
    try:
        importlib.metadata.version("nvidia-cudnn-frontend")
    except importlib.metadata.PackageNotFoundError:
        return False
    return any(Path(folder, "libcudnn.so.9").exists() for folder in libraries())


def main(folder: str) -> None:
    """Answer for every work of the input."""
    for name in ("libcuda.so.1", "libcudart.so.13", "libcublasLt.so.13"):
        ctypes.CDLL(os.path.join(folder, name), mode=ctypes.RTLD_GLOBAL)
    import cudnn

    from lampion_cuda.cudnn_graphs import describe, finish

    # the frontend looks for cuDNN beside Python's own packages, and then in the loader's path
    properties = cudnn.create_device_properties(json.dumps(H200))

    class Frontend:
        """The frontend, whose graphs are for that GPU."""

        def __getattr__(self, name):
            return getattr(cudnn, name)

        def pygraph(self, handle=None, **options):
            return cudnn.pygraph(device_property=properties, sm_version=90, **options)

    answers = []
    for work in pickle.load(sys.stdin.buffer):
        fe = Frontend()
        graph = describe(fe, work)
        try:
            finish(fe, graph, work, 1 << 30)
            answers.append(graph.get_execution_plan_count())
        except cudnn.cudnnGraphNotSupportedError as error:
            answers.append(f"not supported: {str(error)[:2000]}")
    json.dump({"version": cudnn.backend_version(), "answers": answers}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
