"""The command line of train.py: one configuration for each model it names."""

from collections.abc import Sequence
from pathlib import Path

from common.dataclass_flags import build_parser, flag_name
from common.errors import UsageError
from engine.training.config import RUN, TrainConfig, saved_settings
from network import check_model_name

# settings that --config does not take over from another run
OF_ITS_OWN = frozenset("name runs resume device workers test save_every on_full_disk".split())
RESUMABLE = ("resume", "epochs", "workers", "cache", "device", "runs", "on_full_disk", "test", "dataset", "frames")


def parse_configs(
    argv: Sequence[str], default_dataset: str, default_model: str, runs: Path | None = None
) -> list[TrainConfig]:
    """Command line -> a TrainConfig for each network that it names. argparse itself ends with status 2 on an unknown
    flag or a wrong type. runs: the folder of runs, whose bare names --weights takes."""
    description = "Trains a network on a data set and writes a run under run/."
    parser = build_parser(TrainConfig, "python train.py", description)
    group = next(group for group in parser._action_groups if group.title == RUN)
    group.add_argument("--config", metavar="RUN|FILE", help="begin with the settings of another run")
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    runs = Path(given["runs"]) if "runs" in given else runs

    if "resume" in given:
        other = sorted(set(given) - set(RESUMABLE))
        if other:
            raise UsageError(
                f"--resume continues with the run's settings; {flag_name(other[0])} cannot be changed. "
                f"Only {', '.join(map(flag_name, RESUMABLE[1:-1]))} and {flag_name(RESUMABLE[-1])} can."
            )
        return [TrainConfig(**given)]
    if "config" in given:
        given = settings_of(given.pop("config"), runs) | given
    weights = given.get("weights", "")
    if (
        runs
        and weights == Path(weights).name
        and (runs / weights / "best.pth").is_file()
        and not Path(weights).exists()
    ):
        given["weights"] = str(runs / weights)
    models = given.pop("model", None)
    if models is None:
        models = [_model_of_weights(given.get("weights")) or default_model]
    given = {"dataset": default_dataset} | given
    for model in models:
        check_model_name(model)
    if len(models) == 1:
        return [TrainConfig(model=models[0], **given)]
    twice = next((model for model in models if models.count(model) > 1), None)
    if twice:
        raise UsageError(f"--model names {twice} twice. For runs that differ in --seed, start train.py for each.")
    name = given.pop("name", None)
    if name is None:
        return [TrainConfig(model=model, **given) for model in models]
    return [TrainConfig(model=model, name=f"{name}-{model}", **given) for model in models]


def settings_of(name: str, runs: Path | None) -> dict:
    """The settings of another run, by its folder, its bare name or its config.json, that a new run may begin with."""
    places = [Path(name).expanduser(), *([runs / name] if runs else [])]
    found = next((file for place in places for file in (place, place / "config.json") if file.is_file()), None)
    if found is None:
        raise UsageError(f"--config {name} is neither a run nor a config.json.")
    values = saved_settings(found)[0].to_dict()
    values["model"] = [values["model"]]
    return {key: value for key, value in values.items() if value is not None and key not in OF_ITS_OWN}


def _model_of_weights(weights: str | None) -> str | None:
    if weights is None:
        return None
    from network.weights.read import (
        model_named_by,
    )  # imports torch, which a command line without --weights does not need

    return model_named_by(weights)
