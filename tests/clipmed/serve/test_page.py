"""The page in a real browser, at two widths: what people do with it, and that it asks nobody but its server."""

from __future__ import annotations

import base64
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

import clipmed
from clipmed.api import DEFAULT_TEMPLATES
from clipmed.search import SearchIndex
from tests.clipmed.pictures import several
from tests.clipmed.serve.conftest import KINDS, UPLOAD_MB
from tests.clipmed.serve.serving import dicom, encoded, noise, serving

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("browser")]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SIZES = {"wide": (1280, 900), "narrow": (390, 844)}
SCREENSHOTS = os.environ.get("CLIPMED_SCREENSHOTS")  # a folder, for eyes
LOOKS = [(size, scheme) for size in SIZES for scheme in ("light", "dark")]
LABELS = ["a lung", "a skull: lateral", "<b>bold</b> & more"]
REFUSED = re.compile("Failed to load resource: the server responded with a status of (413|415|422)")
DRAG = """
([kind, name, base64]) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name, { type: "image/png" }));
  const event = new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true });
  document.querySelector("#labels").dispatchEvent(event);
}
"""
PASTE = """
([base64]) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], "image.png", { type: "image/png" }));
  document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@dataclass
class Visit:
    """One page in a browser, with what it logged and whom it asked."""

    page: sync_api.Page
    name: str
    logged: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)

    def choose(self, image: bytes, name: str = "scan.png") -> None:
        self.page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": image})

    def label(self, *labels: str) -> None:
        self.page.fill("#labels", "\n".join(labels))

    def shares(self, checkpoint: str) -> dict[str, str]:
        bars = self.page.locator(f'.card[data-checkpoint="{checkpoint}"] .bar')
        bars.first.wait_for()
        names, shares = bars.locator(".name").all_inner_texts(), bars.locator(".share").all_inner_texts()
        return dict(zip(names, shares, strict=True))

    def error(self) -> str:
        self.page.wait_for_selector("#error:not([hidden])")
        return self.page.inner_text("#error")

    def until(self, condition: str) -> None:
        """Wait for a condition in JavaScript (the page's policy forbids Playwright's own way)."""
        for _ in range(200):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(condition)

    def look(self, state: str) -> None:
        """Keep a picture where $CLIPMED_SCREENSHOTS says; nothing may stick out sideways."""
        widths = self.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert widths[0] <= widths[1], f"{state}: {widths[0]} pixels in {widths[1]}"
        if SCREENSHOTS:
            self.page.wait_for_timeout(600)
            self.page.screenshot(path=Path(SCREENSHOTS) / f"{state}-{self.name}.png", full_page=True)


@pytest.fixture(params=LOOKS if SCREENSHOTS else [LOOKS[0], LOOKS[-1]], ids="-".join)
def visit(request, browser, server) -> Iterator[Visit]:
    size, scheme = request.param
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    visited = Visit(context.new_page(), f"{size}-{scheme}")
    visited.page.on("console", lambda message: visited.logged.append(message.text))
    visited.page.on("pageerror", lambda error: visited.logged.append(str(error)))
    visited.page.on("request", lambda asked: visited.asked.add(asked.url))
    visited.page.goto(server.url)
    yield visited
    context.close()
    assert not [line for line in visited.logged if not REFUSED.match(line)]
    assert not [url for url in visited.asked if not url.startswith((server.url, f"blob:{server.url}"))]


def percent(share: float) -> str:
    return "< 0.1 %" if share < 0.001 else "> 99.9 %" if share > 0.999 else f"{100 * share:.1f} %"


def test_an_image_chosen_gets_the_bars_of_each_checkpoint(visit, models):
    visit.look("empty")
    visit.label(*LABELS)
    visit.choose(encoded(noise()))
    for name, model in models.items():
        (expected,) = model.classify(noise(), LABELS)
        assert visit.shares(name) == {label: percent(share) for label, share in expected.probabilities.items()}
        best = visit.page.locator(f'.card[data-checkpoint="{name}"] .bar.best .name')
        assert best.all_inner_texts() == [expected.label]
        bars = visit.page.locator(f'.card[data-checkpoint="{name}"] .fill')
        shown = visit.page.locator(f'.card[data-checkpoint="{name}"] .track').first.bounding_box()["width"]
        visit.page.wait_for_timeout(600)  # bars grow
        widths = sorted(box["width"] / shown for box in (bar.bounding_box() for bar in bars.all()))
        assert widths == pytest.approx(sorted(expected.probabilities.values()), abs=0.02)
    first, second = visit.page.locator(".card").all_inner_texts()
    assert "Not calibrated" in first
    assert "Fitted on other labels" in second
    assert "fitted on 40 images of a lung, a skull: other labels than these, or other prompts" in second
    assert "forced choice" in visit.page.inner_text("#answer")
    assert "Not a medical device" in visit.page.inner_text("header")
    assert visit.page.inner_text("#status").startswith("first: ")
    visit.look("answer")


def test_calibrated_is_said_of_the_labels_that_were_fitted_alone(visit):
    visit.page.get_by_text("second · calibrated for a lung, a skull").wait_for()
    visit.label(*reversed(KINDS))
    visit.choose(encoded(noise()))
    badges = visit.page.locator(".badge")
    badges.first.wait_for()
    assert badges.all_inner_texts() == ["Not calibrated", "Calibrated"]
    assert "On other images its percentages" in visit.page.locator(".card").all_inner_texts()[1]
    visit.look("calibrated")
    visit.page.get_by_text("Prompts of your own").click()
    visit.page.fill("#prompts", "a lung: a drawing of a lung")
    visit.page.click("#submit")
    visit.page.wait_for_selector("#stale", state="hidden")
    assert badges.all_inner_texts() == ["Not calibrated", "Fitted on other labels"]


@pytest.mark.parametrize(("name", "num_frames"), [("scan.tif", 3), ("scan", 30)])
def test_a_frame_of_a_file_of_several_is_chosen(visit, models, name, num_frames):
    raw = several("TIFF") if num_frames == 3 else dicom("examples_ybr_color.dcm")
    visit.label(*LABELS)
    visit.choose(raw, name)
    assert f"has {num_frames} frames or pages; choose one" in visit.error()
    assert visit.page.evaluate("document.activeElement.id") == "frame"
    visit.look("frames")
    for frame in (1, 2):
        visit.page.fill("#frame", str(frame))
        visit.page.press("#frame", "Enter")
        picture = clipmed.open_image(raw, frame=frame)
        (expected,) = models["first"].classify(picture, LABELS)
        visit.page.locator("#stale").wait_for(state="hidden")
        visit.until("document.querySelector('#results').getAttribute('aria-busy') === 'false'")
        assert visit.shares("first") == {label: percent(share) for label, share in expected.probabilities.items()}
        visit.until(f"document.querySelector('#preview').naturalWidth === {picture.width}")
    visit.page.wait_for_selector(".hit")
    visit.look("frame")
    visit.page.fill("#frame", str(num_frames))
    visit.page.press("#frame", "Enter")
    visit.until(f"document.querySelector('#error').textContent.includes('no frame {num_frames}')")
    visit.choose(encoded(noise()))
    visit.page.wait_for_selector(".card")
    assert not visit.page.is_visible("#frame")


def test_a_dicom_file_without_an_ending_is_shown_and_answered(visit, models):
    assert visit.page.get_attribute("#file", "accept") is None  # which would hide such files where they are chosen
    raw = dicom("CT_small.dcm")
    visit.label(*LABELS)
    visit.choose(raw, "IM0001")
    (expected,) = models["first"].classify(raw, LABELS)
    assert visit.shares("first") == {label: percent(share) for label, share in expected.probabilities.items()}
    visit.until("document.querySelector('#preview').naturalWidth === 128")
    assert visit.page.is_visible("#preview")
    visit.look("dicom")


def test_an_image_dropped_anywhere_gets_its_answer(visit, models):
    visit.label(*LABELS)
    dropped = ["dropped.png", base64.b64encode(encoded(noise(seed=5))).decode()]
    visit.page.evaluate(DRAG, ["dragover", *dropped])
    assert visit.page.evaluate("document.body.className") == "dragging"
    visit.look("dragging")
    visit.page.evaluate(DRAG, ["drop", *dropped])
    assert visit.page.evaluate("document.body.className") == ""
    (expected,) = models["second"].classify(noise(seed=5), LABELS)
    assert visit.shares("second") == {label: percent(share) for label, share in expected.probabilities.items()}
    assert visit.page.inner_text("#chosen-name") == "dropped.png"
    assert visit.page.evaluate("document.querySelector('#preview').naturalWidth") == 70


def test_an_image_pasted_gets_its_answer(visit, models):
    visit.label(*LABELS)
    visit.page.evaluate(PASTE, [base64.b64encode(encoded(noise(seed=6))).decode()])
    (expected,) = models["first"].classify(noise(seed=6), LABELS)
    assert visit.shares("first") == {label: percent(share) for label, share in expected.probabilities.items()}


def test_similar_images_are_shown_with_their_captions(visit, models, index_folder):
    visit.choose(encoded(noise(seed=4)))
    visit.page.wait_for_selector(".hit")
    (expected,) = SearchIndex.open(index_folder).search(models["first"].embed_images(noise(seed=4)), 8)
    captions = [hit.caption or Path(hit.path).name for hit in expected]
    assert visit.page.locator(".hit .caption").all_inner_texts() == captions
    assert captions[0] == "picture 4"
    visit.until("[...document.querySelectorAll('.hit img')].every((one) => one.naturalWidth === 70)")
    visit.look("similar")


def test_labels_and_prompts_of_ones_own(visit, models):
    visit.choose(encoded(noise()))
    visit.page.wait_for_selector(".card")
    visit.page.get_by_role("button", name="Fundus").click()
    assert "glaucoma" in visit.page.input_value("#labels")
    assert visit.page.is_visible("#stale")
    visit.label(*LABELS)
    visit.page.get_by_text("Prompts of your own").click()
    visit.page.fill("#prompts", "a skull: lateral: one | two")
    visit.look("stale")
    visit.page.press("#prompts", "Control+Enter")
    visit.page.wait_for_selector("#stale", state="hidden")
    templated = {label: [template.replace("{}", label) for template in DEFAULT_TEMPLATES] for label in LABELS}
    (expected,) = models["first"].classify(noise(), templated | {"a skull: lateral": ["one", "two"]})
    assert visit.shares("first") == {label: percent(share) for label, share in expected.probabilities.items()}
    visit.page.click("#fill")
    assert "a medical image showing a lung" in visit.page.input_value("#prompts")


def test_what_the_server_refuses_is_said(visit):
    visit.choose(encoded(noise()))
    visit.page.wait_for_selector(".card")
    visit.choose(b"hello, I am a text", "notes.png")
    assert "no image" in visit.error()
    assert not visit.page.is_visible(".card")  # which was of another image
    visit.page.get_by_text("No preview of this file").wait_for()
    visit.look("no-image")
    visit.label("only one")
    visit.choose(encoded(noise()))
    visit.until("document.querySelector('#error').textContent.includes('two or more')")
    visit.label("a", "b")
    visit.page.click("#submit")
    assert set(visit.shares("first")) == {"a", "b"}
    assert not visit.page.is_visible("#error")


def test_a_file_that_is_too_large_is_not_even_sent(visit):
    visit.page.set_input_files(
        "#file", {"name": "big.png", "mimeType": "image/png", "buffer": bytes(UPLOAD_MB * 1_000_000 + 1)}
    )
    assert re.search(r"big\.png has 6\.1\sMB; this server takes images of up to 6\sMB", visit.error())
    assert not [url for url in visit.asked if "classify" in url]
    visit.look("too-large")


def test_what_browsers_do_not_show_is_shown_by_the_server(visit):
    visit.choose(encoded(noise(60, 40), "TIFF"), "scan.tif")
    visit.until("document.querySelector('#preview').naturalWidth === 60")
    assert visit.page.is_visible("#preview")


def test_everything_is_reached_by_the_keyboard(visit):
    reached = []
    for _ in range(20):
        visit.page.keyboard.press("Tab")
        reached.append(visit.page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    order = [name for name in reached if name in {"file", "labels", "SUMMARY", "submit"}]
    assert order[:4] == ["file", "labels", "SUMMARY", "submit"]
    unnamed = "[...document.querySelectorAll('input, textarea, button')].filter((one) => !(one.labels?.length || "
    unnamed += "one.ariaLabel || one.textContent.trim())).map((one) => one.id)"
    assert visit.page.evaluate(unnamed) == []
    visit.page.focus("#file")
    assert visit.page.evaluate("getComputedStyle(document.querySelector('#well')).outlineStyle") == "solid"


def test_a_server_that_is_gone_is_said(checkpoints, browser, tmp_path):
    with serving(tmp_path / "log", str(checkpoints["first"])) as server:
        page = browser.new_page()
        page.goto(server.url)
        page.get_by_text("up to 20").wait_for()
        server.end()
    page.set_input_files("#file", {"name": "scan.png", "mimeType": "image/png", "buffer": encoded(noise())})
    page.get_by_text("The server does not answer. Is it still running?").wait_for()
    page.close()


def test_a_real_image_is_shown_well(visit, real_data):
    """For eyes, with $CLIPMED_SCREENSHOTS: a radiograph of a patient."""
    image = next((real_data / "images" / "cxr_pneumonia" / "pneumonia").iterdir())
    visit.choose(image.read_bytes(), image.name)
    visit.page.wait_for_selector(".card")
    with Image.open(image) as opened:
        assert visit.page.evaluate("document.querySelector('#preview').naturalWidth") == opened.width
    visit.look("real")
