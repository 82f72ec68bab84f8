"""--deterministic: the same bits from run to run on a GPU, too."""

import copy
import os
import re

import torch
import torch.nn as nn
import torch.nn.functional as F

from common.errors import UsageError
from engine.hardware.device import autocast
from network import InputSpec


def set_deterministic(wanted: bool) -> None:
    """Chooses deterministic kernels throughout; an operation that has none is an error from then on."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS begins
    torch.use_deterministic_algorithms(wanted)
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time, and nothing here reads such memory
    torch.backends.cudnn.deterministic = wanted
    torch.backends.cudnn.benchmark = not wanted  # picks kernels by their time, other ones another day


def check_deterministic_kernels(
    model: nn.Module, spec: InputSpec, device: torch.device, amp: torch.dtype | None
) -> None:
    """Names what has no deterministic kernel on a GPU, before a run begins: one clip forward and backward through a
    copy, whose statistics and draws leave no trace. On a CPU everything has one.

    Of what our networks use AvgPool3d (s3d) has none in PyTorch 2.14, which was the first to have one for MaxPool3d.
    """
    if device.type != "cuda":
        return
    trial = copy.deepcopy(model).train()
    clips = torch.zeros(2, spec.channels, spec.clip_len, spec.crop_size, spec.crop_size, device=device)
    try:
        with torch.random.fork_rng([device]):
            with autocast(device, amp):
                loss = F.cross_entropy(trial(clips), torch.zeros(2, dtype=torch.int64, device=device))
            loss.backward()
    except RuntimeError as error:
        operation = re.match(r"(\w+) does not have a deterministic implementation", str(error))
        if not operation:
            raise
        raise UsageError(
            f"--deterministic: {operation[1]}, which this network needs, has no deterministic kernel on a GPU in "
            f"PyTorch {torch.__version__}. Leave the flag out, choose another --model, or train with --device cpu."
        ) from error
