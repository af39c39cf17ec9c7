"""Answers that are not to be relied on: what the terminal, pictures, pages and JSON say of them.

The toy network answers an image of one colour with its shares of red, green and blue.
"""

from __future__ import annotations

import html
import io
import json
import re
from dataclasses import replace

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

import relook
from networks import make_colours
from relook.calibration import Abstention, Confidence
from relook.cli import app
from relook.cli.story import print_story
from relook.digest import labels_digest, weights_digest
from relook.evaluation import read_data
from relook.gate import EVERY_IMAGE, NO_IMAGE, Gate
from relook.looks import Judgement, Learnt, Part, Preset
from relook.report.gallery import chosen, keep_gallery, read_gallery
from relook.report.page import render_page
from relook.report.picture import save_picture
from relook.report.story import tell

COLOURS = ["--model", "networks:make_colours"]
TORN, SURE = (100, 60, 40), (200, 20, 20)
"""Images of these colours are answered 0.5, 0.3, 0.2 and 0.83, 0.08, 0.08; after a temperature of
0.5, which squares them, 0.66, 0.24, 0.11 and 0.98, 0.01, 0.01."""


def tuned(*, parts=(), gate=NO_IMAGE, temperature=0.5, risk=0.05, likely=0.2, threshold=0.8):
    """A look as tuning saves it: answers below the threshold are not given."""
    classifier = make_colours()
    confidence = Confidence(temperature=temperature)
    abstention = risk and Abstention(risk, confidence, threshold, likely)
    made_on = {
        "model": "networks:make_colours",
        "labels": labels_digest(classifier),
        "weights": weights_digest(classifier),
    }
    judgement = Judgement(temperature, confidence, abstention)
    learnt = Learnt(parts, False, gate, judgement, Judgement(temperature), made_on)
    look = "+".join(part.look for part in parts) or "flip"
    return Preset(look, gate=gate, learnt=learnt)


def plain(colour):
    return Image.new("RGB", (4, 4), colour)


def correct(colour, **options):
    return relook.Corrector(make_colours(), look=tuned(**options)).correct(plain(colour))


def printed(story):
    out = io.StringIO()
    print_story(Console(file=out, width=200), story)
    return out.getvalue().replace("\u00a0", " ")


def verdict(story):
    """The line below the table."""
    return printed(story).splitlines()[-2]


@pytest.fixture
def pictured(monkeypatch, tmp_path):
    """Saves a picture and returns the texts on it."""

    def save(story):
        texts = []
        written = Figure.savefig

        def seen(figure, *arguments, **options):
            texts.extend(text.get_text() for text in figure.findobj(Text))
            written(figure, *arguments, **options)

        monkeypatch.setattr(Figure, "savefig", seen)
        save_picture(story, tmp_path / "picture.png")
        monkeypatch.undo()
        return [text.replace("\u00a0", " ") for text in texts]

    return save


@pytest.fixture
def card(tmp_path):
    """Writes a page with the story's card and returns the text of the card."""

    def write(story):
        file = tmp_path / "page.html"
        render_page("demo.html.j2", file, pairs=[[story, story]], model="m", layer="l", k=1, gate=1,
                    seconds=1, version="1")  # fmt: skip
        [found, *_] = re.findall(
            r"<article.*?</article>", file.read_text(encoding="utf-8"), flags=re.DOTALL
        )
        text = html.unescape(re.sub("<[^>]+>", " ", found))
        return " ".join(text.split())

    return write


@pytest.fixture
def files(tmp_path):
    """The look, an image that it answers, and one that it does not."""
    look, sure, torn = (tmp_path / name for name in ("tuned.json", "sure.png", "torn.png"))
    tuned().save(look)
    plain(SURE).save(sure)
    plain(TORN).save(torn)
    return look, sure, torn


def relook_predict(look, *arguments):
    given = ["predict", *map(str, arguments), *COLOURS, "--look", str(look)]
    return CliRunner().invoke(app, given)


def test_json_says_which_image_is_answered_and_which_is_not(files):
    result = relook_predict(*files, "--json")
    assert result.exit_code == 0, result.stderr
    sure, torn = map(json.loads, result.stdout.splitlines())
    assert (sure["abstained"], sure["possible"]) == (False, [])
    assert sure["confidence"] == pytest.approx(100 / 102)
    assert torn["abstained"] is True
    assert torn["confidence"] == pytest.approx(25 / 38)
    assert torn["possible"] == [
        {"class": 0, "label": "red", "probability": pytest.approx(25 / 38)},
        {"class": 1, "label": "green", "probability": pytest.approx(9 / 38)},
    ]
    assert torn["before"][0]["probability"] == pytest.approx(0.5)
    assert torn["after"][0]["probability"] == pytest.approx(25 / 38)
    assert "left to a person" not in result.stderr


def test_predict_names_the_classes_in_question_and_counts_the_images(files):
    result = relook_predict(*files)
    assert result.exit_code == 0, result.stderr
    sure, torn = result.stdout.split("torn.png")
    assert "not sure" not in sure
    assert "sure enough for a risk of 5\u00a0%" in sure
    assert "\nnot sure: red or green · left as it is" in torn
    assert "sure enough" not in torn
    assert "\n1 of 2 images is left to a person\n" in result.stderr


def test_one_image_is_not_counted(files):
    look, _, torn = files
    result = relook_predict(look, torn)
    assert "not sure: red or green" in result.stdout
    assert "left to a person" not in result.stderr


