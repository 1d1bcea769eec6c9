"""Results files below a folder: which may count, and what may stand beside what."""

import dataclasses
import json
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from sotglp_jax.data.catalog import BENCHMARKS
from sotglp_jax.errors import InputError
from sotglp_jax.paths import AnyPath, below
from sotglp_jax.reports.published import PUBLISHED
from sotglp_jax.reports.tables import OF_METHOD, VARY, deciding, difference
from sotglp_jax.workdir import EXECUTION, IMAGES

# Fields of the protocol that differ between data sets.
OF_DATASET = ("dataset", "classes", "class_names_sha256", "test_images_sha256", "template")
OF_DATASET += ("sentences",)


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
      folder: the run folder.
      contents: of its `results.json`.
    """

    folder: AnyPath
    contents: dict

    @property
    def config(self) -> dict:
        """The run's settings, flat."""
        return self.contents["config"]

    @property
    def method(self) -> dict:
        """What the results say of their method; see `sotglp_jax.reports.tables.logits_title`."""
        return self.contents["method"]

    @property
    def dataset(self) -> str:
        """The name of the data set."""
        return self.contents["protocol"]["dataset"]

    @property
    def shots(self) -> int:
        """Training images per class."""
        return self.contents["protocol"]["shots"]

    @property
    def learns(self) -> bool:
        """Whether the method learns anything."""
        return self.method["learns"]

    @property
    def baseline(self) -> bool:
        """Whether this is plain CLIP, whose accuracy stands beside every method's."""
        return "zero_shot" in self.method["logits"]

    @property
    def full(self) -> bool:
        """Whether this is a method as it is, neither an ablation nor plain CLIP."""
        return self.method["variant"] == "full" and not self.baseline

    @property
    def seed(self) -> int:
        """The seed of the shots and of the training; 0 where nothing is learned."""
        return self.contents["protocol"]["seed"] if self.learns else 0

    @property
    def accuracy(self) -> float:
        """The accuracy of the logits that decide, in %."""
        accuracy = self.contents["accuracy"]
        return 100 * accuracy[deciding(self.method, accuracy)]

    @property
    def changed(self) -> dict:
        """The settings of the method that have not their usual value; a missing one has it."""
        usual = self.method["usual"]
        return {x: self.setting(x) for x in usual if self.setting(x) != _hashable(usual[x])}

    def setting(self, name: str) -> Any:
        """Returns the value of a setting of the method, the usual one where it is missing."""
        return _hashable(self.config.get(f"method.{name}", self.method["usual"].get(name)))

    def used(self, name: str) -> Any:
        """Returns the value of a setting with a symbol that the training went by.

        What it searched or derived, such as the linear probe's C, is in `learned`.
        """
        learned = {k: x for topic in self.contents["learned"].values() for k, x in topic.items()}
        return learned.get(self.method["symbols"][name], self.setting(name))


def _hashable(value: Any) -> Any:
    """Returns what JSON has as a list as the tuple that it was."""
    return tuple(value) if isinstance(value, list) else value


