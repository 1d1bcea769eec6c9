"""What a trained run says of pictures: python -m sotglp_jax.predict RUN IMAGE_OR_FOLDER...

A line an image: its class and the next ones with their probabilities, and whether it looks out of
distribution. Images that cannot be read are reported and left out; the exit code is 1 then.
"""

import argparse
import csv
import io
import json
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags, logging

from sotglp_jax import paths
from sotglp_jax.data.files import describe, read_folder
from sotglp_jax.errors import InputError, run_command
from sotglp_jax.paths import AnyPath, place, trained

if TYPE_CHECKING:
    from sotglp_jax.trained.classifier import Classifier, Prediction

NAME = 60  # letters of an image's name in the table
MANY = 32  # images that are worth a progress bar

Line = Callable[[dict], str]


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m sotglp_jax.predict", description=__doc__)
    run = "a finished run's folder, an export, or hf:owner/name"
    parser.add_argument("run", metavar="RUN", type=trained, help=run)
    parser.add_argument("images", metavar="IMAGE_OR_FOLDER", nargs="+", help="folders: all below")
    parser.add_argument("--topk", type=int, default=5, help="classes to show [5]")
    parser.add_argument(
        "--recall", type=float, help="share of pictures of known classes not to flag [0.95]"
    )
    parser.add_argument("--maps", metavar="DIR", type=place, help="for pictures of the patch maps")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print a JSON object an image")
    form.add_argument("--csv", action="store_true", help="print comma-separated values")
    flags.FLAGS(argv[:1])
    return parser.parse_args(argv[1:])


def main(arguments: argparse.Namespace) -> None:
    """Classifies the images and prints a line for each; exit code 1 where one cannot be read."""
    if arguments.topk < 1:
        raise InputError(f"--topk={arguments.topk} shows no class: set 1 or more.")
    left_out = Counter()
    names = image_names(arguments.images, left_out)
    if left_out:
        print(f"left out: {describe(left_out)}", file=sys.stderr)
    from PIL import Image
    from tqdm import tqdm

    from sotglp_jax.devices import programs
    from sotglp_jax.trained.classifier import Classifier

    logging.set_verbosity(logging.WARNING)
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # below the size it refuses
    programs.keep()
    classifier = Classifier.load(arguments.run, arguments.recall)
    topk = min(arguments.topk, len(classifier.class_names))
    line = _table(names, classifier.class_names)
    if arguments.json:
        line = json.dumps
    elif arguments.csv:
        line = _csv(topk)
    faults, flagged, records = 0, 0, classify(classifier, names, topk, _made(arguments.maps))
    for record in tqdm(records, "images", len(names), disable=len(names) < MANY or None):
        fault = record.get("error")
        faults += fault is not None
        flagged += record.get("out_of_distribution", False)
        tqdm.write(fault or line(record), file=sys.stderr if fault else sys.stdout)
    if flagged and not (arguments.json or arguments.csv):
        print(_flagged(classifier), file=sys.stderr)
    if faults:
        print(f"{faults} of {len(names)} images cannot be read", file=sys.stderr)
        sys.exit(1)


def _flagged(classifier: "Classifier") -> str:
    """Says what flagged pictures are, and how many of known classes are flagged with them."""
    said = "out of distribution: less like the classes than the threshold asks for"
    if not (count := len(classifier.known_scores)):
        return said
    share, low, high = classifier.passing()
    return (
        f"{said}, which {share:.1%} of {count} images of known classes reach that were not trained "
        f"on; of others {1 - high:.1%} to {1 - low:.1%} are flagged too (95 % interval)"
    )


def _made(folder: AnyPath | None) -> AnyPath | None:
    try:
        if folder:
            paths.make(folder)
    except OSError as error:
        raise _unwritable(folder, error) from None
    return folder


def _unwritable(folder: AnyPath, error: OSError) -> InputError:
    return InputError(
        f"--maps={folder} cannot be written ({error.strerror}): choose another folder."
    )


