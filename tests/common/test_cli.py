"""What is said of mistakes on a command line."""

import pytest

from compare import parse_args as compare_args
from dataloaders.preprocess.__main__ import main as preprocess
from engine.features.options import parse_args as features_args
from engine.inference.options import parse_args as inference_args
from engine.serving.options import parse_args as serve_args
from engine.training.config import parse_configs
from evaluate import parse_args as evaluate_args
from export import parse_args as export_args


def train_args(argv):
    return parse_configs(argv, "ucf101", "r3d_18")


@pytest.mark.parametrize(
    ("parse", "line", "said"),
    [
        (train_args, "--datset own", "Unknown flag '--datset'. Did you mean --dataset? python train.py"),
        (train_args, "--batchsize=8", "Unknown flag '--batchsize=8'. Did you mean --batch-size? python train.py"),
        (train_args, "--zzz", "Unknown flag '--zzz'. python train.py"),
        (train_args, "own", "'own' stands where nothing is expected. python train.py"),
        (train_args, "--epochs x", "argument --epochs: invalid int value: 'x'. python train.py"),
        (evaluate_args, "", "the following arguments are required: RUN|CHECKPOINT. python evaluate.py"),
        (evaluate_args, "run --crop 3 --tmporal", "Unknown flag '--tmporal'. Did you mean --temporal? python evaluate"),
        (preprocess, "--sise 3", "Unknown flag '--sise'. Did you mean --size? python -m dataloaders.preprocess"),
        (compare_args, "--charts", "Unknown flag '--charts'. Did you mean --chart? python compare.py"),
        (features_args, "svm a --pcaa 3", "Unknown flag '--pcaa'. Did you mean --pca? python features.py"),
        (export_args, "run --out a.pt2 --haf", "Unknown flag '--haf'. Did you mean --half? python export.py"),
        (serve_args, "run --prot 80", "Unknown flag '--prot'. Did you mean --port? python serve.py"),
        (
            serve_args,
            "run --port 80000",
            "argument --port: '80000' is no port: a whole number up to 65535. python serve",
        ),
        (inference_args, "a.mp4 --chekpoint b", "Unknown flag '--chekpoint'. Did you mean --checkpoint? inference.py"),
    ],
)
def test_a_mistake_is_one_line_that_knows_what_was_meant(parse, line, said, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(line.split())
    [error] = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert error.startswith(said) and error.endswith("--help lists the flags.")