def test_only_images_that_could_be_used_are_counted(files, tmp_path):
    look, sure, torn = files
    result = relook_predict(look, sure, tmp_path / "absent.png", torn, torn)
    assert result.exit_code == 1
    assert "\n2 of 3 images are left to a person\n" in result.stderr


def test_without_a_risk_nothing_is_said_of_it(files):
    look, *images = files
    tuned(risk=None).save(look)
    result = relook_predict(look, *images)
    assert "not sure" not in result.stdout
    assert "risk" not in result.stdout
    assert "left to a person" not in result.stderr


def test_a_class_alone_in_question_is_given_with_its_confidence(pictured, card):
    story = tell(correct(TORN, likely=0.5))
    said = "not sure: red is the only class in question, at a confidence of 0.66"
    assert verdict(story).startswith(f"{said} · ")
    assert any(text.endswith(said) for text in pictured(story))
    assert card(story).startswith(said)


def test_three_classes_in_question_are_a_list_with_or():
    story = tell(correct(TORN, likely=0.1))
    assert verdict(story).startswith("not sure: red, green or blue · ")


def test_a_long_list_of_classes_is_cut_short(pictured):
    many = tuple(f"class {number}" for number in range(1, 1_201))
    story = replace(tell(correct(TORN)), possible=many)
    assert story.doubt() == ("not sure: class 1, class 2, class 3, class 4, class 5 and 1,195 more")
    # Pictures have room for one line: names go first.
    wordy = tuple(f"a breed of dog with a long name {number}" for number in range(4))
    texts = pictured(replace(story, title="photo.png", possible=wordy))
    first = "photo.png · not sure: a breed of dog with a long name 0"
    assert f"{first} and 3 more" in texts


def test_the_verdict_on_the_second_look_follows():
    parts = (Part("flip", 1.0, 3),)
    story = tell(correct(TORN, parts=parts, gate=Gate(0.9, j=2)))
    assert verdict(story).startswith("not sure: red or green · red, as before · 2 forwards")
    assert "calibrated" not in printed(story)
    given = tell(correct(SURE, parts=parts, gate=Gate(0.9, j=2)))
    assert verdict(given).startswith("red, as before · sure enough for a risk of 5 % · 2 forwards")


def test_a_name_with_brackets_is_printed_as_it_is():
    story = replace(tell(correct(TORN)), possible=("[red]", "[/]"))
    assert verdict(story).startswith("not sure: [red] or [/] · ")


def test_without_a_second_look_the_second_probabilities_are_called_calibrated(pictured, card):
    story = tell(correct(TORN))
    table = printed(story)
    assert "calibrated" in table.splitlines()[2]
    assert "its probabilities are calibrated" in verdict(story)
    for said in (table, "\n".join(pictured(story)), card(story)):
        assert "50.0 %" in said
        assert "65.8 %" in said
        assert "calibrated" in said
        assert "after" not in said


def test_probabilities_that_are_the_same_are_not_called_calibrated(pictured, card):
    story = tell(correct(TORN, temperature=1.0))
    assert "calibrated" not in printed(story)
    assert "calibrated" not in pictured(story)
    assert "calibrated" not in card(story)


def test_pictures_and_cards_say_what_the_terminal_says(pictured, card):
    torn, sure = tell(correct(TORN)), tell(correct(SURE))
    assert any(text.endswith(" · not sure: red or green") for text in pictured(torn))
    assert card(torn).startswith("not sure: red or green · red · left as it is")
    assert not any("not sure" in text for text in pictured(sure))
    [headline] = [text for text in pictured(sure) if "sure enough" in text]
    assert headline.endswith(": red, left as it is · sure enough for a risk of 5 %")
    assert card(sure).startswith("red · left as it is, calibrated · sure enough for a risk of 5 %")


def test_a_gallery_keeps_what_is_in_question(grey, data, tmp_path):
    """Of fixed and broken images, none of which is answered here."""
    judgement = Judgement(1.0, abstention=Abstention(0.05, Confidence(), None, 0.2))
    made_on = {"labels": labels_digest(grey), "weights": weights_digest(grey)}
    learnt = Learnt((Part("poster", 1.0, 4),), False, EVERY_IMAGE, judgement, made_on=made_on)
    corrector = relook.Corrector(grey, look=Preset("poster", gate=EVERY_IMAGE, learnt=learnt))
    images = read_data(data, grey.labels)
    run = tmp_path / "run"
    evaluation = relook.evaluate(corrector, images, run)
    keep_gallery(evaluation, corrector, images, run)

    def stories():
        return [one.story for of_kind in read_gallery(evaluation, run).values() for one in of_kind]

    rows = [row for of_kind in chosen(evaluation).values() for row in of_kind]
    told = [tell(corrector.correct(images.images[row.index].open())) for row in rows]
    assert told
    assert all(story.not_sure for story in told)
    assert [story.doubt() for story in stories()] == [story.doubt() for story in told]

    # Galleries that earlier versions saved know of no risk.
    file = run / "gallery" / "gallery.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    for one in (one for of_kind in found["shown"].values() for one in of_kind):
        for new in ("calibrated", "risk", "confidence", "possible"):
            del one["story"][new]
    file.write_text(json.dumps(found), encoding="utf-8")
    assert [story.top_after for story in stories()] == [story.top_after for story in told]
    assert not any(story.not_sure or story.surety for story in stories())
