"""What importing neurosde costs beside torch: medians of interleaved fresh processes, at most 1.3 times."""

import statistics
import subprocess
import sys
import time

LIMIT, REPEATS = 1.3, 9
STATEMENTS = ("import torch", "import neurosde", "from neurosde import SDE, Series, solve")


def seconds(statement: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - began


def main() -> int:
    for statement in STATEMENTS:  # all from a warm file cache
        seconds(statement)
    times = [[seconds(statement) for statement in STATEMENTS] for _ in range(REPEATS)]
    torch, *ours = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"{STATEMENTS[0]:40s} {torch:.2f} s")
    for statement, median in zip(STATEMENTS[1:], ours, strict=True):
        print(f"{statement:40s} {median:.2f} s, {median / torch:.2f} times torch (at most {LIMIT})")
    return int(max(ours) > LIMIT * torch)


if __name__ == "__main__":
    sys.exit(main())
