"""Compute what many images cost, from measured rates.

    python benchmarks/throughput.py DATA --json benchmarks/results/throughput.json
    python benchmarks/costs.py [--rates FILE] [--efficiency E] [--price P]

Prints Markdown: for 50,000, 1.28 million and a billion photos with EfficientNet-Lite0, the time on
several machines, the core hours and their price. Only the rates of the machine of
`throughput.py` are measured. The others follow from them, under these assumptions:

- a core elsewhere is as fast as one here, and the rate grows with the number of cores times an
  efficiency, 0.85 by default (what `benchmarks/cluster.py throughput` has to reach);
- starting takes no time (a process takes 3 to 6 s, a cluster a minute);
- images are as large as those measured (500×375 JPEG) and as often unsure, and their storage
  delivers them as fast as they are read;
- a core hour costs 0.04 dollars by default, which is about what clouds ask for on demand in 2026;
  set `--price` to what you pay.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from relook.words import duration

RATES = Path(__file__).parent / "results" / "throughput.json"
PHOTOS = "EfficientNet-Lite0, photos"
IMAGES = {"50,000": 50_000, "1.28 million": 1_281_167, "a billion": 1_000_000_000}
LOOKS = ("none", "flip", "best")
MEASURED_ON = 2
"""Number of cores of the machine that was measured."""

MACHINES = {
    "the machine that was measured, 2 cores": 2,
    "a laptop, 8 cores": 8,
    "a server, 64 cores": 64,
    "a cluster of 32 such servers": 32 * 64,
}


def seconds(images: int, rate: float, cores: int, efficiency: float) -> float:
    """Time for images at a measured rate, on another number of cores."""
    if cores == MEASURED_ON:
        return images / rate
    return images / (rate / MEASURED_ON * cores * efficiency)


def _words(time: float) -> str:
    if time < 1:
        return "below 1 s"
    return duration(time) if time < 48 * 3600 else f"{time / 86400:.0f} days"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rates", type=Path, default=RATES)
    parser.add_argument("--efficiency", type=float, default=0.85)
    parser.add_argument("--price", type=float, default=0.04)
    given = parser.parse_args()
    rates = json.loads(given.rates.read_text(encoding="utf-8"))[PHOTOS]["rates"]
    print("| images | second look | " + " | ".join(MACHINES) + " | core hours | dollars |")
    print("|---|---|" + "---:|" * (len(MACHINES) + 2))
    for name, images in IMAGES.items():
        for look in LOOKS:
            times = [
                seconds(images, rates[look], cores, given.efficiency) for cores in MACHINES.values()
            ]
            hours = images / rates[look] * MEASURED_ON / given.efficiency / 3600
            cells = [_words(time) for time in times]
            print(
                f"| {name} | {look} | {' | '.join(cells)} | {hours:,.1f} | "
                f"{hours * given.price:,.2f} |"
            )


if __name__ == "__main__":
    main()
