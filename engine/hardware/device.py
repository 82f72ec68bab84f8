"""Devices, precision, memory format and torch.compile."""

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
import torch.nn as nn

from common.console import plural
from common.errors import UsageError, UserError, UserErrorOnAllRanks
from common.torchrun import is_rank_zero, local_rank, local_world_size, world_size
from engine.hardware.fast_kernels import use_fast_kernels

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def pick_device(name: str) -> torch.device:
    """auto takes cuda, else mps, else cpu. Of several processes on a machine each takes a GPU of its own.

    Raises UserError for a device that is not there.
    """
    if world_size() > 1 and torch.cuda.is_available() and name in ("auto", "cuda"):
        return _own_gpu()
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if is_rank_zero() and (reason := unusable_gpu()):
            print(f"Note: {reason} The CPU is used instead; --device cpu leaves this note out.", file=sys.stderr)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"Unknown device '{name}'. It can be auto, cuda, cuda:1, mps or cpu.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        reason = unusable_gpu() or "this PyTorch finds no GPU (driver missing, or a build without CUDA)."
        raise UserError(f"--device cuda: {reason} Use --device cpu, or leave the flag out.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: there are {torch.cuda.device_count()} GPUs here, counted from cuda:0.")
    if device.type == "cuda" and world_size() > 1:
        raise UsageError(f"--device {name}: each of {world_size()} processes needs its own GPU. Use --device cuda.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: this machine has no Apple GPU that PyTorch can use. Use --device cpu.")
    if device.type not in ("cuda", "mps", "cpu"):
        raise UsageError(f"Unknown device '{name}'. It can be auto, cuda, cuda:1, mps or cpu.")
    return device


def unusable_gpu() -> str:
    """The reason why PyTorch cannot use the NVIDIA GPU of this machine, such as a driver too old for it; "" without
    one."""
    if not torch.version.cuda or not NVIDIA_DRIVER.is_file() or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return ""
    try:
        torch.cuda.init()
        reason = "it sees no device"
    except RuntimeError as error:
        reason = str(error).partition(". ")[0].strip().rstrip(".")
    return f"PyTorch {torch.__version__} cannot use the NVIDIA GPU of this machine: {reason}."


def _own_gpu() -> torch.device:
    if local_world_size() > torch.cuda.device_count():
        raise UserErrorOnAllRanks(
            f"torchrun started {local_world_size()} processes on this machine, where PyTorch sees "
            f"{plural(torch.cuda.device_count(), 'GPU')} (CUDA_VISIBLE_DEVICES counts). Use "
            f"--nproc-per-node={torch.cuda.device_count()}, or --device cpu."
        )
    return torch.device("cuda", local_rank())


def device_name(device: torch.device) -> str:
    if device.type == "cuda":  # ONNX Runtime may have one where PyTorch has none
        return torch.cuda.get_device_name(device) if torch.cuda.is_available() else "NVIDIA GPU"
    return f"CPU, {plural(torch.get_num_threads(), 'thread')}" if device.type == "cpu" else "Apple GPU"


def pick_amp(name: str, device: torch.device) -> torch.dtype | None:
    """The dtype of mixed precision, None for full float32. auto: bf16 on a GPU that computes in it, else none."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and _computes_bf16(device) else None
    if name == "fp16" and device.type != "cuda":
        raise UsageError(f"--amp fp16 needs a CUDA device; this run is on {device.type}. Use --amp bf16 or off.")
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def _computes_bf16(device: torch.device) -> bool:
    """Whether the GPU computes bf16 in hardware; older ones emulate it, slower than float32."""
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def to_device(model: nn.Module, device: torch.device) -> nn.Module:
    """Moves a model to the device, its kernels with channels last in memory, as the clips come. Returns it.

    On CUDA some layers take the form that has fast kernels; their parameters and names stay as they are.
    """
    if device.type == "cuda":
        use_fast_kernels(model)
    return channels_last(model.to(device))


def channels_last(model: nn.Module) -> nn.Module:
    """Puts the kernels of convolutions into the order in which clips lie. Returns the model."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=formats[module.weight.ndim])
    return model


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager:
    return torch.autocast(device.type, dtype=dtype) if dtype else nullcontext()


class CompiledModel:
    """A compiled network. The model itself stays as it is, with its names, for checkpoints and for evaluation.

    Only batches of `batch_size` clips are compiled for: the last ones of an epoch are smaller and run as they are,
    since each further size would be compiled for half a minute.
    """

    def __init__(self, model: nn.Module, batch_size: int, **options: object):
        self.model, self.batch_size = model, batch_size
        self.compiled = torch.compile(model, dynamic=False, **options)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.compiled(x) if len(x) == self.batch_size else self.model(x)

    def no_sync(self) -> AbstractContextManager:
        """DistributedDataParallel's: the gradients of what runs inside are not exchanged yet."""
        return self.model.no_sync()


def check_compiler(device: torch.device) -> None:
    """Compiles something small. Raises UserError where this machine has no compiler that PyTorch can use."""
    x = torch.ones(8, device=device)
    try:
        torch.compile(lambda x: (x + 1).relu(), dynamic=False)(x)
    except Exception as error:  # from TorchInductor, from Triton, or from the system's compiler
        found = str(error).strip().splitlines()
        what = "a C++ compiler (such as g++)" if device.type == "cpu" else "Triton and a C compiler (such as gcc)"
        raise UserError(
            f"--compile needs {what}, and none works here ({type(error).__name__}: {found[0] if found else ''}). "
            "Install one, or give --compile off."
        ) from error


def cudnn_version() -> int | None:
    """Version of cuDNN, such as 91002 for 9.10.2; None without a GPU that uses it."""
    return torch.backends.cudnn.version() if torch.cuda.is_available() else None


def cudnn_warning(found: int | None, cuda: str | None = torch.version.cuda) -> str | None:
    """cuDNN 9.8 to 9.14 computes Conv3d in bf16 and fp16 up to 4 times slower, and 9.8 to 9.10 wrong at times
    (pytorch issues 163539, 166122, 166643, 174051). found: as cudnn_version gives it."""
    if found is None or not 90800 <= found < 91500:
        return None
    package = f"nvidia-cudnn-cu{cuda.partition('.')[0]}" if cuda else "nvidia-cudnn"
    return (
        f"WARNING: cuDNN {found // 10000}.{found // 100 % 100} runs 3D convolutions in bf16/fp16 slowly or wrongly. "
        f'Install one from 9.15 on (pip install -U "{package}>=9.15"), or train with --amp off.'
    )
