"""Writes the tables of keys in configuration.md from the configuration's model. `make reference` runs it.

A table stands between two comments that name its section; what is written around them stays as it is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfheald.config_model import Config, keys, sections
from selfheald.config_text import default_of

DOCUMENT = Path(__file__).with_name("configuration.md")
#: The keys that are in no section stand in a table of this name.
TOP = "no section"
_TABLE = re.compile(
    r"(<!-- the keys of (?P<section>[^>]+?), made by `make reference` -->\n).*?(<!-- end of .*? -->)", re.S
)
_HEAD = "| key | default | environment | value | meaning |\n| --- | --- | --- | --- | --- |\n"
_WORDS = {
    "boolean": "`true` or `false`",
    "object": "a table",
    "string": "text",
    "integer": "number",
    "number": "seconds",
}


def main() -> None:
    """Write the tables anew."""
    DOCUMENT.write_text(renewed(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")


def renewed(text: str) -> str:
    """The document with tables that are current. Raises where one is missing, or is about a section that is none."""
    wanted = {TOP, *(f"[{name}]" for name in sections())}
    found = [match["section"] for match in _TABLE.finditer(text)]
    if sorted(found) != sorted(wanted):
        sys.exit(f"tables for {sorted(found)}, and not for {sorted(wanted)}")
    return _TABLE.sub(lambda match: f"{match[1]}{table(match['section'])}{match[3]}", text)


def table(section: str) -> str:
    """The table of one section, or of the keys that are in none."""
    schema = Config.model_json_schema()
    if section == TOP:
        of_sections = sections()
        fields = {key: info for key, info in keys(Config).items() if key not in of_sections}
        name, properties = "", schema["properties"]
    else:
        name = section.strip("[]")
        fields = keys(sections()[name])
        properties = schema["$defs"][sections()[name].__name__]["properties"]
    return _HEAD + "".join(_row(name, key, info, properties[key]) for key, info in fields.items())


def _row(section: str, key: str, info: Any, schema: Mapping[str, Any]) -> str:
    dotted = f"{section}.{key}".lstrip(".")
    variable = "SELFHEALD_" + dotted.replace(".", "__").upper()
    default = schema.get("x-default") or f"`{default_of(section, key, info).removesuffix('.0')}`"
    cells = [f"`{dotted}`", default, f"`{variable}`", value_of(schema), str(info.description)]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def value_of(schema: Mapping[str, Any]) -> str:
    """What a key takes, with its unit and its bounds."""
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    if "anyOf" in schema:
        kinds = [each for each in schema["anyOf"] if each.get("type") != "null"]
        if any("examples" in each for each in kinds):
            return "size"
        return " or ".join(dict.fromkeys(map(value_of, kinds)))
    if schema.get("type") == "array":
        inner = schema.get("items") or {}
        return "list of tables" if "$ref" in inner else f"list of {value_of(inner)}s".replace("texts", "text")
    if schema.get("format") in ("path", "file-path", "directory-path"):
        return "path"
    return f"{_WORDS[schema['type']]}{_bounds(schema)}"


def _bounds(schema: Mapping[str, Any]) -> str:
    low, above, high = (schema.get(name) for name in ("minimum", "exclusiveMinimum", "maximum"))
    if low is None and above is None:
        return "" if high is None else f", up to {high:g}"
    start = f", {low:g}" if low is not None else f", more than {above:g}"
    return start if high is None else f"{start} to {high:.12g}" if low is not None else f"{start}, up to {high:.12g}"


if __name__ == "__main__":
    main()
