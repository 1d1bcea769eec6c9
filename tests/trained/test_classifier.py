"""What was trained, used on other pictures: the classifier, its export, and the predict command."""

import concurrent.futures
import csv
import dataclasses
import io
import json
import re
import shlex
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import clips
import jax
import numpy as np
import onnxruntime
import pytest
from conftest import ROOT
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from sotglp_jax import Classifier, export, predict, study
from sotglp_jax.configs import common
from sotglp_jax.data import digits, pictures
from sotglp_jax.data.transforms import Resize
from sotglp_jax.errors import InputError
from sotglp_jax.evaluators import classification, detection, maps
from sotglp_jax.trained import finished, onnx
from sotglp_jax.trained.classifier import bucket

QUIET = onnxruntime.SessionOptions()
QUIET.log_severity_level = 3  # errors alone
README = (ROOT / "README.md").read_text()
pytestmark = pytest.mark.usefixtures("compiled")
TEST = range(900, 1797)
IMAGES = ["a.png", "b.webp", "deep/c.png", "deep/d.png", "deep/e.png"]


def trained(clip_folder, folder, method="sotglp", **changes):
    config = common.get_config(f"clip={clip_folder},shots=1,method={method}")
    settings = {"train.epochs": 1, "train.warmup_epochs": 0, "precision": "float32"}
    config.update_from_flattened_dict(settings | changes)
    study.run_one(config, str(folder), "train")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run, whose CLIP sees images in its own way."""
    folder = tmp_path_factory.mktemp("runs")
    pixels = {"resize_mode": "squash", "interpolation": "bilinear"}
    stated = {"model_cfg": {"quick_gelu": True}, "preprocess_cfg": pixels}
    own = clips.write(folder / "clip", json.dumps(stated))
    changes = {"method.iterations": 2, "ood.sets": (unknown(folder),)}
    changes |= {"eval.calibrate": True}
    return trained(own, folder / "run", **changes)


def unknown(folder):
    """A folder of pictures of none of the classes."""
    (folder / "unknown").mkdir()
    for i in range(9):
        pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "unknown" / f"{i}.png")
    return str(folder / "unknown")


@pytest.fixture(scope="module")
def classifier(run):
    return Classifier.load(run)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The run as a file, by the README's command."""
    out = tmp_path_factory.mktemp("exports") / "digits.sotglp"
    (line,) = re.findall(r"^python -m sotglp_jax\.export .*", README, re.MULTILINE)
    words = [str(run) if x.startswith("runs/") else x for x in shlex.split(line)[3:]]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(out.parent)
        export.main(export.parse(["export", *words]))
    assert out.exists()
    return out


@pytest.fixture(scope="module")
def as_onnx(run, tmp_path_factory):
    """The run as an ONNX file."""
    out = tmp_path_factory.mktemp("onnx") / "clothes.onnx"
    export.main(export.parse(["export", str(run), f"--out={out}", "--format=onnx"]))
    return out


@pytest.fixture
def images(tmp_path):
    """A folder of digits in two forms, some in a folder of their own."""
    (tmp_path / "images" / "deep").mkdir(parents=True)
    for i, name in enumerate(IMAGES):
        digits.draw(900 + i).save(tmp_path / "images" / name, lossless=True)
    return tmp_path / "images"


def check_same(ours, theirs, rows=slice(None)):
    assert ours.probabilities.keys() == theirs.probabilities.keys()
    for name, values in ours.probabilities.items():
        np.testing.assert_allclose(values, theirs.probabilities[name][rows], atol=1e-5)
    np.testing.assert_allclose(ours.ood_score, theirs.ood_score[rows], atol=1e-5)


