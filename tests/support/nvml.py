"""A fake NVML library with two GPUs."""

from __future__ import annotations

from types import SimpleNamespace


class NotSupported(Exception):
    pass


class Nvml(SimpleNamespace):
    """Those functions of NVML that burnish calls, for two GPUs. A GPU's handle is its index."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVMLError_NotSupported = NVMLError_FunctionNotFound = NVMLError_NoPermission = NotSupported

    def __init__(self) -> None:
        super().__init__(pids=[], bytes=5_000, reasons=0, millijoules=1000, queried_handles=[])

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}"

    def nvmlDeviceGetName(self, handle: int) -> str:
        return f"GPU {handle}"

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"999.1"

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in self.pids] if handle == 1 else []

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(used=self.bytes if handle == 1 else 0, total=10**9, free=6_000_000_000)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: int) -> int:
        self.queried_handles.append(handle)
        raise NotSupported

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> int:
        return self.reasons

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        if self.millijoules is None:
            raise NotSupported
        self.millijoules += 500
        return self.millijoules

    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:
        return {1: 1980, 2: 2619}[kind]

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        return 40
