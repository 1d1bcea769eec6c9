"""The paper's Tables 1 to 4: the runs that they need, and their report.

    python -m sotglp_jax.main --config=configs/reproduce.py:table=1
    python -m sotglp_jax.main --config=configs/reproduce.py:suite=demo

says how many runs and images that is; --yes runs what is missing and writes the report.
Table 1 is accuracy on the 11 data sets, 2 the ablation, 3 detection out of distribution, 4 numbers
of shots; without `table` it is all four. The suite `demo` has the digits and the tiny CLIP instead,
and without `table` also three ways to choose λ, three values of ε, and independent top-K.
"""

import re

from ml_collections import ConfigDict

from configs import common, ood
from sotglp_jax.data.catalog import BENCHMARKS
from sotglp_jax.errors import InputError

KEYS = {"table": int, "suite": str, "dataset": str, "clip": str, "recipe": str, "seed": int}
ABLATED = ("full", "no_vv", "no_proj", "shared_local")
# By suite: data sets, CLIP, numbers of shots of Table 4, and the variants of each table.
SUITES = {
    "paper": (
        tuple(BENCHMARKS),
        "ViT-B/16",
        (1, 2, 4, 8, 16),
        {1: ("full",), 2: ABLATED, 3: ("full", "no_vv", "no_proj", "zero_shot"), 4: ("full",)},
    ),
    "demo": (
        ("digits",),
        "tiny",
        (1, 4, 16),
        {1: ("full",), 2: ABLATED, 3: (*ABLATED, "zero_shot"), 4: ABLATED},
    ),
}
SHOTS = 16  # of Tables 1 to 3
# Past the paper, in the demo: the ways to choose λ, and what makes prompts specialise.
MORE = {
    "fusion=validated": {"method.fusion": "validated"},
    "fusion=learned": {"method.fusion": "learned"},
    "epsilon=0.01": {"method.epsilon": 0.01},
    "epsilon=1.0": {"method.epsilon": 1.0},
    "independent_topk": {"variant": "independent_topk"},
}


def get_config(arg: str = "") -> ConfigDict:
    """The configuration of a suite for every run of a table, or of all."""
    given = common.parse(arg, KEYS)
    suite, table = given.get("suite", "paper"), given.get("table", 0)
    if suite not in SUITES:
        raise InputError(f'suite "{suite}" is unknown: take {" or ".join(SUITES)}.')
    if table not in range(5):
        raise InputError(f"table={table} is none of the paper's: take 1, 2, 3 or 4.")
    datasets, clip, shots, variants = SUITES[suite]
    datasets = tuple(given["dataset"].split("+")) if "dataset" in given else datasets
    rest = f"clip={given.get('clip', clip)},recipe={given.get('recipe', 'paper')}"
    config = common.get_config(f"dataset={datasets[0]},{rest}")
    runs = {}  # by data set, variant and number of shots
    for number in [table] if table else variants:
        for dataset in datasets:
            if number == 3 and dataset not in ood.SETS:
                continue
            for variant in variants[number]:
                for k in shots if number == 4 else (SHOTS,):
                    values = runs.setdefault((dataset, variant, k), {})
                    values |= _of_run(dataset, variant, k)
                    values |= {"ood.sets": ood.SETS[dataset]} if number == 3 else {}
    if not runs:
        raise InputError(f"Table 3 is of {' or '.join(ood.SETS)}: add one of them to dataset=.")
    settings = [("", values) for values in runs.values()]
    if suite == "demo" and not table:
        more = dict(MORE)
        if config.data.sampler == "stratified":  # gives no validation images
            del more["fusion=validated"]
        settings += more.items()
    seed = f"seed={given['seed']}" if "seed" in given else ""
    config = common.study(config, seed, "report", (SHOTS,), settings)
    changed = [given[k] for k in ("clip", "recipe") if given.get(k, "paper") not in (clip, "paper")]
    config.study.folder = re.sub(r"[^\w.@-]+", "-", "-".join(["reproduce", suite, *changed]))
    return config


def _of_run(dataset: str, variant: str, shots: int) -> dict:
    """The setting of a run; "zero_shot" is another method."""
    if variant == "zero_shot":
        return {"dataset": dataset, "method.name": "zeroshot", "shots": 0, "seed": 0}
    return {"dataset": dataset, "variant": variant, "shots": shots}
