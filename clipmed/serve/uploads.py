"""Forms with an image, read into memory within bounds: nothing of an upload is ever written to disk.

Web frameworks spool large uploads to temporary files. Here the body is parsed as it arrives, and refused at the byte
that is too much, whatever its headers said.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from clipmed.serve.limits import MEGABYTE, Limits, RefusedError

IMAGE_FIELD = "image"
_FRAMING_BYTES = 64 * 1024  # boundaries and headers of parts, over what the fields may hold


@dataclass(slots=True)
class Form:
    """A form's image, as encoded, and its other fields, each with its values in order."""

    image: bytes
    fields: dict[str, list[str]]


async def read_form(headers: Mapping[str, str], body: AsyncIterator[bytes], limits: Limits) -> Form:
    """Return a multipart form that has one image.

    Args:
        headers: of the request, with names in lower case.
        body: the request's, as it arrives.
        limits: what is taken.

    Raises:
        RefusedError: 400 not a whole form, 408 too slow, 413 too large, 415 not a form, 422 no image in it.
    """
    content_type, options = parse_options_header(headers.get("content-type", ""))
    if content_type != b"multipart/form-data" or not options.get(b"boundary"):
        raise RefusedError(415, f"the body must be multipart/form-data with a part {IMAGE_FIELD!r}")
    _check_declared(headers.get("content-length"), limits)
    try:
        collector = _Collector(options[b"boundary"], limits)
        async with asyncio.timeout(limits.upload_s):
            async for chunk in body:
                collector.write(chunk)
        return collector.form()
    except FormParserError as error:
        raise RefusedError(400, "the form is not whole multipart/form-data; send it again") from error
    except TimeoutError as error:
        raise RefusedError(408, f"the upload took more than {limits.upload_s:g} seconds; send it again") from error


def _check_declared(length: str | None, limits: Limits) -> None:
    if length is not None and length.isdecimal():
        allowed = limits.upload_bytes + limits.field_bytes + _FRAMING_BYTES
        if int(length) > allowed:
            raise _too_large(limits)


def _too_large(limits: Limits) -> RefusedError:
    allowed = f"{limits.upload_bytes / MEGABYTE:g} MB"
    return RefusedError(413, f"the image is larger than {allowed}, the most that this server takes; send a smaller one")


@dataclass(slots=True)
class _Part:
    """One part of a form as it arrives."""

    name: str = ""
    header: bytearray = field(default_factory=bytearray)
    disposition: bytearray = field(default_factory=bytearray)
    data: bytearray = field(default_factory=bytearray)


class _Collector:
    """Collects a form's parts in memory; refuses at the first byte over a bound."""

    def __init__(self, boundary: bytes, limits: Limits) -> None:
        self.limits = limits
        self.parts: list[_Part] = []
        self.num_bytes = 0
        self.num_field_bytes = 0
        self.is_whole = False
        self.parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_begin": self._header_begin,
                "on_header_field": self._header_name,
                "on_header_value": self._header_value,
                "on_headers_finished": self._name,
                "on_part_data": self._data,
                "on_end": self._end,
            },
        )

    def write(self, chunk: bytes) -> None:
        self.num_bytes += len(chunk)
        if self.num_bytes > self.limits.upload_bytes + self.limits.field_bytes + _FRAMING_BYTES:
            raise _too_large(self.limits)
        self.parser.write(chunk)

    def form(self) -> Form:
        if not self.is_whole:
            raise RefusedError(400, "the form ends before its last boundary; send it again")
        images = [part for part in self.parts if part.name == IMAGE_FIELD]
        if len(images) != 1:
            raise RefusedError(422, f"one part must be called {IMAGE_FIELD!r}: got {len(images)} of them")
        fields: dict[str, list[str]] = {}
        try:
            for part in self.parts:
                if part.name != IMAGE_FIELD:
                    fields.setdefault(part.name, []).append(part.data.decode())
        except UnicodeDecodeError as error:
            raise RefusedError(400, "a field of the form is not UTF-8") from error
        return Form(bytes(images[0].data), fields)

    def _begin(self) -> None:
        if len(self.parts) >= self.limits.parts:
            raise RefusedError(413, f"the form has more than {self.limits.parts} parts")
        self.parts.append(_Part())

    def _header_begin(self) -> None:
        self.parts[-1].header.clear()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1].header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        part = self.parts[-1]
        if part.header.lower() == b"content-disposition":
            part.disposition += data[start:end]

    def _name(self) -> None:
        _, options = parse_options_header(bytes(self.parts[-1].disposition))
        self.parts[-1].name = options.get(b"name", b"").decode(errors="replace")

    def _data(self, data: bytes, start: int, end: int) -> None:
        part = self.parts[-1]
        part.data += data[start:end]
        if part.name == IMAGE_FIELD:
            if len(part.data) > self.limits.upload_bytes:
                raise _too_large(self.limits)
            return
        self.num_field_bytes += end - start
        if self.num_field_bytes > self.limits.field_bytes:
            raise RefusedError(413, f"the form's fields hold more than {self.limits.field_bytes // 1024} KiB of text")

    def _end(self) -> None:
        self.is_whole = True
