"""The command line, the tables and the contact sheet."""

import json
import re
from html.parser import HTMLParser

import pytest
import yaml

from shards.__main__ import main
from shards.browse import BrowseConfig, article_link, choose_rows, write_contact_sheet
from shards.reader import ShardSet


class Page(HTMLParser):
    """Collects what a browser would load, link to and show."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.links, self.cards, self.text = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.loads += [values[name] for name in ("src", "srcset") if name in values]
        self.loads += [values["href"]] if tag == "link" else []
        self.links += [values["href"]] if tag == "a" else []
        self.cards += [values] if values.get("class") == "card" else []

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def sheet(packed, tmp_path):
    out = tmp_path / "set.html"
    write_contact_sheet(packed, out, BrowseConfig(samples_per_cell=3), progress=False)
    return out.read_text()


def test_the_contact_sheet_is_self_contained_and_shows_every_cell(sheet, packed):
    page = Page(sheet)
    assert all(load.startswith("data:image/jpeg;base64,") for load in page.loads)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp", sheet)
    shard_set = ShardSet(packed)
    cells = set(zip(shard_set.column("modality"), shard_set.column("source"), strict=True))
    assert {(card["data-modality"], card["data-source"]) for card in page.cards} == cells
    assert len(page.loads) == len(page.cards) <= 3 * len(cells)
    assert set(page.links) == {"https://pmc.ncbi.nlm.nih.gov/articles/PMC123456/"}


def test_the_contact_sheet_escapes_what_sources_say(sheet):
    assert "cut &lt;short&gt;" in sheet
    assert "<short>" not in sheet


def test_the_contact_sheet_shows_captions_labels_licences_and_attrition(sheet, packed):
    text = " ".join(" ".join(Page(sheet).text).split())
    manifest = json.loads((packed / "manifest.json").read_text())
    for shown in ("A scan showing a mass.", "finding: mass", "CC-BY-NC-4.0", "duplicate_exact", "items_seen"):
        assert shown in text
    assert f"{manifest['counts']['samples']} samples" in text


def test_rows_are_chosen_from_every_cell_before_any_gets_more(packed):
    shard_set = ShardSet(packed)
    cells = list(zip(shard_set.column("modality"), shard_set.column("source"), strict=True))
    config = BrowseConfig(samples_per_cell=8, max_samples=len(set(cells)))
    assert {cells[row] for row in choose_rows(shard_set, config)} == set(cells)


def test_articles_are_linked_by_their_id_alone():
    assert article_link({"pmcid": "PMC7"}) == "https://pmc.ncbi.nlm.nih.gov/articles/PMC7/"
    assert article_link({"pmcid": "javascript:alert(1)"}) is None
    assert article_link({}) is None


def test_command_line_packs_prints_and_browses(spools, tmp_path, capsys):
    out = tmp_path / "set"
    settings = tmp_path / "pack.yaml"
    settings.write_text(yaml.safe_dump({"samples_per_shard": 25, "license_groups": ["commercial"]}))
    spool_paths = [str(path) for path in spools.paths]
    assert (
        main(["pack", *spool_paths, "--out", str(out), "--settings", str(settings), "--jobs.executor", "inline"]) == 0
    )
    printed = capsys.readouterr().out
    assert "items_seen" in printed
    assert "commercial" in printed
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["config"]["license_groups"] == ["commercial"]
    assert manifest["license"]["group"] == "commercial"
    assert main(["stats", str(out)]) == 0
    printed = capsys.readouterr().out
    for title in ("By modality", "By source", "By licence", "Captions: ", "license_not_allowed", "template"):
        assert title in printed
    assert main(["browse", str(out)]) == 0
    assert "open it in a browser" in capsys.readouterr().out
    assert (tmp_path / "set.html").exists()


def test_errors_of_the_input_exit_with_1(spools, tmp_path, capsys):
    for command in (["verify", str(tmp_path)], ["stats", str(tmp_path)], ["browse", str(tmp_path)]):
        with pytest.raises(SystemExit, match=r"shards: .* is not a shard set"):
            main(command)
    settings = tmp_path / "pack.yaml"
    settings.write_text("samples_per_shart: 3\n")
    command = ["pack", str(spools.paths[0]), "--out", str(tmp_path / "set"), "--settings", str(settings)]
    with pytest.raises(SystemExit, match="unknown key 'samples_per_shart'; did you mean 'samples_per_shard'"):
        main(command)
    with pytest.raises(SystemExit, match="--settings and pack options: got both"):
        main([*command, "--seed", "3"])
