"""Which device torch works on."""

from __future__ import annotations

import torch

from dp3d_cli.core.errors import UsageError


def torch_device(name: str) -> torch.device:
    """The device of this name; "auto" is CUDA where there is one, else the CPU.

    Raises:
        UsageError: not a device, or a CUDA device that this process cannot see.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"'{name}' is not a device: use auto, cpu, cuda, cuda:0 or mps.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"No device '{name}': torch sees {torch.cuda.device_count()} CUDA devices here. "
            "Check the driver and CUDA_VISIBLE_DEVICES, or use --device cpu."
        )
    return device
