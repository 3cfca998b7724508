"""Adapters over published formats of choices, on small files of the published fields."""

import base64
import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmed.errors import ConfigError, DataError
from tests.zeroshot_eval.choice_files import embedded, png, reasons, values, write_image, write_json
from zeroshot_eval.choices import (
    MAIN_METRICS,
    ItemSkippedError,
    image_bytes,
    load_questions,
    score_questions,
    text_style,
    texts,
)
from zeroshot_eval.choices import images as choice_images
from zeroshot_eval.choices import tables as choice_tables
from zeroshot_eval.choices.medmat import split_options
from zeroshot_eval.choices.statements import statement

# micro-Bench


def microbench_table() -> pa.Table:
    def row(name: str, captions: dict, **changes: object) -> dict[str, object]:
        fields = {"image_id": name, "image": {"bytes": png(), "path": f"{name}.png"}, "dataset": "acevedo_et_al_2020"}
        return fields | {"domain": "pathology", "captions": captions} | changes

    def choice(options: list | None, answer: int | None) -> dict[str, object]:
        return {"options": options, "answer_idx": answer}

    cells = ["a neutrophil", "a basophil", "a monocyte"]
    return pa.Table.from_pylist(
        [
            row("one", {"classification_0": choice(cells, 0), "classification_1": choice(["a cell", "debris"], 0)}),
            row("two", {"classification_0": choice(cells, 2), "classification_1": None}, domain="biology"),
            row("three", {"classification_0": choice(cells, 7), "classification_1": None}, dataset=None),
            row("four", {"classification_0": choice(cells, None), "classification_1": None}, image=None),
            row("one", {"classification_0": choice(cells, 1), "classification_1": choice(["a", "b"], 1)}),
        ]
    )


