"""Start-up: --help and mistakes answer before PyTorch is imported, and Ctrl-C during the imports is one line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.files import ROOT

# command -> a command line with a mistake that needs no data
MISTAKES = {
    "train.py": "--model r3d18",
    "evaluate.py": "",
    "inference.py": "a.mp4 --model r3d_18",
    "features.py": "extract --output o --dataset toy",
    "export.py": "--output a.onnx",
    "compare.py": "--chart a.pdf",
    "serve.py": "--port 99999",
    "demo.py": "--epochs x",
    "-m network": "--no-such-flag",
    "-m dataloaders.preprocess": "--size 3",
    "-m dataloaders.audit": "--no-such-flag",
    "-m dataloaders.download": "ucf1O1",
    "-m dataloaders.pack": "",
}
RUN = """
import runpy, sys
words = sys.argv[1:]
try:
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
except SystemExit as end:
    heavy = [name for name in ("torch", "torchvision", "sklearn", "matplotlib") if name in sys.modules]
    print(end.code, *heavy, file=sys.stderr)
"""


def run(*words: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", RUN, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr.strip().splitlines()


@pytest.mark.parametrize("command", MISTAKES)
def test_help_and_mistakes_are_answered_without_pytorch(command):
    assert run(*command.split(), "--help") == ["0"]
    *message, status = run(*command.split(), *MISTAKES[command].split())
    assert status == "2"
    assert len(message) == 1


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="sees in /proc that PyTorch is being imported")
@pytest.mark.parametrize("command", [["train.py"], ["inference.py", "a.mp4", "--checkpoint", "none"], ["compare.py"]])
def test_ctrl_c_during_the_imports_is_one_line_and_130(command):
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and "torch" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "Stopped by Ctrl-C.\n")
