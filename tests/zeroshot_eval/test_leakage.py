"""Samples of tasks in training sets: every rule, the scores without them, names of datasets, and what is written."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import ImageOps

from clipmed.errors import ConfigError, DataError
from clipmed.jobs import JobsConfig
from clipmed.records import Sample, Split
from shards.config import PackConfig
from shards.pack import pack
from shards.reader import ShardSet
from tests.shards.conftest import jpeg_of, make_sample, make_scan, write_spool
from tests.zeroshot_eval.stored_answers import answered, chosen_options, make_header, ranked, write_all
from zeroshot_eval.collections import open_collection
from zeroshot_eval.leakage import AuditConfig, named_overlaps, read_overlaps, run_audit
from zeroshot_eval.leakage_files import audit_table, read_warnings, write_audit
from zeroshot_eval.shard_collections import ShardCollection

NUM = 24
CLASSES = ("mass", "normal")


def packed(folder: Path, source: str, samples: list[Sample]) -> Path:
    spool = write_spool(folder / f"{source}-spool", source, samples)
    pack([spool], folder / source, PackConfig(), JobsConfig(executor="inline"), progress=False)
    return folder / source


def scan(seed: int, **changes) -> bytes:
    return jpeg_of(make_scan(seed), **changes)


@pytest.fixture(scope="module")
def clinic(tmp_path_factory) -> Path:
    """24 scans of 12 patients, of articles of their own, all in the test split."""
    samples = [
        make_sample(
            "clinic", at, image=scan(at), group=f"patient-{at // 2}", split=Split.TEST, finding=CLASSES[at % 2],
            provenance={"pmcid": f"PMC{1000 + at // 2}", "doi": f"10.1234/Own.{at // 2}"},
        )
        for at in range(NUM)
    ]  # fmt: skip
    return packed(tmp_path_factory.mktemp("clinic"), "clinic", samples)


def training_set(folder: Path, samples: list[Sample]) -> Path:
    other = [make_sample("web", f"other-{at}", image=scan(500 + at), split=Split.TRAIN,
                         provenance={"pmcid": f"PMC{9000 + at}"}) for at in range(6)]  # fmt: skip
    return packed(folder, "web", [*other, *samples])


def web(name: str, seed: int, image: bytes | None = None, **changes) -> Sample:
    values = {"split": Split.TRAIN, "provenance": {"pmcid": f"PMC{7000 + seed}"}} | changes
    return make_sample("web", name, image=image or scan(seed), **values)


def scored(folder: Path, clinic: Path, wrong=(), **changes) -> Path:
    """An evaluation of the clinic's scans: right but for the given scans."""
    items = {int(item.facts["path"].split("/")[1][:-4]): item for item in ShardCollection(str(clinic)).items("test", 0)}
    ordered = [items[at] for at in range(NUM)]
    targets = [at % 2 for at in range(NUM)]
    given = [1 - target if at in wrong else target for at, target in enumerate(targets)]
    header = make_header("finding", classes=CLASSES, main_metric="accuracy", dataset="clinic", **changes)
    write_all(folder, [answered(header, targets, given, ordered)])
    scores = {"rows": [], "tasks": {}, "checkpoints": [], "sets": [{"location": str(clinic)}]}
    (folder / "scores.json").write_text(json.dumps(scores))
    return folder


def audit(folder: Path, train: Path, **changes):
    (task,) = run_audit(AuditConfig(folder=folder, train=(str(train),), bootstrap_samples=200, **changes)).tasks
    return task


def framed(seed: int) -> bytes:
    return jpeg_of(ImageOps.expand(make_scan(seed), 12, "white"))


