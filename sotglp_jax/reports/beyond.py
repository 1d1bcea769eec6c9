"""Makes tables past the paper's: ways to fuse logits, and whether prompts specialise."""

import statistics
from collections.abc import Sequence

from sotglp_jax.reports.paper import (
    ACCURACY,
    METHOD,
    Numbers,
    Table,
    accuracy_of,
    at_table_shots,
    caption_of,
    cell_of,
    dataset_titles,
    said_shots,
    table_shots,
)
from sotglp_jax.reports.results import Result, alike, by_method, by_value, grouped, mains, methods

FUSION = "fusion"  # a setting, and the weights that a method with several branches says it has
ENTROPY, OVERLAP = "Plan entropy", "Overlap of top-3 patches"
UNIFORM = 99.0  # %; a plan of at least this entropy is called close to uniform


def make(results: Sequence[Result]) -> list[Table]:
    """Makes those tables that there are runs for."""
    return [table for table in (fusion(results), specialisation(results)) if table.rows]


def fusion(results: Sequence[Result]) -> Table:
    """Compares accuracy where the weights of branches are fixed, validated, or learned."""
    results, rows = at_table_shots([r for r in results if FUSION in r.contents["learned"]]), {}
    titles = dataset_titles(results)
    for dataset, found in grouped(results).items():
        for runs in by_method(found).values():
            ways = by_value(alike(runs, table_shots(found), FUSION), FUSION)
            for way, same in ways.items() if len(ways) > 1 else ():
                rows[titles[dataset], same[0].method["title"], way] = _fused(same)
    columns = tuple(dict.fromkeys(column for numbers in rows.values() for column in numbers))
    return Table(
        "fusion",
        _caption("Ways to choose λ of the prediction, accuracy in %", results),
        ("Data set", METHOD, "λ"),
        columns,
        rows,
        (
            "Best in bold; of equal ones, all.",
            "fixed: as in training; validated: on min(K, 4) validation images per class; learned: "
            "with the prompts, on the training images. None sees test images.",
        ),
        tuple(column for column in columns if not column.startswith(ACCURACY)),
    )


def _caption(what: str, results: Sequence[Result]) -> str:
    return caption_of(f"{what}{said_shots(results)}", results) if results else what


def _fused(runs: Sequence[Result]) -> Numbers:
    numbers = {
        f"{ACCURACY}, {said}": cell_of(runs, lambda r, name=name: accuracy_of(r, name))
        for name, said in runs[0].method["logits"].items()
    }
    _, *others = runs[0].contents["learned"][FUSION]
    for name in others:
        column = f"{name.capitalize()} branch's share of the weights"
        numbers[column] = cell_of(runs, lambda r, name=name: _share(r, name))
    return numbers


def _share(result: Result, name: str) -> float:
    weights = result.contents["learned"][FUSION]
    return 100 * weights[name] / sum(weights.values())


def specialisation(results: Sequence[Result]) -> Table:
    """Shows whether the prompts of a class look at different patches, by method and setting."""
    results, rows, said = (
        at_table_shots([r for r in results if "specialisation" in r.contents]),
        {},
        [],
    )
    titles = dataset_titles(results)
    for dataset, found in grouped(results).items():
        for runs in by_method(found).values():
            compared = _compared(runs, table_shots(found))
            own = {title: _numbers(same) for title, same in compared.items()}
            rows |= {(titles[dataset], title): numbers for title, numbers in own.items()}
            said += [f"{titles[dataset]}: {x}" for x in _verdicts(runs, own)]
    columns = dict.fromkeys(column for numbers in rows.values() for column in numbers)
    return Table(
        "specialisation",
        _caption("How the prompts of a class specialise, in %", results),
        ("Data set", METHOD),
        tuple(columns),
        rows,
        (
            *said,
            "Test images seen by the prompts of their own class. Plan entropy: normalised, 100 is "
            "a uniform plan, as without transport. Overlap: mean Jaccard index of two prompts' 3 "
            "most similar patches, 100 where all prompts look at the same. Prompt n: kept patches "
            "that give it their largest share; equal shares count in parts.",
        ),
        tuple(columns),
    )


def _compared(runs: Sequence[Result], shots: int) -> dict[str, list[Result]]:
    """Groups a method's runs by variant, and those of the method by values of what is swept."""
    found = methods(runs)
    for title in mains(runs):
        for name, symbol in runs[0].method["symbols"].items():
            for value, same in by_value(alike(runs, shots, name), name).items():
                if not any(r in found[title] for r in same):
                    found[f"{title}, {symbol} = {value:g}"] = same
    return found


def _numbers(runs: Sequence[Result]) -> Numbers:
    def percent(*keys):
        def value(result):
            found = result.contents["specialisation"]
            for key in keys:
                found = found[key]
            return 100 * found

        return cell_of(runs, value)

    prompts = range(len(runs[0].contents["specialisation"]["share"]))
    shares = {f"Prompt {n + 1}": percent("share", n) for n in prompts}
    return {ENTROPY: percent("plan_entropy"), OVERLAP: percent("overlap"), **shares}


def _verdicts(runs: Sequence[Result], rows: dict[str, Numbers]) -> list[str]:
    """Says how near to uniform the method's plan is, and whether ablations overlap more."""
    said = []
    for title in mains(runs):
        entropy = statistics.mean(rows[title][ENTROPY].values())
        said += [
            f"the plan of {title} is {'' if entropy >= UNIFORM else 'not '}close to uniform "
            f"(entropy {entropy:.2f} % of the largest)."
        ]
        ablations = [t for t, same in methods(runs).items() if not same[0].full]
        said += [_verdict(title, other, rows) for other in ablations]
    return [x for x in said if x]


def _verdict(title: str, other: str, rows: dict[str, Numbers]) -> str:
    """Compares overlaps of the seeds that both have; says nothing where there are none."""
    seeds = sorted(rows[title][OVERLAP].keys() & rows[other][OVERLAP].keys())
    if not seeds:
        return ""
    a, b = ([rows[name][OVERLAP][seed] for seed in seeds] for name in (title, other))
    return (
        f"top-3 patches of {title}'s prompts overlap by {statistics.mean(a):.1f} %, with {other} "
        f"by {statistics.mean(b):.1f} %: {_conclusion(title, a, b, seeds)}."
    )


def _conclusion(
    title: str, ours: Sequence[float], other: Sequence[float], seeds: Sequence[int]
) -> str:
    """Says what follows for specialisation from the overlaps of every seed."""
    if len(seeds) == 1:
        return "of one seed nothing follows"
    differences = [a - b for a, b in zip(ours, other, strict=True)]
    said = f"{title}'s prompts do not look at patches that differ more"
    if min(differences) < 0:
        said = f"only in some seeds {title}'s prompts look at patches that differ more"
    if max(differences) < 0:
        said = f"in every seed {title}'s prompts look at patches that differ more"
    points = ", ".join(f"{x:+.1f}" for x in differences)
    return f"{said} (differences {points} for seeds {', '.join(map(str, seeds))})"
