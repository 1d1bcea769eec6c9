"""What every study shares: the defaults, and the `key=value,...` string."""

from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from sotglp_jax import methods
from sotglp_jax.errors import InputError

KEYS = {"dataset": str, "shots": int, "seed": int, "clip": str, "method": str, "recipe": str}
KEYS |= {"variant": str, "targets": str, "unknown": str}


def get_config(arg: str = "", protocol: str = "few_shot") -> ConfigDict:
    """The configuration for a string such as "dataset=eurosat,clip=ViT-B/16,shots=16".

    Args:
      arg: what stands behind the config file.
      protocol: "few_shot", "base_to_new" or "transfer", for which some methods have other settings.
    """
    given = parse(arg)
    targets = tuple(filter(None, given.pop("targets", "").split("+")))
    unknown = tuple(filter(None, [given.pop("unknown", "")]))
    config = make(**given, protocol=protocol)
    config.targets, config.ood.sets = targets, unknown
    return config


def make(
    dataset: str = "digits",
    shots: int = 16,
    seed: int = 1,
    clip: str = "tiny",
    method: str = "sotglp",
    recipe: str = "",
    variant: str = "full",
    protocol: str = "few_shot",
) -> ConfigDict:
    """The configuration of a run with the values that follow from what is chosen by name."""
    config, found = defaults(), methods.load(method)
    config.update(dataset=dataset, shots=shots, seed=seed, protocol=protocol)
    config.clip.name = clip
    # The tiny CLIP is fast enough, and float32 gives the same numbers on every processor.
    config.precision = "float32" if clip == "tiny" else "bf16"
    if dataset == "digits":  # a mirrored or half digit is no digit
        config.data.flip = False
        config.data.crop_scale = (0.6, 1.0)
    config.method = ConfigDict({"name": method} | found.options())
    known = (*found.recipes, *["tiny"] * bool(found.tiny))
    config.recipe = recipe or ("tiny" if clip == "tiny" and found.tiny else known[0])
    if config.recipe not in known:
        raise InputError(f'recipe "{recipe}" is unknown to {method}: take {" or ".join(known)}.')
    tiny = config.recipe == "tiny"
    values = found.recipe(known[0] if tiny else config.recipe, dataset, shots, protocol)
    values |= found.tiny if tiny else {}
    if not found.learns:
        config.shots = config.seed = 0
    config.update_from_flattened_dict(values | overrides(variant, method))
    return config


def overrides(variant: str, method: str = "sotglp") -> dict:
    """What a variant of a method sets; an unknown name is an `InputError`."""
    known = methods.load(method).variants
    if variant != "full" and variant not in known:
        listed = ", ".join(["full", *known])
        raise InputError(f'variant "{variant}" is unknown to {method}: take one of {listed}.')
    changes = known[variant].changes if variant in known else {}
    return {"variant": variant} | {f"method.{key}": value for key, value in changes.items()}


def study(
    config: ConfigDict,
    arg: str,
    table: str,
    shots: tuple[int, ...],
    settings: Sequence[tuple[str, dict]] = (("", {}),),
) -> ConfigDict:
    """A configuration of several runs whose results make one table.

    Args:
      config: of the runs; seed and shots are set for each.
      arg: the string behind the config file; a seed or a number of shots in it is the only one.
      table: a key of `sotglp_jax.reports.tables.TABLES`, or "report".
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
    """Reads "key=value,..."; an unknown key or a value of the wrong type is an `InputError`.

    A comma in a value is written as two.
    """
    given = {}
    for part in filter(None, arg.replace(",,", "\0").split(",")):
        key, _, value = part.replace("\0", ",").partition("=")
        if key not in keys:
            raise InputError(
                f'"{part}" after the config file: the keys are {", ".join(keys)}, and a comma in '
                "a value is written as two."
            )
        try:
            given[key] = keys[key](value)
        except ValueError:
            raise InputError(f"{part}: {key} must be a whole number.") from None
    return given


def defaults() -> ConfigDict:
    """What holds unless a recipe, a data set or a flag says otherwise."""
    return ConfigDict(
        {
            "dataset": "digits",
            "shots": 16,
            "seed": 1,
            "recipe": "",
            "variant": "full",
            "protocol": "few_shot",
            "targets": (),  # data sets to test on too; "new": the classes that "base" leaves out
            # "" and (): as the config beside the weights says; heads of both towers.
            "clip": {"name": "tiny", "activation": "", "heads": ()},
            "precision": "bf16",
            "mesh": 0,  # devices; 0: all
            "data": {
                "root": "",
                "allow_partial": False,  # go on with a data set that is not all there
                "sampler": "coop",
                "renumber": False,  # draw "stratified" by classes as they first appear in train
                "pool": "train",  # what training shots are drawn from; or "train+val"
                "classes": "all",  # "base": the first half of the classes, "new": the others
                "names": "",  # a file that gives classes other names; "": classes.json in a folder
                "template": "",  # zero-shot sentence; "": the data set's
                "full_stop": True,  # at its end
                "crop_scale": (0.08, 1.0),  # (): training images are cropped as test images are
                "flip": True,
                "workers": -1,  # decoding processes; -1: one per core where images are files
            },
            # Image features on disk: views per training image, 0 for none; "": the user's cache.
            "cache": {"views": 0, "folder": ""},
            # Sets to be told from the test images (behind the config file, unknown=FOLDER is one),
            # the temperature of MCM, and what chooses the threshold of predictions: "recall", that
            # of 95 % of the validation images, or "unknown", the sets.
            "ood": {"sets": (), "temperature": 1.0, "threshold": "recall"},
            "text": {"chunk": 0},  # classes per pass of the text tower; 0: as memory allows
            # calibrate: divide logits by a temperature that the validation images choose.
            "eval": {"batch_size": 64, "calibrate": False},
            "method": {},  # its name and its options: sotglp_jax/methods
            "train": {
                "epochs": 50,
                "batch_size": 32,
                # An epoch's last batch where it is short: "always", or "never".
                "drop_last": "unless_only",
                "lr": 0.002,
                "momentum": 0.9,
                "weight_decay": 0.01,
                "schedule": "paper",  # or "dassl", see sotglp_jax/schedules.py
                "warmup_epochs": 0,
                "warmup_lr": 1e-5,
                "init_from": "",  # a run whose prompts this one starts from; "": from none
                "log_every": 10,  # steps
                "checkpoint_every": 50,  # steps
            },
        }
    )
