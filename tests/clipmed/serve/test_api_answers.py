"""What the JSON API answers, from a server process: the same as the library, and clear errors for everything else."""

import io
import json
import struct
import zlib

import httpx
import numpy as np
import pytest
from PIL import Image

import clipmed
from clipmed.api import DEFAULT_TEMPLATES
from clipmed.search import SearchIndex
from clipmed.serve.pictures import preview_jpeg
from tests.clipmed.serve.conftest import INDEXED, KINDS, UPLOAD_MB
from tests.clipmed.serve.serving import encoded, noise

LABELS = ["a lung", "a skull: lateral", "Brustkorb, geröntgt"]


def test_classify_answers_what_each_checkpoint_says(server, models):
    picture = noise()
    answer = server.post("api/classify", encoded(picture), labels="\n".join(LABELS)).raise_for_status().json()
    assert (answer["width"], answer["height"]) == picture.size
    assert [result["checkpoint"] for result in answer["results"]] == ["first", "second"]
    for result in answer["results"]:
        (expected,) = models[result["checkpoint"]].classify(picture, LABELS)
        assert [score["label"] for score in result["scores"]] == LABELS
        for score in result["scores"]:
            assert score["probability"] == pytest.approx(expected.probabilities[score["label"]], abs=1e-6)
            assert score["cosine"] == pytest.approx(expected.cosines[score["label"]], abs=1e-6)
        assert result["label"] == expected.label
        assert (result["calibrated"], result["temperature"]) == (False, expected.temperature)
    assert [result["temperature"] for result in answer["results"]] == ["learned", "fitted on other labels"]
    assert answer["results"][0]["scores"] != answer["results"][1]["scores"]


def test_calibrated_is_said_of_the_labels_that_were_fitted_alone(server):
    answer = server.post("api/classify", encoded(noise()), labels=KINDS).raise_for_status().json()
    said = [(result["calibrated"], result["temperature"]) for result in answer["results"]]
    assert said == [(False, "learned"), (True, "fitted")]


def test_labels_may_be_lines_or_fields(server):
    image = encoded(noise())
    lines = server.post("api/classify", image, labels=" a \r\n\nb\n c")
    fields = server.post("api/classify", image, labels=["a", "b", "c"])
    assert lines.raise_for_status().json() == fields.raise_for_status().json()


def test_a_label_may_have_prompts_of_its_own(server, models):
    own = {"a lung": ["one", "two"]}
    answer = server.post("api/classify", encoded(noise()), labels=LABELS, prompts=json.dumps(own))
    templated = {label: [template.replace("{}", label) for template in DEFAULT_TEMPLATES] for label in LABELS}
    (expected,) = models["first"].classify(noise(), templated | own)
    scores = answer.raise_for_status().json()["results"][0]["scores"]
    assert {score["label"]: score["probability"] for score in scores} == pytest.approx(expected.probabilities, abs=1e-6)


def test_similar_answers_what_the_index_finds(server, models, index_folder):
    picture = noise(seed=3)
    answer = server.post("api/similar", encoded(picture), k=4).raise_for_status().json()
    (expected,) = SearchIndex.open(index_folder).search(models["first"].embed_images(picture), 4)
    assert answer["checkpoint"] == "first"
    assert [hit["row"] for hit in answer["hits"]] == [hit.row for hit in expected]
    best = answer["hits"][0]
    assert (best["name"], best["caption"], best["score"]) == ("3.png", "picture 3", pytest.approx(1, abs=1e-5))
    thumbnail = httpx.get(server.url.rstrip("/") + best["thumbnail"]).raise_for_status()
    assert thumbnail.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(thumbnail.content)).size == picture.size


def test_similar_answers_all_where_the_index_has_fewer(server):
    answer = server.post("api/similar", encoded(noise()), k=48).raise_for_status().json()
    assert len(answer["hits"]) == INDEXED


@pytest.mark.parametrize("row", [str(INDEXED), "-1", "99999999999999999999", "x", "../api/checkpoints%00"])
def test_a_thumbnail_that_is_not_there_is_not_found(server, row):
    answer = httpx.get(f"{server.url}api/thumbnails/{row}")
    assert answer.status_code in {404, 422}
    assert list(answer.json()) == ["error"]


def test_a_row_that_is_no_number_is_said(server):
    answer = httpx.get(f"{server.url}api/thumbnails/{'x' * 100}")
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(f"row: got '{'x' * 40}'; Input should be a valid integer")


