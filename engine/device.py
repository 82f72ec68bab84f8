"""Which device a run uses, and in what precision."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn as nn

from engine.errors import UsageError, UserError
from engine.launch import local_rank, processes


def pick_device(name: str) -> torch.device:
    """auto takes cuda, else mps, else cpu. Of several processes on a machine each takes a GPU of its own.

    Raises UserError for a device that is not there.
    """
    if processes() > 1 and torch.cuda.is_available() and name in ("auto", "cuda"):
        return _own_gpu()
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"Unknown device '{name}'. It can be auto, cuda, cuda:1, mps or cpu.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: this PyTorch finds no GPU (driver missing, or a build without CUDA). Use --device cpu, or "
            "leave the flag out."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: there are {torch.cuda.device_count()} GPUs here, counted from cuda:0.")
    if device.type == "cuda" and processes() > 1:
        raise UsageError(f"--device {name}: of {processes()} processes each takes a GPU of its own. Use --device cuda.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: this machine has no Apple GPU that PyTorch can use. Use --device cpu.")
    if device.type not in ("cuda", "mps", "cpu"):
        raise UsageError(f"Unknown device '{name}'. It can be auto, cuda, cuda:1, mps or cpu.")
    return device


def _own_gpu() -> torch.device:
    if local_rank() >= torch.cuda.device_count():
        raise UserError(
            f"torchrun started more processes on this machine than the {torch.cuda.device_count()} it has GPUs. Use "
            f"--nproc-per-node={torch.cuda.device_count()}, or --device cpu."
        )
    return torch.device("cuda", local_rank())


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads" if device.type == "cpu" else "Apple GPU"


def pick_amp(name: str, device: torch.device) -> torch.dtype | None:
    """The dtype of mixed precision, None for full float32. auto: bf16 on a GPU that computes in it, else none."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and _computes_bf16(device) else None
    if name == "fp16" and device.type != "cuda":
        raise UsageError(f"--amp fp16 needs a CUDA device; this run is on {device.type}. Use --amp bf16 or off.")
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def _computes_bf16(device: torch.device) -> bool:
    """In hardware: older GPUs emulate it, slower than float32."""
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """Moves a model to the device, its kernels with channels last in memory, as the clips come. Returns it."""
    model.to(device)
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=formats[module.weight.ndim])
    return model


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager:
    return torch.autocast(device.type, dtype=dtype) if dtype else nullcontext()


def cudnn_warning() -> str | None:
    """cuDNN 9.8 to 9.14 computes Conv3d in bf16 and fp16 up to 4 times slower, and 9.8 to 9.10 wrong at times
    (pytorch issues 163539, 166122, 166643, 174051)."""
    found = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    if found is None or not 90800 <= found < 91500:
        return None
    return (
        f"WARNING: cuDNN {found // 10000}.{found // 100 % 100} runs 3D convolutions in bf16/fp16 slowly or wrongly. "
        "Install one from 9.15 on (pip install -U nvidia-cudnn-cu13), or train with --amp off."
    )