def image_names(given: Sequence[str], left_out: Counter[str]) -> list[str]:
    """The images that files and folders name, in the order given, those of a folder sorted.

    Args:
      given: files and folders.
      left_out: counts what is no image in the folders, see `data.files.Folder`.

    Raises:
      InputError: a file or folder is not there, an image is named twice, or there is none.
    """
    names = {}
    for name in given:
        path = place(name)
        if not path.exists():
            raise InputError(f"{name} is not there: give images, or folders of them.")
        folder = read_folder(path)
        left_out.update(folder.count_left_out())
        images = [path / x for x in folder.list_images(path)] if path.is_dir() else [path]
        for image in images:
            if paths.absolute(image) in names:
                raise InputError(f"{image} is given twice: name it, or a folder above it, once.")
            names[paths.absolute(image)] = str(image)
    if not names:
        inside = f", but {describe(left_out)}" if left_out else ""
        raise InputError(f"{', '.join(given)}: no images{inside}: give others, such as jpg or png.")
    return list(names.values())


def classify(
    classifier: "Classifier", names: Sequence[str], topk: int, maps: AnyPath | None
) -> Iterator[dict]:
    """A record an image, in order; {"image", "error"} of one that cannot be read.

    Args:
      classifier: the classifier.
      names: files.
      topk: classes of a record, at most C.
      maps: folder that gets a picture of maps an image; None for none.
    """
    import numpy as np

    from sotglp_jax.data import pictures
    from sotglp_jax.trained.classifier import MOST, batches, bucket

    rows, read = bucket(len(names)), pictures.ahead(names, classifier.resize, 2 * MOST)
    for batch in batches(zip(range(len(names)), names, read, strict=True)):
        sound = [(i, name, pixels) for i, name, pixels in batch if isinstance(pixels, np.ndarray)]
        found = {}
        if sound:
            numbers, files, pixels = zip(*sound, strict=True)
            prediction = classifier.of_pixels(np.stack(pixels), rows, maps is not None)
            found = {number: prediction.record(i, topk) for i, number in enumerate(numbers)}
            if maps:
                drawn = _draw(maps, numbers, files, pixels, prediction)
                for number, picture in zip(numbers, drawn, strict=True):
                    found[number]["maps"] = picture
        for number, name, pixels in batch:
            yield {"image": name} | found.get(number, {"error": str(pixels)})


def _draw(folder: AnyPath, numbers, files, pixels, prediction: "Prediction") -> Iterator[str]:
    """Draws the maps of each image; yields the pictures' names."""
    import jax

    from sotglp_jax.reports import gallery

    for i, (number, file) in enumerate(zip(numbers, files, strict=True)):
        maps = jax.tree.map(lambda x, i=i: x[i : i + 1], prediction.maps)
        path = folder / f"{number + 1:05d}-{Path(file).stem}.png"
        said = gallery.title(prediction.names[i], prediction.best[i].max(), prediction.is_ood[i])
        figure = gallery.draw([pixels[i]], maps, [said])
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=200)
        try:
            paths.write(path, drawn.getvalue())
        except OSError as error:
            raise _unwritable(folder, error) from None
        yield str(path)


def _table(names: Sequence[str], class_names: Sequence[str]) -> Line:
    """Columns as wide as what they hold; of a long name the end."""
    name_width = min(max(map(len, names)), NAME)
    class_width = max(map(len, class_names))

    def line(record: dict) -> str:
        name = record["image"]
        name = name if len(name) <= name_width else f"…{name[1 - name_width :]}"
        rest = ", ".join(f"{other} {share:.1%}" for other, share in record["top"][1:])
        flag = "  out of distribution" if record.get("out_of_distribution") else ""
        return (
            f"{name:<{name_width}}  {record['class']:<{class_width}}"
            f"{record['probability']:>7.1%}  {rest}{flag}"
        )

    return line


def _csv(topk: int) -> Line:
    """The header, and a line a record."""
    columns = ["image", "class", "probability", "ood_score", "out_of_distribution"]
    columns += [f"{key}_{i}" for i in range(2, topk + 1) for key in ("class", "probability")]
    print(_joined(columns))

    def line(record: dict) -> str:
        rest = [x for pair in record["top"][1:] for x in pair]
        return _joined([record.get(column, "") for column in columns[:5]] + rest)

    return line


def _joined(values: Sequence) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()


if __name__ == "__main__":
    run_command(main, flags_parser=parse)
