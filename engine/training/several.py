"""Several runs, one after the other, from one command."""

import gc
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from common.cli import fail
from common.errors import Stopped
from common.files import relative_to_cwd
from common.torchrun import is_rank_zero, world_size
from engine.training.config import TrainConfig


def train_each(configs: Sequence[TrainConfig], train: Callable[[TrainConfig], Path]) -> int:
    """Trains a run for each configuration; returns the exit status.

    A run that fails prints its error, the others are trained all the same, and the status is 1. Ranks cannot go on
    without each other, so under torchrun the first failure ends all runs.
    """
    runs, failed = [], []
    for number, config in enumerate(configs):
        if number:
            print()
        print(f"Run {number + 1} of {len(configs)}: {config.model}", flush=True)
        try:
            runs.append(train(config))
        except Stopped:
            rest = " ".join(later.model for later in configs[number + 1 :])
            if rest and is_rank_zero():
                print(f"Not started: {rest}", file=sys.stderr)
            raise
        except Exception as error:
            if world_size() > 1 or isinstance(error, BrokenPipeError):
                raise
            failed.append(config.model)
            try:
                fail(error)
            except Exception:  # a bug, which may be that of one network alone
                traceback.print_exc()
        gc.collect()  # what a failed run leaves behind would be missing to the next
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if runs:
        print(f"\nCompare them: python compare.py {shlex.join(relative_to_cwd(run) for run in runs)}")
    if failed:
        print(f"Failed: {', '.join(failed)}. See their messages above.", file=sys.stderr)
    return 1 if failed else 0
