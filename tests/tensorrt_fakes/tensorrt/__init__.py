"""A strict fake of TensorRT, one of nine versions: names, parameters and read-only properties are those of the real binding.

Which version: EDGE_FAKE_TENSORRT (one of surfaces.json). What goes wrong: EDGE_FAKE_TENSORRT_DO, see behaviour.py. What an
attribute or a
call does once it has passed is in behaviour.py, where an engine runs its ONNX graph in ONNX Runtime: outputs are true, nothing
else is.
"""

import json
import os
import pathlib
import sys
from enum import Enum

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))
SURFACES = json.loads((pathlib.Path(__file__).resolve().parents[1] / "surfaces.json").read_text())
CHECKED = {"str": str, "int": int, "float": (int, float), "bytes": (bytes, bytearray, memoryview), "tuple": tuple, "list": list}


def _index():
    wanted = os.environ.get("EDGE_FAKE_TENSORRT", SURFACES["versions"][-1])
    return SURFACES["versions"].index(wanted)


_AT = _index()
__version__ = SURFACES["versions"][_AT]


class Number(Enum):
    """What pybind11 makes of an enum: a type of its own, with int()."""

    def __int__(self):
        return self.value


def _spec(masks):
    """What this version has of a member; None where it has nothing."""
    return next((spec for spec, mask in masks.items() if mask[_AT] == "Y"), None)


def _fits(kind, value):
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "int" and isinstance(value, bool):
        return False
    if kind in CHECKED:
        return isinstance(value, CHECKED[kind])
    known = _CLASSES.get(kind)
    return known is None or value is None or isinstance(value, known)


def _bind(overload, args, kwargs):
    """Arguments by name, or None where they do not fit."""
    wanted = [part.partition(":")[::2] for part in overload.split(", ")] if overload else []
    names = [name for name, _ in wanted]
    if len(args) > len(names) or set(kwargs) - set(names[len(args) :]):
        return None
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    for name, kind in wanted:
        if name not in given:
            if not kind.endswith("?"):
                return None
        elif not _fits(kind.rstrip("?"), given[name]):
            return None
    return given


def _checked(cls, member, spec):
    overloads = spec[1:-1].split(" | ")

    def call(self, *args, **kwargs):
        for overload in overloads:
            given = _bind(overload, args, kwargs)
            if given is not None:
                import behaviour

                return behaviour.call(self, cls, member, given)
        raise TypeError(
            f"{cls}.{member}(): incompatible function arguments; TensorRT {__version__} has {spec}; got {args!r} {kwargs!r}"
        )

    return call


def _property(cls, member, writable):
    def get(self):
        import behaviour

        return behaviour.get(self, cls, member)

    def put(self, value):
        import behaviour

        behaviour.put(self, cls, member, value)

    return property(get, put if writable else None)


def _refuse_unknown(self, name, value):
    """A real object takes no attribute that its class lacks; Python's own subclasses of the user classes do."""
    if not name.startswith("_") and type(self).__module__ == __name__ and not hasattr(type(self), name):
        raise AttributeError(f"TensorRT {__version__}: {type(self).__name__!r} object has no attribute {name!r}")
    object.__setattr__(self, name, value)


def _make(cls, members):
    if members and all(spec.startswith("=") for spec in members.values()):
        return Number(cls.split(".")[-1], {name: int(spec[1:]) for name, spec in members.items()})
    body = {"__setattr__": _refuse_unknown, "__module__": __name__}
    for member, spec in members.items():
        body[member] = _checked(cls, member, spec) if spec.startswith("(") else _property(cls, member, spec == "read-write")
    if cls == "IHostMemory":
        body["__bytes__"] = lambda self: self._data
    if cls == "Dims":
        body["__iter__"] = lambda self: iter(self._sides)
        body["__len__"] = lambda self: len(self._sides)
    return type(cls, (), body)


_CLASSES: dict = {}
for _name, _table in SURFACES["classes"].items():
    _members = {member: spec for member, masks in _table.items() if (spec := _spec(masks)) is not None}
    if _members:
        _CLASSES[_name] = _make(_name, _members)
_CLASSES["ILogger"].Severity = _CLASSES.pop("ILogger.Severity")
globals().update(_CLASSES)


def dims(sides):
    """What the library itself gives back."""
    return _CLASSES["Dims"](list(sides))
