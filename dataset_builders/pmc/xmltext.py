"""The readable text of a JATS element: inline parts joined, blocks apart, formula sources and tables left out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache

from lxml import etree

# Elements whose text is not prose: sources of formulas, other objects with captions of their own, hidden descriptions.
EXCLUDED = frozenset(
    {
        "tex-math", "annotation", "annotation-xml", "table", "table-wrap", "fig", "fig-group", "graphic",
        "inline-graphic", "media", "supplementary-material", "alt-text", "long-desc", "object-id"
    }
)  # fmt: skip
BLOCKS = frozenset(
    {
        "p", "title", "subtitle", "sec", "list", "list-item", "def-list", "def-item", "def", "term", "disp-formula",
        "disp-formula-group", "disp-quote", "break", "verse-group", "verse-line", "boxed-text", "caption", "attrib",
        "label", "td", "th"
    }
)  # fmt: skip
_MARK = "\ufdd0"  # a noncharacter: no article holds it


def local_name(element: etree._Element) -> str:
    """Return the tag without its namespace; the empty string for entity nodes."""
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def child_of(element: etree._Element | None, name: str) -> etree._Element | None:
    """Return the first child of a name in any namespace, or None; `find` takes several times as long."""
    return None if element is None else next(element.iterchildren(f"{{*}}{name}"), None)


def text_of(element: etree._Element | None) -> str:
    """Return the text of an element with white space collapsed; the empty string for None."""
    return "" if element is None else " ".join(_raw_text(element).split())


def marked_text(element: etree._Element, marked: Sequence[etree._Element]) -> tuple[str, list[int]]:
    """Return the text of an element, and the position in it at which each of the marked descendants begins.

    The descendants come in document order. Should one of them lie in an excluded element, all positions are 0.
    """
    texts = [descendant.text or "" for descendant in marked]
    for descendant, text in zip(marked, texts, strict=True):
        descendant.text = _MARK + text
    pieces = text_of(element).split(_MARK)
    for descendant, text in zip(marked, texts, strict=True):
        descendant.text = text
    positions = list(itertools.accumulate(map(len, pieces[:-1])))
    return "".join(pieces), positions if len(positions) == len(marked) else [0] * len(marked)


def _raw_text(element: etree._Element) -> str:
    if len(element) == 0:
        return element.text or ""
    if not any(map(_is_special, [node.tag for node in element.iterdescendants()])):
        return etree.tostring(element, method="text", encoding="unicode", with_tail=False)
    pieces: list[str] = []
    waiting: list[etree._Element | str] = [element]
    while waiting:  # a stack of our own: nesting may be deeper than the interpreter's
        node = waiting.pop()
        if isinstance(node, str):
            pieces.append(node)
        else:
            waiting.extend(reversed(_parts(node)))
    return "".join(pieces)


@lru_cache(maxsize=1024)
def _is_special(tag: object) -> bool:
    """Whether an element of this tag is more than inline text; lxml's own search by so many tags takes longer."""
    return isinstance(tag, str) and tag.rpartition("}")[2] in EXCLUDED | BLOCKS


def _parts(element: etree._Element) -> list[etree._Element | str]:
    """An element's text, children and tails in order, with spaces around blocks and without excluded children."""
    parts: list[etree._Element | str] = [element.text or ""]
    for child in element:
        name = local_name(child)
        if name in BLOCKS:
            parts += [" ", child, " "]
        elif name not in EXCLUDED:
            parts.append(child)
        parts.append(child.tail or "")
    return parts
