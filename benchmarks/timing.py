"""How all benchmarks here take time: processor time of one thread, the calls taken in turn, medians."""

import statistics
import time
from collections.abc import Callable

Calls = dict[str, Callable[[], object]]


def medians(calls: Calls, repetitions: int) -> dict[str, float]:
    """Milliseconds of each call; two rounds that are not counted come first, for they may compile."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
        call()
    for _ in range(repetitions):
        for name, call in calls.items():
            begin = time.process_time()
            call()
            times[name].append(1e3 * (time.process_time() - begin))
    return {name: statistics.median(values) for name, values in times.items()}
