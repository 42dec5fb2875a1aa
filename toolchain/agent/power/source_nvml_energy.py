"""Energy counter of a discrete NVIDIA GPU, mJ since the driver was loaded (Volta and later): the board, without the processor.

A rail is the UUID of a GPU, or any other name where there is only one GPU. Source: NVML API reference.
"""

import ctypes

from . import UnreadableError

LIBRARY = "libnvidia-ml.so.1"
NO_PERMISSION = 4


def load():
    """The library; tests put another in its place."""
    return ctypes.CDLL(LIBRARY)


CALLS = (
    "nvmlInit_v2",
    "nvmlDeviceGetCount_v2",
    "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetTotalEnergyConsumption",
)


class Nvml:
    unit, update_ms, wrap_j, averages = "J", None, None, False

    def __init__(self, source):
        self.quantum, self.uuids = {}, []
        try:
            self.library = load()
        except OSError as error:
            raise UnreadableError("no_sensor", "%s: %s" % (LIBRARY, error), "install the NVIDIA driver") from error
        lacking = [call for call in CALLS if not hasattr(self.library, call)]
        if lacking:  # older drivers, and the stub of a Jetson
            raise UnreadableError("no_sensor", "%s has no %s" % (LIBRARY, ", ".join(lacking)), "install a newer NVIDIA driver")
        self.check("nvmlInit_v2", self.library.nvmlInit_v2())
        count = ctypes.c_uint()
        self.check("nvmlDeviceGetCount_v2", self.library.nvmlDeviceGetCount_v2(ctypes.byref(count)))
        handles = {}
        for index in range(count.value):
            handle, name = ctypes.c_void_p(), ctypes.create_string_buffer(96)
            self.check("GetHandle", self.library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)))
            self.check("GetUUID", self.library.nvmlDeviceGetUUID(handle, name, ctypes.c_uint(96)))
            handles[name.value.decode("ascii", "replace")] = handle
        self.uuids, rails = sorted(handles), list(source["rails"])
        if len(rails) == len(handles) == 1 and not rails[0].startswith("GPU-"):
            handles = {rails[0]: next(iter(handles.values()))}
        missing = [rail for rail in rails if rail not in handles]
        if missing or not handles:
            detail = "no GPU %s; there are %s" % (", ".join(missing), ", ".join(sorted(handles)) or "none")
            raise UnreadableError(
                "unknown_rail_map" if handles else "no_sensor", detail, "name the GPU by the UUID nvidia-smi -L shows"
            )
        self.rails, self.handles = rails, [handles[rail] for rail in rails]
        self.paths = dict.fromkeys(rails, "nvmlDeviceGetTotalEnergyConsumption")
        for handle in self.handles:
            self.check("nvmlDeviceGetTotalEnergyConsumption", self.counter(handle)[0])

    def check(self, doing, status):
        if status:
            reason = "permission" if status == NO_PERMISSION else "no_sensor"
            raise UnreadableError(reason, "%s: NVML error %d" % (doing, status), "see what nvidia-smi -q -d POWER says")

    def counter(self, handle):
        millijoule = ctypes.c_ulonglong()
        status = self.library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoule))
        return status, millijoule.value / 1000.0

    def settings(self):
        return {"gpus": len(self.uuids), "uuid": ", ".join(self.uuids)}

    def read(self):
        answers = [self.counter(handle) for handle in self.handles]
        return [None if status else joule for status, joule in answers]


def open_source(root, source):
    return Nvml(source)