def test_a_run_predicts_what_it_was_evaluated_to(run, classifier):
    results = json.loads((run / "results.json").read_text())
    found = classifier([digits.draw(i) for i in TEST])
    labels = digits.source(TEST).labels
    for name, values in found.probabilities.items():
        np.testing.assert_allclose(values.sum(-1), 1, rtol=1e-5)
        right = np.mean(values.argmax(-1) == labels)
        assert right == pytest.approx(results["accuracy"][name], abs=1.5 / len(TEST))
    assert found.class_names == digits.CLASS_NAMES
    assert found.names == [digits.CLASS_NAMES[label] for label in found.labels]
    assert results["ood_threshold"]["images"] == 10 and results["ood_threshold"]["part"] == "val"
    assert found.threshold == results["ood_threshold"]["value"]
    assert results["ood_threshold"]["local"] == "vv"
    assert results["protocol"]["pixels"].endswith("; both sides resized to 32 by bilinear")
    np.testing.assert_array_equal(found.is_ood, found.ood_score < found.threshold)
    assert found.maps is None


def test_probabilities_are_divided_by_the_temperature_of_the_run(run, classifier):
    kept = json.loads((run / "results.json").read_text())["calibration"]
    seen = classification.load(run)
    found = classifier([digits.draw(i) for i in TEST]).best
    np.testing.assert_allclose(found.max(-1), seen.probability, atol=1e-5)
    assert classification.calibration_error(seen) == kept["ece"]["after"]
    assert kept["temperature"].keys() == {"fused", "global", "local"} and kept["images"] == 10
    plain = found.astype(np.float64) ** kept["temperature"]["fused"]
    plain /= plain.sum(-1, keepdims=True)
    before = dataclasses.replace(seen, probability=plain.max(-1))
    assert classification.calibration_error(before) == pytest.approx(
        kept["ece"]["before"], abs=1e-3
    )


def test_unknown_pictures_are_flagged_as_the_evaluation_says(run, classifier):
    kept = json.loads((run / "results.json").read_text())["ood_threshold"]
    (told,) = kept["unknown"].values()
    assert kept["chosen"] == "recall" and told["images"] == 9
    found = classifier(sorted((run.parent / "unknown").iterdir()))
    assert found.is_ood.mean() == told["flagged"]


def test_maps_of_a_run_are_kept_with_what_the_classifier_says(run, classifier):
    kept, labels = maps.load(run).answers, digits.source(TEST).labels
    found = classifier([digits.draw(TEST[labels.index(k)]) for k in range(10)])
    assert kept.given.tolist() == found.names
    np.testing.assert_allclose(kept.probability, found.best.max(-1), atol=1e-5)
    np.testing.assert_array_equal(kept.flagged, found.is_ood)


def test_a_threshold_is_of_the_recall_that_is_asked_for(run, classifier, exported):
    assert len(classifier.known_scores) == 10 and classifier.passing()[0] >= 0.9
    for path in (run, exported):
        for recall, kept in ((0.5, 5), (0.8, 8), (0.99, 10)):
            other = Classifier.load(path, recall=recall)
            assert other.threshold == classifier.threshold_at(recall)
            assert (other.known_scores >= other.threshold).sum() == kept
            low, high = other.passing()[1:]
            assert low < kept / 10 <= high
    with pytest.raises(InputError, match="recall=95 is no share"):
        Classifier.load(run, recall=95)


def test_every_form_of_a_picture_is_the_same_picture(classifier, images):
    image = Image.open(images / "a.png")
    pixels = np.asarray(image)
    forms = [images / "a.png", str(images / "a.png"), image, pixels, pixels / 255.0, pixels[..., 0]]
    found = classifier(forms)
    for values in found.probabilities.values():
        np.testing.assert_array_equal(values, values[:1].repeat(len(forms), 0))
    check_same(classifier(image), found, rows=slice(1))
    check_same(classifier(np.stack([pixels] * 5)), found, rows=slice(5))
    assert classifier(digits.draw(901)).labels.shape == (1,)


def check_onnx(path, program, size, atol=1e-4):
    """An ONNX file gives what a program gives, of one image and of several."""
    session = onnxruntime.InferenceSession(path, QUIET)
    assert [x.name for x in session.get_inputs()] == ["pixels"]
    names = [x.name for x in session.get_outputs()]
    for count in (1, 3):
        pixels = np.random.default_rng(count).integers(0, 256, (count, size, size, 3), np.uint8)
        found = dict(zip(names, session.run(None, {"pixels": pixels}), strict=True))
        for path, expected in jax.tree.leaves_with_path(program(pixels)):
            ours = found.pop("/".join(key.key for key in path))
            np.testing.assert_allclose(ours, expected, atol=atol, err_msg=str(path))
        assert not found