def test_checkpoints_tells_what_is_served(server, models):
    facts = httpx.get(f"{server.url}api/checkpoints").raise_for_status().json()
    assert [one["name"] for one in facts["checkpoints"]] == ["first", "second"]
    assert facts["checkpoints"][0] == {
        "name": "first",
        "digest": models["first"].digest,
        "embed_dim": 16,
        "image_size": 32,
        "context_length": 16,
        "calibration": None,
    }
    fitted = models["second"].calibration
    shown = {"temperature": fitted.temperature, "images": 40, "labels": ["a lung", "a skull"]}
    assert facts["checkpoints"][1]["calibration"] == shown
    assert facts["index"] == {"images": INDEXED, "checkpoint": "first"}
    assert facts["limits"]["upload_bytes"] == UPLOAD_MB * 1_000_000
    assert facts["templates"] == list(DEFAULT_TEMPLATES)


def test_preview_is_a_jpeg_of_what_browsers_do_not_show(server):
    picture = noise(1200, 600)
    shown = server.post("api/preview", encoded(picture, "TIFF", compression="tiff_lzw")).raise_for_status()
    assert shown.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(shown.content)).size == (1024, 512)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000", "PPM"])
def test_formats_are_told_by_content_alone(server, kind):
    answer = server.post("api/classify", encoded(noise(), kind), name="notes.txt", labels=["a", "b"])
    assert answer.status_code == 200
    broken = server.post("api/classify", encoded(noise(), kind)[:200], labels=["a", "b"])
    assert broken.status_code == 422


def test_grey_of_16_bits_is_seen_as_the_library_sees_it(server, models):
    deep = Image.fromarray(np.arange(70 * 50, dtype=np.uint16).reshape(50, 70) * 15)
    answer = server.post("api/classify", encoded(deep), labels=["a", "b"]).raise_for_status().json()
    (expected,) = models["first"].classify(encoded(deep), ["a", "b"])
    assert answer["results"][0]["scores"][0]["probability"] == pytest.approx(expected.probabilities["a"], abs=1e-6)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that states so many pixels."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(9)))]
    parts = [struct.pack(">I", len(data)) + name + data for name, data in (*chunks, (b"IEND", b""))]
    checked = [part + struct.pack(">I", zlib.crc32(part[4:])) for part in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(checked)


ANIMATED = encoded(noise(), "GIF", save_all=True, append_images=[noise(seed=1)])
WRONG = {
    "empty": (b"", 422, "0 bytes"),
    "text": (b"hello world, I am no image", 415, "no image"),
    "page": (b"<!doctype html><script>alert(1)</script>", 415, "HTML"),
    "drawing": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 415, "SVG"),
    "document": (b"%PDF-1.7 ...", 415, "PDF"),
    "cut": (encoded(noise())[:-900], 422, "image:"),
    "animated": (ANIMATED, 422, "the image has 2 frames or pages; choose one by the field frame, from 0 to 1"),
    "bomb": (bomb(60_000, 60_000), 422, "60000x60000 pixels; allowed: 50000000"),
    "strip": (bomb(1, 6000), 422, "1x6000"),
}


def test_a_frame_of_a_file_of_several_is_taken(server, models, index_folder):
    assert server.post("api/classify", ANIMATED, labels=LABELS).json()["frames"] == 2
    assert "frames" not in server.post("api/classify", b"", labels=LABELS).json()
    second = clipmed.open_image(ANIMATED, frame=1)
    answer = server.post("api/classify", ANIMATED, labels=LABELS, frame=" 1 ").raise_for_status().json()
    (expected,) = models["first"].classify(second, LABELS)
    assert [score["cosine"] for score in answer["results"][0]["scores"]] == pytest.approx(
        list(expected.cosines.values()), abs=1e-6
    )
    answer = server.post("api/similar", ANIMATED, frame=1, k=1).raise_for_status().json()
    (found,) = SearchIndex.open(index_folder).search(models["first"].embed_images(second), 1)
    assert answer["hits"][0]["score"] == pytest.approx(found[0].score, abs=1e-6)
    shown = server.post("api/preview", ANIMATED, frame=1).raise_for_status()
    assert shown.content == preview_jpeg(second)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ("2", "no frame 2; it has 2, from 0"),
        ("-1", "got '-1'; allowed: one whole number from 0 to 999999"),
        ("1.5", "got '1.5'"),
        ("9" * 5000, "allowed: one whole number"),
        (["0", "1"], "got '0, 1'; allowed: one"),
    ],
)
def test_frames_that_are_not_there_are_refused(server, frame, message):
    for path in ("api/classify", "api/similar", "api/preview"):
        answer = server.post(path, ANIMATED, labels=["a", "b"], frame=frame)
        assert (answer.status_code, message in answer.json()["error"]) == (422, True), answer.text


