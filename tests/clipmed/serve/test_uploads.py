"""Forms are read the same however they arrive, and never half."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmed.serve.limits import Limits, RefusedError
from clipmed.serve.uploads import read_form

IMAGE = b"\x89PNG\r\n--b\r\n\r\n\0" * 9
BODY = (
    b'preamble\r\n--bound\r\nContent-Type: text/plain\r\nCONTENT-DISPOSITION: form-data; name="labels"\r\n\r\n'
    + "a\nö".encode()
    + b'\r\n--bound\r\nContent-Disposition: form-data; name="image"; filename="/etc/passwd"\r\n\r\n'
    + IMAGE
    + b'\r\n--bound\r\nContent-Disposition: form-data; name="labels"\r\n\r\nc\r\n--bound--\r\nepilogue'
).removeprefix(b"preamble\r\n")
HEADERS = {"content-type": "multipart/form-data; boundary=bound"}


def read(chunks, limits=None, headers=None):
    async def body():
        for chunk in chunks:
            yield chunk

    return asyncio.run(read_form(headers or HEADERS, body(), limits or Limits()))


@given(st.lists(st.integers(0, len(BODY))))
def test_chunks_may_end_anywhere(cuts):
    ends = [0, *sorted(cuts), len(BODY)]
    form = read(BODY[start:end] for start, end in pairwise(ends))
    assert form.image == IMAGE
    assert form.fields == {"labels": ["a\nö", "c"]}


@given(st.integers(0, BODY.index(b"--bound--") + 8))
def test_a_form_that_is_cut_is_refused(end):
    with pytest.raises(RefusedError) as caught:
        read([BODY[:end]])
    assert caught.value.status == 400


@given(st.binary(max_size=400), st.integers(0, len(BODY)))
def test_bytes_of_any_kind_are_a_form_or_refused(middle, at):
    status = 200
    try:
        read([BODY[:at], middle, BODY[at:]])
    except RefusedError as error:
        status = error.status
    assert status in {200, 400, 422}


def test_bounds_hold_to_the_byte():
    assert read([BODY], Limits(upload_bytes=len(IMAGE))).image == IMAGE
    with pytest.raises(RefusedError, match="larger than") as caught:
        read([BODY], Limits(upload_bytes=len(IMAGE) - 1))
    assert caught.value.status == 413
    with pytest.raises(RefusedError, match="of text"):
        read([BODY], Limits(field_bytes=4))
    with pytest.raises(RefusedError, match="more than 2 parts"):
        read([BODY], Limits(parts=2))


def test_nothing_more_is_read_once_it_is_too_much():
    taken = []

    def endless():
        yield BODY[: BODY.index(IMAGE)]
        while True:
            taken.append(1)
            yield bytes(1000)

    with pytest.raises(RefusedError, match=r"larger than 0\.01 MB"):
        read(endless(), Limits(upload_bytes=10_000))
    assert len(taken) == 11


def test_a_body_that_does_not_come_is_given_up():
    async def stalled():
        yield BODY[:20]
        await asyncio.sleep(60)

    with pytest.raises(RefusedError, match=r"took more than 0\.05 seconds") as caught:
        asyncio.run(read_form(HEADERS, stalled(), Limits(upload_s=0.05)))
    assert caught.value.status == 408


@pytest.mark.parametrize("content_type", ["", "text/plain", "multipart/form-data", "multipart/mixed; boundary=bound"])
def test_other_bodies_are_refused(content_type):
    with pytest.raises(RefusedError) as caught:
        read([BODY], headers={"content-type": content_type})
    assert caught.value.status == 415
