"""The shapes of schemas.py as JSON Schema (draft 2020-12), for the packages: /usr/share/vmguard/schemas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vmguard.cli.schemas import ERROR, SCHEMAS, B, N, Shape, T

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TYPES = {T: "string", N: "number", B: "boolean"}


def schema_of(shape: Shape) -> dict[str, Any]:
    """Return the JSON Schema of a shape. An object may be null, and may have keys that are not told."""
    if isinstance(shape, str):
        return _value(shape)
    if not isinstance(shape, Mapping):
        return {"type": "array", "items": schema_of(shape[0])}
    if "NAME" in shape:
        return {"type": ["object", "null"], "additionalProperties": schema_of(shape["NAME"])}
    properties = {key: schema_of(value) for key, value in shape.items()}
    return {"type": ["object", "null"], "properties": properties, "required": list(shape)}


def _value(shape: str) -> dict[str, Any]:
    if shape == "any":
        return {}
    kind = _TYPES[shape.removesuffix(" or null")]
    return {"type": [kind, "null"] if shape.endswith(" or null") else kind}


def documents() -> dict[str, dict[str, Any]]:
    """Return all schemas by the name of their file: that of the command, with hyphens."""
    shapes = {**SCHEMAS, "error": ERROR}
    return {
        f"{name.replace(' --', '-').replace(' ', '-')}.json": {
            "$schema": DIALECT,
            "title": f"vmguard {name} --json" if name != "error" else "any command of vmguard that fails, with --json",
            **schema_of(shape),
            "type": "object",
        }
        for name, shape in shapes.items()
    }
