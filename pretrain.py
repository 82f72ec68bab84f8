"""Pretrains a network on the videos of a training list, without labels.

    python pretrain.py --dataset my/videos --model r3d_18
    python train.py --dataset my/videos --model r3d_18 --weights r3d_18-videos-pretrain-000 --recipe scratch
    python train.py --resume r3d_18-videos-pretrain-000

It is train.py's loop with another loss (engine/contrast.py), so it stops, resumes and runs on several GPUs in the same
way. Validation and test videos are not used.
"""

from collections.abc import Sequence
from dataclasses import replace

from common.cli import parse_before_imports, run_cli
from common.files import ROOT
from engine.training.command_line import NEEDS_LABELS, parse_configs
from engine.training.config import TrainConfig


def parse_args(argv: Sequence[str]) -> list[TrainConfig]:
    import mypath  # here, where run_cli reports a mistake in it

    configs = parse_configs(argv, mypath.DEFAULT_DATASET, mypath.DEFAULT_MODEL, ROOT / mypath.RUNS, pretrain=True)
    plain = {name: getattr(TrainConfig(), name) for name in NEEDS_LABELS}  # also where --config has something else
    return [replace(config, **plain, pretrain=True) for config in configs]


if __name__ == "__main__":
    parse_before_imports(parse_args)

import train


def cli(argv: Sequence[str]) -> int:
    return train.cli(argv, parse_args)


if __name__ == "__main__":
    run_cli(cli)
