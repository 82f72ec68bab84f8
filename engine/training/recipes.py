"""Recipes (--recipe NAME): sets of defaults. Flags override a recipe, and a recipe the model's defaults.

docs/training.md says what is measured of them, and what is not.
"""

# the network on its clips, and nothing else
PLAIN: dict[str, float | str] = {
    "clips_per_video": 1,
    "stride_jitter": 0.0,
    "zoom": 1.0,
    "colour_jitter": 0.0,
    "label_smoothing": 0.0,
    "class_weights": "none",
    "mixup": 0.0,
    "cutmix": 0.0,
    "clip_grad": 0.0,
    "early_stopping": 0,
    "ema": 0.0,
}

# from scratch on few videos, where a network otherwise learns them by heart
SCRATCH = PLAIN | {"colour_jitter": 0.3, "label_smoothing": 0.1, "clip_grad": 1.0}
SCRATCH_CLIPS: dict[str, str | int] = {"input": "diff", "clip_len": 16, "frame_stride": 4}

# from weights that know videos already: small steps; the new last layer takes larger ones (--head-lr-scale)
FINETUNE = PLAIN | {
    "optimizer": "adamw",
    "lr": 1e-4,
    "weight_decay": 0.02,
    "epochs": 20,
    "dropout": 0.5,
    "zoom": 0.7,
    "label_smoothing": 0.1,
    "clip_grad": 5.0,
    "ema": 0.999,
}

RECIPES = {"plain": PLAIN, "scratch": SCRATCH, "finetune": FINETUNE}


def recipe_for(name: str, options: set[str]) -> dict[str, float | str]:
    """The settings of a recipe for a model with these options of its own."""
    recipe = RECIPES[name]
    return {key: value for key, value in recipe.items() if key != "dropout" or "dropout" in options}


def clips_of_recipe(name: str) -> dict[str, str | int]:
    """The input and the clips that a recipe sets, as fields of InputSpec."""
    return SCRATCH_CLIPS if name == "scratch" else {}
