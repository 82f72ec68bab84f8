"""What is said of mistakes on a command line."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.files import ROOT
from compare import parse_args as compare_args
from dataloaders.preprocess.__main__ import main as preprocess
from engine.training.command_line import parse_configs
from evaluate import parse_args as evaluate_args
from export import parse_args as export_args
from features import parse_args as features_args
from inference import parse_args as inference_args
from serve import parse_args as serve_args


def train_args(argv):
    return parse_configs(argv, "ucf101", "r3d_18")


@pytest.mark.parametrize(
    ("parse", "line", "said"),
    [
        (train_args, "--datset own", "Unknown flag '--datset'. Did you mean --dataset? python train.py"),
        (train_args, "--batchsize=8", "Unknown flag '--batchsize=8'. Did you mean --batch-size? python train.py"),
        (train_args, "--zzz", "Unknown flag '--zzz'. python train.py"),
        (train_args, "own", "'own' is not expected here. python train.py"),
        (train_args, "--epochs x", "--epochs must be a whole number, but is 'x'. python train.py"),
        (evaluate_args, "", "there is no run: python evaluate.py RUN. python evaluate.py"),
        (evaluate_args, "run --crop 3 --tmporal", "Unknown flag '--tmporal'. Did you mean --temporal? python evaluate"),
        (preprocess, "--sise 3", "Unknown flag '--sise'. Did you mean --size? python -m dataloaders.preprocess"),
        (compare_args, "--charts", "Unknown flag '--charts'. Did you mean --chart? python compare.py"),
        (features_args, "svm a --pcaa 3", "Unknown flag '--pcaa'. Did you mean --pca? python features.py"),
        (export_args, "run --out a.pt2 --haf", "Unknown flag '--haf'. Did you mean --half? python export.py"),
        (serve_args, "run --prot 80", "Unknown flag '--prot'. Did you mean --port? python serve.py"),
        (serve_args, "run --port 80000", "--port: '80000' is not a port: a whole number up to 65535. python serve"),
        (
            inference_args,
            "a.mp4 --chekpoint b",
            "Unknown flag '--chekpoint'. Did you mean --checkpoint? python inference",
        ),
    ],
)
def test_a_mistake_is_one_line_that_knows_what_was_meant(parse, line, said, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(line.split())
    [error] = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert error.startswith(said) and error.endswith("--help lists the flags.")


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        ("UsageError('u')", 2, "u"),
        ("UserError('f')", 1, "f"),
        ("Stopped(15, 's')", 143, "s"),
        ("KeyboardInterrupt()", 130, "Stopped by Ctrl-C."),
        ("OSError(28, 'No space left on device', 'x')", 1, "No space left on device: x."),
        ("PermissionError(13, 'Permission denied', 'y')", 1, "Permission denied: y."),
        ("NotADirectoryError(20, 'Not a directory', 'z')", 1, "Not a directory: z."),
        ("MemoryError()", 1, "Out of memory. Lower --batch-size"),
    ],
)
def test_programs_end_with_one_line_and_their_status(raised, status, line):
    code = f"from common.errors import *\nfrom common.cli import *\ndef main(argv): raise {raised}\nrun_cli(main)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == status
    assert ended.stderr.startswith(line)
    assert ended.stderr.count("\n") == 1


def test_a_bug_of_ours_keeps_its_traceback():
    code = "from common.errors import *\nfrom common.cli import *\ndef main(argv): raise KeyError('bug')\nrun_cli(main)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr


NOT_CLOSED = 'DATASETS = {\n    "own": {"videos": "/data/own"\n'


@pytest.mark.parametrize(
    ("program", "text", "message"),
    [
        ("train.cli", NOT_CLOSED, "mypath.py, line 2: '{' was never closed: "),
        (
            "dataloaders.preprocess.__main__.main",
            'DATASETS = {"own": data}',
            "mypath.py, line 1: name 'data' is not defined (DATA",
        ),
        ("dataloaders.preprocess.__main__.main", "", "mypath.py has no DEFAULT_DATASET. Restore it: git diff mypath"),
    ],
)
def test_a_mistake_in_mypath_is_one_line(tmp_path, program, text, message):
    (tmp_path / "mypath.py").write_text(text)
    module, _, function = program.rpartition(".")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; sys.argv[1:] = []\n"
    code += f"from {module} import {function}; from common.cli import run_cli; run_cli({function})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)

    assert done.returncode == 1 and done.stderr.startswith(message) and done.stderr.count("\n") == 1


def with_local(tmp_path, text: str, code: str) -> subprocess.CompletedProcess:
    (tmp_path / "mypath_local.py").write_text(text)
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]; {code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)


def test_a_local_file_adds_to_mypath_and_is_named_for_its_mistakes(tmp_path):
    text = 'DATASETS = {"mine": {"layout": "folder", "videos": "/v"}}\nRUNS = "/big/run"\n'
    done = with_local(
        tmp_path, text, "import mypath; print(sorted(mypath.DATASETS), mypath.RUNS, mypath.DEFAULT_MODEL)"
    )
    assert done.stdout == "['demo', 'hmdb51', 'mine', 'ucf101'] /big/run r2plus1d_18\n", done.stderr
    code = "from dataloaders.preprocess.__main__ import main; from common.cli import run_cli; sys.argv[1:] = []; "
    code += "run_cli(main)"
    done = with_local(tmp_path, "DATASETS = data", code)
    assert done.returncode == 1 and done.stderr.startswith("mypath_local.py, line 1: name 'data' is not defined")
    assert done.stderr.count("\n") == 1


def test_a_missing_mypath_is_one_line(tmp_path):
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}]; sys.argv[1:] = ['--dataset', 'demo']\n"
    code += (
        f"import runpy; sys.modules['mypath'] = None; runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith(
        "mypath.py is missing: it belongs beside train.py. Restore it: git checkout mypath.py"
    )


PRINTS_ON = """
import pathlib, sys, time
from common.cli import run_cli
def main(argv):
    print("begun", flush=True)
    while not pathlib.Path(argv[0] + "/gone").exists():
        time.sleep(0.01)
    for number in range(2000):
        print("a line that nobody reads", number, flush=number % 2)
        print("nor this one", file=sys.stderr)
    pathlib.Path(argv[0] + "/done").touch()
