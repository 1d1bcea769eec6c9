"""The command that docs/serve.md shows, its page in a browser, and many clients, on a real run."""

import base64
import csv
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rough
from conftest import ROOT
from PIL import Image
from runs import SHORT

from sotglp_jax.data import digits

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DONE = "#clear:visible"


@pytest.fixture(scope="module")
def run(main, tmp_path_factory):
    """The folder of a short run."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    code, _, err = main("--config=configs/fewshot.py", f"--workdir={folder}", *SHORT)
    assert code == 0, err
    return folder


@pytest.fixture(scope="module")
def lines():
    """The page's commands."""
    page = (ROOT / "docs" / "serve.md").read_text()
    return re.findall(r"^(?:sotglp|curl) .*", page, re.MULTILINE)


@pytest.fixture(scope="module")
def server(run, lines, environment):
    """The page's first command, at a free port: its process and address."""
    words = [str(run) if x == "runs/digits" else x for x in shlex.split(lines[0])[1:]]
    command = [sys.executable, "-m", "sotglp_jax", *words, "--port=0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)
    port = int(re.search(r"http://127.0.0.1:(\d+)/ ", process.stdout.readline())[1])
    yield process, ("127.0.0.1", port)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Digits, a picture of none, one that cannot be read, and what is none."""
    root = tmp_path_factory.mktemp("pictures") / "mine"
    (root / "deep").mkdir(parents=True)
    for i in range(4):
        digits.draw(900 + i).save(root / f"{i}.png")
    noise = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
    Image.fromarray(noise).save(root / "deep" / "=noise, a.jpg")
    (root / "deep" / "broken.png").write_bytes(b"no picture")
    (root / "notes.txt").write_text("no picture")
    return root


def test_the_pages_request_is_answered(server, lines):
    line = lines[1].replace("8000", str(server[1][1]))
    done = subprocess.run(shlex.split(line), cwd=ROOT, capture_output=True, text=True)
    (record,) = json.loads(done.stdout)["pictures"]
    assert record["class"] == "six" and len(record["top"]) == 3


@pytest.fixture(scope="module")
def browser():
    """Chromium, if it and what drives it are here."""
    api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("there is no Chromium")
    with api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[1200, 390])
def page(browser, server, request):
    """The page at two widths; nothing of it fails or is asked for elsewhere."""
    page, faults, asked = browser.new_page(viewport={"width": request.param, "height": 844}), [], []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    home = f"http://127.0.0.1:{server[1][1]}/"
    page.goto(home)
    page.wait_for_selector("#classes:not(:empty)")
    yield page
    assert page.evaluate("() => document.documentElement.scrollWidth") <= request.param
    page.close()
    assert not faults and all(url.startswith((home, "data:", "blob:")) for url in asked)


def chosen(page, folder):
    page.set_input_files("#folder", folder)
    page.wait_for_selector(DONE)
    return page.locator("#list li:visible")


def test_a_folder_is_looked_at_and_what_cannot_be_read_is_told(page, folder):
    rows = chosen(page, folder)
    assert rows.count() == 6
    names = [x.split("/")[-1] for x in page.locator("#list .name").all_inner_texts()]
    assert names == ["0.png", "1.png", "2.png", "3.png", "=noise, a.jpg", "broken.png"]
    said = page.inner_text("#said")
    assert "6 pictures" in said and "1 not read" in said and "1 other file left out" in said
    broken = rows.nth(5)
    assert "it holds no image of a known kind" in broken.inner_text()
    assert broken.locator("button").is_disabled()
    bar = rows.nth(0).locator(".track").first
    share = float(rows.nth(0).locator(".number").first.inner_text().split()[0]) / 100
    drawn = bar.evaluate("x => x.firstChild.getBoundingClientRect().width / x.clientWidth")
    assert drawn == pytest.approx(share, abs=0.02)


def test_pictures_are_dropped(page, folder):
    content = list((folder / "0.png").read_bytes())
    page.evaluate(
        """content => {
          const transfer = new DataTransfer();
          const file = new File([new Uint8Array(content)], "dropped.png", { type: "image/png" });
          transfer.items.add(file);
          document.body.dispatchEvent(
            new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
        }""",
        content,
    )
    page.wait_for_selector(DONE)
    assert page.locator("#list .name").all_inner_texts() == ["dropped.png"]
    page.click("#clear")
    assert page.locator("#list li").count() == 0 and not page.is_visible("#bar")


def unknown(page):
    return page.locator("#list .badge.unknown").count()


def test_the_slider_moves_the_threshold(page, folder):
    chosen(page, folder)
    assert page.locator("#percent").inner_text().startswith("95")
    at, counts = page.locator("#recall"), []
    for key in ("Home", "End"):
        at.press(key)
        counts.append(unknown(page))
    assert counts[0] > counts[1] >= 0
    assert "100" in page.inner_text("#percent") and "interval" in page.inner_text("#recalled")
    at.press("Home")
    page.select_option("#filter", "unknown")
    assert page.locator("#list li:visible").count() == counts[0]


def colours(page):
    """The pixels of the large picture."""
    address = page.evaluate("() => document.querySelector('#big').toDataURL()")
    return np.asarray(
        Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGB")
    )


def test_maps_lie_over_the_picture_and_keys_suffice(page, folder):
    chosen(page, folder)
    page.locator(".card").first.press("Enter")
    page.wait_for_selector("#choices label")
    labels = page.locator("#choices label").all_inner_texts()
    assert [x.split("·")[0].strip() for x in labels] == [
        *("picture", "prompt 1", "prompt 2", "prompt 3", "prompt 4", "all prompts")
    ]
    shares = [float(x.split("·")[1].split()[0]) for x in labels[1:-1]]
    assert sum(shares) == pytest.approx(100, abs=2)
    drawn = [colours(page)]
    for _ in range(2):
        page.locator("#choices input:checked").press("ArrowRight")
        drawn.append(colours(page))
    plain = drawn[1]  # a digit is grey, and its maps are not
    assert (plain[..., 0] == plain[..., 1]).all() and (plain[..., 1] == plain[..., 2]).all()
    assert (drawn[0] != plain).any() and (drawn[2] != plain).any() and (drawn[0] != drawn[2]).any()
    name = page.inner_text("#file")
    page.locator("#after").press("ArrowRight")
    assert page.inner_text("#file") != name
    page.keyboard.press("Escape")
    assert not page.is_visible("#dialog")
    assert page.evaluate("() => document.activeElement.className") == "card"


def test_the_table_is_downloaded(page, folder, tmp_path):
    chosen(page, folder)
    with page.expect_download() as download:
        page.click("#table")
    download.value.save_as(tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [x["image"].split("/", 1)[1] for x in rows] == [
        *("0.png", "1.png", "2.png", "3.png", "deep/=noise, a.jpg", "deep/broken.png")
    ]
    assert rows[5]["error"] and not rows[5]["class"]
    for row in rows[:5]:
        shares = [float(row["probability"]), *(float(row[f"probability_{i}"]) for i in range(2, 6))]
        assert shares == sorted(shares, reverse=True) and row["class"] in digits.CLASS_NAMES
        below = float(row["ood_score"]) < float(row["threshold"])
        assert row["out_of_distribution"] == str(below).lower()


def memory(process):
    """MB of a process."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_many_clients_lose_no_request_and_memory_stays(server):
    """A quarter before, since buffers and threads come with the first requests."""
    process, address = server
    seconds = float(os.environ.get("SOTGLP_LOAD_SECONDS", 20))
    rough.load(address, clients=64, seconds=seconds / 4)
    before = memory(process)
    found = rough.load(address, clients=64, seconds=seconds)
    print(found.summary(), f"memory {before:.0f} MB, then {memory(process):.0f} MB")
    assert found.expected == found.statuses and found.statuses[200] > seconds
    assert memory(process) < 1.1 * before + 20
