"""Results files below a folder: which may count, and what may stand beside what."""

import dataclasses
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from sotglp_jax.data.catalog import BENCHMARKS
from sotglp_jax.errors import InputError
from sotglp_jax.methods.sotglp import SotGlp
from sotglp_jax.tables import VARY, difference
from sotglp_jax.workdir import EXECUTION, IMAGES

VARIANTS = {
    "full": "SOT-GLP",
    "no_vv": "w/o V-V attention",
    "no_proj": "w/o projection",
    "shared_local": "w/o class-specific prompts",
    "no_ot": "w/o transport",
    "no_topk": "w/o top-K",
    "independent_topk": "independent top-K",
    "global_only": "global branch alone",
    "local_only": "local branch alone",
    "zero_shot": "zero-shot CLIP",
}
# Settings of the method that go without saying; another value stands in the title.
USUAL = {
    "method.vv": True,
    "method.projection": True,
    "method.class_specific": True,
    "method.matching": "transport",
    "method.global_weight": 1.0,
    "method.fusion": "fixed",
    "transport.tau": 1.0,
}
# What is swept, its symbol, and the paper's value, which the tables take where some runs have it.
SWEPT = {
    "method.fusion_weight": ("λ", 0.25),
    "method.topk": ("K", 10),
    "transport.epsilon": ("ε", 0.1),
}
# Fields of the protocol that differ between data sets.
OF_DATASET = ("dataset", "classes", "class_names_sha256", "test_images_sha256", "template")


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
      folder: the run folder.
      contents: of its `results.json`.
    """

    folder: Path
    contents: dict

    @property
    def config(self) -> dict:
        """The run's settings, flat."""
        return self.contents["config"]

    @property
    def dataset(self) -> str:
        return self.contents["protocol"]["dataset"]

    @property
    def shots(self) -> int:
        return self.contents["protocol"]["shots"]

    @property
    def seed(self) -> int:
        """Of the shots and the training; 0 where nothing is learned."""
        return 0 if self.variant == "zero_shot" else self.contents["protocol"]["seed"]

    @property
    def variant(self) -> str:
        """A key of `VARIANTS`."""
        if self.config["method.name"] == "zeroshot":
            return "zero_shot"
        return self.config.get("variant", "full")

    @property
    def accuracy(self) -> float:
        """Of the whole of what was trained, in %."""
        found = self.contents["accuracy"]
        return 100 * next(found[k] for k in ("fused", "global", "local", "zero_shot") if k in found)


def read(folder: Path) -> tuple[list[Result], list[str]]:
    """All finished runs below a folder, and a sentence on every one that is left out.

    Raises:
      InputError: there is none, or their protocols or settings may not stand in one table.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: give the one that holds the run folders.")
    results, warnings = [], []
    for run in sorted({p.parent for name in (IMAGES, "results.json") for p in folder.rglob(name)}):
        try:
            results.append(_finished(run))
        except InputError as error:
            warnings.append(str(error))
    if not results:
        raise _nothing(folder, warnings)
    check(results)
    return results, warnings + _repeated(results) + _seed_gaps(results)


def _nothing(folder: Path, left_out: Sequence[str]) -> InputError:
    if not left_out:
        return InputError(f"{folder} holds no run: train one first.")
    more = f"; so are {len(left_out) - 1} others" * (len(left_out) > 1)
    return InputError(f"{folder} holds no finished run: {left_out[0].rstrip('.')}{more}.")


def _finished(run: Path) -> Result:
    path = run / "results.json"
    if not path.exists():
        raise InputError(f"{run} is unfinished and left out.")
    try:
        result = Result(run, json.loads(path.read_text()))
        # What every table reads; another version's results may lack some of it.
        _ = result.dataset, result.shots, result.seed, result.accuracy, VARIANTS[result.variant]
        _ = result.contents["targets"], result.config["recipe"]
    except (ValueError, KeyError, TypeError, StopIteration, AttributeError):
        raise InputError(
            f"{path} is damaged or of another version, and left out: evaluate the run again."
        ) from None
    if result.config.get("data.classes", "all") != "all":
        raise InputError(f"{run} is left out: the tables have no runs of half the classes.")
    return result


def check(results: Sequence[Result]) -> None:
    """Makes sure that results may stand in one report.

    Data sets may differ, and within a data set shots, seeds and what `method` and `transport` say.

    Raises:
      InputError: something else differs; says which field, and both values.
    """
    _check_protocols(results, (*VARY, *OF_DATASET, "shots"))
    for group in grouped(results).values():
        _check_protocols(group, (*VARY, "shots"))
        _check_settings([r for r in group if r.variant != "zero_shot"])
        _check_detection([r for r in group if "ood" in r.contents])


def grouped(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results by data set, the paper's in its order."""
    found = _by(results, lambda r: r.dataset)
    order = [*BENCHMARKS, *sorted(found.keys() - BENCHMARKS.keys())]
    return {name: found[name] for name in order if name in found}


def _check_protocols(results: Sequence[Result], vary: Sequence[str]) -> None:
    for other in results[1:]:
        if found := difference(results[0].contents, other.contents, vary):
            raise _mixed(results[0], other, *found)


