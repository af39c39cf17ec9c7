"""What pictures and pages say of a correction."""

from __future__ import annotations

import dataclasses
import html
import io
import json
import re
import shutil

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

import relook
from networks import counting_forwards, random_cnn, write_noise
from relook.cli import app
from relook.cli.story import print_story
from relook.cli.tables import print_statistics
from relook.demo import photos, write_demo
from relook.evaluation import Names, RunError, read_data, to_table
from relook.evaluation.rows import CALIBRATED, not_calibrated
from relook.report.evaluation import evaluation_page
from relook.report.findings import find
from relook.report.gallery import GALLERY, keep_gallery
from relook.report.page import render_page
from relook.report.picture import _columns, save_picture
from relook.report.run import write_report
from relook.report.story import tell
from relook.report.tiles import crop_tile, map_tile, photo_tile


@pytest.fixture
def correction(halves, halves_pixels):
    image = (halves_pixels.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    return relook.Corrector(halves).correct(image)


def test_the_story_of_a_correction(correction):
    story = tell(correction)
    assert [(c.label, c.before, c.after) for c in story.classes] == [
        ("red", pytest.approx(0.75), pytest.approx(0.775)),
        ("green", pytest.approx(0.25), pytest.approx(0.225)),
    ]
    assert story.classes[0].change == pytest.approx(2.5)
    assert [m.label for m in story.masks] == ["red", "green"]
    assert [m.answer for m in story.masks] == ["red", "red"]
    assert story.masks[0].answer_probability == pytest.approx(0.9)
    assert story.spent == "5 forwards = 1 + 2 for the maps + 2 views"
    assert story.gap == pytest.approx(0.5)


def test_no_view_is_explained_where_the_answer_is_shown(tmp_path, halves, correction):
    whole = relook.Corrector(halves, look="whole").correct(correction.original)
    assert tell(whole).spent == "1 forward, no view"
    out = io.StringIO()
    print_story(Console(file=out, width=200), tell(whole))
    told = out.getvalue().splitlines()
    assert told[-3].startswith(
        "red, as before: there was no view to ask about · 1 forward, no view"
    )
    seen = "without a larger part, since the first look showed all that fits the input's shape"
    assert told[-2] == seen
    save_picture(tell(whole), tmp_path / "picture.png")
    render_page("demo.html.j2", tmp_path / "page.html", pairs=[[tell(whole)] * 2], model="m", layer="l",
                k=1, gate=1, seconds=1, version="1")  # fmt: skip
    page = words((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert f"W{seen[1:]}." in html.unescape(page)


def test_what_the_forward_passes_were_spent_on(halves, halves_pixels, correction):
    image = correction.original
    flip = relook.Corrector(halves, look="flip").correct(image)
    assert tell(flip).spent == "2 forwards = 1 + 1 view"
    gated = relook.Corrector(halves, gate=0.1).correct(image)
    assert tell(gated).spent == "1 forward"


def test_a_flat_map_is_said(halves):
    grey = Image.new("RGB", (4, 4), (128, 128, 128))
    story = tell(relook.Corrector(halves).correct(grey))
    assert [mask.answer for mask in story.masks] == [None, None]


def test_no_more_than_ten_classes_are_shown(lite0, chelsea):
    look = relook.looks.Mask(relook.CAM())
    story = tell(relook.Corrector(lite0, k=30, look=look).correct(chelsea))
    assert (len(story.masks), len(story.classes), story.unshown) == (10, 10, 20)


def test_map_tile_colours_only_where_something_was_seen():
    pixels = torch.full((3, 2, 2), 0.5)
    tile = np.asarray(map_tile(pixels, torch.tensor([[0.0, 1.0], [0.0, 0.5]])))
    assert tile[0, 0].tolist() == [128, 128, 128]
    assert tile[0, 1, 0] > 200  # bright where the map is 1
    assert int(tile[1, 1].max()) - int(tile[1, 1].min()) > 30


def test_photo_tile_is_exact(halves_pixels):
    assert np.array_equal(
        np.asarray(photo_tile(halves_pixels)) / 255, halves_pixels.permute(1, 2, 0).numpy()
    )


def test_crop_tile_darkens_what_the_network_does_not_see():
    image = Image.new("RGB", (720, 360), (200, 200, 200))
    tile = crop_tile(image, (180, 0, 540, 360))
    assert tile.size == (720, 360)
    assert tile.getpixel((10, 180)) == pytest.approx((80, 80, 80), abs=1)
    assert tile.getpixel((360, 180)) == (200, 200, 200)
    assert crop_tile(image, (0, 0, 720, 360)).getpixel((10, 180)) == (200, 200, 200)


@pytest.mark.parametrize("size", [(10_000, 2), (2, 10_000), (3000, 1), (5000, 5)])
def test_crop_tile_of_extreme_shapes(size):
    image = Image.new("RGB", size, (200, 200, 200))
    box = relook.geometry.Geometry.centre((224, 224), 0.875).crop_box(*size)
    assert int(np.asarray(crop_tile(image, box)).max()) >= 200


def test_the_first_five_and_what_comes_to_the_top_are_listed(halves, correction):
    """Of a k of 1 all of the first five are shown, and a sixth once it is more probable."""
    own = relook.Corrector(halves, k=1).correct(correction.original)
    before = torch.tensor([0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.05])
    seven = dataclasses.replace(
        own,
        labels=tuple("abcdefg"),
        before=before,
        after=before,
        made=(),
    )
    assert [c.label for c in tell(seven).classes] == list("abcde")
    risen = torch.tensor([0.2, 0.2, 0.1, 0.1, 0.0, 0.0, 0.4])
    story = tell(dataclasses.replace(seven, after=risen))
    assert [c.label for c in story.classes] == list("gabcde")
    assert [c.label for c in tell(own).classes] == ["red", "green"]


def test_dollars_and_other_scripts_in_names(tmp_path, halves, correction, recwarn):
    result = dataclasses.replace(correction, image="a$^$b.png", labels=("$x_$", "고양이"))
    save_picture(tell(result), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_crop_tile_outlines_and_numbers_the_parts_that_were_asked_about():
    """In the tile's own pixels, also where a part reaches to the edge of the image."""
    image = Image.new("RGB", (720, 720), (200, 200, 200))
    tile = crop_tile(image, (0, 0, 720, 720), boxes=[(200, 400, 600, 700), (0, 0, 720, 720)])
    orange = (217, 72, 15)
    assert tile.size == (360, 360)
    for place in ((100, 300), (299, 300), (200, 200), (200, 349), (0, 100), (359, 359)):
        assert tile.getpixel(place) == orange, place
    assert tile.getpixel((200, 300)) == (200, 200, 200)
    number = np.asarray(tile.crop((100, 200, 120, 220)))
    assert {orange, (255, 255, 255)} <= {tuple(pixel) for pixel in number.reshape(-1, 3).tolist()}


def test_views_are_told_apart_by_part_and_size(lite0):
    """The largest part and the larger input show the same part of it at two sizes."""
    wide = Image.effect_noise((640, 480), 90).convert("RGB")
    story = tell(relook.Corrector(lite0, look="whole+larger+flip+zoom").correct(wide))
    assert [(view.what, view.part) for view in story.views[:3]] == [
        ("largest part", "part 1, 224×224, scale 0.88"),
        ("larger input", "part 1, 288×288, scale 1.12"),
        ("mirror image", "the same part, 224×224 pixels"),
    ]
    closer = [mask.part for mask in story.masks]
    assert all(", 224×224" in part for part in closer)
    boxes = {part.split(",")[0] for part in closer} - {"the same part"}
    assert story.boxes == 1 + len(boxes)  # numbered from 1 on, each once
    assert boxes == {f"part {n}" for n in range(2, 2 + len(boxes))}


def test_an_image_left_as_it_was_has_one_bar_a_class(tmp_path, halves, correction, monkeypatch):
    drawn = []
    original = Axes.barh

    def watched(axes, places, values, *more, **options):
        drawn.append((options["label"], [round(float(value)) for value in values]))
        return original(axes, places, values, *more, **options)

    monkeypatch.setattr(Axes, "barh", watched)
    left = relook.Corrector(halves, gate=0.1).correct(correction.original)
    save_picture(tell(left), tmp_path / "left.png")
    assert drawn == [("", [75, 25])]
    drawn.clear()
    save_picture(tell(correction), tmp_path / "corrected.png")
    assert drawn == [("before", [75, 25]), ("after", [78, 22])]


def test_maps_and_views_share_a_row_of_a_picture():
    assert [_columns(things) for things in (1, 2, 5, 6, 7, 8, 9, 15)] == [5, 5, 5, 6, 7, 5, 5, 5]


@pytest.mark.parametrize("look", ["poster", "flip"])
def test_pictures_of_every_kind_of_look(tmp_path, halves, correction, look):
    result = relook.Corrector(halves, look=look).correct(correction.original)
    save_picture(tell(result), tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        height = picture.height
    assert height > (700 if look == "poster" else 250)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The demo as `relook demo` writes it."""
    file = tmp_path_factory.mktemp("demo") / "index.html"
    told = []
    write_demo(file, lambda *news: told.append(news))
    return file.read_text(encoding="utf-8"), told


def test_the_demo_page_is_self_contained(page):
    html, _ = page
    links = re.findall(r"""(?:src|href)=["']([^"']{0,40})|url\(([^)]{0,40})""", html)
    assert links
    assert all(link.startswith("data:image/jpeg;base64,") for link, _ in links)
    assert "<script" not in html
    assert "prefers-color-scheme: dark" in html
    assert len(html) < 2_000_000


def test_the_demo_page_tells_what_happened(page):
    html, told = page
    text = " ".join(re.sub(r"<[^>]+>", " ", html).split())
    assert "tiger cat → Egyptian cat" in text
    assert "459 forwards = 1 + 453 for the maps + 5 views" in text
    assert "espresso · left as it is" in text
    assert "538 answers fixed and 464 broken" in text
    assert "uncropped, mirrored" in text
    assert text.index("after best") < text.index("after poster")
    assert {name for name, _, _ in told} == {photo.name for photo in photos()}
    assert ("chelsea.png", 453, 453) in told


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A report of 24 images in classes of awkward names, one image damaged, with two rivals."""
    folder = tmp_path_factory.mktemp("evaluated")
    labels = ["<b>bold</b>", "$2 & more", "plain", "über"]
    for index in range(24):
        place = folder / "data" / str(index % 4)
        place.mkdir(parents=True, exist_ok=True)
        write_noise(place / f"{index:02}.png", index)
    (folder / "data" / "1" / "01.png").write_bytes(b"<script>alert(1)</script>")
    classifier = relook.Classifier(
        random_cnn(torch.float32, seed=7),
        mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), input_size=16, labels=labels, name="<i>net</i>",
    )  # fmt: skip
    corrector = relook.Corrector(classifier, gate=0.12)
    data = read_data(folder / "data", classifier.labels)
    evaluation = relook.evaluate(corrector, data, folder / "run", versus=["flip", "larger"])
    keep_gallery(evaluation, corrector, data, folder / "run")
    return evaluation, write_report(folder / "run").read_text(encoding="utf-8"), folder / "run"


def words(html):
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_the_report_is_self_contained_and_escapes_what_it_is_told(evaluated):
    _, html, _ = evaluated
    links = re.findall(r"""\b(?:src|href)=["']([^"']{0,40})""", html)
    assert links
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in links)
    assert not re.search("https?:", re.sub("<pre>.*</pre>", "", html, flags=re.DOTALL))
    for raw in ("<script", "<b>bold</b>", "<i>net</i>"):
        assert raw not in html
    assert "&lt;b&gt;bold&lt;/b&gt;" in html
    assert "prefers-color-scheme: dark" in html
    assert "#010101" not in html  # every colour of the diagrams is one of the page's


def test_the_report_has_the_figures_of_the_evaluation(evaluated):
    evaluation, html, _ = evaluated
    text = words(html)
    counted = evaluation.statistics
    pairing = counted.after.pairing
    assert pairing.fixed + pairing.broken > 0
    assert f"Of 23 images it fixed {pairing.fixed} and broke {pairing.broken}" in text
    assert "1 image could not be used and is in none of the figures" in text
    assert "01.png : " in text
    assert counted.before.right + counted.after.tally.right > 0
    for heading in ("The second look and its rivals", "Ambiguous images", "Can the probabilities",
                    "When not to answer", "What it costs", "Which classes", "Fixed", "Broken"):  # fmt: skip
        assert heading in text
    assert f"{1e6 * counted.after.tally.forwards / 23:,.0f}" in text
    assert "Look “poster”, k = 4, gate 0.12" in text
    assert '"relook": ' in html.replace("&#34;", '"')


def table_after(html, heading):
    """The first table after a heading, as lists of cells."""
    table = re.search("<table>.*?</table>", html[html.index(heading) :], re.DOTALL)[0]
    rows = re.findall("<tr.*?</tr>", table, re.DOTALL)
    return [[words(cell) for cell in re.findall(r"<t[hd]\b.*?</t[hd]>", row)] for row in rows]


def test_the_report_says_how_far_the_probabilities_can_be_trusted(evaluated):
    evaluation, html, _ = evaluated
    head, *rows = table_after(html, "Can the probabilities be trusted?")
    assert head[1:] == ["ECE, equal width", "ECE, equal mass", "log loss", "Brier score"]
    assert [row[0] for row in rows] == ["before", "poster", "flip", "larger"]
    poster = evaluation.qualities["poster"]
    assert rows[1][1:] == [
        f"{100 * poster.ece:.1f} %", f"{100 * poster.ece_equal_mass:.1f} %",
        f"{poster.log_loss:.4f}", f"{poster.brier:.4f}",
    ]  # fmt: skip
    _, *areas = table_after(html, "When not to answer")
    before = evaluation.qualities["first look"].aurc
    assert areas[0] == ["before", f"{before:.4f}", ""]
    change = f"{100 * (poster.aurc / before - 1):+.0f} %".replace("-", "−")
    assert areas[1] == ["poster", f"{poster.aurc:.4f}", change]
    assert "relook evaluate --tune --risk 0.05 finds the threshold" in words(html)


RISKY = Names("first look", "best", ("flip", CALIBRATED, not_calibrated("best")))


def risky_page(evaluated, folder, risk, abstained):
    """The page, and what the terminal shows, of four images; some answers are abstained from.

    The true class of every image is 0. All answers to the second image are wrong, and all others
    right.
    """
    made, _, _ = evaluated
    rows = []
    for index, sure in enumerate((0.75, 0.25, 0.5, 1.0)):
        left = index in abstained
        answers = {
            name: dataclasses.replace(
                relook.evaluation.Answer.of(torch.tensor([sure, 1 - sure]), 0, 1, 1.0, 0.1),
                abstained=left and name in ("best", CALIBRATED),
                possible=(1, 0) if left and index == 1 else (0,) if left else (),
            )
            for name in RISKY
        }
        rows.append(relook.evaluation.Row(index, f"{index}.png", 0, RISKY, answers))
    settings = {**made.settings, "answers": RISKY.to_json(), "risk": risk}
    evaluation = relook.evaluation.Evaluation(settings, ("a", "b"), to_table(rows, RISKY))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relook.evaluation.Evaluation, "read", lambda _: evaluation)
        evaluation_page(folder)
    out = io.StringIO()
    counted = evaluation.statistics
    found = find(counted, relook.gate.Gate(0.5))
    print_statistics(
        Console(file=out, width=80), counted, found, "best", evaluation.qualities, evaluation.risk
    )
    return (folder / "report.html").read_text(encoding="utf-8"), out.getvalue()


def test_a_risk_and_what_is_left_to_a_person_are_told(evaluated, tmp_path):
    html, terminal = risky_page(evaluated, tmp_path, 0.05, abstained=(1, 2))
    text = words(html)
    for who in ("The second look", "The first look after a temperature"):
        assert (
            f"{who} answers 2 of 4 images (50.0 %), 0 of them wrong: 0.0 %, where at most 5.0 % "
            "were asked for. A person would still have to look at 2: of these, 1.5 classes are in "
            "question on average, the true class among them for 100.0 %."
        ) in text
    assert "The temperature alone takes the log loss from" in text
    assert "--risk 0.05 finds" not in text
    assert "risk 5 %: answered 2, of these 0 wrong (0.0\u00a0%); left to a person 2" in terminal
    # The answers 0.75, 0.5 and 1.0 are right; the other 0.75 is wrong, and ties with the first.
    [line] = [line for line in terminal.splitlines() if line.startswith("ECE")]
    assert line == ("ECE 0.250 → 0.250 · log loss 0.592 → 0.592 · risk–coverage area 0.208 → 0.208")


def test_a_risk_that_cannot_be_promised_is_told(evaluated, tmp_path):
    html, terminal = risky_page(evaluated, tmp_path, 0.001, abstained=(0, 1, 2, 3))
    assert "The second look answers none of 4 images: no threshold could be promised" in words(html)
    assert "no threshold can be promised, nothing is answered" in terminal


def test_answers_that_differ_by_a_temperature_are_in_some_tables(evaluated, tmp_path):
    html, terminal = risky_page(evaluated, tmp_path, None, abstained=())
    names = ["before", "best", "flip", CALIBRATED, not_calibrated("best")]
    _, *rows = table_after(html, "The second look and its rivals")
    assert [row[0] for row in rows] == names
    assert rows[3][1:] == ["75.0 %", "", "", "", "", "", "3", "1", "100.0 %"]
    for heading in ("Can the probabilities be trusted?", "When not to answer", "What it costs"):
        assert [row[0] for row in table_after(html, heading)[1:]] == names
    assert [row[0] for row in table_after(html, "Ambiguous images")[1:]] == ["best", "flip"]
    assert "calibrated" not in html[html.index("<figure") : html.index("Ambiguous images")]
    assert "calibrated" not in terminal


def test_the_galleries_are_bounded_and_show_what_changed(evaluated):
    evaluation, html, _ = evaluated
    fixed = sum(row.fixed for row in evaluation.rows)
    broken = sum(row.broken for row in evaluation.rows)
    assert html.count("<article") == min(GALLERY, fixed) + min(GALLERY, broken)
    assert html.count("Labelled <b>") == html.count("<article")


def test_a_report_of_nothing_but_errors(tmp_path, grey):
    (tmp_path / "data" / "0").mkdir(parents=True)
    (tmp_path / "data" / "0" / "a.png").touch()
    corrector = relook.Corrector(grey)
    data = read_data(tmp_path / "data", grey.labels)
    evaluation = relook.evaluate(corrector, data, tmp_path / "run")
    keep_gallery(evaluation, corrector, data, tmp_path / "run")
    assert "No image could be classified" in words(write_report(tmp_path / "run").read_text())
    assert not (tmp_path / "run" / "gallery").exists()


def test_a_page_is_made_again_from_a_copied_folder_alone(evaluated, tmp_path):
    _, html, run = evaluated
    copy = shutil.copytree(run, tmp_path / "elsewhere")
    (copy / "report.html").unlink()
    shutil.move(run.parent / "data", tmp_path / "data away")
    try:
        assert write_report(copy).read_text(encoding="utf-8") == html
        done = CliRunner().invoke(app, ["report", str(copy)])
    finally:
        shutil.move(tmp_path / "data away", run.parent / "data")
    assert (done.exit_code, done.stderr) == (0, f"report: {copy / 'report.html'}\n")
    assert (copy / "report.html").read_text(encoding="utf-8") == html


def test_a_gallery_is_made_once_and_again_where_it_is_damaged(evaluated, tmp_path):
    evaluation, html, run = evaluated
    copy = shutil.copytree(run, tmp_path / "run")
    data = read_data(run.parent / "data", evaluation.labels)

    other = relook.Classifier(
        random_cnn(torch.float32, seed=7), mean=(0, 0, 0), std=(1, 1, 1), input_size=16
    )
    with counting_forwards(other.network) as count:
        keep_gallery(evaluation, relook.Corrector(other), data, copy)
    assert count == [0]
    (copy / "gallery" / "001.png").write_bytes(b"no picture")
    with pytest.raises(RunError, match=r"gallery: cannot be read .*; delete this folder"):
        write_report(copy)
    shutil.rmtree(copy / "gallery")
    told = words(write_report(copy).read_text(encoding="utf-8"))
    assert "No pictures of them are kept in the folder of this page" in told
    assert html.count("<article") > 0 == told.count("Labelled")


def test_what_is_left_of_a_choice_is_no_part_of_a_page(evaluated, tmp_path):
    _, html, run = evaluated
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "tuning").mkdir()  # as of a choice that was stopped before its first rows
    assert write_report(copy).read_text(encoding="utf-8") == html


def test_folders_that_hold_no_page(tmp_path):
    for content, said in (
        (None, "contains no run.json; pass the folder of a run"),
        ({"kind": "multicam", "format": 2}, "holds a training (relook train-multicam); pass the "
         "folder of an evaluation (relook evaluate) or a comparison (relook compare)"),
        ({"kind": "evaluation"}, "was written by another version of relook"),
        ({"kind": "evaluation", "versions": "1"}, "was written by another version of relook"),
        ({"kind": "evaluation", "format": 2}, "(model, data, answers missing)"),
    ):  # fmt: skip
        if content:
            (tmp_path / "run.json").write_text(json.dumps(content))
        done = CliRunner().invoke(app, ["report", str(tmp_path)])
        assert done.exit_code == 2
        assert said in " ".join(done.stderr.split())
