"""Tuning: what it tries, what it chooses, and that the choice can be used."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import relook
from networks import SmallCNN, counting_forwards, random_cnn
from relook.digest import labels_digest, weights_digest
from relook.errors import RelookError
from relook.evaluation import Pairing, Run, RunError, evaluate, from_table, read_data, tune
from relook.evaluation.rows import schema_of
from relook.evaluation.tuning import LOOKS
from relook.folder import folder_at
from relook.gate import NO_IMAGE, Gate
from relook.looks import Mask, Preset, presets

POSTER = Preset("poster")


@pytest.fixture
def images(grey, data):
    return read_data(data, grey.labels)


def test_the_same_second_look_about_fewer_classes_is_that_of_a_smaller_k(cnn, noise):
    corrector = relook.Corrector(cnn, k=4)
    with counting_forwards(cnn.network) as count:
        outcomes = list(corrector.look_again(cnn.first_looks(noise)))
        asked = count[0]
        for k in (1, 2, 3, 4):
            smaller = relook.Corrector(cnn, k=k)
            count[0] = 0
            fewer = [corrector.about(outcome, k) for outcome in outcomes]
            assert count == [0]
            expected = smaller(noise)
            torch.testing.assert_close(torch.stack([o.after for o in fewer]), expected)
            assert sum(o.forwards for o in fewer) == count[0]
    assert asked == sum(outcome.forwards for outcome in outcomes)


def ways(folder):
    """The looks whose views were asked, with their options."""
    settings = json.loads((folder / "tuning" / "run.json").read_text())
    return [Preset.of_json(way) for way in settings["ways"].values()]


def test_candidates_are_what_an_evaluation_of_each_says(grey, images):
    """Fixed, broken and cost of ways with fixed weights are those of a Corrector."""
    tuning = tune(grey, images, gates=["none", 0.05], max_cost=9)
    fixed = [c for c in tuning.candidates if not c.learnt]
    presets = [c.preset for c in fixed]
    # "best" and its first look alone, each of the six looks alone; two gates; and no second look.
    # The first look of "best" weighs 0.75 there and 1 alone.
    assert len(presets) == len(set(presets)) == (1 + 1 + 6) * 2 + 1
    for candidate in fixed[:3] + fixed[-3:]:
        preset = replace(candidate.preset, learnt=with_network(candidate.preset.learnt, grey))
        evaluation = evaluate(relook.Corrector(grey, look=preset), images)
        assert candidate.pairing == evaluation.statistics.after.pairing
        assert candidate.cost == pytest.approx(evaluation.summary()["cost"] / 40)


def with_network(learnt, classifier):
    """Made on this network, as `tune` says of the chosen way alone."""
    return replace(learnt, made_on={"model": classifier.name, **digests(classifier)})


def digests(classifier):
    return {"weights": weights_digest(classifier), "labels": labels_digest(classifier)}


def test_the_chosen_way_comes_first_then_the_lowest_log_loss(grey, images):
    tuning = tune(grey, images, gates=[0.05, "none"], max_cost=9)
    first, *others = tuning.candidates
    assert first.preset.learnt.parts == tuning.chosen.learnt.parts
    assert [c.log_loss for c in others] == sorted(c.log_loss for c in others)
    [none] = [c for c in tuning.candidates if c.preset.gate == NO_IMAGE]
    assert none.cost == 1
    assert none.pairing.fixed == none.pairing.broken == 0


def test_what_only_breaks_is_not_chosen(halves, tmp_path):
    """Where no second look does better, the choice is none, and costs one forward pass."""
    from PIL import Image

    for name, colour in (("red", (255, 0, 0)), ("green", (0, 255, 0))):
        (tmp_path / name).mkdir()
        for number in range(30):
            shade = tuple(value - number for value in colour if value) or (0,)
            pixel = tuple(shade[0] if value else 0 for value in colour)
            Image.new("RGB", (4, 4), pixel).save(tmp_path / name / f"{number}.png")

    class Wrong:
        """Shows the other colour."""

        needs_activations = needs_original = False

        def __call__(self, context):
            pixels = context.first.pixels[[1, 0, 2]].unsqueeze(0)
            weights = torch.full((1, 2), 3.0)
            return relook.looks.SecondLook((relook.looks.Views(pixels, weights, what="wrong"),))

    images = read_data(tmp_path, halves.labels)
    presets.LOOKS["wrong"] = Wrong
    try:
        tuning = tune(halves, images, tmp_path / "run", looks=["wrong"], gates=["none"])
        assert tuning.chosen.gate == NO_IMAGE
        assert tuning.chosen.describe() == "no second look"
        corrector = relook.Corrector(halves, look=str(tmp_path / "run" / "tuned.json"))
        evaluation = evaluate(corrector, images, tmp_path / "run")
    finally:
        del presets.LOOKS["wrong"]
    assert evaluation.summary()["forwards"] == 60
    assert evaluation.statistics.after.pairing == Pairing(both_right=60)


def test_what_is_settled_stays(grey, images, tmp_path):
    keep = Preset("poster", fill="mean", attribution="scorecam", budget=3, k=2)
    tuning = tune(grey, images, tmp_path, keep=keep, gates=[0.09])
    assert ways(tmp_path) == [replace(keep, gate=None)]
    [part] = tuning.chosen.learnt.parts
    assert (part.fill, part.attribution, part.budget, part.k) == ("mean", "scorecam", 3, 2)
    assert tuning.chosen.make().look == Mask(relook.ScoreCAM(fill="mean", budget=3), "mean")
    assert tuning.chosen.gate == Gate(0.09)
    flips = tune(grey, images, keep=Preset("flip"), gates=[0.05, 0.09])
    assert {c.preset.look for c in flips.candidates} == {"flip"}


@pytest.fixture
def wide():
    """Of 70 channels: exact Score-CAM takes more than 64 masked forwards."""
    network = random_cnn(torch.float32, seed=7, channels=70)
    return relook.Classifier(network, mean=(0, 0, 0), std=(1, 1, 1), input_size=16)


def test_exact_score_cam_of_many_channels_is_tried_only_if_asked_for(wide, images, tmp_path):
    def tried(keep=POSTER, **options):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        tuning = tune(wide, images.sample(3), folder, keep=keep, gates=["none"], **options)
        scorecam = [way for way in ways(folder) if way.attribution == "scorecam"]
        return {(way.fill, way.budget) for way in scorecam}, tuning

    fills = ("black", "mean", "blur")
    cheap, tuning = tried()
    assert cheap == {("black", 64)}
    [left_out] = tuning.left_out
    assert left_out == (
        "poster with exact Score-CAM (up to 70 masked forward passes for an unsure image), nor "
        "with the fills mean and blur; try them with --exact (exact=True)"
    )
    everything, tuning = tried(exact=True)
    assert everything == {(fill, budget) for fill in fills for budget in (None, 64)}
    assert tuning.left_out == ()
    keep = Preset(fill="black", attribution="scorecam", k=2)
    assert tried(keep=keep)[0] == {("black", 64)}
    assert tried(keep=keep, exact=True)[0] == {("black", 64), ("black", None)}


def test_an_option_applies_to_the_looks_that_have_it(wide, images, tmp_path):
    """A budget makes no look or method vanish that knows none, and is Score-CAM's alone."""
    looks = ("poster", "zoom", "whole", "larger", "flip", "tencrop")
    keep = Preset(budget=7)
    tuning = tune(wide, images.sample(3), tmp_path, keep=keep, looks=looks, gates=["none"])
    budgets = {}
    for way in ways(tmp_path):
        budgets.setdefault(way.look, set()).add((way.fill, way.attribution, way.budget))
    others = ("zoom", "whole", "larger", "flip", "tencrop")
    assert budgets == {
        "poster": {
            ("black", "scorecam", 7),
            *((fill, "cam", None) for fill in ("black", "mean", "blur")),
        },
        **{look: {(None, None, None)} for look in others},
    }
    [left_out] = tuning.left_out
    assert left_out == (
        "poster with Score-CAM and the fills mean and blur; try them with --exact (exact=True)"
    )


