"""Tables past the paper's: ways to choose λ, and whether transport makes prompts specialise."""

import statistics
from collections.abc import Sequence

from sotglp_jax.reports.paper import (
    ACCURACY,
    BRANCHES,
    MISSING,
    Numbers,
    Table,
    branch,
    caption_of,
    cell_of,
    dataset_title,
    table_shots,
)
from sotglp_jax.reports.results import SWEPT, VARIANTS, Result, alike, at_standard, grouped

FUSION, EPSILON = "method.fusion", "transport.epsilon"
SHARE = "Local branch's share of the weights"
ENTROPY, OVERLAP = "Plan entropy", "Overlap of top-3 patches"
USUAL_EPSILON = SWEPT[EPSILON][1]
UNIFORM = 99.0  # %; a plan of at least this entropy is called close to uniform


def make(results: Sequence[Result]) -> list[Table]:
    """Those tables that there are runs for."""
    return [table for table in (fusion(results), specialisation(results)) if table.rows]


def fusion(results: Sequence[Result]) -> Table:
    """Accuracy where λ of the prediction is fixed, chosen on validation images, or learned."""
    shots, rows = table_shots(results), {}
    for dataset, found in grouped(results).items():
        runs = [r for r in alike(found, shots, FUSION) if r.contents.get("fusion")]
        ways = [w for w in ("fixed", "validated", "learned") if _of(runs, FUSION, w)]
        for way in ways if len(ways) > 1 else ():
            rows[dataset_title(dataset), way] = _fused(_of(runs, FUSION, way))
    return Table(
        "fusion",
        caption_of(f"Ways to choose λ of the prediction, accuracy in % at {shots} shots", results),
        ("Data set", "λ"),
        (*(f"{ACCURACY}, {said}" for said in BRANCHES.values()), SHARE),
        rows,
        "column",
        (
            "Best in bold; of equal ones, all.",
            "fixed: as in training; validated: on min(K, 4) validation images per class; learned: "
            "with the prompts, on the training images. None sees test images.",
        ),
        (SHARE,),
    )


def _of(runs: Sequence[Result], key: str, value) -> list[Result]:
    return [r for r in runs if r.config.get(key) == value]


def _fused(runs: Sequence[Result]) -> Numbers:
    numbers = {
        f"{ACCURACY}, {said}": cell_of(runs, lambda r, name=name: branch(r, name))
        for name, said in BRANCHES.items()
    }
    return numbers | {SHARE: cell_of(runs, _local_share)}


def _local_share(result: Result) -> float:
    weights = result.contents["fusion"]
    return 100 * weights["local"] / (weights["global"] + weights["local"])


def specialisation(results: Sequence[Result]) -> Table:
    """Whether the prompts of a class look at different patches, by ε and kind of matching."""
    shots, rows, said = table_shots(results), {}, []
    for dataset, found in grouped(results).items():
        title = dataset_title(dataset)
        found = [r for r in found if "specialisation" in r.contents]
        own = {
            (title, name): _numbers(runs) for name, runs in _matchings(found, shots).items() if runs
        }
        rows |= own
        said += _verdict(title, own)
    columns = dict.fromkeys(column for numbers in rows.values() for column in numbers)
    return Table(
        "specialisation",
        caption_of(f"How the local prompts specialise, in % at {shots} shots", results, EPSILON),
        ("Data set", "Matching"),
        tuple(columns),
        rows,
        "column",
        (
            *said,
            "Test images seen by the prompts of their own class. Plan entropy: normalised, 100 is "
            "a uniform plan. Overlap: mean Jaccard index of two prompts' 3 most similar patches, "
            "100 where all prompts look at the same. Prompt n: kept patches that give it their "
            f"largest share. {MISSING}: without transport there is no plan.",
        ),
        tuple(columns),
    )


def _matchings(results: Sequence[Result], shots: int) -> dict[str, list[Result]]:
    """Runs by what shares the patches out."""
    runs = alike(results, shots, EPSILON)
    found = {
        f"transport, ε = {value:g}": _of(runs, EPSILON, value)
        for value in sorted({r.config[EPSILON] for r in runs if EPSILON in r.config})
    }
    for variant in ("no_ot", "independent_topk"):
        own = [r for r in results if r.variant == variant and r.shots == shots]
        found[VARIANTS[variant]] = at_standard(own)
    return found


def _numbers(runs: Sequence[Result]) -> Numbers:
    def value(result, *keys):
        found = result.contents["specialisation"]
        for key in keys:
            found = found[key]
        return 100 * found

    numbers = {OVERLAP: cell_of(runs, lambda r: value(r, "overlap"))}
    if runs[0].config.get("method.matching", "transport") != "transport":
        return numbers
    prompts = range(len(runs[0].contents["specialisation"]["share"]))
    return {
        ENTROPY: cell_of(runs, lambda r: value(r, "plan_entropy")),
        **numbers,
        **{f"Prompt {n + 1}": cell_of(runs, lambda r, n=n: value(r, "share", n)) for n in prompts},
    }


def _verdict(title: str, rows: dict[tuple[str, str], Numbers]) -> list[str]:
    """What the seeds that both have say of transport at the paper's ε against independent top-K."""
    ours = rows.get((title, f"transport, ε = {USUAL_EPSILON:g}"), {ENTROPY: {}, OVERLAP: {}})
    other = rows.get((title, VARIANTS["independent_topk"]), {OVERLAP: {}})
    seeds = sorted(ours[OVERLAP].keys() & other[OVERLAP].keys())
    if not seeds:
        return []
    entropy = statistics.mean(ours[ENTROPY][seed] for seed in seeds)
    a, b = ([numbers[OVERLAP][seed] for seed in seeds] for numbers in (ours, other))
    return [
        f"{title}: at ε = {USUAL_EPSILON:g} the plan is "
        f"{'' if entropy >= UNIFORM else 'not '}close to uniform (entropy {entropy:.2f} % of the "
        f"largest). The prompts' top-3 patches overlap by {statistics.mean(a):.1f} %, with "
        f"independent top-K by {statistics.mean(b):.1f} %: {_compared(a, b, seeds)}."
    ]


def _compared(ours: Sequence[float], other: Sequence[float], seeds: Sequence[int]) -> str:
    """What follows for specialisation from the overlaps of every seed."""
    if len(seeds) == 1:
        return "of one seed nothing follows"
    differences = [a - b for a, b in zip(ours, other, strict=True)]
    said = "transport does not make the prompts look at patches that differ more"
    if min(differences) < 0:
        said = "only in some seeds transport makes the prompts look at patches that differ more"
    if max(differences) < 0:
        said = "in every seed transport makes the prompts look at patches that differ more"
    points = ", ".join(f"{x:+.1f}" for x in differences)
    return f"{said} (differences {points} for seeds {', '.join(map(str, seeds))})"
