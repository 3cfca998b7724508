"""Galleries: which images are drawn, what is said of them, and which may be shown."""

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.zeroshot_eval.conftest import NUM_EACH
from zeroshot_eval.collections import open_collection
from zeroshot_eval.examples import choose_examples
from zeroshot_eval.pictures import THUMBNAIL_SIDE, Picture, Pictures, thumbnail
from zeroshot_eval.predictions import Header, Predictions, classification_columns, make_predictions
from zeroshot_eval.predictions import multi_label_columns as label_columns
from zeroshot_eval.retrieval_examples import Gallery, choose_queries, shortened
from zeroshot_eval.selection import Item

CLASSES = ("normal", "tumour_large", "bleed")


def item(number: int) -> Item:
    return Item(
        set_index=0, row=number, key=f"k{number}", source="src", modality="ct", group=f"src/{number}", labels={},
        captions=("a caption",), sha256=f"{number:064d}", facts={},
    )  # fmt: skip


def header(name: str, kind: str = "classification", scale: float = 10) -> Header:
    return Header(
        suite="s", task="t", kind=kind, checkpoint=name, checkpoint_digest=name * 8, data_digest="d",
        logit_scale=scale, modality="ct", main_metric="accuracy", classes=CLASSES,
    )  # fmt: skip


def answers(name: str, targets: list[int], predicted: list[int]) -> Predictions:
    scores = np.full((len(targets), 3), 0.1, dtype=np.float32)
    scores[np.arange(len(targets)), predicted] = 0.4
    columns = classification_columns(np.array(targets), scores)
    return make_predictions(header(name), [item(number) for number in range(len(targets))], columns)


def show(key: str, source: str) -> Picture:
    return Picture(key, source, f"data:{key}")


def test_headings_part_the_images_by_who_is_right():
    targets = [0, 1, 2, 0, 1, 2]
    first = answers("A", targets, [0, 1, 0, 1, 1, 0])  # right: 0 1 4
    second = answers("B", targets, [0, 1, 2, 1, 0, 0])  # right: 0 1 2
    groups = choose_examples([first, second], ["A", "B"], show, seed=0)
    assert [(group.heading.striptags(), group.total) for group in groups] == [
        ("Right by every checkpoint", 2),
        ("Wrong by every checkpoint", 2),
        ("B right, A wrong", 1),
        ("B wrong, A right", 1),
    ]
    assert 'aria-label="B"' in groups[2].heading
    (flipped,) = groups[2].examples
    assert flipped.picture.key == "k2"
    assert flipped.target == "bleed"
    assert [(answer.right, answer.bars[0].name) for answer in flipped.answers] == [(False, "normal"), (True, "bleed")]
    (other,) = groups[3].examples
    assert other.picture.key == "k4"


def test_bars_are_probabilities_with_the_true_class_marked():
    (example,) = choose_examples([answers("A", [1], [0])], ["A"], show, seed=0)[0].examples
    # Cosines 0.4, 0.1, 0.1 at scale 10: e^4 / (e^4 + 2 e^1) = 0.9094.
    bars = example.answers[0].bars
    assert [bar.name for bar in bars] == ["normal", "tumour large", "bleed"]
    assert bars[0].value == pytest.approx(0.9094, abs=1e-4)
    assert [bar.true for bar in bars] == [False, True, False]
    assert bars[0].percent == "91"


def test_the_true_class_is_shown_where_it_is_not_among_the_highest():
    many = tuple(f"c{number}" for number in range(6))
    scores = np.array([[0.9, 0.8, 0.7, 0.6, 0.5, 0.1]], dtype=np.float32)
    wide = Header(**{name: getattr(header("A"), name) for name in Header.__slots__} | {"classes": many})
    predictions = make_predictions(wide, [item(0)], classification_columns(np.array([5]), scores))
    (group,) = choose_examples([predictions], ["A"], show, seed=0)
    assert [bar.name for bar in group.examples[0].answers[0].bars] == ["c0", "c1", "c5"]


def test_several_labels_are_right_where_the_highest_is_one_of_them():
    targets = np.array([[1, 0, 1], [0, 0, 0]], dtype=np.int8)
    scores = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]], dtype=np.float32)
    predictions = make_predictions(header("A", "multi_label"), [item(0), item(1)], label_columns(targets, scores))
    right, wrong = choose_examples([predictions], ["A"], show, seed=0)
    assert right.examples[0].target == "normal, bleed"
    assert wrong.examples[0].target == "none of the classes"
    assert right.examples[0].answers[0].bars[0].value == pytest.approx(0.3)