def test_a_budget_of_64_tries_what_is_tried_without_one(wide, images, tmp_path):
    def tried(name, keep):
        looks = ["poster", *LOOKS]
        tune(wide, images.sample(3), tmp_path / name, looks=looks, gates=["none"], keep=keep)
        return sorted((replace(way, budget=None) for way in ways(tmp_path / name)), key=repr)

    assert tried("fast", Preset(budget="fast")) == tried("none", Preset())


def test_what_a_budget_leaves_out_of_the_poster_is_said(wide, images, tmp_path):
    few, options = images.sample(3), {"keep": Preset(budget=7), "gates": ["none"]}
    tuning = tune(wide, few, tmp_path / "7", **options)
    tried = {(way.fill, way.attribution, way.budget) for way in ways(tmp_path / "7")}
    assert tried == {("black", "scorecam", 7)}
    assert tuning.left_out == (
        "poster with Score-CAM and the fills mean and blur; try them with --exact (exact=True)",
        "poster with CAM, which has no budget; to try it, do not give a budget",
    )
    tune(wide, few, tmp_path / "all", **options, exact=True)
    tried = {(way.fill, way.budget) for way in ways(tmp_path / "all")}
    assert tried == {("black", 7), ("mean", 7), ("blur", 7)}


def test_looks_that_the_network_cannot_take_are_named_with_the_reason(images):
    class OneSize(SmallCNN):
        def forward(self, x):
            assert x.shape[-1] == 32, "32 pixels, no more"
            return super().forward(x)

    torch.manual_seed(0)
    classifier = relook.Classifier(
        OneSize(), mean=(0.5,) * 3, std=(0.2,) * 3, input_size=32, labels=["0", "1", "2", "3"]
    )
    tuning = tune(classifier, images.sample(3), looks=["flip", "larger"], gates=["none"])
    [left_out] = tuning.left_out
    assert left_out.startswith("larger: OneSize takes no inputs of 40×40")
    assert "32 pixels, no more" in left_out


