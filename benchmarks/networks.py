"""Find out which networks of timm and torchvision work by their name alone.

    python benchmarks/networks.py [--only timm/vgg] [--write docs/networks.md]

Takes the smallest member of every family with random weights through load → target layer →
Score-CAM (8 masked forward passes) → correction, at its own input size, on a photo that comes with
scikit-image. Finished networks are kept in benchmarks/results/networks.jsonl, and a stopped sweep
continues from there; delete the file to begin anew. At the end it prints a Markdown table, or with
--write puts it into that file, between two markers.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path

import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import get_model_weights, list_models

import relook
from relook.demo import photos
from relook.images import open_image
from relook.looks import Mask

RESULTS = Path(__file__).parent / "results" / "networks.jsonl"
BEGIN, END = "<!-- table: benchmarks/networks.py -->", "<!-- end of table -->"

# Words in a name that distinguish the members of one family.
SIZES = re.compile(
    "base|x*large|small|x*tiny|mini|nano|pico|femto|atto|zepto|kobe|huge|giant|gigantic|giantopt|"
    "mediumd?|betwixt|d?little|d?p?wee|xsmall|x+l|x+s|plus|patch|big|so|ti|[lmsbtacdehfv]"
)


@dataclass(frozen=True)
class Row:
    """The result for one network.

    Attributes:
        library, family, network: their names.
        parameters: in millions.
        input: height×width in pixels.
        layer: the target layer that was found; empty where none was.
        maps: channels × height × width of its output, and the layout.
        seconds: time of one forward pass of one image.
        outcome: "works", with a remark where needed, or the reason why it does not.
    """

    library: str
    family: str
    network: str
    parameters: float
    input: str
    layer: str
    maps: str
    seconds: float
    outcome: str


def family(name: str) -> str:
    """The words of a network's name that precede its size."""
    words: list[str] = []
    for word in name.split("_"):
        letters = re.match(r"[a-z]*", word)
        head = letters.group() if letters else ""
        if words and SIZES.fullmatch(head) and not re.fullmatch(r"v\d", word):
            break
        if any(character.isdigit() for character in word):
            words.append(word if re.fullmatch(r"[a-z]*v\d", word) else head)
            break
        words.append(word)
    return "_".join(filter(None, words))


def members() -> dict[tuple[str, str], list[str]]:
    """Map (library, family) to the names of its classifiers; timm's families include the module."""
    found = defaultdict(list)
    for name in timm.list_models(exclude_filters="test_*"):
        config = timm.get_pretrained_cfg(name)
        if config is not None and config.num_classes == 0:
            continue  # returns features
        module = timm.models.model_entrypoint(name).__module__.rpartition(".")[2]
        words = family(name)
        label = words if words.startswith(module) else f"{words} ({module})"
        found["timm", label].append(name)
    for name in list_models(module=torchvision.models):
        found["torchvision", family(name)].append(name)
    return dict(found)


def parameters(library: str, name: str) -> int:
    """Number of weights of a network, without allocating them."""
    if library == "torchvision":
        return int(get_model_weights(name).DEFAULT.meta["num_params"])
    with torch.device("meta"):
        network = timm.create_model(name)
    return sum(weight.numel() for weight in network.parameters())


def smallest(library: str, names: list[str]) -> str:
    """The member of a family with the fewest weights."""
    counts = {}
    for name in names:
        try:
            counts[name] = parameters(library, name)
        except (RuntimeError, ValueError, NotImplementedError, TypeError) as error:
            print(f"{library}/{name}: cannot be counted ({error})")
    return min(counts or names, key=lambda name: counts.get(name, 0))


@torch.no_grad()
def wake(network: nn.Module, pixels: Tensor) -> None:
    """Make a network with random weights pass on its signal.

    Many networks begin with branches whose weights are zero, and without the statistics that
    training gathers in BatchNorm, the signal fades on its way.
    """
    for name, weight in network.named_parameters():
        if name.endswith(("weight", "gamma")) and not bool(weight.any()):
            weight.normal_(std=0.05) if weight.ndim > 1 else weight.fill_(0.5)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    network(pixels)
    network.eval()


def sweep(library: str, family: str, name: str) -> Row:
    """Take one network from its name to a correction."""
    row = Row(library, family, name, 0, "", "", "", 0, "")
    try:
        classifier = relook.load(f"{library}/{name}", pretrained=False)
    except relook.RelookError as error:
        return Row(**asdict(row) | {"outcome": str(error)})
    count = sum(weight.numel() for weight in classifier.network.parameters())
    size = "×".join(map(str, classifier.input_size))
    image = open_image(photos()[0])
    pixels = classifier.pixels(image).unsqueeze(0)
    wake(classifier.network, classifier.normalised(torch.cat([pixels, torch.rand_like(pixels)])))
    start = time.perf_counter()
    classifier(pixels)
    seconds = time.perf_counter() - start
    known = {"parameters": count / 1e6, "input": size, "seconds": seconds}
    try:
        known |= {"layer": classifier.target_layer, "maps": str(classifier.layout)}
        corrector = relook.Corrector(classifier, look=Mask(relook.ScoreCAM(budget=8)))
        correction = corrector.correct(image)
    except relook.RelookError as error:
        return Row(**asdict(row) | known | {"outcome": str(error)})
    flat = not bool(correction.maps.any())
    outcome = "works; with these random weights no map is above 0" if flat else "works"
    return Row(**asdict(row) | known | {"outcome": outcome})


def table(rows: list[Row]) -> str:
    """Markdown: the number of families that work, then a table of all families."""
    lines = [
        f"{date.today()}, timm {timm.__version__}, torchvision {torchvision.__version__}, torch "
        f"{torch.__version__}; the smallest member of each family, random weights.\n"
    ]
    for library in ("timm", "torchvision"):
        own = [row for row in rows if row.library == library]
        good = sum(row.outcome.startswith("works") for row in own)
        lines.append(f"- {library}: {good} of {len(own)} families work with nothing given.")
    lines += [
        "",
        "| family | network | input | target layer | maps | outcome |",
        "|---|---|--:|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row.library, row.family)):
        layer = f"`{row.layer}`" if row.layer else ""
        outcome = row.outcome.replace("|", "\\|")
        network = f"`{row.library}/{row.network}`"
        lines.append(
            f"| {row.family} | {network} | {row.input} | {layer} | {row.maps} | {outcome} |"
        )
    return "\n".join(lines) + "\n"


def write(file: Path, text: str) -> None:
    """Put the table between the two markers of the file."""
    before, _, rest = file.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    file.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="names of families that begin so, as timm/vgg")
    parser.add_argument("--write", type=Path, help="a file with the two marks")
    args = parser.parse_args()
    RESULTS.parent.mkdir(exist_ok=True)
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    names = {field.name for field in fields(Row)}
    rows = [Row(**{k: v for k, v in json.loads(line).items() if k in names}) for line in lines]
    done = {(row.library, row.family) for row in rows}
    for (library, label), networks in sorted(members().items()):
        if (library, label) in done or not f"{library}/{label}".startswith(args.only):
            continue
        torch.manual_seed(0)
        row = sweep(library, label, smallest(library, networks))
        rows.append(row)
        with RESULTS.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        print(
            f"{library}/{label}: {row.network}, {row.layer} ({row.maps}): {row.outcome}", flush=True
        )
    text = table([row for row in rows if f"{row.library}/{row.family}".startswith(args.only)])
    if args.write:
        write(args.write, text)
    else:
        print(text)


if __name__ == "__main__":
    main()
