"""Two processes of two devices each, through the main command."""

import json
import shutil
import signal
import socket
import time

import numpy as np
import pytest
from PIL import Image

FOUR = "--xla_force_host_platform_device_count=4"
TWO = "--xla_force_host_platform_device_count=2"
# What srun sets around two tasks on one node, beside the numbers of each.
SLURM = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
SLURM |= {"SLURM_STEP_NUM_NODES": "1"}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three classes; of the 12 test images' last batch the second process has padding only."""
    folder = tmp_path_factory.mktemp("images")
    for c in range(3):
        for part in ("train", "test"):
            (folder / part / f"c{c}").mkdir(parents=True)
            for i in range(4):
                pixels = np.random.default_rng([c, i]).integers(0, 256, (40, 50, 3))
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(folder / part / f"c{c}" / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def arguments(clip_folder, images):
    config = f"--config=configs/fewshot.py:dataset={images},clip={clip_folder},shots=4"
    values = {"train.epochs": 30, "train.warmup_epochs": 1, "train.lr": 0.02}
    values |= {"train.batch_size": 8, "train.log_every": 1, "train.checkpoint_every": 4}
    values |= {"precision": "float32", "data.workers": 0, "method.iterations": 2}
    return [config, *(f"--config.{key}={value}" for key, value in values.items())]


@pytest.fixture(scope="module")
def reference(command, arguments, tmp_path_factory):
    """A run of one process of four devices, under way: its folder, and the process."""
    workdir = tmp_path_factory.mktemp("runs") / "one"
    process = command(*arguments, f"--workdir={workdir}", XLA_FLAGS=FOUR)
    yield workdir, process
    process.kill()
    process.communicate()


@pytest.fixture
def two(command):
    """Starts two processes of one run; none outlives its test."""
    started = []

    def start(*arguments, slurm=False):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        pair = []
        for i in range(2):
            flag = "auto" if slurm else f"localhost:{port},2,{i}"
            variables = {"SLURM_PROCID": f"{i}", "SLURM_LOCALID": f"{i}"} | SLURM if slurm else {}
            variables |= {"XLA_FLAGS": TWO, "JAX_COORDINATOR_PORT": f"{port}"}
            pair.append(command(*arguments, f"--distributed={flag}", **variables))
        started.extend(pair)
        return pair

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ended(pair):
    """(exit code, stdout, stderr) of every process."""
    texts = [process.communicate(timeout=120) for process in pair]
    return [(process.returncode, *text) for process, text in zip(pair, texts, strict=True)]


def of_ours(text):
    """What was printed, without the lines of XLA's communication on CPUs."""
    return "".join(x for x in text.splitlines(keepends=True) if not x.startswith("[Gloo]"))


def metrics(workdir):
    return [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]


def accuracy(workdir):
    return json.loads((workdir / "results.json").read_text())["accuracy"]


def wait_for_step(workdir, step, pair):
    path = workdir / "metrics.jsonl"
    while not path.exists() or not any(m["step"] >= step for m in metrics(workdir)):
        assert all(process.poll() is None for process in pair), ended(pair)
        time.sleep(0.05)


def check_equal(several, one):
    a, b = metrics(several), metrics(one)
    assert [x["step"] for x in a] == [x["step"] for x in b] == list(range(1, 31))
    for key in ("loss", "accuracy_fused", "plan_entropy", "parameter_norm"):
        np.testing.assert_allclose([x[key] for x in a], [x[key] for x in b], rtol=1e-5)
    assert accuracy(several) == accuracy(one)


@pytest.mark.slow
def test_two_processes_killed_and_resumed_equal_one(main, two, arguments, reference, tmp_path):
    several = tmp_path / "run"
    pair = two(*arguments, f"--workdir={several}")
    wait_for_step(several, 10, pair)
    pair[1].kill()
    lost = time.monotonic()
    assert ended(pair)[0][0] not in (0, 2)
    assert time.monotonic() - lost < 60  # 30 seconds without heartbeats
    (code, out, err), (other, silent, _) = ended(
        two(*arguments, f"--workdir={several}", slurm=True)
    )
    assert (code, other) == (0, 0), err
    assert "going on from step" in out and "zero-shot CLIP" in out and "CLIP" not in silent
    one, process = reference
    assert process.wait(120) == 0
    check_equal(several, one)
    (several / "results.json").unlink()
    code, _, err = main(*arguments, f"--workdir={several}", "--mode=eval")  # on one device
    assert code == 0, err
    assert accuracy(several) == accuracy(one)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "which"), [(signal.SIGTERM, 1), (signal.SIGINT, 0)])
def test_one_that_is_asked_stops_both_and_one_process_goes_on(
    main, two, arguments, reference, number, which, tmp_path
):
    several = tmp_path / "run"
    pair = two(*arguments, f"--workdir={several}")
    wait_for_step(several, 10, pair)
    pair[which].send_signal(number)
    (code, out, err), (other, *_) = ended(pair)
    assert (code, other) == (0, 0) and "stopped at step" in out, err
    steps = [int(path.name) for path in (several / "checkpoints").iterdir()]
    assert max(steps) == metrics(several)[-1]["step"] < 30
    code, _, err = main(*arguments, f"--workdir={several}", XLA_FLAGS=FOUR)
    assert code == 0, err
    one, process = reference
    assert process.wait(120) == 0
    check_equal(several, one)
    # The other way round: of one process's checkpoint, the accuracies by two.
    (several / "results.json").unlink()
    pair = two(*arguments, f"--workdir={several}", "--mode=eval")
    assert [code for code, *_ in ended(pair)] == [0, 0]
    assert accuracy(several) == accuracy(one)


@pytest.mark.slow  # its small case is test_study's, of one process
def test_two_processes_run_a_study_and_the_first_prints_its_table(two, arguments, tmp_path):
    study = [a.replace("fewshot.py", "shots.py").replace(",shots=4", "") for a in arguments]
    study += ["--config.study.shots=(2,)", "--config.study.seeds=(1, 2)"]
    study += ["--config.train.epochs=2", f"--workdir={tmp_path / 'study'}"]
    (code, out, err), (other, silent, _) = ended(two(*study, slurm=True))
    assert (code, other) == (0, 0), err
    out, silent = of_ours(out), of_ours(silent)
    found = sorted((tmp_path / "study").glob("*/results.json"))
    assert [json.loads(x.read_text())["config"]["seed"] for x in found] == [1, 2]
    assert "[2 of 2]" in out and "seeds 1, 2" in out and not silent
    (code, again, err), (other, *_) = ended(two(*study))  # nothing is left to do
    assert (code, other) == (0, 0), err
    assert of_ours(again) and "[" not in of_ours(again) and of_ours(again) in out


def test_what_one_process_cannot_read_stops_both(two, arguments, images, tmp_path):
    spoiled = shutil.copytree(images, tmp_path / "images")
    path = spoiled / "test" / "c0" / "1.png"
    path.write_bytes(path.read_bytes()[:-2000])
    pair = two(*(a.replace(str(images), str(spoiled)) for a in arguments), "--workdir=/nowhere")
    (code, _, err), (other, _, message) = ended(pair)
    assert code == other == 2 and "Traceback" not in err + message
    assert "1.png" in message and "error: process 1 cannot start" in err


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("auto", "finds no Slurm"),
        ("localhost,2,0", "is neither"),
        ("localhost:1,2,2", "is neither"),
    ],
)
def test_a_bad_address_is_one_sentence(main, value, said):
    code, _, err = main("--config=configs/fewshot.py", f"--distributed={value}")
    assert code == 2 and said in err and "Traceback" not in err