def test_onnx_gives_what_jax_gives(as_onnx, classifier, environment):
    check_onnx(as_onnx, classifier.program, classifier.resize.size)
    about = json.loads(as_onnx.with_name(as_onnx.name + ".json").read_text())
    assert about["class_names"] == list(classifier.class_names) and about["format"] == "onnx"
    page = (ROOT / "docs" / "photographs.md").read_text()
    check_lines(page, classifier, as_onnx.parent, environment, "jax", "jax2onnx")


def test_onnx_is_refused_where_it_cannot_be(run, as_onnx, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="is an ONNX file, which onnxruntime runs"):
        Classifier.load(as_onnx)
    words = ["export", str(run), f"--out={tmp_path}/a.onnx", "--format=onnx"]
    with pytest.raises(InputError, match="an ONNX file is in float32"):
        export.main(export.parse([*words, "--precision=bf16"]))
    monkeypatch.setattr(onnx, "MOST", 1)
    with pytest.raises(InputError, match="holds 2 GB"):
        export.main(export.parse(words))
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(InputError, match="needs `pip install sotglp_jax.onnx.`"):
        export.main(export.parse(words))


def test_neither_length_nor_thread_matters(classifier):
    several = [digits.draw(i) for i in TEST[:40]]
    whole = classifier(several)
    lengths = (1, 8, 40)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for n, found in zip(
            lengths, pool.map(lambda n: classifier(several[:n]), lengths), strict=True
        ):
            check_same(found, whole, rows=slice(n))
    assert {bucket(n) for n in range(1, 2000)} == {1, 2, 4, 8, 16, 32}
    assert all(min(n, 32) <= bucket(n) for n in range(1, 2000))


def test_maps_are_of_the_predicted_class(classifier):
    found = classifier([digits.draw(i) for i in TEST[:5]], maps=True)
    assert found.maps.prompts.shape == (5, 4, 4, 4) and found.maps.kept.shape == (5, 4, 4)
    assert (found.maps.kept.sum((1, 2)) == 10).all()
    np.testing.assert_allclose(found.maps.combined, found.maps.prompts.mean(1), atol=1e-6)


def test_an_export_gives_what_the_run_gives(classifier, exported):
    other = Classifier.load(exported)
    assert other.resize == classifier.resize == Resize(32, "squash", "bilinear")
    about = json.loads(exported.with_suffix(".sotglp.json").read_text())
    assert "both sides resized to 32 by bilinear, by Pillow" in about["input"]
    assert (other.class_names, other.threshold) == (classifier.class_names, classifier.threshold)
    np.testing.assert_array_equal(other.known_scores, classifier.known_scores)
    for n in (1, 8):
        several = [digits.draw(i) for i in TEST[:n]]
        ours, theirs = (x(several, maps=True) for x in (other, classifier))
        check_same(ours, theirs)
        np.testing.assert_allclose(ours.maps.prompts, theirs.maps.prompts, atol=1e-5)


def test_the_readmes_lines_run_an_export_with_jax_and_numpy_alone(
    classifier, exported, environment
):
    check_lines(README, classifier, exported.parent, environment)


