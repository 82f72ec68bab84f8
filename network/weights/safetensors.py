"""safetensors files: tensors by name, and a dict of texts as metadata. Nothing in them can be code.

Those of export.py have, under KEY, the JSON that every exported file has (engine/export/metadata.py): class names,
InputSpec, model and origin. Others are state dicts. The package safetensors is imported when such a file is read.
"""

import json
from pathlib import Path
from types import ModuleType

from common.errors import UserError

KEY = "video_action_recognition"
KINDS = {"model": str, "classes": list, "input_spec": dict, "config": dict, "model_options": dict, "split": dict}
INSTALL = 'pip install "safetensors>=0.4"'


def is_safetensors(path: Path) -> bool:
    """Returns whether the file begins with the length of a JSON object and the object."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and 0 < int.from_bytes(head[:8], "little") < path.stat().st_size


def read_safetensors(path: Path) -> dict:
    """Reads a file of export.py as the content of a checkpoint, and any other file as a dict of its tensors.

    Raises UserError for a damaged file.
    """
    with import_safetensors(path.name).safe_open(path, "pt") as file:
        about = (file.metadata() or {}).get(KEY)
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
    return state if about is None else _as_checkpoint(path, state, about)


def _as_checkpoint(path: Path, state: dict, about: str) -> dict:
    try:
        content = json.loads(about)
        wrong = [name for name, kind in KINDS.items() if not isinstance(content[name], kind)]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise UserError(f"{path}: its metadata '{KEY}' is damaged. Export it again.") from error
    if wrong or not all(isinstance(name, str) for name in content["classes"]):
        raise UserError(f"{path}: '{(wrong or ['classes'])[0]}' of its metadata is damaged. Export it again.")
    config = content["config"] | {"model": content["model"]}
    return content | {"model": state, "config": config, "ema": None}


def import_safetensors(purpose: str) -> ModuleType:
    try:
        import safetensors.torch
    except ImportError as error:
        raise UserError(f"{purpose} needs safetensors, which is not installed: {INSTALL}") from error
    return safetensors
