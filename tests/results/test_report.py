"""The report: what it promises of a page (complete in itself, escaped, small), of a judgement (useless is called useless) and of the test split (not looked at)."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from reported import HOSTILE, QUIET, Net, churn, houses, make

import fivestep as fs
from fivestep.errors import MissingInputError, UsageError
from fivestep.results import runs

KINDS = ("useless", "useful", "houses", "digits", "arrays")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(run, report's text) by name, each made once."""
    kept = {}

    def get(which):
        if which not in kept:
            run = make(which, tmp_path_factory.mktemp("runs"))
            kept[which] = run, run.report().read_text()
        return kept[which]

    return get


class Page(HTMLParser):
    """All tags with their attributes, and the visible text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)


def words(text):
    return " ".join(" ".join(Page(text.split("</style>", 1)[1]).words).split())


# -- the page --------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", KINDS)
def test_the_page_is_complete_in_itself_and_fetches_nothing(made, which):
    _, text = made(which)
    page = Page(text)
    addresses = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href", "srcset", "action", "data")]
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in addresses)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "form", "base"}
    assert "url(" not in text and "@import" not in text
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    policy = next(attributes["content"] for tag, attributes in page.tags if attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    anchors = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {address[1:] for address in addresses if address.startswith("#")} <= anchors
    assert len(text) < 500_000


def test_hostile_names_and_values_are_shown_as_text(made):
    _, text = made("useless")
    assert HOSTILE not in text and "&lt;script&gt;alert" in text
    assert "<img src=x" not in text and "&lt;img src=x onerror" in text
    assert "\u202e" not in text and "empty\\u202ename" in text


@pytest.mark.parametrize("which", KINDS)
def test_no_picture_or_number_is_broken_and_every_table_is_even(made, which):
    _, text = made(which)
    text = text.replace("math.inf", "")  # in the ejected script
    assert not re.search(r"\bnan\b|\binf\b|None (rows|outputs|epochs)|\b1 (rows|epochs|columns|parameters|groups)\b", words(text))
    assert not re.search(r'd="[^"]*(nan|inf)', text)
    for body in re.findall(r"<table.*?</table>", text, re.S):
        widths = {len(re.findall(r"<t[hd][ >]", row)) for row in re.findall(r"<tr>.*?</tr>", body, re.S)}
        assert len(widths) == 1, body[:300]


def test_a_report_of_50_000_rows_stays_below_2_MB(tmp_path):
    table = houses(50_000)
    run = fs.fit("linear", fs.Data.table(table, target="price").split(), epochs=1, folder=tmp_path, batch_size=5_000, **QUIET)
    assert run.report().stat().st_size < 500_000


def test_where_the_report_goes(made, tmp_path):
    run, _ = made("arrays")
    assert run.report() == run.folder / "report.html"
    assert run.report(tmp_path / "my.html") == tmp_path / "my.html"
    assert run.report(tmp_path) == tmp_path / "report.html"
    before = (tmp_path / "my.html").read_text()
    assert run.report(tmp_path / "my.html").exists() and before.startswith("<!doctype html>")


# -- what it says ----------------------------------------------------------------------------------------------------------------------------------------------


def test_a_useless_97_percent_accuracy_looks_useless(made):
    run, text = made("useless")
    accuracy = run.evaluate("val")["accuracy"]
    assert accuracy.value > 0.95 and accuracy.verdict == "unclear"
    box = re.search(r'<div class="verdict (\w+)">(.*?)</div>', text, re.S)
    assert box[1] == "bad"
    told = words("</style>" + box[2])
    assert "by none of its scores is the model shown to be better than a constant" in told and "of no use" in told
    assert re.search(r"finds 0 of the \d+ rows of class 'yes'", told)
    assert "always answering 'no' is right in 9" in told
    assert '<span class="tag bad">0.0%</span>' in text  # the recall of the class that matters


def test_a_useful_model_of_an_imbalanced_problem_is_not_called_useless(made):
    run, text = made("useful")
    assert run.evaluate("val")["auroc"].verdict == "better"
    assert 'class="verdict bad"' not in text and "of no use" not in text
    assert "Accuracy says little here" in text


def test_numbers_get_their_pictures_worst_rows_importance_and_subgroups(made):
    run, text = made("houses")
    assert 'class="verdict good"' in text
    for title in ("Predicted against actual price", "Errors over the prediction", "Permutation importance", "kind = house", "learning rate went from"):
        assert title in text, title
    rows = re.search(r'id="importance".*?<tbody>(.*?)</tbody>', text, re.S)[1]
    assert re.findall(r'<th scope="row">(\w+)', rows)[0] == "size"
    assert "not shown to matter" in re.search(r"noise.*", rows, re.S)[0]
    worst = int(torch.as_tensor(run.predict("val").reshape(-1) - run._targets("val").reshape(-1)).abs().argmax())
    row = int(run.splits.val.indices[worst])
    first = re.search(r'id="rows".*?<tbody><tr><th scope="row" class="n">([\d,]+)</th>(.*?)</tr>', text, re.S)
    assert int(first[1].replace(",", "")) == row
    assert f"{run.splits.train.data.typed.values('size')[row]:.6g}" in first[2]


def test_numbers_with_a_unit_have_it_on_axes_and_beside_scores(tmp_path):
    splits = fs.Data.table(houses(), target="price", units={"price": "EUR"}).split()
    run = fs.fit("linear", splits, folder=tmp_path, epochs=2, **QUIET)
    text = run.report().read_text()
    assert ">predicted price (EUR)</text>" in text and ">predicted - actual price (EUR)</text>" in text and ">loss (standardised target)</text>" in text
    assert re.search(r">RMSE</th><td[^>]*>[\d.]+ EUR</td>", text) and re.search(r">R²</th><td[^>]*>-?[\d.]+</td>", text)
    assert "by absolute error in EUR" in text


def test_booleans_stand_in_the_report_as_in_the_file(tmp_path):
    table = houses() | {"sold": np.where(houses()["size"] > 100, "Yes", "No")}
    run = fs.fit("linear", fs.Data.table(table, target="price").split(), folder=tmp_path, epochs=1, **QUIET)
    text = run.report().read_text()
    assert "sold = Yes" in text and "sold = No" in text and "sold = 1" not in text
    worst = re.search(r'id="rows".*?<tbody>(.*?)</tbody>', text, re.S)[1]
    assert ">Yes</td>" in worst or ">No</td>" in worst


def test_who_does_better_on_the_same_rows_is_said_first(tmp_path):
    splits = fs.Data.table(houses(), target="price").split()
    run = fs.fit("linear", splits, folder=tmp_path, epochs=20, lr=0.01, **QUIET)  # a linear model that is solved is ahead still
    assert "In company" not in run.report().read_text()  # it costs seconds, so it is there where it was asked for
    company = run.company()
    assert company.better
    text = run.report().read_text()
    box = words("</style>" + re.search(r'<div class="verdict warn">(.*?)</div>', text, re.S)[1])
    assert f"On the same rows the {company.better[0].name}" in box
    table = re.search(r">against this model<.*?<tbody>(.*?)</tbody>", text, re.S)[1]
    names = re.findall(r'<th scope="row"[^>]*>([^<]+)', table)
    assert names[-1] == "no skill: a constant" and names.index("this model") > names.index(company.better[0].name) and "BETTER than this model" in table
    more = fs.resume(run.folder, epochs=21, splits=splits, quiet=True)
    assert "In company" not in more.report().read_text()  # these are other weights


def test_images_are_shown_with_what_was_predicted(made):
    _, text = made("digits")
    pictures = [attributes for tag, attributes in Page(text).tags if tag == "img"]
    assert len(pictures) == 16 and all(re.match(r"row \d+: ", picture["alt"]) for picture in pictures)


def test_an_image_is_a_png_of_the_same_pixels():
    import io

    import numpy as np
    from PIL import Image

    from fivestep.results.page import image_png

    for pixels in (np.arange(15, dtype=np.uint8).reshape(3, 5), np.arange(90, dtype=np.uint8).reshape(5, 6, 3)):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(image_png(pixels)))), pixels)


def test_the_two_lines_load_the_weights_into_plain_pytorch(made):
    run, text = made("arrays")
    lines = re.search(r"(from safetensors.*?)</code>", text, re.S)[1]
    import html

    space = {"model": Net(3, 1)}
    exec(html.unescape(lines), space)
    assert all(torch.equal(one, other) for one, other in zip(space["model"].state_dict().values(), run.model.state_dict().values()))


def test_without_validation_rows_it_says_that_scores_are_of_training_rows(tmp_path):
    run = fs.fit("linear", fs.Data.table(houses(60), target="price").split(train=1.0), epochs=2, folder=tmp_path, **QUIET)
    text = run.report().read_text()
    assert "There are no validation rows" in text and "Test rows</h3>" not in text


def test_a_model_without_predictions_gets_a_report_of_its_loss(tmp_path):
    x = torch.randn(40, 3)
    run = fs.fit(Net(3, 3), fs.Data.arrays(x).split(), compute=lambda model, x, t: (model(x) - x).square().mean(), epochs=2, folder=None, **QUIET)
    text = run.report(tmp_path / "r.html").read_text()
    assert "scored by its loss" in text and 'id="training"' in text and 'id="errors"' not in text


# -- the test split --------------------------------------------------------------------------------------------------------------------------------------------


class Untouchable:
    """Stands for a split that must not be looked at."""

    def __getattr__(self, name):
        raise AssertionError(f"the test split was looked at: {name}")

    def __len__(self):
        raise AssertionError("the test split was looked at")


def test_the_test_rows_are_not_scored_for_a_report(tmp_path):
    run = make("houses", tmp_path)
    run._encoded["test"] = Untouchable()
    text = run.report().read_text()
    assert "test rows were not looked at" in text and "untouched" in text
    assert runs.looks(tmp_path, run.splits.fingerprint, "test") == 0


def test_scores_of_a_look_are_shown_with_the_number_of_looks(tmp_path):
    run = make("houses", tmp_path)
    scores = run.evaluate("test")
    run.evaluate("test")
    text = run.report().read_text()
    assert "<h3>Test rows</h3>" in text and "look 2 at this split" in text and scores["mae"].texts()[0] in text
    assert runs.looks(tmp_path, run.splits.fingerprint, "test") == 2  # the report was none
    with torch.no_grad():
        next(run.model.parameters()).add_(1.0)
    text = run.report().read_text()
    assert "<h3>Test rows</h3>" not in text and "looked at 2 times, but not with these weights" in text


# -- later ----------------------------------------------------------------------------------------------------------------------------------------------------


def test_a_run_read_again_from_its_folder_reports_the_same(tmp_path):
    import polars

    polars.DataFrame(houses(200)).write_csv("houses.csv")
    run = fs.fit("mlp", fs.Data.table("houses.csv", target="price").split(), epochs=3, folder=tmp_path, name="one", **QUIET)
    loose = re.compile(r'written .*? by|Made offline in .*?\.\d|<tr><th scope="row">loss</th>.*?</tr>', re.S)
    first = loose.sub("", run.report(tmp_path / "a.html").read_text())
    again = fs.load_run(run.folder)
    assert again.evaluate("val")["mae"].value == run.evaluate("val")["mae"].value
    assert loose.sub("", again.report(tmp_path / "b.html").read_text()) == first
    polars.DataFrame(houses(201)).write_csv("houses.csv")
    with pytest.raises(UsageError, match="changed"):
        fs.load_run(run.folder).report()


def test_what_cannot_be_read_again_says_what_to_do(tmp_path, made):
    with pytest.raises(MissingInputError, match=r"no run|settings"):
        fs.load_run(tmp_path / "none")
    with pytest.raises(UsageError, match="did not come from a file"):
        fs.load_run(made("useless")[0].folder).report()


def test_the_shell_writes_a_report_and_says_where(tmp_path, capsys):
    import json

    import polars

    from fivestep.apps.cli import run as shell

    polars.DataFrame(churn(300)).write_csv("churn.csv")
    assert shell(["fit", "churn.csv", "--target", "churn", "--model", "linear", "--epochs", "1", "--quiet", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["report"] == "runs/churn-0001/report.html" and "churn (2 classes)" in (tmp_path / told["report"]).read_text()
    assert shell(["report", "runs/churn-0001", "-o", "other.html"]) == 0
    assert capsys.readouterr().out.strip() == "other.html" and (tmp_path / "other.html").exists()
