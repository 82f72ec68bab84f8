"""The README keeps its word: its commands are understood, its links lead somewhere, its table is the program's."""

import re
import shlex

import pytest
import torch

import compare
import evaluate
import export
import features
import inference
from common.files import ROOT
from dataloaders import pack
from dataloaders.audit import __main__ as audit
from dataloaders.download import __main__ as download
from dataloaders.preprocess import __main__ as preprocess
from engine.serving import options as serving_options
from engine.training.command_line import parse_configs
from network import __main__ as network_main
from network import create_model, list_models
from network.base import freeze
from network.cost import describe_model
from network.registry import MODELS

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
PARSERS = {
    "train.py": lambda argv: parse_configs(argv, "ucf101", "r3d_18"),
    "evaluate.py": evaluate.parse_args,
    "export.py": export.parse_args,
    "features.py": features.parse_args,
    "compare.py": compare.parse_args,
    "inference.py": inference.parse_args,
    "serve.py": serving_options.parse_args,
    "-m dataloaders.audit": audit.parse_args,
    "-m dataloaders.download": download.parse_args,
    "-m dataloaders.pack": pack.parse_args,
    "-m dataloaders.preprocess": preprocess.parse_args,
    "-m network": network_main.parse_args,
}


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("python ")])
def test_every_command_of_the_readme_is_understood(command):
    words = shlex.split(command)[1:]
    script = " ".join(words[:2]) if words[0] == "-m" else words[0]
    if script.startswith(("benchmarks/", "assets/", "docs/")):
        assert (ROOT / script).is_file()
        return
    parse = PARSERS[script]
    parse(words[2:] if words[0] == "-m" else words[1:])


def test_the_model_of_the_readme_is_one(monkeypatch):
    [code] = re.findall(r"```python\n(import torch\n.*?)```", README, re.DOTALL)
    monkeypatch.setattr("network.registry.MODELS", dict(MODELS))
    exec(compile(code, "README.md", "exec"), {"__name__": "network.my_net"})
    model = create_model("my_net", 5, dropout=0.1)
    freeze(model, "stem")
    assert model(torch.zeros(2, 3, 4, 32, 32)).shape == (2, 5)
    assert model.trunk_names == ("stem", "body")


def test_every_make_target_of_the_readme_is_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {line.split()[1] for line in COMMANDS if line.startswith("make ")}
    assert targets >= {"demo", "test"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_link_of_the_readme_leads_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).is_file(), link


def test_the_table_of_the_readme_is_what_the_program_prints():
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| ([\d.]+) \| (\w+), (\d) \|", README, re.MULTILINE)
    assert rows == [describe_model(name)[:5] for name in list_models()]
