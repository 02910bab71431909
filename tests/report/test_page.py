"""The page itself, in a real browser: nothing is asked for, nothing is complained of, and it holds the figures."""

import json
import re
import subprocess

import pytest
from browsing import DESK, PHONE, browser, chromium, complaints, requests, show_as, wider_than_window
from loopback import Loopback
from running import completion, job_dict, run, write_corpus, write_job

import synth
from synth.cli import main

pytestmark = pytest.mark.slow

QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
QUIET += " --disable-component-update --disable-sync --window-size=390,900"
QUIET += " --enable-logging=stderr --virtual-time-budget=3000"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a run whose texts try to break it."""
    folder = tmp_path_factory.mktemp("page")
    with Loopback() as server:
        server.chat = completion
        write_corpus(folder / "docs.jsonl", 12)
        with (folder / "docs.jsonl").open("a") as file:
            bad = "</script><script src='http://127.0.0.1:9/x.js'></script><img src=http://127.0.0.1:9/y>"
            bad += " & \u202e \x1b[31m"
            file.write(
                json.dumps({"id": "bad", "text": f"The report number 99 is about the {bad} and the mill."}) + "\n"
            )
        job = job_dict(server.url, folder, scores=[{"use": "cosine"}, {"use": "round_trip"}, {"use": "copying"}])
        run(write_job(folder, job), folder / "out")
        assert main(["report", str(folder / "out")]) == 0
        figures = synth.open_run(folder / "out").report().as_json()
    return folder / "out" / "report.html", figures


def test_it_stands_alone_and_holds_the_figures(page):
    path, figures = page
    text = path.read_text(encoding="utf-8")
    assert len(text) < 3_000_000
    assert not re.search(r"<(script|img|link|iframe)[^>]*(src|href)=[\"']?http", text)
    assert "\u202e" not in text
    assert text.count("<script") == 1
    block = re.search(r'<script type="application/json" id="figures">(.*?)</script>', text, re.DOTALL)
    assert json.loads(block[1]) == json.loads(json.dumps(figures))
    assert f"<b>{figures['sections']['funnel']['figures']['kept']:,}</b>" in text
    assert text.count("<svg") >= 5
    assert "<title>passage: The report number" in text
    assert main(["verify", str(path.parent)]) == 0


def opened(page, folder):
    """What a browser says of a page: its document, its console, and the addresses that the page itself asks for."""
    log = folder / "net.json"
    command = [
        chromium(),
        *QUIET.split(),
        f"--user-data-dir={folder / 'profile'}",
        f"--log-net-log={log}",
        "--dump-dom",
    ]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=100, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    asked = re.findall(r'"initiator":"(?!not an origin)[^\n]*?"url":"([^"]*)"', log.read_text(errors="replace"))
    return done.stdout, console, asked


def test_a_browser_asks_for_nothing_and_complains_of_nothing(page, tmp_path):
    document, console, asked = opened(page[0], tmp_path)
    assert "<svg" in document
    assert (console, asked) == ([], [])


def test_it_fits_a_desk_and_a_phone_in_light_and_dark(page):
    address = page[0].as_uri()
    with browser() as driver:
        for size in (DESK, PHONE):
            backgrounds = set()
            for scheme in ("light", "dark"):
                show_as(driver, size, scheme)
                driver.get(address)
                script = "return getComputedStyle(document.body).backgroundColor"
                backgrounds.add(driver.execute_script(script))
                assert not wider_than_window(driver)
            assert len(backgrounds) == 2
        assert complaints(driver) == []
        assert {*requests(driver)} == {address}


def test_such_a_browser_would_say_so(tmp_path):
    (tmp_path / "bad.html").write_text("<img src='http://127.0.0.1:9/x.png'><script>console.error('no')</script>")
    _, console, asked = opened(tmp_path / "bad.html", tmp_path)
    assert any("no" in line for line in console)
    assert "http://127.0.0.1:9/x.png" in asked


def test_a_notebook_shows_it_inline(page):
    html = synth.open_run(page[0].parent).report()._repr_html_()
    assert html.startswith("<iframe srcdoc=")
    assert html.count("<") == 2
