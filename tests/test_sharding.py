"""Several devices compute what one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.mark.slow
def test_every_mesh_gives_one_devices_loss_and_gradients(tmp_path):
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    env["PYTHONPATH"] = f"{TESTS.parent}:{TESTS}"
    command = [sys.executable, str(TESTS / "mesh.py"), str(tmp_path)]
    found = json.loads(subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True).stdout)
    assert set(found) == {"8x1", "4x2", "2x4", "1x8"}
    for mesh in found.values():
        assert mesh["loss"] <= 1e-5 and mesh["gradients"] <= 1e-5
        assert mesh["all-gather"] <= 2 and mesh["all-reduce"] <= 3