@pytest.mark.parametrize("path", ["api/classify", "api/similar", "api/preview"])
@pytest.mark.parametrize(("image", "status", "message"), WRONG.values(), ids=WRONG)
def test_what_is_not_one_whole_still_image_is_refused(server, path, image, status, message):
    answer = server.post(path, image, name="scan.png", labels=["a", "b"])
    assert (answer.status_code, message in answer.json()["error"]) == (status, True), answer.text


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({}, 422, "two or more different labels: got 0"),
        ({"labels": "  \n\n"}, 422, "two or more different labels: got 0"),
        ({"labels": "only"}, 422, "two or more different labels: got 1"),
        ({"labels": "a\nb\n A "}, 422, "got 'a' and 'A', which are one to the model"),
        ({"labels": [str(number) for number in range(101)]}, 422, "labels: got 101; allowed: 2 to 100"),
        ({"labels": ["a", "b" * 301]}, 422, "301 letters; allowed: 300"),
        ({"labels": ["a", "b" * 300_000]}, 413, "more than 256 KiB of text"),
        ({"labels": ["a"] * 300}, 413, "more than 256 parts"),
        ({"labels": ["a", "b"], "prompts": "a: x"}, 422, "must be one JSON object"),
        ({"labels": ["a", "b"], "prompts": "[" * 100_000}, 422, "must be one JSON object"),
        ({"labels": ["a", "b"], "prompts": '{"a": []}'}, 422, "must be one JSON object"),
        ({"labels": ["a", "b"], "prompts": '{"a": [" "]}'}, 422, "must be one JSON object"),
        ({"labels": ["a", "b"], "prompts": '{"a": ["x"], "a": ["y"]}'}, 422, "must be one JSON object"),
        ({"labels": ["a", "b"], "prompts": '{"a": ["x"], "b": ["x"]}'}, 422, "have the same prompts"),
        ({"labels": ["a", "b"], "prompts": '{"c": ["x"]}'}, 422, "'c', which is none of the labels"),
        ({"labels": ["a", "b"], "prompts": json.dumps({"a": ["x"] * 21})}, 422, "got 21 for one label"),
        ({"labels": ["a", "b"], "prompts": json.dumps({"a": ["x" * 301]})}, 422, "301 letters; allowed: 300"),
    ],
)
def test_questions_out_of_bounds_are_refused(server, fields, status, message):
    answer = server.post("api/classify", encoded(noise()), **fields)
    assert (answer.status_code, message in answer.json()["error"]) == (status, True), answer.text


@pytest.mark.parametrize(
    "k", ["0", "49", "-1", "4.5", "four", "9" * 5000, "000000048999", "000000048" + "9" * 5000, "٤", "+4"]
)
def test_counts_out_of_bounds_are_refused(server, k):
    answer = server.post("api/similar", encoded(noise()), k=k)
    assert (answer.status_code, "1 to 48" in answer.json()["error"]) == (422, True)


def test_forms_that_are_not_whole_are_refused(server):
    address = f"{server.url}api/classify"
    two = httpx.post(address, files=[("image", b"x"), ("image", b"y")], data={"labels": "a\nb"})
    none = httpx.post(address, files=[("picture", b"x")], data={"labels": "a\nb"})
    assert (two.status_code, none.status_code) == (422, 422)
    assert httpx.post(address, json={"labels": ["a", "b"]}).status_code == 415
    assert httpx.post(address, content=b"x", headers={"Content-Type": "multipart/form-data"}).status_code == 415
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    start = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n'
    for body in (b"", b"nothing", start, start + b"x\r\n--b", b"--b\r\nno colon\r\n\r\n\r\n--b--"):
        assert httpx.post(address, content=body, headers=headers).status_code == 400
    latin = start + b'x\r\n--b\r\nContent-Disposition: form-data; name="labels"\r\n\r\n\xff\r\n--b--\r\n'
    assert "not UTF-8" in httpx.post(address, content=latin, headers=headers).json()["error"]


def test_the_api_describes_itself_without_pages_from_elsewhere(server):
    description = httpx.get(f"{server.url}api/openapi.json").raise_for_status().json()
    form = description["paths"]["/api/classify"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {"image", "labels", "prompts", "frame"}
    for path in ("docs", "redoc", "static/../app.py", "static/%2e%2e%2fapp.py", "nothing"):
        answer = httpx.get(server.url + path)
        assert answer.status_code == 404
        assert "error" in answer.json()
    assert httpx.get(f"{server.url}api/classify").status_code == 405
