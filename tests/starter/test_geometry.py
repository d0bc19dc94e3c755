"""Geometry tools against known figures, identities and a slow twin."""

import json
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from toolscaler.starter.registry import load_starter_documents
from toolscaler.starter.tools.geometry import (
    box_measurements,
    circle_measurements,
    cylinder_measurements,
    great_circle_distance,
    line_intersection,
    point_distance,
    point_in_polygon,
    polygon_area,
    right_triangle_side,
    sphere_measurements,
    triangle_from_sides,
)

lengths = st.floats(0.01, 1000)
coordinates = st.integers(-20, 20)
L_SHAPE = [[0, 0], [4, 0], [4, 2], [2, 2], [2, 4], [0, 4]]


def test_the_category_has_eleven_documented_tools():
    documents = [d for d in load_starter_documents() if d.category == "Geometry"]
    assert len(documents) == 11
    for document in documents:
        assert all(schema.get("description") for schema in document.parameters["properties"].values())
        assert document.returns["description"]
        assert document.description.count(".") >= 2


def test_circle_measurements():
    unit = circle_measurements(1)
    assert unit == pytest.approx({"area": 3.14159265, "circumference": 6.28318531, "diameter": 2})
    assert circle_measurements(10)["area"] == pytest.approx(314.159265)
    assert circle_measurements(0.5)["circumference"] == pytest.approx(math.pi)


def test_triangle_from_sides():
    right = triangle_from_sides(3, 4, 5)
    assert right["area"] == pytest.approx(6)
    assert right["perimeter"] == 12
    assert right["angles_degrees"] == pytest.approx([36.8698976, 53.1301024, 90])
    assert right["kind"] == "scalene"
    assert triangle_from_sides(13, 14, 15)["area"] == pytest.approx(84)
    equal = triangle_from_sides(2, 2, 2)
    assert (equal["kind"], equal["area"]) == ("equilateral", pytest.approx(math.sqrt(3)))
    assert triangle_from_sides(5, 5, 6)["kind"] == "isosceles"


@given(lengths, lengths, lengths)
def test_triangle_angles_add_up(a, b, c):
    assume(sum((a, b, c)) - 2 * max(a, b, c) > 1e-6 * max(a, b, c))
    assert sum(triangle_from_sides(a, b, c)["angles_degrees"]) == pytest.approx(180, abs=1e-3)


def test_right_triangle_side():
    assert right_triangle_side(3, other_leg=4) == {"missing": "hypotenuse", "length": 5}
    assert right_triangle_side(5, hypotenuse=13) == {"missing": "other_leg", "length": 12}
    assert right_triangle_side(1, other_leg=1)["length"] == pytest.approx(math.sqrt(2))


@given(lengths, lengths)
def test_right_triangle_side_and_back(a, b):
    assume(b > a / 100)
    c = right_triangle_side(a, other_leg=b)["length"]
    assert right_triangle_side(a, hypotenuse=c)["length"] == pytest.approx(b, rel=1e-6)


def test_point_distance():
    assert point_distance([0, 0], [3, 4]) == 5
    assert point_distance([1, 2, 3], [3, 5, 9]) == 7
    assert point_distance([1, 1], [4, -3], "manhattan") == 7
    assert point_distance([2, 2], [2, 2]) == 0


def test_polygon_area():
    assert polygon_area([[0, 0], [4, 0], [4, 3], [0, 3]]) == {"area": 12, "perimeter": 14}
    assert polygon_area(L_SHAPE) == {"area": 12, "perimeter": 16}
    assert polygon_area([*L_SHAPE, L_SHAPE[0]]) == polygon_area(L_SHAPE[::-1])
    assert polygon_area([[1e9, 1e9], [1e9 + 1, 1e9], [1e9, 1e9 + 1]])["area"] == 0.5


@given(lengths, lengths, lengths)
def test_polygon_area_agrees_with_three_sides(base, x, y):
    corners = [[0, 0], [base, 0], [x, y]]
    a, b, c = (math.dist(corners[i], corners[(i + 1) % 3]) for i in range(3))
    assume(a + b + c - 2 * max(a, b, c) > 1e-3 * max(a, b, c))
    assert polygon_area(corners)["area"] == pytest.approx(triangle_from_sides(a, b, c)["area"], rel=1e-6)


def test_cylinder_measurements():
    can = cylinder_measurements(3, 10)
    assert can["volume"] == pytest.approx(282.743339)
    assert can["side_area"] == pytest.approx(188.495559)
    assert can["surface_area"] == pytest.approx(245.044227)


def test_sphere_measurements():
    assert sphere_measurements(1) == pytest.approx({"volume": 4.18879020, "surface_area": 12.5663706})
    assert sphere_measurements(3)["volume"] == pytest.approx(36 * math.pi)
    assert sphere_measurements(6371)["surface_area"] == pytest.approx(510.06e6, rel=1e-4)


def test_sphere_is_two_thirds_of_its_cylinder():
    ball, can = sphere_measurements(2.5), cylinder_measurements(2.5, 5)
    assert ball["volume"] / can["volume"] == pytest.approx(2 / 3)
    assert ball["surface_area"] == pytest.approx(can["side_area"])


def test_box_measurements():
    assert box_measurements(2, 3, 6) == {"volume": 36, "surface_area": 72, "diagonal": 7}
    assert box_measurements(1, 1, 1)["diagonal"] == pytest.approx(math.sqrt(3))
    assert box_measurements(0.5, 4, 10)["volume"] == 20


