"""Limits for new addresses: the load, the memory and the disk of the machine."""

import os
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
# An address takes three inodes and a message takes one. Postfix's queue is often on the same disk.
# A disk of 1 GB has 65000 inodes by default: one for 16 KB (mke2fs.conf(5)).
MIN_FREE_INODES = 10_000


def measure(settings: dict) -> dict[str, float]:
    """Return the present load, memory in bytes and disk space in bytes.

    The keys are the settings that limit these values. Raises OSError.
    """
    disk = os.statvfs(settings["mailboxes_dir"])
    return {
        "max_load_1m": round(os.getloadavg()[0], 2),
        "min_available_memory": _read_available_memory(),
        "min_free_disk_space": disk.f_bavail * disk.f_frsize,
    }


def find_exceeded(settings: dict) -> str | None:
    """Return "setting, value, limit" of the first limit that is exceeded, or None."""
    for name, value in measure(settings).items():
        limit = settings[name]
        if value > limit if name.startswith("max_") else value < limit:
            return f"{name}, {value}, {limit}"
    disk = os.statvfs(settings["mailboxes_dir"])
    # Btrfs has no fixed number of inodes and shows 0.
    if disk.f_files and disk.f_favail < MIN_FREE_INODES:
        return f"min_free_inodes, {disk.f_favail}, {MIN_FREE_INODES}"
    return None


def _read_available_memory():
    """Return the bytes of memory that programs can still get, as the kernel estimates (proc(5))."""
    for line in MEMINFO.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    raise OSError(f"{MEMINFO} has no MemAvailable")
