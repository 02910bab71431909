"""`synth view` in a real browser: filter, open a row, mark it, reload, and the mark is there."""

import json
import re
from urllib.parse import urlsplit

import pytest
from browsing import DESK, PHONE, browser, complaints, requests, wider_than_window
from loopback import Loopback
from running import job_dict, run, write_corpus, write_job
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait
from viewing import HOSTILE, TOKEN, served, spoiled

from synth.marks import FILE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The folder of a run with hostile texts and a column with a hostile name, and where it is served."""
    folder = tmp_path_factory.mktemp("browser")
    with Loopback() as server:
        server.chat = spoiled
        write_corpus(folder / "docs.jsonl", 20, **{"<b>shelf</b>.a": "row"})
        with (folder / "docs.jsonl").open("a", encoding="utf-8") as file:
            text = f"The report number 99 is about the {HOSTILE} and the mill."
            file.write(json.dumps({"id": HOSTILE, "text": text, "<b>shelf</b>.a": HOSTILE}) + "\n")
        job = job_dict(server.url, folder, scores=[{"use": "cosine"}], keep={"cosine": {"above": 0.05}})
        job["corpus"]["carry"] = ["<b>shelf</b>.a"]
        run(write_job(folder, job), folder / "out")
        with served(folder / "out") as url:
            yield folder / "out", url


class Page:
    """What a person does on it; every step waits until its result is there."""

    def __init__(self, driver, url, token=TOKEN):
        self.driver = driver
        driver.get(f"{url}/#{token}")
        self.until(lambda: self.rows() or self.find("#status").text)

    def until(self, what):
        return WebDriverWait(self.driver, 30, 0.1).until(lambda _: what())

    def rows(self):
        """The texts of the cells of every row that the table shows, read at once."""
        cells = "[...row.querySelectorAll('.tabulator-cell')].map(cell => cell.innerText.trim())"
        script = f"return [...document.querySelectorAll('.tabulator-row')].map(row => {cells})"
        return self.driver.execute_script(script)

    def total(self):
        """How many rows the table has on all pages, by its own words."""
        found = re.search(r"of (\d+) rows", self.find(".tabulator-page-counter").text)
        return int(found[1]) if found else 0

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def filter(self, column, text):
        box = f".//div[contains(@class,'tabulator-col')][.//span[normalize-space()={column!r}]]//input"
        self.driver.find_element(By.XPATH, box).send_keys(text)

    def open(self, number):
        """Open the row that stands at this place; its id."""
        name = self.rows()[number][0]
        self.driver.find_elements(By.CSS_SELECTOR, ".tabulator-row .tabulator-cell:first-child")[number].click()
        self.until(lambda: self.find("#title").text == name)
        return name

    def choose(self, part):
        before = self.rows()
        Select(self.find("#part")).select_by_value(part)
        self.until(lambda: self.rows() and self.rows() != before)


@pytest.mark.parametrize(("size", "scheme"), [(DESK, "light"), (PHONE, "dark")])
def test_filter_open_mark_reload(home, size, scheme):
    out, url = home
    (out / FILE).unlink(missing_ok=True)
    with browser(size, scheme) as driver:
        page = Page(driver, url)
        everything = page.total()
        page.filter("query", "report 1")
        page.until(lambda: 0 < page.total() < everything and all("report 1" in row[2] for row in page.rows()))
        name = page.open(0)
        assert page.find("#detail .text").text.startswith("what does report 1")
        page.find("#comment").send_keys("a « comment »")
        page.find("[data-mark=good]").click()
        page.until(lambda: page.find("[data-mark=good]").get_attribute("aria-pressed") == "true")
        assert page.find("#marks").text == "1 good, 0 bad"
        assert not wider_than_window(driver)

        driver.refresh()
        page.until(lambda: page.rows() and page.total() == everything)
        place = [row[0] for row in page.rows()].index(name)
        assert page.rows()[place][1] == "good"
        page.open(place)
        assert page.find("[data-mark=good]").get_attribute("aria-pressed") == "true"
        assert page.find("#comment").get_attribute("value") == "a « comment »"
        assert complaints(driver) == []
        assert {urlsplit(each).netloc for each in requests(driver)} == {urlsplit(url).netloc}
    (mark,) = (json.loads(line) for line in (out / FILE).read_text(encoding="utf-8").splitlines())
    assert (mark["id"], mark["mark"], mark["comment"]) == (name, "good", "a « comment »")


def test_a_rejected_item_shows_prompts_and_replies_as_texts(home):
    with browser() as driver:
        page = Page(driver, home[1])
        page.choose("rejected/generated")
        page.open(0)
        page.find("#prompts").click()
        page.until(lambda: page.driver.find_elements(By.CSS_SELECTOR, ".attempt details"))
        blocks = page.driver.find_elements(By.CSS_SELECTOR, ".attempt")
        assert len(blocks) == len(page.driver.find_elements(By.CSS_SELECTOR, ".attempt details")) > 1
        assert "onerror=" in blocks[-1].find_elements(By.TAG_NAME, "pre")[-1].text
        assert "report number 3 is about" in blocks[-1].find_element(By.TAG_NAME, "details").text
        assert complaints(driver) == []


def test_no_text_of_the_run_becomes_part_of_the_page(home):
    with browser() as driver:
        page = Page(driver, home[1])
        page.choose("generated")
        page.find("#search").send_keys("onerror=")
        page.until(lambda: [row[0] for row in page.rows()] == ["20-0", "20-1"])
        page.open(0)
        assert "<script>" in page.find("#content").text
        assert driver.find_elements(By.CSS_SELECTOR, "main script, main img, .tabulator-col b") == []
        assert driver.title == "out – synth view"
        assert complaints(driver) == []


def test_without_the_token_the_page_says_what_to_open(home):
    with browser() as driver:
        page = Page(driver, home[1], token="another")  # noqa: S106 - a wrong one
        assert "with its token" in page.find("#status").text
        assert page.rows() == []
