"""python -m engine.hardware"""

import sys

import av
import pytest
import torch

from common.errors import UserError
from engine.hardware.__main__ import main


@pytest.fixture
def no_compiler(monkeypatch):
    def refuse(_):
        raise UserError("--compile needs a C++ compiler (such as g++), and none works here.")

    monkeypatch.setattr("engine.hardware.device.check_compiler", refuse)


def test_each_line_is_ok_or_says_what_to_do(no_compiler, capsys, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert main([]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["torch"].split()[1].rstrip(",") == torch.__version__ and lines["torch"].endswith(" ok")
    assert f"{av.__version__}, FFmpeg" in lines["PyAV"] and lines["PyAV"].endswith(" ok")
    assert "torch.compile does not work" in lines["compiler"] and lines["compiler"].endswith("none works here.")
    if sys.platform.startswith("linux"):
        assert lines["display"].endswith("--show does not work here, --output does")
    assert {"system", "Python", "torchvision", "OpenCV", "H.264", "processors", "memory", "disk"} <= lines.keys()


def test_what_nothing_works_without_is_status_1(no_compiler, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert main([]) == 1
    out = capsys.readouterr().out
    assert "! pip install av" in out and "! cannot be imported" in out
