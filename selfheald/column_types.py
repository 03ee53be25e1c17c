"""One spelling for each DuckDB type: a contract says ``numeric``, the catalog ``DECIMAL(18,3)``. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

_ALIASES = {
    "BIGINT": "int8, int64, long, oid",
    "BIT": "bitstring",
    "BLOB": "bytea, binary, varbinary",
    "BOOLEAN": "bool, logical",
    "DATE": "",
    "DECIMAL": "dec, numeric",
    "DOUBLE": "float8, double precision",
    "FLOAT": "float4, real",
    "HUGEINT": "int128",
    "INTEGER": "int, int4, int32, integral, signed",
    "INTERVAL": "",
    "JSON": "",
    "SMALLINT": "int2, int16, short",
    "TIME": "time without time zone",
    "TIME WITH TIME ZONE": "timetz",
    "TIMESTAMP": "datetime, timestamp_us, timestamp without time zone",
    "TIMESTAMP WITH TIME ZONE": "timestamptz",
    "TIMESTAMP_MS": "",
    "TIMESTAMP_NS": "",
    "TIMESTAMP_S": "",
    "TINYINT": "int1",
    "UBIGINT": "uint64",
    "UHUGEINT": "uint128",
    "UINTEGER": "uint32",
    "USMALLINT": "uint16",
    "UTINYINT": "uint8",
    "UUID": "guid",
    "VARCHAR": "bpchar, char, nvarchar, string, text",
}
_NAMES = {alias.strip().upper(): name for name, aliases in _ALIASES.items() for alias in (name, *aliases.split(","))}
_TOKEN = re.compile(r"""\s*("(?:[^"]|"")*"|'(?:[^']|'')*'|\w+|[()\[\],])""")
_NESTED = frozenset({"STRUCT", "ROW", "UNION", "MAP", "LIST"})


def canonical_type(text: str) -> str | None:
    """DuckDB's own spelling of a type, as ``duckdb_columns()`` shows it, field names in lower case.

    ``None`` where it cannot be known without asking a database: a type of the user's own, a type of an extension.
    """
    tokens: list[str] = []
    position, text = 0, text.strip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return None
        tokens.append(match.group(1))
        position = match.end()
    parser = _Parser(tokens)
    try:
        spelled = parser.type()
    except (_NotUnderstoodError, RecursionError):
        return None
    return spelled if parser.at_end else None


def same_type(wanted: str, found: str) -> bool:
    """True unless both types are understood and differ."""
    one, other = canonical_type(wanted), canonical_type(found)
    return one is None or other is None or one == other


class _NotUnderstoodError(Exception):
    """The text names a type that is not built into DuckDB."""


class _Parser:
    """Recursive descent over ``name [(…)] [[n]…]``."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = tokens
        self._next = 0

    @property
    def at_end(self) -> bool:
        return self._next == len(self._tokens)

    def _peek(self) -> str:
        return "" if self.at_end else self._tokens[self._next]

    def _take(self, expected: str = "") -> str:
        token = self._peek()
        if not token or (expected and token != expected):
            raise _NotUnderstoodError
        self._next += 1
        return token

    def type(self) -> str:
        name = self._name()
        if name in _NESTED:
            spelled = self._nested(name)
        elif name == "ENUM":
            spelled = f"ENUM({', '.join(self._arguments())})"
        else:
            spelled = _with_arguments(_NAMES.get(name), self._arguments() if self._peek() == "(" else [])
        while self._peek() == "[":
            self._take("[")
            length = "" if self._peek() == "]" else self._take()
            self._take("]")
            spelled = f"{spelled}[{length}]"
        return spelled

    def _name(self) -> str:
        """One word, or the several of ``double precision`` and ``timestamp with time zone``."""
        words = [self._take().strip('"').upper()]
        while (following := self._peek()) and (following[0].isalpha()):
            words.append(self._take().upper())
        return " ".join(words)

    def _arguments(self) -> list[str]:
        arguments = []
        self._take("(")
        while self._peek() != ")":
            arguments.append(self._take())
            if self._peek() != ")":
                self._take(",")
        self._take(")")
        return arguments

    def _nested(self, name: str) -> str:
        parts = []
        self._take("(")
        while True:
            field = ""
            if name in ("STRUCT", "ROW", "UNION"):
                token = self._take()
                field = (token[1:-1].replace('""', '"') if token[0] == '"' else token).lower() + " "
            parts.append(field + self.type())
            if self._peek() != ",":
                break
            self._take(",")
        self._take(")")
        if name == "LIST":
            return f"{parts[0]}[]"
        return f"{'STRUCT' if name == 'ROW' else name}({', '.join(parts)})"


def _with_arguments(name: str | None, arguments: Sequence[str]) -> str:
    if name is None:
        raise _NotUnderstoodError
    if name == "DECIMAL":
        width, scale = (*arguments, "0")[:2] if arguments else ("18", "3")
        return f"DECIMAL({width},{scale})"
    if arguments and name not in ("VARCHAR", "BLOB", "BIT"):
        raise _NotUnderstoodError
    return name
