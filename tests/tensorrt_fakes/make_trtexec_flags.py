"""Regenerates trtexec_flags.json: the flags that the option parser of each release of trtexec reads.

    python make_trtexec_flags.py 8.5=sampleOptions.cpp 8.6=... 11.1=...

The sources are samples/common/sampleOptions.cpp of NVIDIA/TensorRT (Apache License 2.0), branch release/X.Y, for 8.6 the tag
v8.6.1. Flags that only occur in help or error texts do not count.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent


def flags_of(text: str) -> set[str]:
    """Flags read in the parse() functions that trtexec calls."""
    starts = [m for m in re.finditer(r"\nvoid (\w+)::parse\(Arguments&[^)]*\)\s*\{", text) if not m[1].startswith("Safe")]
    starts += list(re.finditer(r"\n(?:void|bool) (\w*(?:RefPair|parseHelp)\w*)\([^;{]*\)\s*\{", text))
    found: set[str] = set()
    for match in starts:
        end, depth = match.end(), 1
        while depth:
            depth += (text[end] == "{") - (text[end] == "}")
            end += 1
        body = re.sub(r"(throw|gLogWarning|gLogError|gLogInfo)\b[^;]*;", ";", text[match.end() : end])
        found.update(re.findall(r'"(--[A-Za-z0-9]+)"', body))
    return found


def main(words: list[str]) -> None:
    by_version = {version: flags_of(Path(path).read_text(errors="replace")) for version, path in (w.split("=", 1) for w in words)}
    flags = sorted(set().union(*by_version.values()))
    table = {flag: "".join("Y" if flag in known else "-" for known in by_version.values()) for flag in flags}
    rows = ",\n".join(f" {json.dumps(flag)}: {json.dumps(mask)}" for flag, mask in table.items())
    (HERE / "trtexec_flags.json").write_text(f'{{\n"versions": {json.dumps(list(by_version))},\n"flags": {{\n{rows}\n}}}}\n')


if __name__ == "__main__":
    main(sys.argv[1:])