def load(folder: AnyPath) -> tuple[list[Result], list[str]]:
    """Loads all finished runs below a folder, the paper's methods first and in its order.

    Also gives a sentence on every one left out.

    Raises:
      InputError: there is none, or their protocols or settings may not stand in one table.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: give the one that holds the run folders.")
    results, warnings = [], []
    for run in sorted({x.parent for x in below(folder, (IMAGES, "results.json"))}):
        try:
            results.append(_load_run(run))
        except InputError as error:
            warnings.append(str(error))
    if not results:
        raise _nothing(folder, warnings)
    check(results)
    order = [*PUBLISHED["methods"].values()]
    results.sort(
        key=lambda r: order.index(r.method["name"]) if r.method["name"] in order else len(order)
    )
    return results, warnings + _repeated(results) + _seed_gaps(results)


def _nothing(folder: AnyPath, left_out: Sequence[str]) -> InputError:
    if not left_out:
        return InputError(f"{folder} holds no run: train one first.")
    more = f"; so are {len(left_out) - 1} others" * (len(left_out) > 1)
    return InputError(f"{folder} holds no finished run: {left_out[0].rstrip('.')}{more}.")


def _load_run(run: AnyPath) -> Result:
    path = run / "results.json"
    if not path.exists():
        raise InputError(f"{run} is unfinished and left out.")
    try:
        result = Result(run, json.loads(path.read_text("utf-8")))
        # What every table reads; another version's results may lack some of it.
        _ = result.dataset, result.shots, result.seed, result.accuracy, result.full, result.changed
        _ = [result.method[key] for key in ("name", "title", "symbols")]
        _ = [result.contents[key] for key in ("targets", "learned")]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path} is damaged or of another version, and left out: evaluate the run again."
        ) from None
    if result.config.get("data.classes", "all") != "all":
        raise InputError(f"{run} is left out: the tables have no runs of half the classes.")
    return result


def check(results: Sequence[Result]) -> None:
    """Makes sure that results may stand in one report.

    Data sets and methods may differ, within these shots and seeds, and the method's settings.

    Raises:
      InputError: something else differs; says which field, and both values.
    """
    _check_protocols(results, (*VARY, *OF_METHOD, *OF_DATASET, "shots"))
    for runs in by_method(results).values():
        _check_protocols(runs, (*VARY, *OF_DATASET, "shots", "changed"))
    for group in grouped(results).values():
        _check_protocols(group, (*VARY, *OF_METHOD, "shots"))
        for runs in by_method([r for r in group if r.learns]).values():
            _check_settings(runs)
        _check_detection([r for r in group if "ood" in r.contents])


def grouped(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Groups results by data set, the paper's in its order."""
    found = group_by(results, lambda r: r.dataset)
    order = [*BENCHMARKS, *sorted(found.keys() - BENCHMARKS.keys())]
    return {name: found[name] for name in order if name in found}


