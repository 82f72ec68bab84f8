"""Process groups and collectives under torchrun. Without torchrun every function works on one process."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.nn as nn
from torch.nn.parallel import DistributedDataParallel

from common.errors import UserError
from common.torchrun import check_launch, is_rank_zero, local_rank, num_restarts, rank, world_size

T = TypeVar("T")

SYNC_BELOW = 16  # clips per GPU: fewer give batch norms too poor statistics of their own
PREPARATION = timedelta(days=2)  # the others wait while the first process extracts frames
LOST = ("closed by peer", "reset by peer", "Connection refused", "Broken pipe", "Application timeout")
BETWEEN = ("NCCL", "gloo", "Gloo", "TCPStore")  # in what PyTorch says of trouble between processes

_control: dist.ProcessGroup | None = None  # over gloo: what processes tell each other beside gradients


@contextmanager
def process_group(device_name: str) -> Iterator[None]:
    """Meets the other processes of a torchrun launch, once for all that is inside. Only the first one's standard output
    is seen."""
    global _control
    check_launch()
    if world_size() == 1 or _control is not None:
        yield
        return
    on_gpus = torch.cuda.is_available() and not device_name.startswith("cpu")
    if on_gpus and local_rank() < torch.cuda.device_count():  # pick_device says so where there are too few
        torch.cuda.set_device(local_rank())
    stdout = sys.stdout
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        try:
            store, *_ = next(iter(dist.rendezvous("env://")))
            # torchrun's store lives on when workers are started again, and with it the addresses of those that died
            store = dist.PrefixStore(f"start-{num_restarts()}", store)
            backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
            dist.init_process_group(backend, store=store, rank=rank(), world_size=world_size())
            _control = dist.new_group(backend="gloo", timeout=PREPARATION)
            if not is_rank_zero():
                sys.stdout = nowhere
            yield
        except RuntimeError as error:
            if any(sign in str(error) for sign in LOST):
                raise UserError("Another process of this launch has ended; see its message.") from error
            if not any(sign in str(error) for sign in BETWEEN):
                raise
            raise UserError(
                f"The processes of this launch cannot connect: {str(error).splitlines()[0]} Check the address of "
                "--rdzv-endpoint, the network, and that all machines have the same PyTorch."
            ) from error
        finally:
            sys.stdout = stdout
            if dist.is_initialized() and sys.exc_info()[0] is None:
                dist.destroy_process_group()
            _control = None


def broadcast(value: T) -> T:
    """Returns rank zero's value on every rank."""
    if _control is None:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_control)
    return box[0]


def all_gather(value: T) -> list[T]:
    """Returns the values of all ranks, in their order, on every rank."""
    if _control is None:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value, group=_control)
    return values


def all_reduce_max(*values: int) -> list[int]:
    """Returns the maximum of each number over all ranks, so that all decide alike. Needs no device synchronisation."""
    if _control is None:
        return list(values)
    numbers = torch.tensor(values)
    dist.all_reduce(numbers, dist.ReduceOp.MAX, group=_control)
    return numbers.tolist()


def all_reduce_sum(values: list[float]) -> list[float]:
    """Returns the sum of each number over all ranks, added in the order of ranks."""
    return [sum(column) for column in zip(*all_gather(values), strict=True)]


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Runs code that makes files for the others: on rank zero first, then on the first rank of each other machine, then
    on the rest."""
    turn = 0 if is_rank_zero() else 1 if local_rank() == 0 else 2
    for _ in range(turn):
        all_reduce_max(0)
    yield
    for _ in range(turn, 2):
        all_reduce_max(0)


def wrap_ddp(model: nn.Module) -> nn.Module:
    """Wraps the model so that gradients are averaged over ranks; all ranks take over rank zero's weights."""
    if world_size() == 1:
        return model
    # for kernels with channels last, on every process: gradients are copied into another order, and are right
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def sync_batch_norms(model: nn.Module, batch_size: int, device: torch.device) -> None:
    """Converts to SyncBatchNorm where each GPU has fewer than 16 clips, and prints that it did."""
    if world_size() == 1 or batch_size >= SYNC_BELOW or not _has_batch_norm(model):
        return
    if device.type != "cuda":
        print(f"Note: batch norms are computed over the {batch_size} clips of each process; SyncBatchNorm needs GPUs.")
        return
    nn.SyncBatchNorm.convert_sync_batchnorm(model)
    print(f"Batch norms are computed over all GPUs (SyncBatchNorm), since each has fewer than {SYNC_BELOW} clips.")


def _has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def broadcast_buffers(model: nn.Module) -> None:
    """Copies rank zero's batch norm statistics to all ranks: in training each rank counts its own clips."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def seed_process(seed: int) -> None:
    """Seeds dropout differently on every rank; rank zero draws as a single process does."""
    if rank():
        torch.manual_seed((seed + (rank() << 40)) % 2**63)
