"""The registry of published models: complete, sound, and clear about what cannot be opened."""

import re

import pytest
from rich.console import Console

from clipmed.errors import ConfigError
from tests.conftest import REPOSITORY
from zeroshot_eval.baselines import Baseline, baseline, baselines_table, list_baselines

EXPECTED = """openai-b32 openai-b16 openai-l14 biomedclip pubmedclip pmc-clip pmc-vit-l14 unimed-b16 unimed-l14
bmc-clip-cf bmc-longclip medpmc-clip open-pmc open-pmc-18m medsiglip conceptclip plip quiltnet-b32
quiltnet-b16 quiltnet-b16-pmb conch keep musk titan flair monet dermlip-b16 dermlip-panderm chexzero
biovil-t medimageinsight biomedclip-cxr"""


def test_all_published_models_are_there_with_their_flags():
    assert [entry.flag for entry in list_baselines()] == EXPECTED.split()


@pytest.mark.parametrize("entry", list_baselines(), ids=lambda entry: entry.flag)
def test_an_entry_opens_or_says_what_to_do(entry):
    if entry.loader == "open_clip":
        import open_clip

        model, _, tag = entry.opened_as().partition(":")
        assert tag in open_clip.list_pretrained_tags_by_model(model)
    elif entry.loader == "hub":
        assert re.fullmatch(r"hf-hub:[\w.-]+/[\w.-]+", entry.opened_as())
    else:
        with pytest.raises(ConfigError, match=rf"{entry.flag} \(.*https://.*cannot be opened: .*[Cc]onvert"):
            entry.opened_as()


def test_pretraining_data_are_named_as_the_catalogue_names_them():
    catalogue = {path.stem for path in (REPOSITORY / "dataset_builders" / "catalogue").glob("*.yaml")}
    named = {source for entry in list_baselines() for source in entry.pretraining}
    assert all(re.fullmatch(r"[a-z0-9_]+", source) for source in named)
    assert all(entry.pretraining for entry in list_baselines())
    for source in named - catalogue:  # a name that is nearly one of the catalogue's would escape the audit
        assert source.replace("_", "") not in {name.replace("_", "") for name in catalogue}
    unimed = set(baseline("unimed-b16").pretraining)
    assert {"odir5k", "pmc_oa", "quilt_1m", "rocov2"} <= unimed & catalogue
    assert not unimed & {"fives", "refuge", "messidor2"}


def test_an_unknown_flag_names_the_nearest():
    with pytest.raises(ConfigError, match="no baseline is called 'biomed-clip'; did you mean 'biomedclip'"):
        baseline("biomed-clip")


def test_an_entry_has_a_location_or_a_page_as_its_loader_asks():
    common = {"flag": "x", "title": "x", "license": "MIT", "pretraining": (), "citation": "", "verified": "memory"}
    with pytest.raises(ConfigError, match="baseline 'x': loader 'hub' goes with location alone"):
        Baseline(**common, loader="hub", source="https://example.org")
    with pytest.raises(ConfigError, match="baseline 'x': loader 'code' goes with source alone"):
        Baseline(**common, loader="code", source="https://example.org", location="hf-hub:a/b")


def test_the_table_shows_every_flag_with_licence_access_and_data():
    console = Console(width=300, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(baselines_table())
    text = captured.get()
    for entry in list_baselines():
        assert entry.flag in text
    assert "LicenseRef-HAI-DEF" in text
    assert "gated" in text
    assert "pmc_15m" in text
