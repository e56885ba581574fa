"""What the GPU's driver says to whoever has no torch yet, or one that cannot use it."""

import ctypes
from contextlib import suppress

LIBRARY = "libcuda.so.1"


def has_card() -> bool:
    """Say whether the driver has a device for this process."""
    with suppress(OSError):
        driver = ctypes.CDLL(LIBRARY)
        count = ctypes.c_int(0)
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
            return count.value > 0
    return False
