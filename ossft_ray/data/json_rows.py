"""Rows of JSON text: one object a line, an array of objects, or objects that span lines.

Rows are streamed. With one object a line, a broken line costs only itself. A fault in an array leaves no place to
resume, so the whole file is refused.
"""

import codecs
import io
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

_CHUNK = 1 << 20
_BOM = codecs.BOM_UTF8
# The first bytes of files that hold no JSON text, whatever their names say
_OTHER_KINDS = {
    b"\x1f\x8b": "compressed with gzip; let its name end in .gz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; let its name end in .zst",
    b"PAR1": "a Parquet file; let its name end in .parquet",
    b"PK\x03\x04": "a zip archive; unpack it",
    codecs.BOM_UTF16_LE: "UTF-16 text; convert it to UTF-8",
    codecs.BOM_UTF16_BE: "UTF-16 text; convert it to UTF-8",
}
_SEPARATORS = re.compile(r"[\s,\ufeff]*")
_DECODER = json.JSONDecoder(parse_constant=lambda name: None if name == "NaN" else float(name))


class JsonRow(NamedTuple):
    """A row with its number: its values, or the reason why it is broken and its text."""

    number: int  # of the line, or of the object among all objects; counted from 1
    values: dict[str, Any]
    broken: str | None = None
    raw: str | None = None


def read_json_rows(stream: io.BufferedReader) -> Iterator[JsonRow]:
    """Stream the rows of a text; blank lines are skipped, and NaN is read as null.

    Raises:
        ValueError: the text is of another kind, or an array in it is not valid JSON; says where.
    """
    head = stream.peek(_CHUNK)
    for first, kind in _OTHER_KINDS.items():
        if head.startswith(first):
            raise ValueError(f"it is {kind}")
    if _spans_lines(head.removeprefix(_BOM).lstrip()):
        return _read_values(stream)
    return _read_lines(stream)


def _spans_lines(head: bytes) -> bool:
    """Whether a text begins with an array, or with an object that does not end on its first line."""
    if head.startswith(b"["):
        return True
    line, _, rest = head.partition(b"\n")
    if not head.startswith(b"{") or not rest:
        return False
    try:
        _DECODER.decode(line.decode())
    except (ValueError, RecursionError):
        try:
            _DECODER.raw_decode(head.decode(errors="replace"))
        except (ValueError, RecursionError):
            return False
        return True
    return False


def _read_lines(stream: io.BufferedReader) -> Iterator[JsonRow]:
    for number, line in enumerate(stream, start=1):
        try:
            text = _stripped(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            hint = "convert the file, for instance with iconv -f LATIN1 -t UTF-8"
            broken = f"not valid JSON: byte 0x{line[error.start]:02x} is not UTF-8 (is it Latin-1? {hint})"
            yield JsonRow(number, {}, broken, _stripped(line.decode("utf-8", errors="replace")))
            continue
        if not text:
            continue
        try:
            values = _DECODER.decode(text)
        except json.JSONDecodeError as error:
            yield JsonRow(number, {}, f"not valid JSON: {error.msg} in column {error.colno}", text)
        except (ValueError, RecursionError) as error:  # an integer of thousands of digits, too deep
            yield JsonRow(number, {}, f"not valid JSON: {error}", text)
        else:
            yield _row(number, values, text)


def _stripped(line: str) -> str:
    return line.strip().removeprefix("\ufeff")


def _read_values(stream: io.BufferedReader) -> Iterator[JsonRow]:
    """The objects of arrays and of plain sequences, wherever their lines end."""
    decode = codecs.getincrementaldecoder("utf-8")().decode
    text, position, line, number, depth, is_whole = "", 0, 1, 0, 0, False
    while True:
        position = _SEPARATORS.match(text, position).end()  # type: ignore[union-attr]  # matches the empty string too
        if position < len(text) and text[position] == "[]"[depth]:
            position, depth = position + 1, 1 - depth
            continue
        try:
            value, end = _DECODER.raw_decode(text, position)
            is_cut = end == len(text) and not is_whole  # "12" may become "123"
        except json.JSONDecodeError as error:
            if is_whole and position == len(text) and depth == 0:
                return
            is_far = len(text) - error.pos > _CHUNK and not error.msg.startswith("Unterminated")
            if is_whole or is_far:
                where = line + text.count("\n", 0, error.pos)
                reason = "the array is not closed" if position == len(text) else error.msg
                raise ValueError(f"it is a JSON array that is not valid JSON: {reason}, line {where}") from error
            is_cut = True
        except (ValueError, RecursionError) as error:
            where = line + text.count("\n", 0, position)
            raise ValueError(f"it is a JSON array that is not valid JSON: {error}, line {where}") from error
        if is_cut:
            # Read at least as much as is buffered, so that the time for a long value is linear in its length
            chunk = stream.read(max(_CHUNK, len(text) - position))
            line, is_whole = line + text.count("\n", 0, position), not chunk
            try:
                text, position = text[position:] + decode(chunk, is_whole), 0
            except UnicodeDecodeError as error:
                raise ValueError(f"it is not UTF-8 text: {error.reason} after line {line}; convert it") from error
            continue
        number += 1
        yield _row(number, value, text[position:end])
        position = end


def _row(number: int, values: Any, raw: str) -> JsonRow:
    return JsonRow(number, values) if isinstance(values, dict) else JsonRow(number, {}, "not a JSON object", raw)