@pytest.mark.parametrize("kind", ["parquet", "stream", "file"])
def test_microbench_chooses_among_the_options_of_the_row(tmp_path: Path, kind: str):
    table = microbench_table()
    if kind == "parquet":
        pq.write_table(table, tmp_path / "test.parquet", row_group_size=2)
    else:
        make = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
        with pa.OSFile(str(tmp_path / "test.arrow"), "wb") as sink, make(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    found = load_questions("microbench", tmp_path)
    assert reasons(found) == {
        "two/classification_1": "options_invalid",
        "three/classification_0": "answer_invalid",
        "three/classification_1": "options_invalid",
        "four/classification_0": "image_missing",
        "four/classification_1": "options_invalid",
        "one/classification_0": "duplicate_id",
        "one/classification_1": "duplicate_id",
    }
    assert (found.num_items, found.num_used) == (10, 3)
    refs = [unit.image for unit in found.questions]
    assert image_bytes(found, refs[0]) == png()
    cosines = {(refs[0], "a neutrophil"): 0.3, (refs[0], "debris"): 0.4, (refs[2], "a basophil"): 0.2}
    got = values(score_questions(found, *embedded(found, cosines)))
    assert got["accuracy"] == pytest.approx(1 / 3)
    assert got["accuracy/captions=classification_0"] == pytest.approx(1 / 2)
    assert got["accuracy/domain=biology"] == 0.0
    scored = score_questions(found, *embedded(found, cosines))
    assert scored.chance["accuracy"] == pytest.approx((1 / 3 + 1 / 2 + 1 / 3) / 3)
    assert scored.groups == ["one", "one", "two"]
    assert [len(row.scores) for row in scored.rows] == [3, 2, 3]


# ProbMed


def probe(qa_type: str, question: str, answer: str, image_id: str = "one", **changes: object) -> dict[str, object]:
    fields = {"id": image_id, "i": 0, "image": f"probmed/{image_id}.png", "image_type": "chest_x-ray"}
    return fields | {"qa_type": qa_type, "question": question, "answer": answer, "src_dataset": "MedICaT"} | changes


def test_probmed_pairs_and_judgements_by_hand(tmp_path: Path):
    ids = [f"image{number}" for number in range(4)]
    for name in ids:
        write_image(tmp_path / "probmed" / f"{name}.png")
    rows = [
        row
        for name in ids
        for row in (
            probe("modality_gt", "Is this an X-Ray? (please answer yes/no)", "yes", name),
            probe("modality_hallu", "Is this an MRI? (please answer yes/no)", "no", name),
        )
    ]
    found = load_questions("probmed", write_json(tmp_path / "test.json", rows))
    assert texts(found, text_style()) == ["this is an MRI", "this is an X-Ray"]
    assert (found.num_items, len(found.questions), len(found.statements)) == (8, 4, 8)
    refs = [f"probmed/{name}.png" for name in ids]
    right = {(refs[n], text): value for n in (0, 1, 2) for text, value in [("this is an X-Ray", 0.5)]}
    # Image 3 likes MRI better, so its pair is wrong; every threshold lies between .1 and .5 for both halves.
    cosines = right | {(refs[3], "this is an X-Ray"): 0.1, (refs[3], "this is an MRI"): 0.5}
    scored = score_questions(found, *embedded(found, cosines))
    got = values(scored)
    assert got["accuracy"] == got["accuracy/probe=modality"] == pytest.approx(3 / 4)
    assert got["yes_no/accuracy"] == pytest.approx(6 / 8)
    assert got["yes_no/pair_accuracy"] == got["yes_no/probe_accuracy/category=modality"] == pytest.approx(3 / 4)
    assert MAIN_METRICS["probmed"] in got
    assert got["yes_no/affirmed_only"] == pytest.approx(3 / 4)
    assert scored.chance["yes_no/pair_accuracy"] == 0.25
    assert scored.chance["yes_no/affirmed_only"] == 0.5
    assert scored.groups == [*ids, *(name for name in ids for _ in range(2))]
    # Without image 3, as a resample may draw it, all is right.
    without = values(scored, np.array([[0.0 if group == ids[3] else 1.0 for group in scored.groups]]))
    assert set(without.values()) - {0.0} == {1.0}
    assert without["yes_no/accuracy"] == without["yes_no/pair_accuracy"] == without["accuracy"] == 1.0


def test_probmed_counts_only_statements_with_their_twin(tmp_path: Path):
    write_image(tmp_path / "probmed" / "one.png")
    rows = [
        probe("entity_gt_0", "Is nodule present in the given chest x-ray? (please answer yes/no)", "yes"),
        probe("entity_hallu_0", "Is mass present in the given chest x-ray? (please answer yes/no)", "no"),
        probe("entity_gt_1", "Is edema present in the given chest x-ray?", "yes"),
        probe("entity_hallu_1", "Is cyst present in the given chest x-ray?", "maybe"),
        probe("body_part_gt", "Does this show a Chest?", "yes"),
        probe("modality_gt", "Is this a Chest X-Ray?", "no"),
        probe("grounding_gt_1", "In the given chest x-ray, is nodule present in the left?", "yes", image="../one.png"),
        probe("abnormality", "Does this x-ray show any abnormality of the chest?", "yes"),
        probe("abnormality", "Does this x-ray show any abnormality of the chest?", "no"),
        probe("nonsense", "Is it?", "yes"),
        "no row",
    ]
    found = load_questions("probmed", write_json(tmp_path / "test.json", rows))
    assert [unit.key for unit in found.statements] == ["one/entity_gt_0", "one/entity_hallu_0", "one/abnormality"]
    assert [unit.key for unit in found.questions] == ["one/entity_0"]
    assert found.skip_counts == {
        "twin_missing": 2,
        "answer_invalid": 2,
        "row_invalid": 2,
        "path_unsafe": 1,
        "duplicate_id": 1,
    }
    assert found.num_items == len(rows) == found.num_used + len(found.skipped)


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("Is this an X-Ray? (please answer yes/no)", "this is an X-Ray"),
        ("Does this show a Brain? (please answer yes/no)", "this shows a Brain"),
        ("Does this x-ray show any abnormality of the chest?", "this x-ray shows an abnormality of the chest"),
        ("Is pectus bar present in the given chest x-ray?", "pectus bar is present in the given chest x-ray"),
        (
            "In the given Chest X-Ray, is nodule present in the middle? (please answer yes/no)",
            "in the given Chest X-Ray, nodule is present in the middle",
        ),
        ("Could it be a cyst?", "Could it be a cyst?"),
    ],
)
def test_questions_of_yes_or_no_become_statements(question: str, said: str):
    assert statement(question) == said


# GMAI-MMBench

GMAI_COLUMNS = ["index", "image", "question", "A", "B", "C", "D", "E", "answer", "category", "clinical vqa task"]
GMAI_COLUMNS += ["department", "perceptual granularity", "split"]


def gmai_row(index: int, answer: str = "A", **changes: str) -> dict[str, str]:
    fields = {"index": str(index), "image": base64.b64encode(png(index)).decode(), "question": "Which disease?"}
    fields |= {"A": "cataract", "B": "glaucoma", "C": 'a 5" scar, old', "D": "", "E": "", "answer": answer}
    fields |= {"category": "cataract", "clinical vqa task": "Disease Diagnosis", "department": "Ophthalmology"}
    return fields | {"perceptual granularity": "Image Level", "split": "val"} | changes


