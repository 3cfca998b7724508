"""What the documents say is there: links, files of the annotated tree, make targets, pages of the site."""

import html
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text())
    broken = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert not broken


def test_the_annotated_tree_names_what_is_there():
    blocks = re.findall(r"```text\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tree,) = [block for block in blocks if "Makefile" in block]
    named = re.findall(r"^ {0,4}([\w./]+) +\S", tree, re.MULTILINE)
    assert len(named) > 8
    assert not [name for name in named if not list(ROOT.rglob(name.rstrip("/")))]


def test_make_targets_in_the_documents_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = {word for path in DOCUMENTS for word in re.findall(r"`make ([a-z-]+)", path.read_text())}
    assert used <= targets
    assert {"demo", "test"} <= used


def leaves(nav):
    """The pages of a navigation, at any depth."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav if isinstance(nav, list) else nav.values()) for page in leaves(part)]


def test_every_document_is_in_the_navigation_once():
    nav = leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(nav) == sorted(str(path.relative_to(ROOT / "docs")) for path in ROOT.glob("docs/**/*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site as `make docs` builds it; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


class Requests(HTMLParser):
    """What a browser fetches by itself when it shows a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        fetched = tag != "a" and not (tag == "link" and named.get("rel") in {"canonical", "prev", "next"})
        self.found += [named[name] for name in ("src", "href", "srcset", "data") if fetched and named.get(name)]


@pytest.mark.slow
def test_pages_ask_no_other_server_for_anything(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        requests = Requests()
        requests.feed(page.read_text(encoding="utf-8"))
        assert not [address for address in requests.found if re.match(r"(https?:)?//", address)], page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", style.read_text(encoding="utf-8")), style


HELPED = (
    "clipmed classify",
    "python -m shards pack",
    "python -m dataset_builders pmc build",
    "python -m zeroshot_eval gate",
)


@pytest.mark.slow
@pytest.mark.parametrize("command", HELPED)
def test_the_reference_of_a_command_is_its_help(site, command):
    page = site / "reference" / ("cli.html" if command.startswith("clipmed") else "stages.html")
    shown = html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))
    words = ["-m", *command.removeprefix("python -m ").split(), "--help"]
    environment = {**os.environ, "COLUMNS": "92"}
    real = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert " ".join(words_of(real.stdout)) in " ".join(words_of(shown))


def words_of(help_text):
    """The words of a help text, without the lines that a terminal draws around them."""
    return [word for word in help_text.split() if word.strip("╭╮╰╯│─•*-")]


@pytest.mark.slow
def test_the_reference_has_every_command_of_the_library(site):
    from clipmed.__main__ import COMMANDS

    headings = re.findall(r'<h3 id="([^"]+)"', (site / "reference" / "cli.html").read_text(encoding="utf-8"))
    assert headings == [f"clipmed-{name}" for name in COMMANDS]


@pytest.mark.slow
def test_the_api_page_shows_what_the_package_exports(site):
    import clipmed

    page = (site / "reference" / "api.html").read_text(encoding="utf-8")
    assert not [name for name in clipmed.__all__ if not name.startswith("__") and f'.{name}"' not in page]
