"""Kinds of files that are no label files, by their first bytes, so that a message can name them."""

from __future__ import annotations

from dataclasses import dataclass

_AS_CSV = "export it as CSV (UTF-8)"


@dataclass(frozen=True)
class OtherKind:
    """A kind of file that is not read.

    Attributes:
        name: with its article, for a message.
        remedy: a way to a file that is read.
    """

    name: str
    remedy: str


_WORKBOOK = OtherKind("an Excel workbook", f"{_AS_CSV} from the spreadsheet")
_HEADS = (
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", OtherKind("an Excel workbook (.xls)", f"{_AS_CSV} from the spreadsheet")),
    (b"\x1f\x8b", OtherKind("a gzip file", "unpack it")),
    (b"7z\xbc\xaf", OtherKind("a 7z archive", "unpack it")),
    (b"\x28\xb5\x2f\xfd", OtherKind("a Zstandard file", "unpack it")),
    (b"%PDF", OtherKind("a PDF", _AS_CSV)),
    (b"{\\rtf", OtherKind("an RTF document", _AS_CSV)),
    (b"\x89PNG", OtherKind("an image", "put tables alone there")),
    (b"\xff\xd8\xff", OtherKind("an image", "put tables alone there")),
    (b"ARROW1", OtherKind("an Arrow (Feather) file", "write it as Parquet or CSV (UTF-8)")),
    (b"SQLite format 3", OtherKind("an SQLite database", "export its table as CSV (UTF-8)")),
    (b"PARE", OtherKind("an encrypted Parquet file", "write it without encryption")),
)
_BINARY = OtherKind("no text", f"{_AS_CSV} or Parquet")
_ENDINGS = (".xlsx", ".xlsm", ".xlsb")


def binary_kind(name: str, data: bytes) -> OtherKind | None:
    """The kind of a file that is not text, by its first bytes; None where it may be one.

    Args:
        name: of the file.
        data: its content.
    """
    if data.startswith(b"PK\x03\x04"):
        return _of_archive(name, data)
    return next((kind for head, kind in _HEADS if data.startswith(head)), None)


def _of_archive(name: str, data: bytes) -> OtherKind:
    if b"application/vnd.oasis.opendocument.spreadsheet" in data[:200]:
        return OtherKind("an OpenDocument spreadsheet", f"{_AS_CSV} from the spreadsheet")
    if name.lower().endswith(_ENDINGS) or b"xl/workbook" in data:
        return _WORKBOOK
    return OtherKind("a ZIP archive", "unpack it; an Excel workbook has to be exported as CSV (UTF-8)")


def text_kind(head: str) -> OtherKind | None:
    """The kind of a text that has no header of ours, by its beginning; None where it may be CSV.

    Args:
        head: the beginning of the text.
    """
    start = head.lstrip("\ufeff \t\r\n")[:4096].lower()
    if start.startswith(("<!doctype html", "<html", "<head", "<body", "<table")):
        return OtherKind(
            "an HTML page", "download the file itself (a page for signing in looks like this), as CSV (UTF-8)"
        )
    if start.startswith("<"):
        return OtherKind("XML", _AS_CSV)
    if start.startswith(("{", "[")):
        return OtherKind("JSON", "write it as CSV (UTF-8) or Parquet")
    return _BINARY if "\0" in start else None
