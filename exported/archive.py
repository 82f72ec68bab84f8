"""A .pt2 archive looked at before torch loads it: torch would unpickle, and so run, what somebody has put there."""

import json
import re
import zipfile
from pathlib import Path

from engine.errors import UserError
from exported.metadata import KEY

MEMBERS = re.compile(  # of what torch.export.save writes for one program of tensors
    r"data/(weights/(weight_\d+|model_weights_config\.json)|constants/(tensor_\d+|model_constants_config\.json)"
    rf"|sample_inputs/model\.pt)|models/model\.json|extra/{KEY}\.json|archive_format|archive_version|byteorder"
    r"|\.data/\w+|version"
)


def metadata_of(path: Path) -> str | None:
    """The JSON text in a .pt2 file; None where it has none. Raises UserError where it holds more than tensors, a graph
    of torch's operations, and text."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.partition("/")[2]: name for name in archive.namelist()}
            text = members.get(f"extra/{KEY}.json")
            if text is None:
                return None
            if other := [name for name in members if not MEMBERS.fullmatch(name)]:
                raise UserError(f"{path} holds {other[0]}, which no file written by export.py does. It is not opened.")
            for kind in ("weights", "constants"):
                config = json.loads(archive.read(members[f"data/{kind}/model_{kind}_config.json"]))
                if any(entry["use_pickle"] for entry in config["config"].values()):
                    raise UserError(f"{path} holds objects that are no tensors. It is not opened.")
            if archive.getinfo(
                members["data/sample_inputs/model.pt"]
            ).file_size:  # it would be unpickled; ours is empty
                raise UserError(
                    f"{path} holds example inputs, which no file written by export.py does. It is not opened."
                )
            return archive.read(text).decode("utf-8")
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path} is no torch.export program, or is damaged. Export it again.") from error
