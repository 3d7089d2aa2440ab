"""What a run says of the machine and the software that it ran on."""

from __future__ import annotations

import os
import platform
import sys
from typing import TYPE_CHECKING

import numpy as np

from ..store.errors import InvalidOption

if TYPE_CHECKING:
    import torch


def versions(*, trained: bool = True) -> dict[str, str]:
    """Versions of what a result depends on; of PyTorch where the model was ``trained`` here, not for one that is imported."""
    from ..version import __version__

    found = {
        "losslake": __version__,
        "python": platform.python_version(),
        "numpy": str(np.__version__),
        "platform": sys.platform,
    }
    if trained:
        import torch  # takes seconds to load, which imports do without

        found["torch"] = str(torch.__version__)
    return found


def device_name(device: torch.device | None) -> str:
    """A device as a person knows it, such as "NVIDIA H200"; None: the GPU if there is one."""
    import torch

    if device is None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type not in ("cuda", "xpu"):
        return device.type
    name: str = getattr(torch, device.type).get_device_name(device)
    return name


def choose_device(name: str) -> torch.device:
    """The device that "auto" (a CUDA or ROCm GPU if there is one), "cpu", "cuda", "cuda:1", "mps", "xpu" ... names.

    Raises InvalidOption for one that is not here.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidOption(f"device {name!r} does not exist; give auto, cpu or cuda") from error
    if device.type != "cpu" and (device.index or 0) >= (count := _accelerators(device.type)):
        raise InvalidOption(f"device {name!r} is not here ({count} of its kind); give auto or cpu")
    return device


def _accelerators(kind: str) -> int:
    """How many devices of a kind (cuda, also of ROCm; mps, xpu) torch sees."""
    import torch

    there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return torch.accelerator.device_count() if there is not None and there.type == kind else 0


def available_cpus() -> int:
    """CPUs this process may use: its affinity, bounded by a container's quota (cgroup v2)."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max": no quota
        pass
    return max(1, count)
