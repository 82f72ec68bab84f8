"""A training step on synthetic clips, with any set of optimisations ("levers")."""

from collections.abc import Collection

import torch
import torch.nn.functional as F

from benchmarks.machine import elapsed, synchronize
from dataloaders.transforms import to_model_input
from engine.hardware.autocast_check import keep_wrong_layers_in_float32
from engine.hardware.device import autocast, channels_last
from engine.hardware.fast_kernels import use_fast_kernels, widen
from engine.hardware.low_precision import to_bf16
from network import create_model, input_spec

NUM_CLASSES = 101  # UCF101's

# in the order in which they are combined; train.py uses all of them by default on a GPU, where a run is long
LEVERS = {
    "bf16": "bf16 autocast",
    "channels-last": "channels last in memory, of model and clips",
    "fused": "fused optimiser",
    "no-sync": "no loss.item() in the step",
    "uint8": "clips as uint8, mirrored and normalised on the device",
    "benchmark": "cudnn.benchmark",
    "fast-kernels": "first convolution, mid widths and batch norms in the forms of engine/hardware/fast_kernels.py",
    "compile": "torch.compile",
}
ALTERNATIVES = {
    "folded": "forward only: batch norms folded, kernels in bf16, ReLUs and shortcuts within the convolutions"
}


def levers_for(device: torch.device) -> list[str]:
    """Levers that have an effect on this device."""
    on_gpu = device.type == "cuda"
    effective = {"no-sync": on_gpu, "benchmark": on_gpu, "fast-kernels": on_gpu, "fused": device.type != "mps"}
    return [lever for lever in LEVERS if effective.get(lever, True)]


def clip_shape(name: str, clip_len: int | None = None) -> tuple[int, int, int, int]:
    """(C, T, H, W) of a network's input."""
    spec = input_spec(name)
    return spec.channels, clip_len or spec.clip_len, spec.crop_size, spec.crop_size


class Variant:
    """A network, its optimiser and a batch on the device. step() trains once, or with forward_only runs forward
    once."""

    def __init__(
        self,
        name: str,
        levers: Collection[str],
        shape: tuple[int, int, int, int],
        batch_size: int,
        device: torch.device,
        forward_only: bool = False,
    ):
        self.levers, self.device, self.forward_only = frozenset(levers), device, forward_only
        self.spec, self.amp = input_spec(name), torch.bfloat16 if "bf16" in levers else None
        before = self._allocated()
        torch.manual_seed(0)
        self.model = create_model(name, NUM_CLASSES).to(device).train(not forward_only)
        if "fast-kernels" in levers:
            use_fast_kernels(self.model)
        if "channels-last" in levers:
            channels_last(self.model)
        if not forward_only:  # what PyTorch gets wrong in bf16 on some processors is a gradient
            keep_wrong_layers_in_float32(self.model, shape, device, self.amp)
        if "fast-kernels" in levers and not forward_only:
            widen(self.model)
        if "folded" in levers:
            self.model = to_bf16(self.model, device, torch.zeros(1, *shape, device=device))
        self.forward = torch.compile(self.model, dynamic=False) if "compile" in levers else self.model
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=1e-6, momentum=0.9, fused=True if "fused" in levers else None
        )
        self.clips, self.mirrored = self._batch(shape, batch_size)
        self.labels = torch.randint(0, NUM_CLASSES, (batch_size,), device=device)
        self.total = torch.zeros((), device=device)
        self.own = self._allocated() - before

    def _batch(self, shape: tuple[int, int, int, int], batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 clips (B, T, H, W, C), or float32 (B, C, T, H, W) as a plain loader returns them."""
        channels, *size = shape
        clips = torch.randint(0, 256, (batch_size, *size, channels), dtype=torch.uint8, device=self.device)
        mirrored = torch.arange(batch_size, device=self.device) % 2 == 0
        if "uint8" in self.levers:
            return clips, mirrored
        return self._in_layout(to_model_input(clips, self.spec, mirrored)), mirrored

    def _in_layout(self, x: torch.Tensor) -> torch.Tensor:
        last = "channels-last" in self.levers
        return x.contiguous(memory_format=torch.channels_last_3d if last else torch.contiguous_format)

    def step(self) -> None:
        torch.backends.cudnn.benchmark = "benchmark" in self.levers
        x = self.clips
        if "uint8" in self.levers:
            x = self._in_layout(to_model_input(self.clips, self.spec, self.mirrored))
        if self.forward_only:
            with torch.inference_mode(), autocast(self.device, self.amp):
                self.forward(x).softmax(1)
            return
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.amp):
            loss = F.cross_entropy(self.forward(x), self.labels)
        loss.backward()
        self.optimizer.step()
        if "no-sync" in self.levers:
            self.total += loss.detach()
        else:
            self.total.fill_(loss.item())

    def warm_up(self) -> tuple[float, float]:
        """Seconds of a step, and its peak memory in GiB on a GPU (nan elsewhere), temporary tensors included."""
        self.step()  # the optimiser's state comes with the first
        synchronize(self.device)
        if self.device.type != "cuda":
            return elapsed(self.step, self.device, 1), float("nan")
        torch.cuda.reset_peak_memory_stats(self.device)
        before = self._allocated()
        seconds = elapsed(self.step, self.device, 2)
        state = sum(value.nbytes for kept in self.optimizer.state.values() for value in kept.values()
                    if torch.is_tensor(value))  # fmt: skip
        peak = torch.cuda.max_memory_allocated(self.device) - before + self.own + state
        return seconds, peak / 2**30

    def _allocated(self) -> int:
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0
