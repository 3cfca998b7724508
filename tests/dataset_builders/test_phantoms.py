"""Phantoms: same seed, same bytes; what is planted is there; findings can be seen by a simple classifier."""

import hashlib
import itertools
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from lxml import etree
from PIL import Image
from sklearn.linear_model import LogisticRegression

from clipmed.errors import ConfigError, DataError
from clipmed.jobs import JobsConfig
from clipmed.records import Modality
from dataset_builders.captions.bank import load_bank
from dataset_builders.datasets.entry import load_entry
from dataset_builders.phantoms import PhantomConfig, sentences, write_phantoms
from dataset_builders.phantoms.articles import Defect, jats, make_article
from dataset_builders.phantoms.datasets import CORRUPT, DUPLICATE, plan_images
from dataset_builders.phantoms.drawing import draw_phantom
from dataset_builders.phantoms.vocabulary import (
    FOLDER_MODALITIES,
    HELD_OUT,
    MODALITY_FINDINGS,
    TABLE_MODALITIES,
    trained_combinations,
)

SUITE = Path(__file__).parents[2] / "zeroshot_eval" / "suites" / "phantoms.yaml"
SMALL = PhantomConfig(
    size=48, train_per_class=3, val_per_class=1, test_per_class=2, articles=24, jobs=JobsConfig(executor="inline")
)


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms") / "archives"
    write_phantoms(folder, SMALL)
    return folder


def test_the_same_settings_give_the_same_bytes_on_any_number_of_workers(archives, tmp_path):
    parallel = PhantomConfig(**{**SMALL.identity(), "jobs": JobsConfig(workers=2)})
    write_phantoms(tmp_path / "again", parallel)
    assert digests(tmp_path / "again") == digests(archives)


def test_another_seed_gives_other_images():
    first, second = (draw_phantom("ct", "mass", np.random.default_rng(seed), 64) for seed in (0, 1))
    assert np.abs(first.astype(int) - second).mean() > 3


def test_drawing_again_does_nothing_and_other_settings_are_refused(archives, tmp_path):
    before = digests(archives)
    write_phantoms(archives, SMALL)
    assert digests(archives) == before
    with pytest.raises(DataError, match="holds phantoms of other settings"):
        write_phantoms(archives, PhantomConfig(seed=1))
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="holds other files"):
        write_phantoms(tmp_path, SMALL)
    assert (tmp_path / "mine.txt").read_text() == "keep"
    with pytest.raises(ConfigError, match="articles: got 3"):
        PhantomConfig(articles=3)


def test_there_are_at_least_seven_modalities_with_four_trained_findings_each():
    trained = trained_combinations()
    assert len(MODALITY_FINDINGS) >= 7
    assert all(sum(pair[0] == modality for pair in trained) >= 4 for modality in MODALITY_FINDINGS)
    assert set(MODALITY_FINDINGS) <= {str(modality) for modality in Modality}
    seen_findings = {finding for _, finding in trained}
    assert all(finding in seen_findings for _, finding in HELD_OUT)


def test_held_out_combinations_are_in_the_test_split_alone():
    for modality in MODALITY_FINDINGS:
        splits = {(image.finding, image.split) for image in plan_images(SMALL, modality)}
        for finding in MODALITY_FINDINGS[modality]:
            expected = {"test"} if (modality, finding) in HELD_OUT else {"train", "val", "test"}
            assert {split for name, split in splits if name == finding} == expected
    articles = [make_article(SMALL, index, Defect.NONE) for index in range(40)]
    shown = {panel for article in articles for figure in article.figures for panel in figure.panels}
    assert not shown & HELD_OUT


def test_no_patient_straddles_splits():
    for modality in MODALITY_FINDINGS:
        images = sorted(plan_images(SMALL, modality), key=lambda image: image.patient)
        for _, group in itertools.groupby(images, key=lambda image: image.patient):
            assert len({image.split for image in group}) == 1


def test_the_duplicate_and_the_corrupt_image_are_planted(archives):
    xray = archives / "phantom_xray"
    copies = [path for path in (xray / "train").rglob("*.jpg") if path.read_bytes() == (xray / DUPLICATE).read_bytes()]
    assert len(copies) == 2
    with pytest.raises(OSError, match="truncated"), Image.open(xray / CORRUPT) as image:
        image.load()


