"""Batches on the device, one ahead of the step that needs them."""

from collections.abc import Iterator

import torch

Batch = tuple[torch.Tensor, ...]


def prefetch(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yields batches copied to the device, one ahead of the training loop. Closing it closes `batches`.

    On CUDA each is copied on a stream of its own, from pinned memory, while the step before is computed; one more batch
    than the step needs is held. Elsewhere it is handed on as it comes.
    """
    try:
        if device.type == "cuda":
            yield from _ahead(batches, device)
        else:
            for batch in batches:
                yield tuple(part.to(device) for part in batch)
    finally:
        batches.close()


def _ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    stream = torch.cuda.Stream(device)
    waiting = None
    for batch in batches:
        with torch.cuda.stream(stream):
            copied = tuple(part.to(device, non_blocking=True) for part in batch)
        if waiting is not None:
            yield _take(*waiting, device)
        waiting = copied, stream.record_event()
    if waiting is not None:
        yield _take(*waiting, device)


def _take(batch: Batch, copied: torch.cuda.Event, device: torch.device) -> Batch:
    """Lets the stream that computes wait for the copy (the program does not), and keeps the memory until it is done."""
    computing = torch.cuda.current_stream(device)
    computing.wait_event(copied)
    for part in batch:
        part.record_stream(computing)
    return batch
