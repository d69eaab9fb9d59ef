"""The platform that conda makes packages for, and what its virtual packages say of this host."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from mlproj_core.environments.interpreters import running

__all__ = ["host_identity", "host_platform"]

_PROCESSORS: Final = {"x86_64": "64", "amd64": "64", "i386": "32", "i486": "32", "i586": "32", "i686": "32"}
_LEVELS: Final = (
    {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"},
    {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"},
    {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"},
)
"""The kernel's names of what the levels 2 to 4 of x86-64 add (x86-64 psABI, table 3.1)."""


def host_platform() -> str:
    """Conda's name of this host's platform, as in "linux-64"."""
    machine = running().machine.lower()
    return f"linux-{_PROCESSORS.get(machine, machine)}"


def host_identity(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Lines that differ where conda's virtual packages differ in what packages ask for.

    They are those that `__glibc`, `__archspec` and `__cuda` are detected by, and the `CONDA_OVERRIDE_*` variables. The
    kernel's version (`__linux`) is left out: no update of a kernel should make every environment anew.
    """
    host = running()
    lines = [f"host {host.machine} {host.libc}", f"x86-64 level {_level()}", f"driver {_nvidia_driver()}"]
    lines += [f"{name}={environ[name]}" for name in sorted(environ) if name.startswith("CONDA_OVERRIDE_")]
    return tuple(lines)


def _level() -> int:
    flags: set[str] = set()
    try:
        with Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as lines:
            flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    except OSError:
        return 0
    return 1 + sum(1 for _ in _reached(flags))


def _reached(flags: set[str]) -> Iterator[set[str]]:
    for level in _LEVELS:
        if not level <= flags:
            return
        yield level


def _nvidia_driver() -> str:
    """The version of NVIDIA's driver, which decides the newest CUDA that runs here; empty without one."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    match = re.search(r"Kernel Module\s.*?(\d+\.\d[\d.]*)", text)
    return match[1] if match else text.partition("\n")[0]
