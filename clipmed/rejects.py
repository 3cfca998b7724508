"""Why an item did not become a sample: a closed list of stages and reason codes, one for every report."""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    """Where on the road an item was dropped, in the road's order."""

    SOURCE = "source"  # reading the archive, package, table or folder
    PARSE = "parse"  # understanding the article or the row
    CAPTION = "caption"  # the text that belongs to the image
    IMAGE = "image"  # decoding and measuring the image
    PLAN = "plan"  # licence gate, duplicates, splits: decided over all spools when packing


class RejectReason(StrEnum):
    """Reason codes. The comment is the sentence that reports show."""

    PACKAGE_UNREADABLE = "package_unreadable"  # the archive or metadata file cannot be read
    MEDIA_MISSING = "media_missing"  # a referenced image is not in the archive
    FILE_TOO_LARGE = "file_too_large"  # above the size limit of the source
    CHECKSUM_MISMATCH = "checksum_mismatch"  # bytes differ from the checksum the source states
    PATH_UNSAFE = "path_unsafe"  # absolute path, parent directory or link in an archive or table
    SOURCE_UNREACHABLE = "source_unreachable"  # the server did not give the file, after retries
    ARTICLE_CHANGED = "article_changed"  # the source no longer holds what the snapshot of it names
    ARTICLE_NOT_SELECTED = "article_not_selected"  # outside the ids, dates or journals that were asked for
    ARTICLE_OCR = "article_ocr"  # a scanned article whose text was read by a machine
    SUPERSEDED_VERSION = "superseded_version"  # a newer version of the same article is in the source
    ARTICLE_MALFORMED = "article_malformed"  # XML that cannot be parsed
    ARTICLE_UNSAFE = "article_unsafe"  # entities or depth that a hardened parser refuses
    ARTICLE_RETRACTED = "article_retracted"  # the metadata says that the article is retracted
    ARTICLE_WITHOUT_FIGURES = "article_without_figures"  # nothing to take from this article
    FIGURE_WITHOUT_GRAPHIC = "figure_without_graphic"  # a figure that names no image
    PANEL_WITHOUT_CAPTION = "panel_without_caption"  # a panel that no part of its figure's caption describes
    ROW_INVALID = "row_invalid"  # a table row lacks a column or has an unknown value
    LABEL_UNKNOWN = "label_unknown"  # a label that the catalogue entry does not list
    CAPTION_MISSING = "caption_missing"  # no caption and no mention
    CAPTION_TOO_SHORT = "caption_too_short"  # fewer characters than the builder's minimum
    IMAGE_EMPTY = "image_empty"  # zero bytes
    IMAGE_CORRUPT = "image_corrupt"  # bytes that do not decode to the end
    IMAGE_UNSUPPORTED = "image_unsupported"  # a format or pixel mode that is not read
    IMAGE_TOO_SMALL = "image_too_small"  # a side shorter than the minimum
    IMAGE_TOO_LARGE = "image_too_large"  # more pixels than the decompression limit
    IMAGE_EXTREME_ASPECT = "image_extreme_aspect"  # longer than the allowed multiple of its width
    IMAGE_BLANK = "image_blank"  # one colour
    LICENSE_NOT_ALLOWED = "license_not_allowed"  # outside the licence groups that the pack config allows
    DUPLICATE_EXACT = "duplicate_exact"  # the same bytes as a sample that is kept
    DUPLICATE_NEAR = "duplicate_near"  # shows the same picture as a sample that is kept
    DUPLICATE_CAPTION = "duplicate_caption"  # has only captions of a sample that is kept
    CONTAMINATED = "contaminated"  # is in an evaluation set, or comes from an article or a group that is
    KIND_NOT_KEPT = "kind_not_kept"  # a kind of figure, or a part of one, that the pack config leaves out
    LANGUAGE_NOT_KEPT = "language_not_kept"  # a caption in a language that the pack config leaves out
    SHARD_MISSING = "shard_missing"  # a shard of a packed set is not there
    SHARD_SHORT = "shard_short"  # a shard ends before the sample does
    SHARD_CORRUPT = "shard_corrupt"  # what lies at the sample's place is not that sample
    SHARD_UNREACHABLE = "shard_unreachable"  # the disk or the server did not answer, after retries
