"""Says what this machine can do for training and recognising videos, and what to do where it cannot.

    python -m engine.hardware

Put the output at the top of a report of a problem.
"""

import argparse
import importlib.util
import logging
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from common.cli import Parser, run_cli
from common.console import gigabytes
from common.errors import UserError
from common.files import ROOT, printable
from common.worker_process import num_processors

DECODERS = ("h264", "hevc", "mpeg4", "vp9", "av1", "mjpeg")
EXTRAS = {"onnxruntime": "export.py to .onnx: pip install onnx onnxscript onnxruntime"}
EXTRAS |= {
    "fastapi": "serve.py: pip install fastapi uvicorn python-multipart",
    "h5py": "weights of Keras: pip install h5py",
}
Line = tuple[str, str, str]  # what, what was found, "" or what to do


def main(argv: Sequence[str]) -> int:
    parse_args(argv)
    logging.disable(logging.WARNING)  # of torch.compile, beside our own lines
    failed = 0
    for name, found, advice in lines():
        print(f"{name:12} {found:58} {advice or 'ok'}".rstrip(), flush=True)
        failed += advice.startswith("!")
    return 1 if failed else 0


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    return Parser(prog="python -m engine.hardware", description=__doc__.split("\n")[0]).parse_args(argv)


def lines() -> Iterator[Line]:
    """Each line as it becomes known. Advice that begins with ! is about what nothing works without."""
    yield "system", platform.platform(), ""
    yield "Python", platform.python_version(), "" if sys.version_info >= (3, 11) else "! Python 3.11 or newer is needed"
    yield from torch_lines()
    yield from video_lines()
    memory = _free_memory()
    yield "processors", f"{num_processors()} of {os.cpu_count()}", ""
    yield "memory", f"{gigabytes(memory)} free" if memory else "unknown", ""
    shared = Path("/dev/shm")
    if shared.is_dir():
        yield "/dev/shm", f"{gigabytes(shutil.disk_usage(shared).total)} (batches do not need it)", ""
    free = shutil.disk_usage(ROOT).free
    yield "disk", f"{gigabytes(free)} free at {printable(ROOT)}", "" if free > 5e9 else "frames and runs may need more"
    for package, use in EXTRAS.items():
        there = importlib.util.find_spec(package) is not None
        yield package, _version(package) if there else "not installed", "" if there else f"needed for {use}"


def torch_lines() -> Iterator[Line]:
    """PyTorch, the GPU, precision and compiler."""
    try:
        import torch
    except ImportError as error:
        yield "torch", f"cannot be imported: {error}", "! pip install -r requirements.txt"
        return
    from engine.hardware.autocast_check import low_precision_error
    from engine.hardware.device import check_compiler, cudnn_version, cudnn_warning, pick_amp, unusable_gpu
    from engine.hardware.low_precision import cpu_has_bf16

    yield "torch", f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}", ""
    yield "torchvision", _version("torchvision"), _import_fault("torchvision")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        for number in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(number)
            yield f"GPU {number}", f"{properties.name}, {gigabytes(properties.total_memory)}", ""
        found = cudnn_version() or 0
        warning = cudnn_warning(found)
        yield "cuDNN", f"{found // 10000}.{found // 100 % 100}.{found % 100}", warning or ""
        amp = pick_amp("auto", device)
        yield "bf16", "yes" if amp else "no: this GPU emulates it", "" if amp else "training runs in float32"
        if amp:
            error = low_precision_error(torch.nn.Conv3d(64, 64, 3, padding=1), (1, 64, 4, 28, 28), device, amp)
            yield (
                "Conv3d",
                f"bf16 differs from float32 by {100 * error:.1f} %",
                "" if error < 0.05 else "train with --amp off",
            )
    else:
        yield "GPU", unusable_gpu() or "none that PyTorch can use", "the CPU is used, which is slow for large networks"
        fast = cpu_has_bf16()
        yield "bf16", "yes, in hardware" if fast else "no", "" if fast else "predictions run in float32"
    try:
        check_compiler(device)
        yield "compiler", "torch.compile works", ""
    except UserError as error:
        yield "compiler", "torch.compile does not work", str(error)


def video_lines() -> Iterator[Line]:
    """PyAV, OpenCV and a display."""
    try:
        import cv2
    except ImportError as error:
        yield "OpenCV", f"cannot be imported: {error}", "! pip install opencv-python"
    else:
        windows = any(
            line.strip().startswith("GUI:") and "NONE" not in line for line in cv2.getBuildInformation().split("\n")
        )
        yield "OpenCV", f"{cv2.__version__}, {'with' if windows else 'without'} windows", ""
    try:
        import av
    except ImportError as error:
        yield "PyAV", f"cannot be imported: {error}", "! pip install av"
    else:
        missing = [name for name in DECODERS if name not in av.codecs_available]
        advice = f"cannot decode {', '.join(missing)}: pip install --upgrade av" if missing else ""
        yield (
            "PyAV",
            f"{av.__version__}, FFmpeg {av.ffmpeg_version_info}, decodes {', '.join(DECODERS[:4])}, ...",
            advice,
        )
        writes = "libx264" in av.codecs_available
        yield (
            "H.264",
            "can be written" if writes else "cannot be written",
            "" if writes else "--output needs it: pip install --upgrade av",
        )
    screen = not sys.platform.startswith("linux") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    yield "display", "yes" if screen else "none", "" if screen else "--show does not work here, --output does"


def _free_memory() -> float | None:
    try:
        from dataloaders.frames.memory_cache import free_memory
    except ImportError:
        return None
    return free_memory()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown version"


def _import_fault(package: str) -> str:
    try:
        importlib.import_module(package)
    except Exception as error:  # a torchvision that does not fit to torch raises many things
        return f"! cannot be imported ({str(error).splitlines()[0]}): pip install -r requirements.txt"
    return ""


if __name__ == "__main__":
    run_cli(main)
