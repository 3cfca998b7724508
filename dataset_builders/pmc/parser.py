"""XML bytes of an article to a tree, with nothing in them that can reach files, the network or all memory."""

from __future__ import annotations

import html.entities
import re
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

from lxml import etree

from clipmed.errors import ItemRejectedError
from clipmed.rejects import RejectReason, Stage
from dataset_builders.pmc.config import ParseLimits

# HTML's names are those of the ISO sets that legacy document types load, but for the monotonic Greek of ISOgrk1.
_GREEK_NAMES = "a b g d e z ee th i k l m n x o p r sf s t u ph kh ps oh"
_ISO_GREEK = dict(zip((f"{name}gr" for name in _GREEK_NAMES.split()), "αβγδεζηθικλμνξοπρςστυφχψω", strict=True))
_ENTITY = re.compile(rb"&(?=[A-Za-z])(?!(?:amp|lt|gt|quot|apos);)([\w.-]+);")
_DECLARATION = re.compile(rb"<!ENTITY\s+(%\s+)?([\w.:-]+)\s+(?:\"([^\"]*)\"|'([^']*)'|(SYSTEM|PUBLIC)\b([^>]*))")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_NUMERIC_REFERENCE = re.compile(rb"&#(?:x([0-9a-fA-F]+)|(\d+));")
_OTHER_ENCODING = re.compile(rb"<\?xml[^>]*encoding\s*=\s*[\"'](?!utf-?8)", re.I)
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# Beginning and end, and the beginning's rarest character.
_HIDING = ((b"<!--", b"-->", b"!"), (b"<![CDATA[", b"]]>", b"!"), (b"<?", b"?>", b"?"))
_TAG_ENDS = frozenset({b">", b" ", b"\t", b"\r", b"\n"})
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_XML_DECLARATION = re.compile(r"^\ufeff?<\?xml[^>]*\?>")
_MAX_ENTITY_CHARS = 64

# libxml2's codes of damage that stays inside characters: no tag is lost or invented by repairing it.
_CHARACTER_DAMAGE = frozenset(
    {
        etree.ErrorTypes.ERR_INVALID_CHAR,
        etree.ErrorTypes.ERR_INVALID_CHARREF,
        etree.ErrorTypes.ERR_UNDECLARED_ENTITY,
        etree.ErrorTypes.WAR_UNDECLARED_ENTITY,
        etree.ErrorTypes.ERR_ENTITYREF_SEMICOL_MISSING,
        etree.ErrorTypes.ERR_NAME_REQUIRED,
        etree.ErrorTypes.ERR_INVALID_ENCODING,
        etree.ErrorTypes.ERR_UNKNOWN_ENCODING,
        etree.ErrorTypes.ERR_UNSUPPORTED_ENCODING,
        etree.ErrorTypes.ERR_ATTRIBUTE_REDEFINED,
        etree.ErrorTypes.NS_ERR_UNDEFINED_NAMESPACE,
    }
)
_RESOURCE_LIMITS = frozenset({114, etree.ErrorTypes.ERR_ENTITY_LOOP})  # 114: depth, size or amplification


class ParsedXml(NamedTuple):
    """The root element, and whether the bytes had to be repaired to get it."""

    root: etree._Element
    recovered: bool


def parse_xml(data: bytes, limits: ParseLimits) -> ParsedXml:
    """Parse an article's XML.

    Named characters of the ISO sets are resolved without any document type; a document that declares entities of its
    own is read only where they are plain characters. Damaged characters are repaired and the result is marked.

    Raises:
        ItemRejectedError: file_too_large, article_unsafe (entities, nesting beyond 2,048) or article_malformed.
    """
    if len(data) > limits.max_xml_mb * 1e6:
        detail = f"XML of {len(data)} bytes; allowed: {limits.max_xml_mb:g} MB"
        raise ItemRejectedError(Stage.SOURCE, RejectReason.FILE_TOO_LARGE, detail)
    data = _as_ascii_compatible(data)
    data, unknown = resolve_entities(data)
    for candidate in (_without_ballast(data), data):
        parser = _parser(recover=False)
        try:
            return ParsedXml(etree.fromstring(candidate, parser), bool(unknown))
        except etree.XMLSyntaxError as error:
            message = str(error)
            if _kinds(parser) & _RESOURCE_LIMITS:
                _refuse(RejectReason.ARTICLE_UNSAFE, message)
    return ParsedXml(_repair(data, limits, message), True)


def resolve_entities(data: bytes) -> tuple[bytes, set[str]]:
    """Replace named characters by numeric references; return the bytes and the names that nobody defines.

    Raises:
        ItemRejectedError: article_unsafe, for declarations of entities that are more than a few characters.
    """
    declared = _declared_entities(data) if any(_starts(data, b"<!ENTITY", b"!")) else {}
    unknown: set[str] = set()
    if _ENTITY.search(data) is None:
        return data, unknown

    def resolve(match: re.Match[bytes]) -> bytes:
        name = match.group(1)
        text = declared.get(name)
        if text is None:
            key = name.decode()
            text = html.entities.html5.get(f"{key};") or _ISO_GREEK.get(key)
        if text is None:
            unknown.add(name.decode())
            return match.group(0)
        return "".join(f"&#{ord(character)};" for character in text).encode()

    return _ENTITY.sub(resolve, data), unknown