def test_the_forecast_comes_first_and_counts_forward_passes(wide, images):
    """Every look's forward passes, for the share of the images that is below the widest gate."""
    told = []
    with counting_forwards(wide.network) as count:
        tuning = tune(
            wide,
            images,
            looks=["flip", "poster", "tencrop"],
            keep=Preset(fill="black", k=2, budget=8),
            gates=["none"],
            on_rows=lambda rows: told.append(len(rows)),
            on_forecast=lambda expected: told.insert(0, expected),
        )
        asked = count[0]
    expected, *rows = told
    assert sum(rows) == expected.images == expected.unsure == 40
    # The first look; a mirror image; CAM has no forward, Score-CAM 8, and 2 views each; 9 crops.
    assert expected.forwards == 40 * (1 + 1 + 2 + (8 + 2) + 9)
    assert 0 < expected.forwards / expected.rate * 0.5 < expected.seconds
    assert asked >= expected.forwards
    assert tuning.images == 40


def test_each_image_is_looked_at_once_for_all_k_and_gates(grey, images, tmp_path):
    keep = Preset("poster", fill="black", attribution="scorecam")
    with counting_forwards(grey.network) as count:
        tune(grey, images, tmp_path / "run", keep=keep, gates=[0.05, 0.09])
    place = tmp_path / "run" / "tuning"
    settings = json.loads((place / "run.json").read_text())
    rows = from_table(Run(folder_at(place), settings, schema_of).table())
    looked = [row for row in rows if len(row.answers) > 1]
    assert len(looked) == 20
    assert all(row.before.gap(5) < 0.09 for row in looked)
    most = sum(max(row.answers[name].forwards for name in row.names.others) for row in looked)
    assert count[0] == 40 + most
    count[0] = 0
    with counting_forwards(grey.network) as count:
        tune(grey, images, tmp_path / "run", keep=keep, gates=[0.05, 0.09])
    assert count == [0]


def test_the_choice_is_a_file_that_the_corrector_takes(grey, images, tmp_path):
    tuning = tune(grey, images, tmp_path, gates=[0.09])
    corrector = relook.Corrector(grey, look=str(tmp_path / "tuned.json"))
    assert corrector.gate == tuning.chosen.gate
    assert corrector.look == tuning.chosen.make()


def test_a_run_without_tuning_is_refused_before_any_work(grey, images, tmp_path):
    evaluate(relook.Corrector(grey, k=1), images, tmp_path / "run")
    with (
        counting_forwards(grey.network) as count,
        pytest.raises(RunError, match="holds a run without tuning"),
    ):
        tune(grey, images, tmp_path / "run")
    assert count == [0]


def test_a_gap_at_the_gate_is_on_one_side_only(images):
    """Y = (1, 1e-11, …): in float32 the gap is 1, in float64 below it."""
    network = random_cnn(torch.float32, seed=7)
    with torch.no_grad():
        network.fc.weight.zero_()
        network.fc.bias.copy_(torch.tensor([25.3, 0, 0, 0]))
    classifier = relook.Classifier(network, mean=(0, 0, 0), std=(1, 1, 1), input_size=16)
    keep = Preset(fill="black", attribution="scorecam", k=2)
    assert len(tune(classifier, images.sample(4), keep=keep, gates=[1.0]).candidates) == 2


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        (Preset(attribution="cam", variant="paper"), "CAM has no variants"),
        (Preset(attribution="cam", budget=3), "CAM needs no forward"),
        (Preset("flip", fill="mean"), "no fill"),
        (Preset(k=9), "k must be 1 to 4"),
    ],
)
def test_what_cannot_be_settled_is_said(grey, images, keep, said):
    with pytest.raises(RelookError, match=said):
        tune(grey, images, keep=keep)


