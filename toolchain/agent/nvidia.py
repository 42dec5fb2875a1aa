"""What nvidia-smi says of the state of NVIDIA's graphics cards. One call answers all: each costs a tenth of a second and more."""

import time

from . import sysfs

FIELDS = ("index", "clocks.sm", "clocks.max.sm", "temperature.gpu", "clocks_throttle_reasons.active")
FRESH_S = 1.0
_last = {}


def cards(root):
    """One dict a card; a field the card does not have is None.

    Raises:
        ValueError: no nvidia-smi, or it fails; on a Jetson it is a stub.
    """
    if root in _last and time.monotonic() - _last[root][0] < FRESH_S:
        return _last[root][1]
    words = ["nvidia-smi", "--query-gpu=" + ",".join(FIELDS), "--format=csv,noheader,nounits"]
    found = []
    for line in sysfs.answer_of(root, words, 10.0).splitlines():
        values = [value.strip() for value in line.split(",")]
        if len(values) == len(FIELDS):
            found.append({name: None if value.startswith("[") else value for name, value in zip(FIELDS, values)})  # noqa: B905
    _last[root] = time.monotonic(), found
    return found


def throttle_reasons(root):
    """Flags of all cards, a line each."""
    return "\n".join(card["clocks_throttle_reasons.active"] or "" for card in cards(root))


def clocks(root):
    """Clock of each card's processors; the limits that -lgc sets cannot be asked for, so the lowest is not known."""
    for card in cards(root):
        if card["clocks.sm"] is not None:
            fastest = card["clocks.max.sm"]
            yield (
                "gpu nvidia%s" % card["index"],
                {
                    "min_mhz": None,
                    "max_mhz": None if fastest is None else float(fastest),
                    "cur_mhz": float(card["clocks.sm"]),
                    "measured_mhz": None,
                    "governor": None,
                    "source": "nvidia-smi clocks.sm",
                },
            )


def temperatures(root):
    """Degrees Celsius by card."""
    return {
        "nvidia%s" % card["index"]: float(card["temperature.gpu"]) for card in cards(root) if card["temperature.gpu"] is not None
    }
