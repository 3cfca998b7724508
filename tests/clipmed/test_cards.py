"""Model cards: parsed and written back, complete or told what is missing, with scores of the right checkpoint."""

import json

import pytest
import yaml

from clipmed.card_scores import ScoreRow, read_scores, with_scores
from clipmed.cards import (
    NOT_SCORED,
    REQUIRED,
    Card,
    citation_section,
    hub_license,
    limits_section,
    missing,
    parse_card,
    use_section,
)
from clipmed.errors import ConfigError
from tests.clipmed.tiny import FULL_CARD

DIGEST = "a" * 64


def row(**changes):
    what = {
        "suite": "core",
        "level": "task",
        "task": "pneumonia",
        "dataset": "cxr",
        "modality": "xray",
        "held_out": False,
    }
    whose = {"checkpoint": "x", "checkpoint_digest": DIGEST, "dataset_digest": "d"}
    score = {
        "metric": "balanced_accuracy",
        "value": 0.75,
        "low": 0.7,
        "high": 0.8,
        "n": 100,
        "groups": 90,
        "chance": 0.5,
    }
    return {**what, **whose, **score, **changes}


def scores(*rows, **changes):
    content = {
        "schema_version": 2,
        "phantom": False,
        "interval": {"level": 0.95, "method": "bootstrap over groups", "samples": 1000},
        "rows": list(rows),
        "tasks": {"pneumonia": {"main_metric": "balanced_accuracy"}},
    }
    return content | changes


@pytest.fixture
def written(tmp_path):
    def write(content):
        path = tmp_path / "scores.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def test_a_card_survives_its_text():
    card = Card(
        title="A title",
        intro="Before.\n\nSections.",
        sections={"Use": "```python\n## no heading\n# nor this\n```", "Data": "| a | b |", "Own": "words"},
        metadata={"license": "mit", "tags": ["x"], "library_name": "open_clip", "pipeline_tag": "p"},
    )
    assert parse_card(card.text()) == card
    assert yaml.safe_load(card.text().split("---")[1])["license"] == "mit"


def test_sections_are_in_their_usual_order():
    text = Card(sections={"Scores": "1", "Own": "2", "Data": "3"}).text()
    assert text.index("## Data") < text.index("## Scores") < text.index("## Own")


def test_what_a_card_lacks_comes_with_its_remedy():
    assert missing(parse_card("")) == {**REQUIRED, "license": missing(parse_card(""))["license"]}
    whole = parse_card(FULL_CARD)
    assert missing(whole.with_metadata(license="mit")) == {}
    unscored = whole.with_section("Scores", f"{NOT_SCORED} …").with_metadata(license="mit")
    assert list(missing(unscored)) == ["Scores"]
    assert missing(unscored, scores=False) == {}
    assert list(missing(whole)) == ["license"]


@pytest.mark.parametrize("text", ["---\n[1, 2]\n---\n", "---\na: [\n---\n", "---\n!!python/object:os.system x\n---\n"])
def test_metadata_that_is_no_mapping_is_refused(text):
    with pytest.raises(ConfigError, match="the card's metadata is"):
        parse_card(text)


def test_scores_become_a_table_and_the_hubs_index(written):
    from zeroshot_eval.scoring import Score

    rows = [
        row(),
        row(metric="accuracy", value=0.9),
        row(level="overall", task=None, dataset=None, modality=None, value=0.7, chance=None, low=None, high=None),
        row(level="modality", task=None, dataset=None, value=0.71),
        row(level="dataset", task=None, value=0.72),
        row(checkpoint_digest="b" * 64, value=0.1),
    ]
    assert set(rows[0]) == set(Score.__slots__)
    found = read_scores(written(scores(*rows, phantom=True)), DIGEST)
    card = with_scores(Card(), [found])
    body = card.sections["Scores"]
    assert "95% interval, bootstrap over groups" in body
    assert "phantoms" in body
    lines = [line for line in body.splitlines() if line.startswith("| core")]
    assert lines == [
        "| core | all modalities | balanced_accuracy | 0.700 | – | – | 100 |",
        "| core | xray | balanced_accuracy | 0.710 | 0.700 … 0.800 | 0.500 | 100 |",
        "| core | pneumonia | balanced_accuracy | 0.750 | 0.700 … 0.800 | 0.500 | 100 |",
    ]
    (index,) = card.metadata["model-index"]
    (result,) = index["results"]
    assert result["dataset"]["name"] == "cxr"
    assert result["metrics"] == [{"type": "balanced_accuracy", "name": "balanced_accuracy", "value": 0.75}]


def test_the_hubs_own_reader_takes_the_card(written):
    from huggingface_hub import ModelCard, ModelCardData

    card = with_scores(parse_card(FULL_CARD), [read_scores(written(scores(row())), DIGEST)])
    read = ModelCard(card.with_metadata(license="mit").text())
    assert isinstance(read.data, ModelCardData)
    assert read.data.license == "mit"
    assert [result.metric_value for result in read.data.eval_results] == [0.75]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not the scores.json of an evaluation"),
        ("[]", "is not the scores.json"),
        (scores(row(), schema_version=9), "schema_version is 9; allowed: 2"),
        (scores(row(value="high")), "is not the scores.json"),
        (scores(row(value=None)), "is not the scores.json"),
        (scores(row(low=float("nan"))), "is not the scores.json"),
        (scores(row(level="word")), "is not the scores.json"),
        (scores({}), "is not the scores.json"),
        (scores(row(), tasks=[]), "is not the scores.json"),
        (scores(row(checkpoint_digest="b" * 64)), "has no scores of this checkpoint, whose digest is aaaaaaaaaaaa"),
    ],
)
def test_scores_that_are_none_or_of_others_are_refused(written, content, message):
    with pytest.raises(ConfigError, match=message):
        read_scores(written(content), DIGEST)


def test_missing_scores_name_the_file(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_scores(tmp_path / "none.json", DIGEST)


def test_standard_sections_say_what_must_be_said():
    limits = limits_section(["xray", "ct"])
    for words in ("Not a medical device", "populations|population", "xray, ct", "unseen"):
        assert any(word in limits for word in words.split("|"))
    assert 'clipmed.load("hf-hub:org/name")' in use_section("hf-hub:org/name")
    assert citation_section()
    assert hub_license("CC-BY-NC-4.0") == "cc-by-nc-4.0"
    with pytest.raises(ConfigError, match=r"license: got 'beerware'; allowed: apache-2\.0, mit"):
        hub_license("beerware")
    assert ScoreRow.__slots__
