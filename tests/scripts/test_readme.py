"""README and docs: their commands parse, their links and paths exist, their table is what the program prints."""

import pkgutil
import re
import shlex
from pathlib import Path

import pytest
import torch

import compare
import evaluate
import export
import features
import inference
import serve
from common.files import ROOT
from dataloaders import pack
from dataloaders.audit import __main__ as audit
from dataloaders.download import __main__ as download
from dataloaders.preprocess import __main__ as preprocess
from engine.hardware import __main__ as hardware
from engine.training.command_line import parse_configs
from network import __main__ as network_main
from network import create_model, list_models
from network.base import freeze
from network.cost import describe_model
from network.registry import MODELS

PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in ROOT.glob("docs/*.md")}
README = PAGES["README.md"] = (ROOT / "README.md").read_text(encoding="utf-8")


def commands_of(page: str) -> list[str]:
    """Lines of the page's shell blocks, with continued lines joined and comments cut off."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGES[page], re.DOTALL)
    return [line.split(" #")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]


COMMANDS = [(page, line) for page in sorted(PAGES) for line in commands_of(page)]
EXAMPLES = {"network/my_net.py", "dataloaders/sources/diving.py"}  # files that a reader would add
PARSERS = {
    "train.py": lambda argv: parse_configs(argv, "ucf101", "r3d_18"),
    "evaluate.py": evaluate.parse_args,
    "export.py": export.parse_args,
    "features.py": features.parse_args,
    "compare.py": compare.parse_args,
    "inference.py": inference.parse_args,
    "serve.py": serve.parse_args,
    "-m dataloaders.audit": audit.parse_args,
    "-m dataloaders.download": download.parse_args,
    "-m dataloaders.pack": pack.parse_args,
    "-m dataloaders.preprocess": preprocess.parse_args,
    "-m engine.hardware": hardware.parse_args,
    "-m network": network_main.parse_args,
}


@pytest.mark.parametrize(("page", "command"), [pair for pair in COMMANDS if " -m pytest" not in pair[1]])
def test_every_command_of_a_page_is_understood(page, command):
    words = shlex.split(command)
    if words[:1] == ["torchrun"]:
        words = ["python", *words[next(i for i, word in enumerate(words) if word.endswith(".py")) :]]
    if words[:1] != ["python"]:
        return
    script = " ".join(words[1:3]) if words[1] == "-m" else words[1]
    if script.startswith(("benchmarks/", "assets/", "docs/")):
        assert (ROOT / script).is_file()
        return
    PARSERS[script](words[3:] if words[1] == "-m" else words[2:])


def test_the_model_of_the_readme_is_one(monkeypatch):
    [code] = re.findall(r"```python\n(import torch\n.*?)```", README, re.DOTALL)
    monkeypatch.setattr("network.registry.MODELS", dict(MODELS))
    exec(compile(code, "README.md", "exec"), {"__name__": "network.my_net"})
    model = create_model("my_net", 5, dropout=0.1)
    freeze(model, "stem")
    assert model(torch.zeros(2, 3, 4, 32, 32)).shape == (2, 5)
    assert model.trunk_names == ("stem",)


def test_the_readme_is_short():
    assert README.count("\n") <= 250


def test_every_make_target_of_the_readme_is_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {line.split()[1] for line in commands_of("README.md") if line.startswith("make ")}
    assert targets >= {"demo", "test"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def anchors_of(path: Path) -> set[str]:
    """Names under which GitHub links to the headings of a page."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", sorted(PAGES))
def test_every_link_of_a_page_leads_somewhere(page):
    text = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    for link, _, anchor in re.findall(r"\]\(([^)#]*)(#([^)]*))?\)", text):
        if "://" in link:
            continue
        target = (ROOT / page).parent / link if link else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), f"{link}#{anchor}"


@pytest.mark.parametrize("page", sorted(PAGES))
def test_every_file_and_module_that_a_page_names_is_there(page):
    for name in re.findall(
        r"(?<![\w/.])(?:common|network|dataloaders|engine|benchmarks|assets|tests)/[\w/]+\.\w+", PAGES[page]
    ):
        assert (ROOT / name).exists() or name in EXAMPLES, name
    for name in re.findall(r"(?<![\w/.])(?:common|network|dataloaders|engine)(?:\.\w+)+", PAGES[page]):
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            raise AssertionError(name) from None


def test_the_index_names_every_page():
    for page in PAGES:
        assert page in ("README.md", "docs/README.md") or f"({Path(page).name})" in PAGES["docs/README.md"], page
        assert page == "README.md" or f"({page})" in README, page


@pytest.mark.slow
def test_the_table_of_networks_is_what_the_program_prints():
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| ([\d.]+) \| (\w+), (\d) \|", PAGES["docs/networks.md"], re.MULTILINE)
    assert rows == [describe_model(name)[:5] for name in list_models()]
