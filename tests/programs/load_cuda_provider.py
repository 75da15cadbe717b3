"""Loads ONNX Runtime's CUDA provider as a shared library, and prints the loader's error if there is one."""

import ctypes
from pathlib import Path

import onnxruntime

onnxruntime.preload_dlls()
folder = Path(onnxruntime.__file__).parent / "capi"
ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), ctypes.RTLD_GLOBAL)
try:
    ctypes.CDLL(str(folder / "libonnxruntime_providers_cuda.so"))
except OSError as error:
    print(error)