def test_great_circle_distance():
    quarter = great_circle_distance(0, 0, 0, 90)
    assert quarter["kilometres"] == pytest.approx(10007.557, abs=0.01)
    assert quarter["initial_bearing_degrees"] == pytest.approx(90)
    assert great_circle_distance(0, 0, 90, 0)["initial_bearing_degrees"] == pytest.approx(0)
    paris_london = great_circle_distance(48.8566, 2.3522, 51.5074, -0.1278)
    assert paris_london["kilometres"] == pytest.approx(343.6, abs=1)
    assert great_circle_distance(0, 0, 0, 180)["kilometres"] == pytest.approx(math.pi * 6371.0088)
    assert great_circle_distance(10, 20, 10, 20)["kilometres"] == 0


@given(st.floats(-90, 90), st.floats(-180, 180), st.floats(-90, 90), st.floats(-180, 180))
def test_great_circle_distance_by_chord(lat1, lon1, lat2, lon2):
    def unit(lat, lon):
        lat, lon = math.radians(lat), math.radians(lon)
        return (math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat))

    chord = math.dist(unit(lat1, lon1), unit(lat2, lon2))
    expected = 2 * 6371.0088 * math.asin(min(1.0, chord / 2))
    # the chord loses digits towards the antipode
    assert great_circle_distance(lat1, lon1, lat2, lon2)["kilometres"] == pytest.approx(expected, abs=0.5)


def test_point_in_polygon():
    assert point_in_polygon([1, 1], L_SHAPE) == "inside"
    assert point_in_polygon([3, 3], L_SHAPE) == "outside"
    assert point_in_polygon([2, 3], L_SHAPE) == "boundary"
    assert point_in_polygon([0, 0], L_SHAPE) == "boundary"
    assert point_in_polygon([-1, 2], L_SHAPE) == "outside"


@given(coordinates, coordinates, st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=3, unique=True))
def test_point_in_polygon_like_half_planes(x, y, corners):
    def cross(a, b, p):
        return (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])

    a, b, c = corners
    assume(cross(a, b, c) != 0)
    signs = [cross(p, q, (x, y)) * (1 if cross(a, b, c) > 0 else -1) for p, q in ((a, b), (b, c), (c, a))]
    expected = "inside" if min(signs) > 0 else "boundary" if min(signs) == 0 else "outside"
    assert point_in_polygon([x, y], [list(corner) for corner in corners]) == expected


def test_line_intersection():
    assert line_intersection([[0, 0], [2, 2]], [[0, 2], [2, 0]]) == {"relation": "crossing", "point": [1, 1]}
    assert line_intersection([[0, 0], [1, 0]], [[5, 1], [5, 2]])["point"] == [5, 0]
    assert line_intersection([[0, 0], [1, 1]], [[0, 1], [1, 2]]) == {"relation": "parallel", "point": None}
    assert line_intersection([[0, 0], [1, 1]], [[3, 3], [0, 0]]) == {"relation": "identical", "point": None}


@given(*[st.tuples(coordinates, coordinates)] * 4)
def test_line_intersection_lies_on_both_lines(a, b, c, d):
    assume(a != b and c != d)
    answer = line_intersection([list(a), list(b)], [list(c), list(d)])
    turn = (b[0] - a[0]) * (d[1] - c[1]) - (b[1] - a[1]) * (d[0] - c[0])
    assert (answer["relation"] == "crossing") == (turn != 0)
    if turn:
        for p, q in ((a, b), (c, d)):
            x, y = answer["point"]
            assert (q[0] - p[0]) * (y - p[1]) - (q[1] - p[1]) * (x - p[0]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "call",
    [
        lambda: circle_measurements(0),
        lambda: circle_measurements("2"),
        lambda: circle_measurements(float("nan")),
        lambda: triangle_from_sides(1, 2, 3),
        lambda: triangle_from_sides(1, 1, -1),
        lambda: right_triangle_side(3),
        lambda: right_triangle_side(3, 4, 5),
        lambda: right_triangle_side(3, hypotenuse=3),
        lambda: point_distance([1], [1, 2]),
        lambda: point_distance([], []),
        lambda: point_distance([1], [2], "chess"),
        lambda: polygon_area([[0, 0], [1, 1]]),
        lambda: polygon_area([[0, 0], [1, 1], [0, 0]]),
        lambda: polygon_area([[0, 0], [1, 1], [2]]),
        lambda: polygon_area(7),
        lambda: cylinder_measurements(1, 0),
        lambda: cylinder_measurements(True, 1),
        lambda: sphere_measurements(-2),
        lambda: sphere_measurements(None),
        lambda: box_measurements(1, 2, 0),
        lambda: box_measurements(1, 2, "3"),
        lambda: great_circle_distance(91, 0, 0, 0),
        lambda: great_circle_distance(0, 0, 0, 181),
        lambda: point_in_polygon([1], [[0, 0], [1, 0], [0, 1]]),
        lambda: point_in_polygon([1, 1], [[0, 0]]),
        lambda: line_intersection([[0, 0], [0, 0]], [[1, 1], [2, 2]]),
        lambda: line_intersection([[0, 0]], [[1, 1], [2, 2]]),
    ],
)
def test_bad_values_are_refused(call):
    with pytest.raises(ValueError, match=r"expected|give exactly|make no triangle|need the same"):
        call()


def test_results_are_plain_json():
    results = [
        triangle_from_sides(3, 4, 5),
        line_intersection([[0, 0], [1, 1]], [[0, 1], [1, 0]]),
        box_measurements(1, 2, 3),
    ]
    assert json.loads(json.dumps(results)) == results
