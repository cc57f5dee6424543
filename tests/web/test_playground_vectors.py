"""The arithmetic of the playground is the same in Python and in the browser, and both are right."""

import base64
import json
import shutil
import subprocess
from importlib.resources import files

import numpy as np
import pytest

from quernel.web import vectors
from quernel.web.samples import split_texts

SCRIPT = """
import { readFileSync } from "node:fs";
import * as vectors from "./vectors.mjs";
const calls = JSON.parse(readFileSync(0, "utf8"));
const plain = (value) => (ArrayBuffer.isView(value) ? [...value].map(plain) : Array.isArray(value) ? value.map(plain)
  : value !== null && typeof value === "object"
    ? Object.fromEntries(Object.entries(value).map(([name, part]) => [name, plain(part)])) : value);
console.log(JSON.stringify(calls.map(([name, ...given]) => plain(vectors[name](...given)))));
"""

CONTENTS = (
    "",
    " \n\t\n ",
    "one",
    "one\ntwo",
    "\r\none\r\ntwo\r\n\r\n",
    "one\rtwo",
    "  one  \n  two",
    "def f():\n    return 1\n\nx = 2",
    "one\n \t\n\n\ntwo\nthree\n",
    "a\u2028b\nc\x0bd",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Calls functions of `static/vectors.js`, all at once."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    folder = tmp_path_factory.mktemp("vectors")
    source = files("quernel.web").joinpath("static", "vectors.js").read_text(encoding="utf-8")
    (folder / "vectors.mjs").write_text(source, encoding="utf-8")
    (folder / "script.mjs").write_text(SCRIPT, encoding="utf-8")

    def call(*calls):
        found = subprocess.run(
            [node, folder / "script.mjs"], input=json.dumps(calls).encode(), capture_output=True, check=True, timeout=60
        )
        return json.loads(found.stdout)

    return call


def some(number, dimensions, seed=0):
    return np.random.default_rng(seed).standard_normal((number, dimensions))


def test_a_cut_vector_is_its_beginning_at_length_one(browser):
    given = some(4, 48)
    expected = given[:, :17] / np.linalg.norm(given[:, :17], axis=1, keepdims=True)
    np.testing.assert_allclose(vectors.cut(given, 17), expected)
    np.testing.assert_allclose(browser(*(["cut", row.tolist(), 17] for row in given)), expected, rtol=1e-12)


def test_a_vector_of_zeros_stays_one(browser):
    assert browser(["cut", [0, 0, 1], 2]) == [[0, 0]]
    assert vectors.cut(np.array([[0.0, 0.0, 1.0]]), 2).tolist() == [[0, 0]]


def test_float32_numbers_come_through_base64_bit_by_bit(browser):
    given = some(3, 5).astype("<f4")
    (found,) = browser(["decode", base64.b64encode(given.tobytes()).decode(), 5])
    assert np.array_equal(np.array(found, dtype=np.float32), given)


def test_similarities_are_dot_products(browser):
    given = vectors.cut(some(6, 20), 20)
    (found,) = browser(["gram", given.tolist()])
    np.testing.assert_allclose(found, given @ given.T, atol=1e-12)


@pytest.mark.parametrize("scores", [[0.1, 0.9, -0.3], [0.5, 0.5, 0.7, 0.5], [1.0], []])
def test_equal_scores_keep_their_order(browser, scores):
    order = np.argsort(-np.array(scores), kind="stable").tolist()
    places = [order.index(index) + 1 for index in range(len(scores))]
    assert vectors.order_of(scores) == order
    assert vectors.places_of(order) == places
    assert browser(["orderOf", scores], ["placesOf", order]) == [order, places]


@pytest.mark.parametrize("number", [1, 2, 7])
def test_the_neighbour_is_the_most_similar_other(browser, number):
    given = vectors.cut(some(number, 9, seed=number), 9)
    similarities = given @ given.T
    expected = [
        max((other for other in range(number) if other != index), key=lambda other: similarities[index][other])
        if number > 1
        else None
        for index in range(number)
    ]
    assert vectors.neighbours_of(similarities) == expected
    assert browser(["neighboursOf", similarities.tolist()]) == [expected]


@pytest.mark.parametrize(("number", "dimensions"), [(2, 8), (3, 8), (9, 64), (25, 300)])
def test_the_map_is_the_principal_components(browser, number, dimensions):
    given = vectors.cut(some(number, dimensions, seed=dimensions), dimensions)
    centred = given - given.mean(axis=0)
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ directions[:2].T
    share = (sizes[:2] ** 2).sum() / (sizes**2).sum()
    (found,) = browser(["planeOf", given.tolist()])
    for places, part in (vectors.plane_of(given), (np.array(found["places"]), found["share"])):
        assert part == pytest.approx(share, abs=1e-6)
        for axis in range(2):
            signed = places[:, axis] * np.sign(places[:, axis] @ expected[:, axis] or 1.0)
            np.testing.assert_allclose(signed, expected[:, axis], atol=1e-4)
            assert places[np.abs(places[:, axis]).argmax(), axis] >= 0
    np.testing.assert_allclose(found["places"], vectors.plane_of(given)[0], atol=1e-4)


def test_one_place_or_equal_ones_are_in_the_middle(browser):
    for given in (some(1, 8), np.repeat(some(1, 8), 3, axis=0)):
        (found,) = browser(["planeOf", given.tolist()])
        np.testing.assert_allclose(found["places"], 0, atol=1e-6)
        np.testing.assert_allclose(vectors.plane_of(given)[0], 0, atol=1e-6)
        assert found["share"] == pytest.approx(1)


def test_a_map_is_turned_to_be_like_the_one_before(browser):
    given = vectors.cut(some(9, 64), 64)
    (first,) = browser(["planeOf", given.tolist()])
    turned = (np.array(first["places"]) * [-1, 1]).tolist()
    (found,) = browser(["planeOf", given.tolist(), turned])
    np.testing.assert_allclose(found["places"], turned, atol=1e-9)


def test_places_fill_the_picture_at_one_scale(browser):
    given = some(6, 2)
    shown = vectors.fit(given, 500, 300, 20)
    np.testing.assert_allclose(browser(["fit", given.tolist(), 500, 300, 20]), [shown])
    assert shown.min() >= 20 - 1e-9
    assert (shown.max(axis=0) <= [480 + 1e-9, 280 + 1e-9]).all()
    scales = (shown[1] - shown[0]) / (given[1] - given[0])
    assert scales[0] == pytest.approx(-scales[1])
    np.testing.assert_allclose(vectors.fit(np.zeros((2, 2)), 500, 300, 20), [[250, 150]] * 2)
    assert browser(["fit", [[0, 0], [0, 0]], 500, 300, 20]) == [[[250, 150]] * 2]


def test_marks_do_not_cover_each_other_and_stay_in_the_picture(browser):
    given = np.vstack([np.full((12, 2), 100.0), some(13, 2) * 10 + [5, 295]])
    first, second = browser(*[["spread", given.tolist(), 30, 560, 360, 20]] * 2)
    assert first == second
    apart = np.linalg.norm(np.array(first)[:, None] - np.array(first)[None], axis=2)[~np.eye(25, dtype=bool)]
    assert apart.min() > 24, "of the 30 that are wished for"
    assert np.array(first).min() >= 20
    assert (np.array(first).max(axis=0) <= [540, 340]).all()


def test_marks_that_are_apart_stay_where_they_are(browser):
    given = [[100, 100], [200, 100], [150, 300]]
    assert browser(["spread", given, 30, 560, 360, 20]) == [given]


def test_colours_go_from_the_least_to_the_highest(browser):
    found = browser(*(["levelOf", value, 0.2, 0.8, 8] for value in (-1, 0.2, 0.5, 0.8, 1)), ["levelOf", 1, 1, 1, 8])
    assert found == [0, 0, 4, 8, 8, 8]


@pytest.mark.parametrize("content", CONTENTS)
def test_a_field_is_split_alike(browser, content):
    (found,) = browser(["splitTexts", content])
    assert len(found) == len(split_texts(content))


def test_lines_are_texts_unless_empty_lines_set_them_apart():
    assert split_texts("one\r\n two \nthree\n\n") == ["one", "two", "three"]
    assert split_texts("one\n\ndef f():\n    return 1\n \nthree") == ["one", "def f():\n    return 1", "three"]
    assert split_texts(" \n") == []