def test_the_seed_decides_what_is_drawn():
    one = answers("A", [0] * 50, [0] * 50)
    drawn = [
        [example.picture.key for example in choose_examples([one], ["A"], show, seed)[0].examples] for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 3


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))


def test_thumbnails_are_small():
    buffer = io.BytesIO()
    Image.new("RGBA", (900, 300), (10, 20, 30, 128)).save(buffer, "PNG")
    assert decoded(thumbnail(buffer.getvalue())).size == (THUMBNAIL_SIDE, round(THUMBNAIL_SIDE / 3))


def test_pictures_are_those_of_the_allowed_sources(shard_set: Path):
    collection = open_collection(shard_set)
    everything = Pictures([collection], ["test", "train"])
    found = collection.items("test", 0)
    squares = next(item for item in found if item.source == "squares")
    tiles = next(item for item in found if item.source == "tiles")
    assert decoded(everything(squares.key, "squares").uri).size == (40, 40)
    only = Pictures([collection], ["test"], sources=["tiles"])
    assert only(squares.key, "squares") == Picture(squares.key, "squares", None, "image left out of this page")
    assert only(tiles.key, "tiles").uri
    assert only("unknown", "tiles").withheld == "not in the data at hand"
    assert everything.item(squares.key).captions[0].startswith("ct of something")
    assert sum(item.source == "tiles" for item in found) == 4 * (NUM_EACH - 4)


@pytest.fixture
def gallery() -> Gallery:
    return Gallery(
        keys=[f"k{number}" for number in range(4)],
        sources=["src"] * 4,
        texts=["a shared one", "b", "c"],
        images=np.arange(4),
        captions=np.array([0, 0, 1, 2]),
    )


def test_searches_show_what_was_found_with_right_ones_marked(gallery: Gallery):
    texts = np.eye(3, dtype=np.float32)
    good = texts[gallery.captions]
    bad = texts[[1, 1, 2, 0]]
    queries = choose_queries(gallery, [good, bad], [texts, texts], show, seed=0)
    assert [query.direction for query in queries] == ["image_to_text"] * 2 + ["text_to_image"] * 2
    for query in queries[:2]:
        place = int(query.picture.key[1:])
        found, missed = query.answers
        assert found.captions[0].text == gallery.texts[gallery.captions[place]]
        assert found.captions[0].right
        assert sum(caption.right for caption in found.captions) == 1
        assert found.words == "the right one is number 1 of 3"
        assert not missed.captions[0].right
        assert missed.words == "the right one is number 3 of 3"  # it ties with another: ties count against it
    for query in queries[2:]:
        copies = sum(gallery.texts[at] == query.caption for at in gallery.captions)
        found = query.answers[0]
        assert [each.right for each in found.pictures[:copies]] == [True] * copies
        assert found.words.startswith("the best of 2 right ones is number 1" if copies == 2 else "the right one is")


def test_searches_stay_within_a_part(gallery: Gallery):
    parts = replace(gallery, parts=["ct", "mri", "ct", "mri"])
    texts = np.eye(3, dtype=np.float32)
    for query in choose_queries(parts, [texts[gallery.captions]], [texts], show, seed=0):
        (answer,) = query.answers
        assert answer.words == "the right one is number 1 of 2"
        assert len(answer.captions or answer.pictures) == 2


def test_an_image_may_carry_several_captions():
    pairs = Gallery(
        keys=["k0", "k1"], sources=["src"] * 2, texts=list("abc"), images=np.array([0, 0, 1]), captions=np.arange(3)
    )
    images = np.array([[1, 0, 0], [0, 0, 1]], dtype=np.float32)
    queries = choose_queries(pairs, [images], [np.eye(3, dtype=np.float32)], show, seed=0)
    by_image = [query for query in queries if query.picture and query.picture.key == "k0"]
    for query in by_image:
        assert [caption.right for caption in query.answers[0].captions] == [True, True, False]
    assert {query.direction for query in queries} == {"image_to_text", "text_to_image"}


def test_long_captions_are_cut_at_a_word():
    assert shortened("short") == "short"
    cut = shortened("word " * 100)
    assert len(cut) <= 221
    assert cut.endswith("word …")