def write_gmai(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, GMAI_COLUMNS, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_gmai_by_grouping_with_private_answers_counted(tmp_path: Path):
    rows = [
        gmai_row(1, "A"),
        gmai_row(2, "B", department="Cardiology", question="Which\ndisease, of\tall?"),
        gmai_row(3, "C", image="1"),
        gmai_row(4, ""),
        gmai_row(5, "nan", split="test"),
        gmai_row(6, "E"),
        gmai_row(7, "A", B="nan", C="late"),
        gmai_row(8, "A", image="999"),
        gmai_row(9, "A", image=base64.b64encode(b"no image, but long enough to be taken for one, surely" * 3).decode()),
        gmai_row(10, "A", image="*" * 100),
        gmai_row(1, "B", image=base64.b64encode(png(99)).decode()),
        gmai_row(11, "glaucoma"),
    ]
    found = load_questions("gmai", write_gmai(tmp_path / "GMAI_mm_bench_VAL.tsv", rows))
    assert reasons(found) == {
        "4": "answer_private",
        "5": "answer_private",
        "6": "answer_invalid",
        "7": "options_invalid",
        "8": "image_missing",
        "9": "image_unsupported",
        "10": "image_encoding",
        "1": "duplicate_id",
    }
    assert (found.num_items, found.num_used) == (12, 4)
    assert [unit.answer for unit in found.questions] == [0, 1, 2, 1]
    assert found.questions[0].options == ("cataract", "glaucoma", 'a 5" scar, old')
    assert found.questions[1].question == "Which\ndisease, of\tall?"
    # Row 3 names row 1's image, and both are one group.
    assert [unit.group for unit in found.questions] == ["1", "2", "1", "11"]
    assert [image_bytes(found, ref) for ref in ("1", "2")] == [png(1), png(2)]
    cosines = {("1", "cataract"): 0.6, ("2", "cataract"): 0.5, ("2", "glaucoma"): 0.4, ("11", "cataract"): 0.5}
    scored = score_questions(found, *embedded(found, cosines | {("11", "glaucoma"): 0.3}))
    got = values(scored)
    assert got["accuracy"] == pytest.approx(1 / 4)
    # "cataract" has a mean of .53 over the three images, "glaucoma" of .23: without them rows 2 and 11 turn right.
    assert got["accuracy_calibrated"] == pytest.approx(3 / 4)
    assert got["accuracy/department=Cardiology"] == 0.0
    assert got["accuracy_calibrated/department=Cardiology"] == 1.0
    assert got["accuracy/clinical VQA task=Disease Diagnosis"] == pytest.approx(1 / 4)
    assert "accuracy/perceptual granularity=Image Level" in got
    assert scored.chance["accuracy"] == pytest.approx(1 / 3)


def test_images_and_rows_that_are_too_large_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = [gmai_row(1), gmai_row(2, image="A" * 3000), gmai_row(3, image="A" * 9000), gmai_row(4)]
    path = write_gmai(tmp_path / "set.tsv", rows)
    monkeypatch.setattr(choice_images, "MAX_BASE64", 2000)
    monkeypatch.setattr(choice_tables, "MAX_ROW_BYTES", 6000)
    found = load_questions("gmai", path)
    assert reasons(found) == {"2": "image_too_large", "row 3": "row_too_large"}
    assert [unit.key for unit in found.questions] == ["1", "4"]
    monkeypatch.setattr(choice_images, "MAX_IMAGE_BYTES", 10)
    with pytest.raises(ItemSkippedError, match="image_too_large"):
        image_bytes(found, "1")


def test_a_quote_inside_a_cell_does_not_swallow_the_next_rows(tmp_path: Path):
    path = tmp_path / "rows.csv"
    path.write_text('a,b\n5" tube,"said ""so"", twice"\nx,y\n"two\nlines",z\n', encoding="utf-8")
    rows = [row.cells for row in choice_tables.TextTable(path)]
    assert rows == [
        {"a": '5" tube', "b": 'said "so", twice'},
        {"a": "x", "b": "y"},
        {"a": "two\nlines", "b": "z"},
    ]


# Negation


def test_negbench_csv(tmp_path: Path):
    write_image(tmp_path / "one.png")
    path = tmp_path / "mcq.csv"
    path.write_text(
        "image_path,correct_answer,caption_0,caption_1,caption_2,caption_3,correct_answer_template\n"
        "one.png,0,there is no mass,there is a mass,a mass and no cyst,a cyst,negative\n"
        "one.png,1,no cyst,a cyst,,,positive\n"
        "/absolute/one.png,0,no cyst,a cyst,,,positive\n"
        "one.png,4,no cyst,a cyst,,,positive\n"
    )
    found = load_questions("negation", path)
    assert reasons(found) == {"row 3": "path_unsafe", "row 4": "answer_invalid"}
    cosines = {("one.png", "there is no mass"): 0.2, ("one.png", "there is a mass"): 0.4, ("one.png", "a cyst"): 0.3}
    got = values(score_questions(found, *embedded(found, cosines)))
    assert got["accuracy/template=negative"] == 0.0
    assert got["accuracy/template=positive"] == 1.0


def test_cxr_align_json_and_triples(tmp_path: Path):
    write_image(tmp_path / "images" / "abc-1.png")
    cases = {
        "mimic": {
            "abc-1": {
                "report": "There is edema.",
                "negation": "There is no edema.",
                "omitted": "Clear.",
                "chosen": "Edema",
            },
            "../abc-1": {"report": "a", "negation": "b", "omitted": "c", "chosen": "d"},
            "gone": {"report": "a", "negation": "b", "omitted": "c", "chosen": "d"},
            "bare": "nothing",
        }
    }
    found = load_questions("negation", write_json(tmp_path / "cxr-align.json", cases))
    assert reasons(found) == {
        "mimic/../abc-1": "path_unsafe",
        "mimic/gone": "image_missing",
        "mimic/bare": "row_invalid",
    }
    image = "images/abc-1.png"
    cosines = {(image, "There is edema."): 0.4, (image, "There is no edema."): 0.4, (image, "Clear."): 0.1}
    got = values(score_questions(found, *embedded(found, cosines)))
    assert got["accuracy/contrast=negated"] == 0.0  # a tie is no understanding
    assert got["accuracy/contrast=omitted"] == 1.0
    triples = [{"image": image, "positive": "a mass", "negated": "no mass"}, {"image": image, "positive": "a mass"}]
    found = load_questions("negation", write_json(tmp_path / "triples.json", triples))
    assert [unit.options for unit in found.questions] == [("a mass", "no mass")]
    assert found.skip_counts == {"row_invalid": 1}


# Med-MAT


def medmat_row(number: int, **changes: object) -> dict[str, object]:
    fields = {"id": number, "caption": "COVID-19", "image": "images/one.png", "Question": "What is seen?"}
    fields |= {"Answer": "COVID-19", "Question-choice": "What is seen? A. COVID-19 B. Normal C. Pneumonia"}
    return fields | {"Answer-choice": "A", "data-no": "03"} | changes


def test_medmat_with_its_triples(tmp_path: Path):
    write_image(tmp_path / "images" / "one.png")
    (tmp_path / "subsets.csv").write_text("no,modality,area,task\n3,CT,Lung,COVID-19 Classification\n")
    rows = [
        medmat_row(1),
        medmat_row(2, **{"Answer-choice": "B. Normal"}),
        medmat_row(3, **{"Answer-choice": "Pneumonia"}),
        medmat_row(4, **{"Answer-choice": "A, B"}),
        medmat_row(5, **{"Answer-choice": "A. Normal"}),
        medmat_row(6, **{"Question-choice": "What is seen?"}),
        medmat_row(7, image=None),
        medmat_row(1),
    ]
    write_json(tmp_path / "subset03.json", rows)
    found = load_questions("medmat", tmp_path)
    assert [unit.answer for unit in found.questions] == [0, 1, 2]
    assert found.questions[0].question == "What is seen?"
    assert found.questions[0].facets["modality"] == ("CT",)
    assert found.skip_counts == {"answer_invalid": 2, "options_invalid": 1, "row_invalid": 1, "duplicate_id": 1}
    got = values(score_questions(found, *embedded(found, {("images/one.png", "Normal"): 0.5})))
    assert got["accuracy/area=Lung"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("text", "question", "options"),
    [
        ("Which? A. one B. two", "Which?", ["one", "two"]),
        ("Which?\nA: one\nB: two\nC: three", "Which?", ["one", "two", "three"]),
        ("Is vitamin A. lacking? (A) yes, (B) no", "Is vitamin A. lacking? (", ["yes, (", "no"]),
        ("Which? B. one", "Which? B. one", []),
    ],
)
def test_options_in_a_text(text: str, question: str, options: list[str]):
    found = split_options(text)
    assert (found[0], found[1]) == (question, options)


# What no format can read


def test_files_without_questions_say_why(tmp_path: Path):
    with pytest.raises(ConfigError, match="did you mean 'gmai'"):
        load_questions("gmai2", tmp_path)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="nothing is there"):
        load_questions("gmai", tmp_path / "missing.tsv")
    with pytest.raises(DataError, match=r"no question of the probmed format to ask: 1 row_invalid"):
        load_questions("probmed", write_json(tmp_path / "test.json", [1]))
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="no JSON"):
        load_questions("negation", tmp_path / "deep.json")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="no parquet file"):
        load_questions("microbench", tmp_path / "bad.parquet")
    with pytest.raises(DataError, match="heading lacks A, B, image, index, question"):
        (tmp_path / "bad.tsv").write_text("x\ty\n1\t2\n")
        load_questions("gmai", tmp_path / "bad.tsv")