@pytest.mark.parametrize(
    ("sample", "rules"),
    [
        (web("copy", 3), {"bytes": 1, "same_group": 1}),
        (web("smaller", 3, jpeg_of(make_scan(3).resize((120, 120)), quality=70)), {"picture": 1, "same_group": 1}),
        (web("article", 700, provenance={"pmcid": "PMC1001"}), {"article": 2}),
        (web("doi", 700, provenance={"pmcid": "PMC1", "doi": "10.1234/oWn.1"}), {"article": 2}),
        (web("article in validation", 700, provenance={"pmcid": "PMC1001"}, split=Split.VAL), {}),
        (web("like nothing", 700), {}),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value.provenance["path"],
)
def test_every_rule_finds_what_it_is_for(tmp_path, clinic, sample, rules):
    task = audit(scored(tmp_path / "scored", clinic), training_set(tmp_path, [sample]))
    assert task.by_rule == rules
    assert task.leaked == sum(rules.values())
    assert task.marked == bool(rules)
    assert (task.samples, task.not_looked_at) == (NUM, 0)


def test_close_hashes_of_other_pictures_are_no_leak(tmp_path, clinic):
    """The hash of an evaluated scan on another picture: the pixels decide."""
    (shown,) = [row for row in range(NUM) if ShardSet(clinic).record(row)["provenance"].find("clinic/3.jpg") >= 0]
    alike = replace(web("alike", 700), phash=ShardSet(clinic).column("phash")[shown])
    assert audit(scored(tmp_path / "scored", clinic), training_set(tmp_path, [alike])).by_rule == {}


def test_keys_and_groups_of_the_same_source(tmp_path, clinic):
    other = [make_sample("clinic", f"t{at}", image=scan(800 + at), group="patient-4", split=Split.TRAIN,
                         provenance={"pmcid": "PMC5"}) for at in range(2)]  # fmt: skip
    other.append(make_sample("clinic", 20, image=scan(900), group="x", split=Split.TRAIN, provenance={"pmcid": "PMC6"}))
    task = audit(scored(tmp_path / "scored", clinic), packed(tmp_path, "clinic", other))
    assert task.by_rule == {"group": 2, "key": 1, "same_group": 1}
    assert {leak.rule: leak.match for leak in task.leaks if leak.rule in ("key", "group")} == {
        "key": other[-1].key, "group": "clinic/patient-4"
    }  # fmt: skip


def test_a_training_image_that_frames_the_picture_is_found_when_all_are_decoded(tmp_path, clinic):
    folder, train = scored(tmp_path / "scored", clinic), training_set(tmp_path, [web("framed", 3, framed(3))])
    assert audit(folder, train).by_rule == {}
    found = audit(folder, train, pictures="all")
    assert found.by_rule == {"picture": 1, "same_group": 1}
    (leak,) = [leak for leak in found.leaks if leak.rule == "picture"]
    assert (leak.match, leak.training) == (web("framed", 3).key, str(train))
    assert leak.correlation > 0.8
    assert audit(folder, train, pictures="none").not_looked_at == NUM


def test_clean_scores_leave_the_leaked_out_and_say_what_they_added(tmp_path, clinic):
    """Right on all leaked samples (patients 0 to 3: 8 scans), wrong on 4 of the other 16."""
    copies = [web(f"copy-{at}", at) for at in range(8)]
    task = audit(scored(tmp_path / "scored", clinic, wrong={9, 12, 15, 18}), training_set(tmp_path, copies))
    assert task.by_rule == {"bytes": 8}
    assert (task.whole.value, task.whole.n, task.whole.groups) == (pytest.approx(20 / 24), 24, 12)
    assert (task.clean.value, task.clean.n, task.clean.groups) == (0.75, 16, 8)
    assert task.inflation.value == pytest.approx(20 / 24 - 0.75)
    assert task.clean.low < 0.75 < task.clean.high
    assert 0 <= task.inflation.low < task.inflation.value < task.inflation.high


def test_nothing_clean_left_is_no_score(tmp_path, clinic):
    task = audit(
        scored(tmp_path / "scored", clinic), training_set(tmp_path, [web(f"copy-{at}", at) for at in range(NUM)])
    )
    assert (task.leaked, task.clean, task.inflation) == (NUM, None, None)
    assert task.whole.value == 1


def test_images_of_a_folder_are_found_though_a_set_stores_them_otherwise(tmp_path, clinic):
    """A PNG whose training copy is a JPEG: by the bytes that packing makes of it, or by its picture."""
    for at in range(4):
        path = tmp_path / "xrays" / "test" / CLASSES[at % 2] / f"{at}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        make_scan(at).save(path)
    collection = open_collection(tmp_path / "xrays")
    items = collection.items("test", 0)
    header = make_header("xrays", classes=CLASSES, main_metric="accuracy")
    folder = write_all(tmp_path / "scored", [answered(header, [0] * 4, [0] * 4, items)])
    sets = (str(tmp_path / "xrays"),)
    found = audit(folder, training_set(tmp_path, [web("jpeg", 2)]), sets=sets)
    assert found.by_rule == {"picture": 1}
    assert found.leaks[0].key.endswith("2.png")
    with pytest.raises(DataError, match="none of the evaluated images is where the scores say"):
        audit(folder, training_set(tmp_path / "more", [web("jpeg", 2)]), sets=(str(clinic),))


def test_several_sets_and_kinds_of_tasks_are_audited_together(tmp_path, clinic):
    folder = scored(tmp_path / "scored", clinic)
    items = ShardCollection(str(clinic)).items("test", 0)
    search = make_header("search", kind="retrieval", classes=(), main_metric="image_to_text/recall@5")
    rows = [("image_to_text", 1, 1)] * NUM + [("text_to_image", 3, 3)] * NUM
    question = make_header("pairs", kind="choice", classes=(), main_metric="set_accuracy")
    write_all(folder, [
        ranked(search, rows, items * 2),
        chosen_options(question, [0] * 4, [[1, 0]] * 4, ["a", "a", "b", "b"]),
    ])  # fmt: skip
    trains = [training_set(tmp_path / name, [web(name, seed)]) for name, seed in (("one", 0), ("two", 4))]
    result = run_audit(AuditConfig(folder=folder, train=tuple(map(str, trains)), bootstrap_samples=100))
    tasks = {task.task: task for task in result.tasks}
    assert tasks["finding"].by_rule == {"bytes": 2, "same_group": 2}
    assert tasks["search"].by_rule == tasks["finding"].by_rule
    assert (tasks["search"].samples, tasks["search"].clean.n) == (NUM, NUM - 4)
    assert (tasks["pairs"].leaked, tasks["pairs"].not_looked_at) == (0, 4)
    assert tasks["pairs"].clean == tasks["pairs"].whole
    assert [one["samples"] for one in result.training] == [7, 7]


def test_published_models_are_audited_by_the_names_of_datasets(tmp_path, clinic):
    for name, overlaps in (("clinic", "[roco]"), ("elsewhere", "[clinic]"), ("alone", "[]")):
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\noverlaps: {overlaps}\n")
    overlaps = read_overlaps(tmp_path)
    assert overlaps["clinic"] == {"roco", "elsewhere"}
    assert named_overlaps(["clinic"], ["clinic", "elsewhere", "alone"], overlaps) == (
        "clinic is training data",
        "clinic shares images with elsewhere, which is training data",
    )
    folder = scored(tmp_path / "scored", clinic)
    config = AuditConfig(folder=folder, baseline="pubmedclip", catalogue=tmp_path)
    (task,) = run_audit(config).tasks
    assert task.marked
    assert task.names == ("clinic shares images with roco, which is training data",)
    with pytest.raises(ConfigError, match="no baseline is called 'pubmedclop'; did you mean 'pubmedclip'"):
        run_audit(AuditConfig(folder=folder, baseline="pubmedclop"))


def test_what_is_written_is_read_as_warnings(tmp_path, clinic):
    folder = scored(tmp_path / "scored", clinic)
    config = AuditConfig(
        folder=folder, train=(str(training_set(tmp_path, [web("copy", 3)])),), trained_on=("clinic",),
        bootstrap_samples=100, catalogue=tmp_path,
    )  # fmt: skip
    result = run_audit(config)
    path = write_audit(result, folder)
    values = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert values["tasks"][0]["marked"] is True
    assert values["tasks"][0]["by_rule"] == {"bytes": 1, "same_group": 1}
    told = "2 of 24 samples are in the training data; clinic is training data"
    assert read_warnings(folder) == {"0" * 8: {"finding": told}}
    assert "1 same bytes; 1 group of a leaked sample; clinic is training data" in path.with_suffix(".md").read_text()
    assert audit_table(result).rich().row_count == 1
    assert read_warnings(tmp_path / "none") == {}
    path.write_text("{}")
    with pytest.raises(DataError, match="is no audit"):
        read_warnings(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "nothing to look in"),
        ({"trained_on": ("a",), "phash_bits": 9}, "phash_bits: got 9; allowed: 0 to 8"),
        ({"trained_on": ("a",), "min_correlation": 0.0}, "min_correlation: got 0.0"),
    ],
)
def test_settings_are_checked(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        AuditConfig(folder=tmp_path, **changes)
