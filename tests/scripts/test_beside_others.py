"""The Recognizer in a program that has modules of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from common.files import ROOT


def imported(folder: Path, code: str) -> subprocess.CompletedProcess:
    code = f"import sys; sys.path.append({str(ROOT)!r}); {code}"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
def test_packages_of_the_same_name_as_a_script_stay_what_they_are(tmp_path):
    (tmp_path / "evaluate.py").write_text("mine = True")
    done = imported(tmp_path, "import evaluate; from inference import Recognizer; print(evaluate.mine, Recognizer)")
    assert done.returncode == 0 and done.stdout.startswith("True <class 'inference.")


def test_a_module_that_hides_one_of_ours_is_named_in_one_line(tmp_path):
    (tmp_path / "network.py").write_text("class Net: pass")
    done = imported(tmp_path, "from inference import Recognizer")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: 'network' is {tmp_path / 'network.py'}, which hides the package")