def _check_settings(results: Sequence[Result]) -> None:
    free = {"seed", "shots", "variant", *EXECUTION}
    for other in results[1:]:
        for key in sorted(differing(results[0], other) - free):
            if not key.startswith(("method.", "transport.")):
                raise _mixed(results[0], other, key, *(r.config[key] for r in (results[0], other)))


def _check_detection(results: Sequence[Result]) -> None:
    for other in results[1:]:
        for field in ("temperature", "images"):
            ours, theirs = (r.contents["ood"][field] for r in (results[0], other))
            if ours != theirs:
                raise _mixed(results[0], other, f"ood.{field}", ours, theirs)


def _mixed(a: Result, b: Result, field: str, *values) -> InputError:
    return InputError(
        f"results of {a.dataset} cannot stand in one table: {field} is {values[0]} in {a.folder} "
        f"and {values[1]} in {b.folder}: put them below different folders."
    )


def differing(a: Result, b: Result) -> set[str]:
    """Settings that both have and that differ."""
    return {key for key in a.config.keys() & b.config.keys() if a.config[key] != b.config[key]}


def settings_but(result: Result, *keys: str) -> str:
    """All that a run computes, as text, but for some settings and the seed."""
    left_out = {"seed", *keys, *EXECUTION}
    kept = {key: value for key, value in result.config.items() if key not in left_out}
    return json.dumps(kept, sort_keys=True)


def _repeated(results: Sequence[Result]) -> list[str]:
    first: dict[tuple, Result] = {}
    said = []
    for result in results:
        before = first.setdefault((settings_but(result), result.seed), result)
        if before.contents["accuracy"] != result.contents["accuracy"]:
            said.append(
                f"{before.folder} and {result.folder} are the same run with other accuracies: the "
                "first counts."
            )
    return said


def _seed_gaps(results: Sequence[Result]) -> list[str]:
    """Where a mean, or one of detection, is over fewer seeds than another."""
    learned = [r for r in results if r.variant != "zero_shot"]
    every = {r.seed for r in learned}
    said = []
    for group in _by(learned, settings_but).values():
        title, there = f"{group[0].folder} and its like", {r.seed for r in group}
        judged = {r.seed for r in group if "ood" in r.contents}
        if there != every:
            said.append(f"{title}: only seed {_listed(there)} of {_listed(every)}.")
        if judged and judged != there:
            said.append(f"{title}: detection only of seed {_listed(judged)} of {_listed(there)}.")
    return said


def _by(results: Sequence[Result], key: Callable[[Result], str]) -> dict[str, list[Result]]:
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return groups


def _listed(seeds: set[int]) -> str:
    return ", ".join(map(str, sorted(seeds)))


def methods(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results that tables take, by the title of the variant, in the order of `VARIANTS`.

    Of a sweep over λ, K or ε only the runs at the paper's value, else the value most runs have.
    Of a data set's runs that differ in another setting of the method, the title of those that have
    not its usual value says it.
    """
    found: dict[str, list[Result]] = {}
    for variant in VARIANTS:
        for group in grouped([r for r in results if r.variant == variant]).values():
            group = at_standard(group)
            usual = _usual(group) | (USUAL if variant == "full" else {})
            for result in group:
                named = {k: result.config[k] for k in sorted(usual.keys() & result.config.keys())}
                said = [f", {k.split('.')[1]}={x}" for k, x in named.items() if x != usual[k]]
                found.setdefault("".join([VARIANTS[variant], *said]), []).append(result)
    return dict(sorted(found.items(), key=lambda x: (list(VARIANTS).index(x[1][0].variant), x[0])))


def _usual(results: Sequence[Result]) -> dict:
    """Of the method's settings that differ, the default or else the value most have."""
    defaults = {field.name: field.default for field in dataclasses.fields(SotGlp)}
    usual = {}
    for key in {key for r in results for key in differing(results[0], r)}:
        kind, _, name = key.partition(".")
        if kind in ("method", "transport"):
            values = [r.config[key] for r in results if key in r.config]
            default = defaults.get(name)
            usual[key] = default if default in values else statistics.mode(values)
    return usual


def alike(results: Sequence[Result], shots: int, free: str) -> list[Result]:
    """Runs of a data set with the whole method and so many shots that differ in one setting alone.

    Args:
      results: of one data set.
      shots: images per class.
      free: the setting; the others are the usual ones, of a sweep the paper's.
    """
    usual = {key: value for key, value in USUAL.items() if key != free}
    found = [
        r
        for r in results
        if r.variant == "full"
        and r.shots == shots
        and all(r.config.get(key, value) == value for key, value in usual.items())
    ]
    found = at_standard(found, free)
    return [r for r in found if settings_but(r, free) == settings_but(found[0], free)]


def at_standard(results: list[Result], free: str = "") -> list[Result]:
    """Of a sweep, the runs at the paper's value or else the value most have; `free` may be any."""
    for key, (_, standard) in SWEPT.items():
        if key == free or not results:
            continue
        if key == "method.fusion_weight" and results[0].config["recipe"] == "official":
            standard = 1.0
        values = [r.config.get(key) for r in results]
        taken = standard if standard in values else statistics.mode(values)
        results = [r for r in results if r.config.get(key) == taken]
    return results
