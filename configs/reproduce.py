"""The paper's Tables 1 to 4 and its figures: the runs that they need, and their report.

    python -m sotglp_jax.main --config=configs/reproduce.py:table=1
    python -m sotglp_jax.main --config=configs/reproduce.py:suite=demo

says how many runs and images that is; --yes runs what is missing and writes the report.
Table 1 is accuracy of all methods on the 11 data sets, 2 the ablation, 3 (and Figure 3) detection
out of distribution, 4 numbers of shots; without `table` it is all four. The suite `demo` has the
digits and the tiny CLIP instead, detection of all methods, and without `table` also three ways to
choose λ, three values of ε, and independent top-K. `methods`, `datasets`, `shots` and `seeds`,
each a list such as coop+sotglp, leave the others out; Tables 1 to 3 are at the most shots then.
"""

import re

from ml_collections import ConfigDict

from sotglp_jax import methods
from sotglp_jax.configs import common, ood
from sotglp_jax.data.catalog import BENCHMARKS
from sotglp_jax.errors import InputError
from sotglp_jax.reports.published import PUBLISHED

LISTS = ("methods", "datasets", "shots", "seeds")
KEYS = {"table": int} | dict.fromkeys(("suite", *LISTS, "clip", "recipe"), str)
NAMES = PUBLISHED["methods"]  # ours by the paper's
ABLATED = "sotglp"
# The runs of each table: methods and their variants. CLIP's accuracy stands beside every method's.
TABLES = {
    1: [(NAMES[title], "full") for title in PUBLISHED["table1"] if NAMES[title] != "zeroshot"],
    2: [
        (ABLATED, name)
        for name in ("full", *methods.load(ABLATED).variants)
        if name == "full" or methods.load(ABLATED).variants[name].title in PUBLISHED["table2"]
    ],
    3: [tuple(of[:2]) for of in PUBLISHED["table3_rows"].values()],
    4: [(NAMES[title], "full") for title in PUBLISHED["table4"]],
}
# By suite: data sets, CLIP, numbers of shots of Table 4, and the runs of each table.
SUITES = {
    "paper": (tuple(BENCHMARKS), "ViT-B/16", tuple(PUBLISHED["table4_shots"]), TABLES),
    "demo": (("digits",), "tiny", (1, 4, 16), TABLES | {3: sum(TABLES.values(), [])}),
}
# Past the demo's ten methods, so that it stays short: there if `methods` names them.
FURTHER = {"paper": (), "demo": ("lsn", "lsn_cocoop")}
# Past the paper, in the demo: the ways to choose λ, and what makes prompts specialise.
MORE = {
    "fusion=validated": {"method.fusion": "validated"},
    "fusion=learned": {"method.fusion": "learned"},
    "epsilon=0.01": {"method.epsilon": 0.01},
    "epsilon=1.0": {"method.epsilon": 1.0},
    "independent_topk": {"variant": "independent_topk"},
}
# ImageNet has no validation images to search C on: the value of CLIP's own example.
PROBE = {("imagenet", "linear_probe"): {"method.c": 0.316}}


def get_config(arg: str = "") -> ConfigDict:
    """The configuration of a suite for every run of a table, or of all."""
    given = common.parse(arg, KEYS)
    suite, table = given.get("suite", "paper"), given.get("table", 0)
    if suite not in SUITES:
        raise InputError(f'suite "{suite}" is unknown: take {" or ".join(SUITES)}.')
    if table not in range(5):
        raise InputError(f"table={table} is none of the paper's: take 1, 2, 3 or 4.")
    datasets, usual_clip, shots, tables = SUITES[suite]
    datasets = _listed(given, "datasets", datasets)
    shots, seeds = _numbers(given, "shots", shots), _numbers(given, "seeds", (1, 2, 3))
    chosen = _methods(given, tables, FURTHER[suite])
    clip, recipe = given.get("clip", usual_clip), given.get("recipe", "")
    runs = {}  # by data set, method, variant and number of shots
    for number in [table] if table else tables:
        for dataset in datasets:
            if number == 3 and dataset not in ood.SETS:
                continue
            for method, variant in tables[number]:
                for k in (shots if number == 4 else (max(shots),)) if method in chosen else ():
                    values = runs.setdefault((dataset, method, variant, k), {})
                    values |= _of_run(dataset, method, variant, k, clip, recipe)
                    values |= {"ood.sets": ood.SETS[dataset]} if number == 3 else {}
    if not runs:
        raise _nothing(table, chosen)
    settings = [("", values) for values in runs.values()]
    # What is set on the command line is set in one method's configuration, and so for all.
    base = ABLATED if ABLATED in chosen else chosen[0]
    config = common.make(datasets[0], clip=clip, method=base, recipe=_recipe(base, clip, recipe))
    if suite == "demo" and not table and base == ABLATED:
        more = dict(MORE)
        if config.data.sampler == "stratified":  # gives no validation images
            del more["fusion=validated"]
        settings += more.items()
    config = common.study(config, "", "report", (max(shots),), settings)
    config.study.seeds = seeds
    changed = [x for x in (clip, recipe) if x not in (usual_clip, "", "paper")]
    config.study.folder = re.sub(r"[^\w.@-]+", "-", "-".join(["reproduce", suite, *changed]))
    return config


def _of_run(dataset: str, method: str, variant: str, shots: int, clip: str, recipe: str) -> dict:
    """The setting of a run; where sets for detection exist, patches of texts are compared too."""
    values = {"dataset": dataset, "method.name": method, "variant": variant, "shots": shots}
    values |= {"recipe": _recipe(method, clip, recipe)} | PROBE.get((dataset, method), {})
    if dataset in ood.SETS and not methods.load(method).options().get("local", "value"):
        values["method.local"] = "value"
    return values if methods.load(method).learns else values | {"shots": 0, "seed": 0}


def _recipe(method: str, clip: str, recipe: str) -> str:
    """The recipe that was asked for where a method has it, else its usual one for this CLIP."""
    found = methods.load(method)
    known = recipe in found.recipes or (recipe == "tiny" and found.tiny)
    return common.make(clip=clip, method=method, recipe=recipe if known else "").recipe


def _listed(given: dict, key: str, usual: tuple) -> tuple[str, ...]:
    return tuple(filter(None, given[key].split("+"))) or usual if key in given else usual


def _numbers(given: dict, key: str, usual: tuple[int, ...]) -> tuple[int, ...]:
    try:
        found = tuple(map(int, _listed(given, key, usual)))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise InputError(f"{key}={given[key]} must be whole numbers above 0, joined by +.")
    return found


def _methods(given: dict, tables: dict, further: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the methods to run."""
    known = tuple(dict.fromkeys(method for runs in tables.values() for method, _ in runs))
    chosen = _listed(given, "methods", tuple(name for name in known if name not in further))
    if unknown := [name for name in chosen if name not in known]:
        raise InputError(
            f'methods={given["methods"]}: "{unknown[0]}" is none of the tables\': take some of '
            f"{', '.join(known)}, joined by +."
        )
    return chosen


def _nothing(table: int, chosen: tuple[str, ...]) -> InputError:
    if not {method for method, _ in TABLES[table]} & set(chosen):
        of = ", ".join(dict.fromkeys(method for method, _ in TABLES[table]))
        return InputError(f"Table {table} is of {of}: add one of them to methods=.")
    return InputError(f"Table 3 is of {' or '.join(ood.SETS)}: add one of them to datasets=.")
