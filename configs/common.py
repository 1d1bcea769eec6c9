"""What every study shares: the defaults, the recipes, and the `key=value,...` string."""

from ml_collections import ConfigDict

from sotglp_jax.errors import InputError

# Epochs, batch size, learning rate and local init of the official code's scripts.
OFFICIAL = {
    "caltech101": (200, 32, 0.005, "random"),
    "stanford_cars": (200, 32, 0.005, "random"),
    "flowers102": (200, 32, 0.005, "random"),
    "oxford_pets": (200, 32, 0.005, "gram"),
    "food101": (200, 128, 0.005, "gram"),
    "sun397": (200, 128, 0.005, "random"),
    "ucf101": (200, 128, 0.005, "random"),
    "dtd": (200, 128, 0.002, "random"),
    "eurosat": (200, 10, 0.001, "random"),
}
KEYS = {"dataset": str, "shots": int, "seed": int, "clip": str, "recipe": str}


def get_config(arg: str = "") -> ConfigDict:
    """The configuration for a string such as "dataset=eurosat,clip=ViT-B/16,shots=16"."""
    given = parse(arg)
    config = paper()
    config.dataset = given.get("dataset", config.dataset)
    config.shots = given.get("shots", config.shots)
    config.seed = given.get("seed", config.seed)
    config.clip.name = given.get("clip", config.clip.name)
    # The tiny CLIP is fast enough, and float32 gives the same numbers on every processor.
    config.precision = "float32" if config.clip.name == "tiny" else "bf16"
    if config.dataset == "digits":  # a mirrored or half digit is no digit
        config.data.flip = False
        config.data.crop_scale = (0.6, 1.0)
    config.recipe = given.get("recipe", config.recipe)
    if config.recipe == "official":
        make_official(config)
    elif config.recipe != "paper":
        raise InputError(f'recipe "{config.recipe}" is unknown: take paper or official.')
    return config


def parse(arg: str) -> dict[str, str | int]:
    """Reads "key=value,..."; an unknown key or a value of the wrong type is an `InputError`."""
    given = {}
    for part in filter(None, arg.split(",")):
        key, _, value = part.partition("=")
        if key not in KEYS:
            raise InputError(f'"{part}" after the config file: the keys are {", ".join(KEYS)}.')
        try:
            given[key] = KEYS[key](value)
        except ValueError:
            raise InputError(f"{part}: {key} must be a whole number.") from None
    return given


def paper() -> ConfigDict:
    """Recipe `paper`: what the paper's section 4 says."""
    return ConfigDict(
        {
            "dataset": "digits",
            "shots": 16,
            "seed": 1,
            "recipe": "paper",
            "clip": {"name": "tiny", "activation": ""},  # "": as the weights' source says
            "precision": "bf16",
            "mesh": "",  # devices along images x classes, "4x2"; "": all along images
            "data": {
                "root": "",
                "sampler": "coop",
                "template": "",  # zero-shot sentence; "": the data set's
                "crop_scale": (0.08, 1.0),
                "flip": True,
                "workers": -1,  # decoding processes; -1: one per core where images are files
            },
            "text": {"chunk": 0},  # classes per pass of the text tower; 0: all at once
            "method": {
                "name": "sotglp",
                "context": "A photo of a",
                "keep_underscores": False,
                "n_global": 4,
                "n_local": 4,
                "topk": 10,
                "fusion_weight": 0.25,
                "mean_over_prompts": False,
                "mean_of_branches": False,
                "global_dropout": 0.75,
                "local_init": "template",
                "class_specific": True,
                "projection": True,
                "vv": True,
                "vv_first_layer_leak": False,
                "plan_gradient": "stop",
            },
            "transport": {"epsilon": 0.1, "iterations": 20},
            "train": {
                "epochs": 50,
                "batch_size": 32,
                "lr": 0.05,
                "momentum": 0.9,
                "weight_decay": 0.01,
                "warmup_epochs": 5,
                "warmup_lr": 1e-5,
                "log_every": 10,  # steps
                "checkpoint_every": 50,  # steps
            },
        }
    )


def make_official(config: ConfigDict) -> None:
    """Recipe `official`: what the authors' code and scripts do, where that differs."""
    epochs, batch_size, lr, local_init = OFFICIAL.get(config.dataset, (200, 32, 0.005, "random"))
    config.data.sampler = "stratified"
    config.method.update(
        keep_underscores=True,
        n_global=3,
        fusion_weight=1.0,
        mean_over_prompts=True,
        mean_of_branches=True,
        local_init=local_init,
        vv_first_layer_leak=True,
    )
    config.train.update(epochs=epochs, batch_size=batch_size, lr=lr, warmup_epochs=0)