def by_method(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Groups results by the name of the method, in the order of first appearance."""
    return group_by(results, lambda r: r.method["name"])


def _check_protocols(results: Sequence[Result], vary: Sequence[str]) -> None:
    for other in results[1:]:
        if found := difference(results[0].contents, other.contents, vary):
            raise _mixed(results[0], other, *found)


def _check_settings(results: Sequence[Result]) -> None:
    """Checks all settings but the method's; a recipe may set others by the number of shots."""
    free = {"seed", "shots", "variant", *EXECUTION}
    for other in results[1:]:
        keys = _differing(results[0], other) - free
        if results[0].shots != other.shots:
            keys &= _against_recipe(results[0]) | _against_recipe(other)
        for key in sorted(keys):
            if not key.startswith("method."):
                raise _mixed(results[0], other, key, *(r.config[key] for r in (results[0], other)))


def _against_recipe(result: Result) -> set[str]:
    return set(result.contents["protocol"]["changed"])


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


def _differing(a: Result, b: Result) -> set[str]:
    """Returns the settings that both have and that differ."""
    return {key for key in a.config.keys() & b.config.keys() if a.config[key] != b.config[key]}


def identity(result: Result, free: str = "") -> str:
    """Writes what a run of checked results is, but for its seed and one setting of the method."""
    changed = {name: value for name, value in result.changed.items() if name != free}
    method = [result.method[key] for key in ("name", "variant")]
    return json.dumps([result.dataset, result.shots, *method, changed], sort_keys=True)


def _repeated(results: Sequence[Result]) -> list[str]:
    first: dict[tuple, Result] = {}
    said = []
    for result in results:
        before = first.setdefault((identity(result), result.seed), result)
        if before.contents["accuracy"] != result.contents["accuracy"]:
            said.append(
                f"{before.folder} and {result.folder} are the same run with other accuracies: the "
                "first counts."
            )
    return said


def _seed_gaps(results: Sequence[Result]) -> list[str]:
    """Says where a mean, or one of detection, is over fewer seeds than another."""
    learned = [r for r in results if r.learns]
    every = {r.seed for r in learned}
    said = []
    for group in group_by(learned, identity).values():
        title, there = f"{group[0].folder} and its like", {r.seed for r in group}
        detected = {r.seed for r in group if "ood" in r.contents}
        if there != every:
            said.append(f"{title}: only seed {_listed(there)} of {_listed(every)}.")
        if detected and detected != there:
            said.append(f"{title}: detection only of seed {_listed(detected)} of {_listed(there)}.")
    return said


def by_value(results: Sequence[Result], name: str) -> dict[Any, list[Result]]:
    """Groups results by their value of a setting of the method, the lowest first."""
    return dict(sorted(group_by(results, lambda r: r.setting(name)).items()))


def group_by(results: Sequence[Result], key: Callable[[Result], Any]) -> dict[Any, list[Result]]:
    """Groups results by a key, in the order of first appearance."""
    groups: dict[Any, list[Result]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return groups


def _listed(seeds: set[int]) -> str:
    return ", ".join(map(str, sorted(seeds)))


def methods(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Groups the results that tables take by title, each method before its variants.

    Methods and variants stand in the order of first appearance, plain CLIP last. Of a sweep over a
    setting with a symbol only the runs at one value count, see `at_usual`. Other settings of the
    method that are not as usual stand in the title, of a variant those that not all its runs have.
    """
    order = [*by_method(results)]
    groups = group_by(results, lambda r: (r.baseline, order.index(r.method["name"])))
    found: dict[str, list[Result]] = {}
    for _, runs in sorted(groups.items()):
        variants = group_by(sorted(runs, key=lambda r: not r.full), lambda r: r.method["variant"])
        for variant in variants.values():
            kept = [r for group in grouped(variant).values() for r in at_usual(group)]
            found |= dict(sorted(group_by(kept, _entitle(variant)).items()))
    return found


def _entitle(variant: Sequence[Result]) -> Callable[[Result], str]:
    """Returns the function that gives the runs of a variant their titles."""
    quiet = set(variant[0].method["symbols"])
    if not variant[0].full:
        quiet |= {
            name
            for name, value in variant[0].changed.items()
            if all(r.setting(name) == value for r in variant)
        }

    def title(result: Result) -> str:
        said = sorted(result.changed.keys() - quiet)
        return ", ".join([result.method["title"], *(f"{k}={result.setting(k)}" for k in said)])

    return title


def mains(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Returns, of `methods`, the first title of each method as it is."""
    full = {title: runs for title, runs in methods(results).items() if runs[0].full}
    first = {runs[0].method["name"]: title for title, runs in reversed(full.items())}
    return {title: runs for title, runs in full.items() if title in first.values()}


def alike(results: Sequence[Result], shots: int, free: str) -> list[Result]:
    """Returns runs of a full method that differ in one setting alone, the others as usual.

    Args:
      results: of one data set and method.
      shots: images per class.
      free: the setting.
    """
    found = at_usual([r for r in results if r.full and r.shots == shots], free)
    if not found:
        return []
    plain = min(found, key=lambda r: len(r.changed.keys() - {free}))
    return [r for r in found if identity(r, free) == identity(plain, free)]


def at_usual(results: list[Result], free: str = "") -> list[Result]:
    """Returns, of runs that sweep settings with symbols, those at the usual values.

    Args:
      results: of one data set, method and variant. Where none has a usual value, those count that
        have the value that most have.
      free: a setting that may have any value.
    """
    for name in results[0].method["symbols"] if results else ():
        if name != free:
            most = statistics.mode(r.setting(name) for r in results)
            usual = [r for r in results if name not in r.changed]
            results = usual or [r for r in results if r.setting(name) == most]
    return results