def test_the_bucket_has_todays_layout_and_true_checksums(archives):
    bucket = archives / "phantom_pmc" / "bucket"
    for path in bucket.glob("metadata/*.json"):
        metadata = json.loads(path.read_text())
        name = f"{metadata['pmcid']}.{metadata['version']}"
        assert (bucket / name / f"{name}.json").read_bytes() == path.read_bytes()
        for url in [metadata["xml_url"], metadata["text_url"], *metadata["media_urls"]]:
            key, _, md5 = url.removeprefix("s3://pmc-oa-opendata/").partition("?md5=")
            assert hashlib.md5((bucket / key).read_bytes()).hexdigest() == md5


def test_articles_parse_but_for_the_malformed_one(archives):
    documents = {path: path.read_bytes() for path in (archives / "phantom_pmc" / "bucket").glob("PMC*/*.xml")}
    for package in (archives / "phantom_pmc" / "packages").glob("*.tar.gz"):
        with tarfile.open(package) as tar:
            documents |= {member: tar.extractfile(member).read() for member in tar if member.name.endswith("nxml")}
    broken = 0
    for document in documents.values():
        try:
            assert b"phantom drawn by a computer program" in document
            etree.fromstring(document)
        except etree.XMLSyntaxError:
            broken += 1
    assert (len(documents), broken) == (25, 1)


def test_legacy_packages_name_graphics_without_their_ending():
    article = make_article(SMALL, 0, Defect.NONE)
    assert b'-g001.jpg"/>' in jats(article, extension=True)
    assert b'-g001"/>' in jats(article, extension=False)


def test_no_prompt_is_a_caption(archives):
    suite = yaml.safe_load(SUITE.read_text())
    prompts = {
        template.replace("{}", phrase).casefold().strip(" .")
        for task in suite["tasks"]
        for phrases in task["classes"].values()
        for phrase in phrases
        for template in task["templates"]
    }
    bank = load_bank("phantoms")
    captions = set()
    for modality in MODALITY_FINDINGS:
        names = bank.modality_words(modality)
        for finding in MODALITY_FINDINGS[modality]:
            phrases = bank.finding_words(modality, finding)
            for template, name, phrase in itertools.product(bank.sentences(modality, "finding"), names, phrases):
                captions.add(template.format(modality=name, finding=phrase).casefold().strip(" ."))
    rng = np.random.default_rng(0)
    captions |= {sentences.caption(rng, [pair]).casefold().strip(" .") for pair in trained_combinations() * 20}
    assert len(prompts) > 100
    assert not prompts & captions


def test_the_suite_asks_about_the_vocabulary(archives):
    suite = yaml.safe_load(SUITE.read_text())
    held_out = {(task["modality"], *task["only_classes"]) for task in suite["tasks"] if task.get("held_out")}
    assert held_out == HELD_OUT
    asked = {(t["modality"], c) for t in suite["tasks"] if not t.get("held_out") for c in t["only_classes"]}
    assert asked == set(trained_combinations())


def test_the_catalogue_describes_what_is_drawn():
    for modality in FOLDER_MODALITIES:
        assert (
            tuple(load_entry(f"phantom_{modality}").tasks[f"phantom_{modality}"].classes) == MODALITY_FINDINGS[modality]
        )
    table = load_entry("phantom_table")
    for modality in TABLE_MODALITIES:
        assert tuple(table.tasks[f"phantom_{modality}"].classes) == MODALITY_FINDINGS[modality]


@pytest.mark.parametrize("modality", MODALITY_FINDINGS)
def test_a_linear_classifier_sees_the_findings(modality):
    findings = MODALITY_FINDINGS[modality]
    rng = np.random.default_rng(0)
    features, labels = [], []
    for label, finding in enumerate(findings):
        for _ in range(40):
            pixels = draw_phantom(modality, finding, rng, 64).astype(np.float32)
            edges = (
                np.abs(np.diff(pixels, axis=0)).mean(axis=2).ravel(),
                np.abs(np.diff(pixels, axis=1)).mean(axis=2).ravel(),
            )
            histograms = [np.histogram(channel, bins=16, range=(0, 256))[0] for channel in pixels.reshape(-1, 3).T]
            strengths = [np.histogram(edge, bins=16, range=(0, 256))[0] for edge in edges]
            features.append(np.sqrt(np.concatenate([*histograms, *strengths])))
            labels.append(label)
    features, labels = np.array(features), np.array(labels)
    even = np.arange(len(labels)) % 2 == 0
    model = LogisticRegression(max_iter=3000).fit(features[even], labels[even])
    assert model.score(features[~even], labels[~even]) > 2.5 / len(findings)