run_cli(main)
"""


def test_a_program_goes_on_when_nobody_reads_what_it_prints(tmp_path):
    command = [sys.executable, "-c", PRINTS_ON, str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"begun\n"
    process.stdout.close()
    process.stderr.close()
    (tmp_path / "gone").touch()
    assert process.wait(60) == 0
    assert (tmp_path / "done").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_a_program_goes_on_when_its_output_is_a_file_on_a_full_disk(tmp_path):
    (tmp_path / "gone").touch()
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run([sys.executable, "-c", PRINTS_ON, str(tmp_path)], cwd=ROOT, stdout=full, stderr=full)
    assert done.returncode == 0 and (tmp_path / "done").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no terminals that hang up")
@pytest.mark.parametrize("ignored", [False, True])
def test_a_terminal_that_closes_ends_the_program_but_not_under_nohup(ignored):
    code = "import os, signal\nfrom common.cli import run_cli\n"
    code += "run_cli(lambda argv: [os.kill(os.getpid(), signal.SIGHUP), print('still there')])"
    ignore = (lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) if ignored else None
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, preexec_fn=ignore, check=False
    )
    expected = (0, "still there\n", "") if ignored else (129, "", "Stopped by SIGHUP.\n")
    assert (done.returncode, done.stdout, done.stderr) == expected


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_printing_never_fails_whatever_a_class_is_called(encoding):
    code = "from common.cli import run_cli; run_cli(lambda argv: print('\\u8dd1\\u6b65', 'h\\udcf6he'))"
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, env=environment)
    assert (ended.returncode, ended.stderr) == (0, b"")
    name = "跑步" if encoding == "utf-8" else "\\u8dd1\\u6b65"
    assert ended.stdout.decode(encoding).strip() == f"{name} h\\udcf6he"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--optimizer sdg", "--optimizer is 'sdg'. Did you mean sgd? It can be sgd, adam, adamw."),
        ("--lr", "--lr needs a value."),
        ("--lr high", "--lr must be a number, but is 'high'."),
    ],
)
def test_argparses_own_texts_are_in_our_words(line, said, capsys):
    with pytest.raises(SystemExit) as ended:
        parse_configs(line.split(), "demo", "r3d_10")
    assert ended.value.code == 2 and capsys.readouterr().err.startswith(said)


def test_pip_install_ends_with_a_line_that_says_how_the_project_is_used():
    from common import not_installable

    for name in ("build_wheel", "build_editable", "build_sdist"):
        with pytest.raises(SystemExit, match="pip install -r requirements.txt.*python train.py"):
            getattr(not_installable, name)("folder")