def check_lines(page, classifier, folder, environment, *foreign):
    """The Python of a page names the classes that a classifier finds, and imports little."""
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(program.splitlines()) <= 13
    several = [digits.draw(i) for i in TEST[:8]]
    pixels = np.stack([pictures.load(image, classifier.resize) for image in several])
    np.save(folder / "pixels.npy", pixels)
    program += "import sys\nprint({x.split('.')[0] for x in sys.modules} & set(sys.argv[1:]))\n"
    foreign = ["sotglp_jax", "flax", "ott", "optax", "PIL", "orbax", *foreign]
    out = subprocess.run(
        [sys.executable, "-c", program, *foreign],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert out.returncode == 0, out.stderr
    *lines, loaded = out.stdout.splitlines()
    found = classifier(several)
    assert [line.split()[0] for line in lines] == found.names and loaded == "set()"


def change_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("version", "export of version 0 and this package reads version 3: export the run again"),
        ("damaged", "is not the file that .* describes: copy both again"),
        ("alone", r"digits.sotglp.json is not there"),
        ("nothing", "does not describe an export"),
    ],
)
def test_exports_that_cannot_be_used(exported, tmp_path, what, said):
    path, beside = tmp_path / "digits.sotglp", tmp_path / "digits.sotglp.json"
    for copy in (path, beside):
        shutil.copy(exported.parent / copy.name, copy)
    if what == "version":
        change_json(beside, version=0)
    if what == "damaged":
        path.write_bytes(path.read_bytes()[:-1])
    if what == "alone":
        beside.unlink()
    if what == "nothing":
        beside.write_text("[")
    with pytest.raises(InputError, match=said):
        Classifier.load(path)
    with pytest.raises(InputError, match="nowhere is not there"):
        Classifier.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("empty", "is no run folder: it has no config.json"),
        ("unfinished", "is not finished: finish it with .* --workdir="),
        ("old", "an older version.*--mode=eval"),
        ("damaged", "results.json is damaged"),
        ("no parameters", "params.safetensors is missing or damaged: .*--mode=eval"),
        ("weights", "are not those that the run"),
    ],
)
def test_runs_that_cannot_be_used(run, tmp_path, what, said):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    results = json.loads((folder / "results.json").read_text())
    if what == "empty":
        (folder / "config.json").unlink()
    if what == "unfinished":
        (folder / "results.json").unlink()
    if what == "old":
        del results["method"]
    if what == "weights":
        results["config"]["clip.sha256"] = "0"
    if what in ("old", "weights"):
        (folder / "results.json").write_text(json.dumps(results))
    if what == "damaged":
        (folder / "results.json").write_text("{")
    if what == "no parameters":
        (folder / "params.safetensors").unlink()
    with pytest.raises(InputError, match=said):
        finished.load(folder)


def test_a_setting_that_is_newer_than_a_run_has_its_default(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    results = json.loads((run / "results.json").read_text())
    del results["config"]["method.fusion"]
    (tmp_path / "run" / "results.json").write_text(json.dumps(results))
    assert finished.load(tmp_path / "run").run.method.fusion == "fixed"


def test_a_zero_shot_run_classifies_by_its_sentences(clip_folder, tmp_path):
    (tmp_path / "names.json").write_text(json.dumps({"one": "1", "two": ["two", "pair", "2"]}))
    named = {"data.names": str(tmp_path / "names.json")}
    named |= {"ood.sets": (unknown(tmp_path),), "ood.threshold": "unknown"}
    folder = trained(clip_folder, tmp_path / "run", "zeroshot", **named)
    classifier = Classifier.load(folder)
    assert classifier.class_names[:3] == ("zero", "1", "two")
    found = classifier([digits.draw(i) for i in TEST])
    assert set(found.probabilities) == {"zero_shot"}
    right = np.mean(found.labels == digits.source(TEST).labels)
    results = json.loads((folder / "results.json").read_text())
    assert right == pytest.approx(results["accuracy"]["zero_shot"], abs=1.5 / len(TEST))
    threshold = results["ood_threshold"]
    assert (threshold["part"], threshold["images"]) == ("val", 200)
    assert threshold["score"] == "gl_mcm" and threshold["chosen"] == "unknown"
    files = sorted((tmp_path / "unknown").iterdir())  # of which every second one chose
    seen = [classifier(x) for x in ([digits.draw(i) for i in range(700, 900)], files)]
    known, others = (x.ood_score for x in seen)
    assert threshold["value"] == pytest.approx(detection.separating(known, others[::2]), rel=1e-5)
    (told,) = threshold["unknown"].values()
    assert told["images"] == 4 and told["flagged"] == seen[1].is_ood[1::2].mean()
    assert threshold["passing"] == 1 - seen[0].is_ood.mean()
    area = detection.auroc(found.ood_score, others)
    assert told["auroc"] == pytest.approx(area, abs=1e-3)
    assert told["separates"] == detection.separates(told["auroc"], len(TEST), 9)
    with pytest.raises(InputError, match="no local prompts"):
        classifier(digits.draw(900), maps=True)


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (np.zeros((4, 4, 2), np.uint8), r"an array of shape \(4, 4, 2\) is no image"),
        (np.zeros((0, 4), np.uint8), "is no image"),
        (np.full((4, 4), 2.0), r"floats must be in \[0, 1\]"),
        (np.full((4, 4), np.nan), r"floats must be in \[0, 1\]"),
        (np.zeros((4, 4), np.int64), "an array of int64 is no image"),
        ("nowhere.png", "nowhere.png is not there"),
        (__file__, "test_classifier.py cannot be read"),
    ],
)
def test_what_is_no_picture(classifier, picture, said):
    with pytest.raises(InputError, match=said):
        classifier([digits.draw(900), picture])


