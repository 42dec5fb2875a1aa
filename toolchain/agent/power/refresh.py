"""How often a sensor really gives a new value: it holds each one until the next, so the changes tell."""

FAST = 0.5  # more than this share of the readings new: the sensor is quicker than we read
MIN_UPDATES = 4
FITS = 0.7  # this share of the gaps must be whole numbers of the refresh; the others came late


def refresh_s(times, values):
    """Time between new values, s.

    An update that leaves the value as it was makes a gap of two refreshes or more, so the refresh is the longest time of which
    nearly all gaps are multiples.

    Args:
        times: of the readings, evenly spaced.
        values: what was read, compared as a whole (all rails).

    Returns:
        (seconds, None), or (None, why not). Where every reading is new, the time between readings: the refresh is at most that.
    """
    if len(times) < 10:
        return None, "only %d readings" % len(times)
    poll = (times[-1] - times[0]) / (len(times) - 1)
    changes = [index for index in range(1, len(values)) if values[index] != values[index - 1]]
    if len(changes) > FAST * len(values):
        return poll, None
    # registers are replaced one after the other: a change at the very next reading is the same update
    updates = [index for position, index in enumerate(changes) if position == 0 or index - changes[position - 1] > 1]
    if len(updates) < MIN_UPDATES:
        return None, "the value changed only %d times in %.1f s" % (len(updates), times[-1] - times[0])
    gaps = [times[b] - times[a] for a, b in zip(updates, updates[1:])]  # noqa: B905, RUF007 - Python 3.6
    for guess in sorted(gaps, reverse=True):
        fitting = [gap for gap in gaps if abs(gap - round(gap / guess) * guess) <= 1.5 * poll and gap > guess / 2]
        if len(fitting) >= FITS * len(gaps):
            return sum(fitting) / sum(round(gap / guess) for gap in fitting), None
    return None, "the value changed at no regular times"