def _declared_entities(data: bytes) -> dict[bytes, str]:
    """The document's own entities that stand for plain characters; all others are refused."""
    declared: dict[bytes, str] = {}
    for match in _DECLARATION.finditer(data):
        parameter, name, double, single, external, rest = match.groups()
        shown = name.decode(errors="replace")
        if external and not parameter and b"NDATA" in (rest or b""):
            continue  # names a picture file; cannot be referred to from text
        value = double if double is not None else single
        if parameter or value is None:
            _refuse(RejectReason.ARTICLE_UNSAFE, f"declares the external or parameter entity {shown!r}")
        if len(value) > _MAX_ENTITY_CHARS or re.search(rb"[%<]|&(?!#)", value):
            _refuse(RejectReason.ARTICLE_UNSAFE, f"declares the entity {shown!r}, which is more than a few characters")
        declared[name] = html.unescape(value.decode("utf-8", "replace"))
    if data.count(b"<!ENTITY") > len(_DECLARATION.findall(data)):
        _refuse(RejectReason.ARTICLE_UNSAFE, "declares an entity that cannot be read")
    return declared


def _as_ascii_compatible(data: bytes) -> bytes:
    if not data.startswith(UTF16_MARKS):
        return data
    text = _XML_DECLARATION.sub("", data.decode("utf-16", "replace"))
    return text.encode()


def _parser(recover: bool) -> etree.XMLParser:
    return etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=True,
        remove_pis=True,
        remove_comments=True,
        recover=recover,
    )


def _without_ballast(data: bytes) -> bytes:
    """The bytes without the last bibliography and the tables before it, where cutting them out is certainly safe.

    They hold half of a typical article and nothing that is wanted, but for figures and paragraphs that cite figures
    inside tables: such tables stay.
    """
    if _hides_tags(data):
        return data
    references = _references(data)
    cuts = [*_tables(data, references[0]), references]
    whole = memoryview(data)
    starts = [0, *(end for _, end in cuts)]
    ends = [*(begin for begin, _ in cuts), len(data)]
    return b"".join([whole[start:end] for start, end in zip(starts, ends, strict=True)])


def _references(data: bytes) -> tuple[int, int]:
    """The span of the last bibliography; the empty one at the end where there is none that can be cut."""
    closing = max(data.rfind(b"</ref-list>"), 0)
    opening = data.rfind(b"ref-list", 0, closing) - 1  # the nearest before: none ends or begins between the two
    if opening >= 0 and _begins(data, b"<ref-list", opening):
        return opening, closing + len(b"</ref-list>")
    return len(data), len(data)


def _tables(data: bytes, stop: int) -> Iterator[tuple[int, int]]:
    """The spans of the innermost tables that have no figures and paragraphs in them."""
    start = 0
    while (closing := data.find(b"</table>", start, stop)) >= 0:
        opening = data.rfind(b"<table", start, closing)
        start = closing + len(b"</table>")
        whole = opening >= 0 and _begins(data, b"<table", opening)
        if whole and data.find(b"<fig", opening, closing) < 0 and data.find(b"<p", opening, closing) < 0:
            yield opening, start


def _begins(data: bytes, beginning: bytes, at: int) -> bool:
    """Whether an element of this very name begins there."""
    after = at + len(beginning)
    return data[at:after] == beginning and data[after : after + 1] in _TAG_ENDS


def _hides_tags(data: bytes) -> bool:
    """Whether comments, character data or instructions hold what looks like a tag that is cut by, and is none."""
    for beginning, ending, rare in _HIDING:
        end = 0
        for start in _starts(data, beginning, rare):
            if start < end:
                continue  # inside the one before
            end = data.find(ending, start)
            if end < 0 or any(data.find(name, start, end) >= 0 for name in (b"table", b"ref-list")):
                return True
    return False


def _starts(data: bytes, word: bytes, rare: bytes) -> Iterator[int]:
    """Where a word begins, found by its rarest character: that takes a tenth of the time of looking for the word."""
    before = word.index(rare)
    at = data.find(rare)
    while at >= 0:
        if data.startswith(word, at - before) and at >= before:
            yield at - before
        at = data.find(rare, at + 1)


def _clean(data: bytes) -> bytes:
    """The bytes without characters that XML forbids, written out or as numbers: libxml2 lets some into its trees."""

    def check(match: re.Match[bytes]) -> bytes:
        hexadecimal, decimal = match.groups()
        digits = (hexadecimal or decimal)[-9:]  # more would not be a character anyway
        code = int(digits, 16 if hexadecimal else 10)
        allowed = code <= 0x10FFFF and not _NOT_XML.match(chr(code))
        return match.group(0) if allowed else b"&#xFFFD;"

    data = _NUMERIC_REFERENCE.sub(check, _CONTROL.sub(b" ", data))
    if _OTHER_ENCODING.match(data):
        return data
    return _NOT_XML.sub("\ufffd", data.decode("utf-8", "replace")).encode()


def _kinds(parser: etree.XMLParser) -> set[int]:
    return {entry.type for entry in parser.error_log}


def _repair(data: bytes, limits: ParseLimits, first_error: str) -> etree._Element:
    parser = _parser(recover=True)
    try:
        root = etree.fromstring(_clean(data), parser)
    except etree.XMLSyntaxError:
        root = None
    if root is None:
        _refuse(RejectReason.ARTICLE_MALFORMED, first_error)
    kinds = _kinds(parser)
    if kinds & _RESOURCE_LIMITS:
        _refuse(RejectReason.ARTICLE_UNSAFE, first_error)
    if not limits.recover_structure and not kinds <= _CHARACTER_DAMAGE:
        _refuse(RejectReason.ARTICLE_MALFORMED, first_error)
    return root


def _refuse(reason: RejectReason, detail: str) -> NoReturn:
    raise ItemRejectedError(Stage.PARSE, reason, detail)