def test_one_look_by_its_name_is_the_one_that_is_tried(grey, images):
    candidates = tune(grey, images.sample(4), looks=["flip"], gates=["none"]).candidates
    assert {candidate.preset.look for candidate in candidates} == {"flip"}
    with pytest.raises(RelookError, match="the look 'flip' has no fill"):
        tune(grey, images, keep=Preset("flip", fill="mean"))


def test_a_settled_gate_stays(grey, images):
    keep = Preset(fill="black", attribution="cam", k=1, gate=Gate(0.05))
    assert {c.preset.gate for c in tune(grey, images, keep=keep).candidates} == {
        Gate(0.05),
        NO_IMAGE,
    }


def test_a_network_without_a_target_layer_is_tuned_on_the_looks_it_can_take(images, tmp_path):
    class Flat(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(3 * 16 * 16, 4)

        def forward(self, x):
            return self.fc(x.flatten(1))

    torch.manual_seed(0)
    flat = relook.Classifier(
        Flat(), mean=(0.5,) * 3, std=(0.2,) * 3, input_size=16, labels=["0", "1", "2", "3"]
    )
    tuning = tune(flat, images, tmp_path, gates=["none"])
    assert [way.look for way in ways(tmp_path)] == list(LOOKS)
    assert tuning.left_out == ()
    relook.Corrector(flat, look=str(tmp_path / "tuned.json"))
    with pytest.raises(relook.ModelError, match="found no layer"):
        tune(flat, images, looks=["poster"])


def test_grad_cam_stays_where_it_is_settled_and_counts_its_backward(grey, images):
    keep = Preset(attribution="gradcam", fill="black")
    tuning = tune(grey, images, keep=keep, gates=["none"])
    alone = [c.preset.learnt.parts for c in tuning.candidates if c.preset.gate != NO_IMAGE]
    assert {part.attribution for parts in alone for part in parts} == {"gradcam"}
    costs = {
        c.preset.learnt.parts[0].k: c.cost
        for c in tuning.candidates
        if len(c.preset.learnt.parts) == 1 and not c.learnt
    }
    # The first look, one more forward, a backward (2) and a view for each class found.
    assert 1 + 1 + 2 <= costs[1] <= 1 + 1 + 2 + 1
    assert costs[1] < costs[4] <= 1 + 1 + 2 + 4


def test_the_poster_s_look_is_tuned_from_its_own_default(grey, images, tmp_path):
    """Score-CAM with a black fill and k = 4, the number of classes; the cost allows its rivals."""
    tuning = tune(grey, images, tmp_path, looks=["poster"], gates=["none"])
    [part] = tuning.chosen.learnt.parts
    assert (part.attribution, part.fill, part.k) == ("scorecam", "black", 4)
    attributions = {p.attribution for c in tuning.candidates for p in c.preset.learnt.parts}
    assert attributions == {"cam", "scorecam"}


def test_images_that_cannot_be_used_at_all_are_an_error(grey, tmp_path):
    for label in range(4):
        (tmp_path / "data" / str(label)).mkdir(parents=True)
        (tmp_path / "data" / str(label) / "broken.png").write_bytes(b"no image")
    images = read_data(tmp_path / "data", grey.labels)
    with pytest.raises(RelookError, match="none of the 4 images to learn from could be used"):
        tune(grey, images)


def test_what_costs_too_much_is_said(grey, images):
    tuning = tune(grey, images, gates=["none"], max_cost=1)
    assert tuning.chosen.describe() == "no second look"
    assert "the preset costs more than may be spent" in tuning.why
    kept = tune(grey, images, gates=["none"])
    assert kept.why == "the preset, since nothing else was better beyond chance"
    for value in (0.5, 0):
        with pytest.raises(RelookError, match="max_cost must be at least 1"):
            tune(grey, images, max_cost=value)


def test_a_tuned_look_keeps_its_k_and_its_promise_to_its_network(grey, images, tmp_path, caplog):
    tune(grey, images, tmp_path, looks=["flip"], gates=["none"], risk=0.9)
    file = tmp_path / "tuned.json"
    assert relook.Corrector(grey, look=file).risk == 0.9
    with pytest.raises(RelookError, match="was tuned with k 4"):
        relook.Corrector(grey, k=1, look=file)
    network = random_cnn(torch.float32, seed=8)
    other = relook.Classifier(
        network, mean=(0, 0, 0), std=(1, 1, 1), input_size=16, labels=grey.labels
    )
    assert relook.Corrector(other, look=file).risk is None
    assert "was tuned for another network" in caplog.text
