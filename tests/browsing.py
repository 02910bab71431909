"""A headless Chromium, driven through its own driver: skipped without one, unless SYNTH_BROWSER_REQUIRED is set."""

import contextlib
import json
import os
import shutil

import pytest
from selenium import webdriver

FLAGS = "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
PHONE, DESK = (390, 844), (1280, 900)


def required(found, what):
    if found is None and "SYNTH_BROWSER_REQUIRED" not in os.environ:
        pytest.skip(f"no {what} on this machine")
    assert found, f"SYNTH_BROWSER_REQUIRED is set, and there is no {what}"
    return found


def chromium():
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return required(found, "Chromium")


@contextlib.contextmanager
def browser(size=DESK, scheme="light"):
    """A `selenium` driver of a window of this size, with a log of its console and of its requests."""
    options = webdriver.ChromeOptions()
    options.binary_location = chromium()
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(required(shutil.which("chromedriver"), "chromedriver"))
    driver = webdriver.Chrome(options, service)
    try:
        show_as(driver, size, scheme)
        yield driver
    finally:
        driver.quit()


def show_as(driver, size, scheme):
    """Give the window this size, and the page this colour scheme."""
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})


def complaints(driver):
    """What the console holds."""
    return [each["message"] for each in driver.get_log("browser")]


def requests(driver):
    """The addresses that the page has asked for since the last call."""
    events = (json.loads(each["message"])["message"] for each in driver.get_log("performance"))
    sent = (each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent")
    return [each for each in sent if not each.startswith("data:")]


def wider_than_window(driver):
    """Whether the page has to be scrolled sideways."""
    return driver.execute_script("return document.documentElement.scrollWidth > innerWidth")