def test_pictures_of_odd_sizes(classifier, tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (1, 1), np.uint8)
    assert (pictures.load(grey, Resize(32)) == grey[0, 0]).all()
    line = np.arange(200_000, dtype=np.uint8)[None]  # 32 rows of it would have 204 million pixels
    for turned in (line, line.T):
        assert pictures.load(turned, Resize(32)).shape == (32, 32, 3)
    with pytest.raises(InputError, match="give one or more"):
        classifier([])


def png_of(width, height, path):
    """A file whose pixels do not follow."""
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    for name, data in ((b"IHDR", header), (b"IDAT", b""), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + name + data
        content += struct.pack(">I", zlib.crc32(name + data))
    path.write_bytes(content)
    return path


def test_a_decompression_bomb_is_refused(classifier, tmp_path):
    with pytest.raises(InputError, match="bomb.png is refused: .*decompression bomb"):
        classifier(png_of(50_000, 50_000, tmp_path / "bomb.png"))


def test_a_large_jpeg_is_reduced_while_it_is_decoded(tmp_path, monkeypatch):
    small = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(small).resize((1600, 1200), Image.Resampling.BICUBIC).save(tmp_path / "x.jpg")
    whole = pictures.load(tmp_path / "x.jpg", Resize(32)).astype(int)
    drafted, draft = [], JpegImageFile.draft
    monkeypatch.setattr(pictures, "LARGE", 1_000_000)
    monkeypatch.setattr(JpegImageFile, "draft", lambda *a: drafted.append(draft(*a)))
    reduced = pictures.load(tmp_path / "x.jpg", Resize(32)).astype(int)
    assert drafted and abs(reduced - whole).max() <= 3


def test_pictures_are_read_no_faster_than_they_are_taken():
    asked = []

    def endless():
        while True:
            asked.append(digits.draw(900))
            yield asked[-1]

    read = pictures.ahead(endless(), Resize(32), 4)
    for _ in range(10):
        next(read)
    read.close()
    assert len(asked) <= 14


@pytest.fixture
def command(capsys):
    """Runs predict: (exit code, stdout, stderr)."""

    def start(*words):
        code = 0
        try:
            predict.main(predict.parse(["predict", *map(str, words)]))
        except SystemExit as exit_:
            code = exit_.code
        return code, *capsys.readouterr()

    return start


def test_predict_prints_a_table_and_reports_what_cannot_be_read(
    command, exported, images, monkeypatch
):
    monkeypatch.chdir(images.parent)
    content = (images / "a.png").read_bytes()
    (images / "broken.png").write_bytes(content[: len(content) // 2])
    code, out, err = command(exported, "images")
    sound = [f"images/{x}" for x in IMAGES]
    expected = Classifier.load(exported)(sound)
    lines = out.splitlines()
    assert code == 1 and len(lines) == 5
    assert "broken.png cannot be read: " in err and "1 of 6 images cannot be read" in err
    for line, name, out_of in zip(lines, expected.names, expected.is_ood, strict=True):
        assert line.split()[1] == name and line.endswith("out of distribution") == out_of
    assert [line.split()[0] for line in lines] == sound
    assert [line.count("%") for line in lines] == [5] * 5
    flagged = Classifier.load(exported, recall=0.1)
    code, out, err = command(exported, images / "deep", "--recall=0.1")
    assert code == 0 and out.count("out of distribution") == flagged(sound[2:]).is_ood.sum() > 0
    assert "which 10.0% of 10 images of known classes reach" in err
    assert "of others 55.5% to 99.7% are flagged too (95 % interval)" in err


def test_predict_writes_json_lines_csv_and_maps(command, exported, images, tmp_path):
    maps = tmp_path / "new" / "maps"
    code, out, _ = command(exported, images, "--json", "--topk=99", "--maps", maps)
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and len(records) == 5
    for record in records:
        assert record["top"][0] == [record["class"], record["probability"]]
        assert len(record["top"]) == 10 and record["out_of_distribution"] in (True, False)
        assert sum(p for _, p in record["top"]) == pytest.approx(1, abs=1e-5)
        with Image.open(record["maps"]) as picture:
            assert picture.width > 4 * picture.height  # an image, four prompts, combined
    code, out, _ = command(
        exported, *(images / x for x in ("a.png", "b.webp", "deep")), "--csv", "--topk=2"
    )
    rows = list(csv.DictReader(out.splitlines()))
    assert code == 0 and [row["class"] for row in rows] == [x["class"] for x in records]
    assert float(rows[0]["ood_score"]) == pytest.approx(records[0]["ood_score"], abs=1e-5)
    assert rows[0]["class_2"] == records[0]["top"][1][0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{images}", "{images}/a.png"], "a.png is given twice"),
        (["{images}/deep", "{images}/./deep/c.png"], "c.png is given twice"),
        (["{images}/empty"], "empty: no images"),
        (["{images}/nowhere"], "nowhere is not there: give images"),
        (["{images}", "--topk=0"], "--topk=0 shows no class"),
        (["{images}", "--maps=/dev/null/maps"], "cannot be written"),
    ],
)
def test_what_predict_refuses(command, exported, images, words, said):
    (images / "empty").mkdir()
    with pytest.raises(InputError, match=said):
        command(exported, *(word.format(images=images) for word in words))


def test_a_run_and_an_export_in_a_bucket_give_what_those_on_disk_do(
    run, classifier, exported, bucket, images, capsys
):
    for path in (exported, exported.with_name(f"{exported.name}.json")):
        (bucket / path.name).write_bytes(path.read_bytes())
    for path in filter(Path.is_file, run.iterdir()):
        (bucket / "run" / path.name).write_bytes(path.read_bytes())
    (bucket / "a.png").write_bytes((images / "a.png").read_bytes())
    check_same(
        Classifier.load(str(bucket / "run"))([bucket / "a.png"]), classifier(images / "a.png")
    )
    words = ["predict", str(bucket / exported.name), str(bucket), "--json", f"--maps={bucket}/maps"]
    predict.main(predict.parse(words))
    found = json.loads(capsys.readouterr().out)
    assert found["image"] == f"{bucket}/a.png" and found["maps"] == f"{bucket}/maps/00001-a.png"
    assert found["probability"] == pytest.approx(classifier(images / "a.png").best.max(), abs=1e-5)
    with Image.open(io.BytesIO((bucket / "maps/00001-a.png").read_bytes())) as drawn:
        assert drawn.width > 100
    (bucket / f"{exported.name}.json").unlink()
    with pytest.raises(InputError, match=f"^{bucket}/{exported.name}.* is not there: give a run"):
        Classifier.load(bucket / exported.name)


def test_the_package_is_light_until_it_is_used():
    code = "import sys, sotglp_jax.predict, sotglp_jax.export; print('jax' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert out.stdout == "False\n", out.stderr
