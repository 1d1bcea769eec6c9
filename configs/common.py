"""What every study shares: the defaults, the recipes, and the `key=value,...` string."""

from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from sotglp_jax.errors import InputError

# Epochs, batch size, learning rate and local init of the official code's scripts.
OFFICIAL = {
    "imagenet": (50, 256, 0.01, "random"),
    "caltech101": (200, 32, 0.005, "random"),
    "stanford_cars": (200, 32, 0.005, "random"),
    "flowers102": (200, 32, 0.005, "random"),
    "oxford_pets": (200, 32, 0.005, "gram"),
    "food101": (200, 128, 0.005, "gram"),
    "fgvc_aircraft": (200, 128, 0.01, "random"),
    "sun397": (200, 128, 0.005, "random"),
    "ucf101": (200, 128, 0.005, "random"),
    "dtd": (200, 128, 0.002, "random"),
    "eurosat": (200, 10, 0.001, "random"),
}
KEYS = {"dataset": str, "shots": int, "seed": int, "clip": str, "recipe": str, "targets": str}
KEYS["variant"] = str
# The paper's ablations and others, by name: what differs from the full method.
VARIANTS = {
    "full": {},
    "no_vv": {"method.vv": False},
    "no_proj": {"method.projection": False},
    "shared_local": {"method.class_specific": False},
    "no_ot": {"method.matching": "uniform"},
    "no_topk": {"method.topk": 0},
    "independent_topk": {"method.matching": "independent"},
    "global_only": {"method.fusion_weight": 0.0},
    "local_only": {"method.global_weight": 0.0},
    "zero_shot": {"method.name": "zeroshot"},
}


def get_config(arg: str = "") -> ConfigDict:
    """The configuration for a string such as "dataset=eurosat,clip=ViT-B/16,shots=16"."""
    given = parse(arg)
    config = paper()
    config.dataset = given.get("dataset", config.dataset)
    config.shots = given.get("shots", config.shots)
    config.seed = given.get("seed", config.seed)
    config.clip.name = given.get("clip", config.clip.name)
    config.targets = tuple(filter(None, given.get("targets", "").split("+")))
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
    config.update_from_flattened_dict(overrides(given.get("variant", config.variant)))
    return config


def overrides(variant: str) -> dict:
    """What a variant sets; an unknown name is an `InputError`."""
    if variant not in VARIANTS:
        raise InputError(f'variant "{variant}" is unknown: take one of {", ".join(VARIANTS)}.')
    return {"variant": variant} | VARIANTS[variant]


def study(
    config: ConfigDict,
    arg: str,
    table: str,
    shots: tuple[int, ...],
    settings: Sequence[tuple[str, dict]] = (("", {}),),
) -> ConfigDict:
    """The same for several runs whose results make one table.

    Args:
      config: of the runs; seed and shots are set for each.
      arg: the string behind the config file; a seed or a number of shots in it is the only one.
      table: a key of `sotglp_jax.tables.TABLES`, or "report".
      shots: of the runs, with each of the field's seeds 1, 2 and 3.
      settings: names, and what the runs of every seed and number of shots set; one that sets these
        itself counts once.
    """
    given = parse(arg)
    config.study = ConfigDict(
        {
            "table": table,
            "shots": (given["shots"],) if "shots" in given else shots,
            "seeds": (given["seed"],) if "seed" in given else (1, 2, 3),
            "settings": tuple((name, tuple(values.items())) for name, values in settings),
        }
    )
    return config


def parse(arg: str, keys: Mapping[str, type] = KEYS) -> dict[str, str | int]:
    """Reads "key=value,..."; an unknown key or a value of the wrong type is an `InputError`."""
    given = {}
    for part in filter(None, arg.split(",")):
        key, _, value = part.partition("=")
        if key not in keys:
            raise InputError(f'"{part}" after the config file: the keys are {", ".join(keys)}.')
        try:
            given[key] = keys[key](value)
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
            "variant": "full",
            "targets": (),  # data sets to test on too; "new": the classes that "base" leaves out
            "clip": {"name": "tiny", "activation": ""},  # "": as the weights' source says
            "precision": "bf16",
            "mesh": "",  # devices along images x classes, "4x2"; "": all along images
            "data": {
                "root": "",
                "allow_partial": False,  # go on with a data set that is not all there
                "sampler": "coop",
                "classes": "all",  # "base": the first half of the classes, "new": the others
                "template": "",  # zero-shot sentence; "": the data set's
                "crop_scale": (0.08, 1.0),
                "flip": True,
                "workers": -1,  # decoding processes; -1: one per core where images are files
            },
            # Image features on disk: views per training image, 0 for none; "": the user's cache.
            "cache": {"views": 0, "folder": ""},
            # Sets to be told from the test images, and the temperature of MCM.
            "ood": {"sets": (), "temperature": 1.0},
            "text": {"chunk": 0},  # classes per pass of the text tower; 0: as memory allows
            "method": {
                "name": "sotglp",
                "context": "A photo of a",
                "keep_underscores": False,
                "n_global": 4,
                "n_local": 4,
                "topk": 10,  # 0 keeps all patches
                "matching": "transport",  # or "uniform", "independent"
                "fusion_weight": 0.25,
                "global_weight": 1.0,
                # λ of the prediction: "fixed" as in training, "validated" on the validation shots
                # after it, or "learned" with the prompts.
                "fusion": "fixed",
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
            "transport": {"epsilon": 0.1, "iterations": 20, "tau": 1.0},  # tau < 1: unbalanced
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
