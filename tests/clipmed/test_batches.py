"""Embedding many images: no result depends on how they are cut into batches, and none is lost in silence."""

import threading
import time

import numpy as np
import pytest
import torch

import clipmed
from clipmed.errors import ClipmedError, ConfigError, ImageError
from clipmed.inputs import SkippedImage, open_image
from clipmed.inputs.batches import batches
from tests.clipmed.pictures import encoded, picture, several
from tests.clipmed.tiny import tiny_checkpoint

PICTURES = [picture(seed=seed) for seed in range(11)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return clipmed.load(tiny_checkpoint(tmp_path_factory.mktemp("batches")), "cpu")


@pytest.mark.parametrize("batch_size", [1, 3, 11, 64])
def test_results_do_not_depend_on_the_batch_size(model, batch_size):
    one_by_one = torch.cat([model.embed_images(image) for image in PICTURES])
    together = model.embed_images(PICTURES, batch_size)
    assert together.shape == (11, 16)
    assert together.dtype == torch.float32
    torch.testing.assert_close(together, one_by_one)
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(11))
    texts = [f"image number {number}" for number in range(5)]
    torch.testing.assert_close(model.embed_texts(texts, batch_size), model.embed_texts(texts))


def test_a_tensor_of_several_is_a_batch(model):
    stacked = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in PICTURES])
    torch.testing.assert_close(model.embed_images(stacked), model.embed_images(PICTURES))
    assert model.embed_images(stacked[0]).shape == (1, 16)


def test_images_that_cannot_be_used_are_listed_and_the_others_embedded(model, tmp_path):
    (tmp_path / "bad.png").write_bytes(encoded(PICTURES[0], "PNG")[:500])
    many = [PICTURES[0], tmp_path / "bad.png", b"noise", *PICTURES[1:4], tmp_path / "absent.png"]
    with pytest.raises(ImageError, match=r"bad\.png: it is cut short"):
        model.embed_images(many)
    for batch_size in (1, 2, 64):
        skipped: list[SkippedImage] = []
        torch.testing.assert_close(
            model.embed_images(many, batch_size, skipped=skipped), model.embed_images(PICTURES[:4])
        )
        assert [(image.position, image.image) for image in skipped] == [
            (1, str(tmp_path / "bad.png")),
            (2, "(5 bytes)"),
            (6, str(tmp_path / "absent.png")),
        ]
        assert "cut short" in skipped[0].reason


def test_a_frame_of_files_of_several_is_chosen(model):
    files = [several("TIFF"), several("GIF"), encoded(PICTURES[5], "PNG")]
    for frame in (0, 2):
        skipped: list[SkippedImage] = []
        expected = [open_image(file, frame=frame) for file in files[: 3 if frame == 0 else 2]]
        found = model.embed_images(files, skipped=skipped, frame=frame)
        torch.testing.assert_close(found, model.embed_images(expected))
        assert [image.reason for image in skipped if "no frame 2; it has 1" not in image.reason] == []
        assert len(skipped) + len(found) == 3
    assert not torch.equal(model.embed_images(files[0], frame=0), model.embed_images(files[0], frame=2))
    with pytest.raises(ImageError, match="has 3 frames or pages"):
        model.embed_images(files)


def test_if_no_image_can_be_used_there_is_no_row(model):
    skipped: list[SkippedImage] = []
    assert model.embed_images([b"", b"x"], skipped=skipped).shape == (0, 16)
    assert len(skipped) == 2


def test_a_missing_extra_is_not_a_skipped_image():
    def prepare(_image):
        raise ConfigError("pydicom is not installed")

    with pytest.raises(ConfigError, match="not installed"):
        list(batches(["a"], prepare, 4, []))


def test_wrong_requests(model):
    for call, message in (
        (lambda: model.embed_images([]), "no images to embed"),
        (lambda: model.embed_images(PICTURES, 0), "batch_size: got 0"),
        (lambda: model.embed_texts([]), r"texts: got \[\]"),
        (lambda: model.embed_texts(["a", 3]), "texts: got"),
        (lambda: model.embed_texts(""), "texts: number 1 of 1 is ''; allowed: texts with words"),
        (lambda: model.embed_texts(["a", " \n"]), r"texts: number 2 of 2 is ' \\n'"),
        (lambda: model.embed_texts("a", 0), "batch_size: got 0"),
        (lambda: model.embed_texts("a", -1), "batch_size: got -1"),
    ):
        with pytest.raises(ClipmedError, match=message):
            call()


def test_batches_are_in_order_and_taken_a_little_ahead():
    taken = []

    def images():
        for number in range(40):
            taken.append(number)
            yield number

    def prepare(number):
        time.sleep(0.002 * (number % 3))
        return number * 10

    found = []
    for positions, results in batches(images(), prepare, 4):
        found.append((positions, results))
        assert len(taken) <= len(found) * 4 + 8
    assert [positions for positions, _ in found] == [list(range(start, start + 4)) for start in range(0, 40, 4)]
    assert [result for _, results in found for result in results] == [number * 10 for number in range(40)]


def test_leaving_early_ends_the_threads():
    before = threading.active_count()
    stream = batches(list(range(1000)), lambda number: number, 2)
    next(stream)
    stream.close()
    assert threading.active_count() == before


def test_an_embedding_that_is_no_number_is_an_error(tmp_path):
    spoilt = clipmed.load(tiny_checkpoint(tmp_path), "cpu")
    spoilt.two_tower.model.visual.proj.data.fill_(float("nan"))
    with pytest.raises(ClipmedError, match=r"not finite, or is zero, in float32; its weights are unusable"):
        spoilt.embed_images(PICTURES[0])
    spoilt.two_tower.model.visual.proj.data.fill_(0)
    with pytest.raises(ClipmedError, match="not finite, or is zero"):
        spoilt.classify(PICTURES[0], ["a", "b"])


def test_labels_that_the_model_cannot_tell_apart_are_an_error(model):
    long = "word " * 20
    with pytest.raises(ClipmedError, match="'left' and 'right' are the same to this model, which reads the first 16"):
        model.classify(PICTURES[0], {"left": [f"{long} left"], "right": [f"{long} right"]})


def test_embeddings_are_classified_as_their_images(model):
    labels = ["a lung", "a skull", "an eye"]
    direct = model.classify(PICTURES, labels)
    assert model.classify_embeddings(model.embed_images(PICTURES), labels) == direct
    for result in direct:
        assert sum(result.probabilities.values()) == pytest.approx(1)
        assert list(result.probabilities) == list(result.cosines) == labels
        assert result.label == max(result.cosines, key=result.cosines.get)
        assert not result.calibrated
        scaled = np.array(list(result.cosines.values())) * model.logit_scale
        expected = np.exp(scaled - scaled.max()) / np.exp(scaled - scaled.max()).sum()
        assert list(result.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-6)


def test_facts_of_a_model(model):
    assert model.embed_dim == 16
    assert str(model.device) == "cpu"
    assert model.dtype == "float32"
    assert model.location.endswith("model")
    assert len(model.digest) == 64
    with pytest.raises(ClipmedError, match="not loaded from a checkpoint folder"):
        _ = clipmed.ClipModel(model.two_tower).digest
