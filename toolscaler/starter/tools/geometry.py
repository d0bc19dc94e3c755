"""Geometry tools: lengths, angles and coordinates go in, measurements of shapes come out."""

from __future__ import annotations

import math
from typing import Any, Literal

from toolscaler.starter.registry import starter_tool

#: Mean radius of the Earth in kilometres (IUGG).
_EARTH_RADIUS_KM = 6371.0088
#: Below this share of the sizes involved, a cross product counts as zero.
_FLAT = 1e-12

_Point = tuple[float, float]


def _finite(value: Any, name: str) -> float:
    """Give ``value`` as a float, or refuse it by name."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value!r}")
    return float(value)


def _length(value: Any, name: str) -> float:
    """Give a positive length."""
    number = _finite(value, name)
    if number <= 0:
        raise ValueError(f"{name}: expected a length greater than 0, got {value!r}")
    return number


def _coordinates(point: Any, name: str) -> list[float]:
    """Give the coordinates of a point."""
    if not isinstance(point, (list, tuple)):
        raise ValueError(f"{name}: expected a list of coordinates, got {point!r}")
    return [_finite(value, f"{name}[{index}]") for index, value in enumerate(point)]


def _point(point: Any, name: str) -> _Point:
    """Give a point of the plane."""
    coordinates = _coordinates(point, name)
    if len(coordinates) != 2:
        raise ValueError(f"{name}: expected two coordinates [x, y], got {point!r}")
    return coordinates[0], coordinates[1]


def _corners(vertices: Any) -> list[_Point]:
    """Give the corners of a polygon, without a last one that repeats the first."""
    if not isinstance(vertices, (list, tuple)):
        raise ValueError(f"vertices: expected a list of points, got {vertices!r}")
    corners = [_point(vertex, f"vertices[{index}]") for index, vertex in enumerate(vertices)]
    if len(corners) > 1 and corners[0] == corners[-1]:
        corners.pop()
    if len(corners) < 3:
        raise ValueError(f"vertices: expected at least three different corners, got {len(corners)}")
    return corners


def _sides(corners: list[_Point]) -> list[tuple[_Point, _Point]]:
    """Give the sides of a polygon as pairs of corners."""
    return list(zip(corners, corners[1:] + corners[:1], strict=True))


def _cross(origin: _Point, a: _Point, b: _Point) -> float:
    """Give the cross product of origin→a and origin→b: positive where b lies to the left."""
    return (a[0] - origin[0]) * (b[1] - origin[1]) - (a[1] - origin[1]) * (b[0] - origin[0])


def _collinear(origin: _Point, a: _Point, b: _Point) -> bool:
    """Say whether three points lie on one line, up to rounding."""
    return abs(_cross(origin, a, b)) <= _FLAT * max(1e-300, math.dist(origin, a) * math.dist(origin, b))


@starter_tool("Geometry")
def circle_measurements(radius: float) -> dict[str, float]:
    """Compute the area, circumference and diameter of a circle from its radius.

    Covers anything round and flat: pizzas, round tables, wheels, ponds, pipes seen from the end.

    Args:
        radius: Distance from the centre to the edge, greater than 0, in any length unit; half the diameter.

    Returns:
        ``area`` in square units, ``circumference`` (length around the edge) and ``diameter`` in units.

    Raises:
        ValueError: The radius is not a number greater than 0.
    """
    r = _length(radius, "radius")
    return {"area": math.pi * r * r, "circumference": 2 * math.pi * r, "diameter": 2 * r}


@starter_tool("Geometry")
def triangle_from_sides(side_a: float, side_b: float, side_c: float) -> dict[str, Any]:
    """Solve a triangle from its three side lengths: area (Heron's formula), perimeter, angles and kind.

    No height is needed. Also tells whether the triangle is equilateral, isosceles or scalene.

    Args:
        side_a: Length of the first side, greater than 0.
        side_b: Length of the second side, in the same unit.
        side_c: Length of the third side, in the same unit.

    Returns:
        ``area``, ``perimeter``, ``angles_degrees`` (opposite a, b and c) and ``kind``.

    Raises:
        ValueError: A side is not greater than 0, or the two shorter sides together do not exceed the longest.
    """
    a, b, c = _length(side_a, "side_a"), _length(side_b, "side_b"), _length(side_c, "side_c")
    short, middle, long = sorted((a, b, c))
    if short + middle <= long:
        raise ValueError(f"sides {a}, {b} and {c} make no triangle: the two shorter must exceed the longest together")
    # Kahan's order of the factors keeps needle-thin triangles exact
    area = 0.25 * math.sqrt(
        (long + (middle + short)) * (short - (long - middle)) * (short + (long - middle)) * (long + (middle - short))
    )
    angles = [
        math.degrees(math.acos(max(-1.0, min(1.0, (p * p + q * q - opposite * opposite) / (2 * p * q)))))
        for opposite, p, q in ((a, b, c), (b, a, c), (c, a, b))
    ]
    kind = {1: "equilateral", 2: "isosceles", 3: "scalene"}[len({a, b, c})]
    return {"area": area, "perimeter": a + b + c, "angles_degrees": angles, "kind": kind}


@starter_tool("Geometry")
def right_triangle_side(
    leg: float, other_leg: float | None = None, hypotenuse: float | None = None
) -> dict[str, float | str]:
    """Find the missing side of a right-angled triangle with the theorem of Pythagoras.

    Give one leg and either the other leg or the hypotenuse. Answers ladder-against-a-wall, screen diagonal and roof
    rafter questions.

    Args:
        leg: A side next to the right angle, greater than 0.
        other_leg: The other side next to the right angle, in the same unit; null if it is wanted.
        hypotenuse: The longest side, opposite the right angle, in the same unit; null if it is wanted.

    Returns:
        ``missing``, the name of the side that was computed (``other_leg`` or ``hypotenuse``), and its ``length``.

    Raises:
        ValueError: Not exactly one of the other sides is given, a side is not greater than 0, or the hypotenuse is not
            longer than the leg.
    """
    a = _length(leg, "leg")
    if (other_leg is None) == (hypotenuse is None):
        raise ValueError("give exactly one of other_leg and hypotenuse; the other one is computed")
    if other_leg is not None:
        return {"missing": "hypotenuse", "length": math.hypot(a, _length(other_leg, "other_leg"))}
    c = _length(hypotenuse, "hypotenuse")
    if c <= a:
        raise ValueError(f"hypotenuse: expected a length greater than the leg {a}, got {c}")
    return {"missing": "other_leg", "length": math.sqrt((c - a) * (c + a))}


@starter_tool("Geometry")
def point_distance(
    start: list[float], end: list[float], metric: Literal["straight", "manhattan"] = "straight"
) -> float:
    """Measure how far apart two points are, given by their coordinates in the plane or in space.

    The straight (Euclidean) distance is the length of the segment between them; the Manhattan distance goes along the
    axes like streets in a grid. Not for latitude and longitude.

    Args:
        start: Coordinates of the first point, such as [x, y] or [x, y, z].
        end: Coordinates of the second point, as many as the first has.
        metric: ``straight`` for the direct line, ``manhattan`` for the way along the axes.

    Returns:
        The distance, in the unit of the coordinates.

    Raises:
        ValueError: Different numbers of coordinates, no coordinates, or an unknown metric.
    """
    if metric not in ("straight", "manhattan"):
        raise ValueError(f"metric: expected 'straight' or 'manhattan', got {metric!r}")
    p, q = _coordinates(start, "start"), _coordinates(end, "end")
    if len(p) != len(q) or not p:
        raise ValueError(f"start and end need the same number of coordinates, got {len(p)} and {len(q)}")
    if metric == "manhattan":
        return math.fsum(abs(a - b) for a, b in zip(p, q, strict=True))
    return math.dist(p, q)


@starter_tool("Geometry")
def polygon_area(vertices: list[list[float]]) -> dict[str, float]:
    """Compute the area and perimeter of any polygon from the coordinates of its corners (shoelace formula).

    For plots of land, floor plans and irregular shapes drawn on a grid. The outline must not cross itself.

    Args:
        vertices: Corners as [x, y] in order around the outline, either way round, at least three.

    Returns:
        ``area`` in square units and ``perimeter`` in units of the coordinates.

    Raises:
        ValueError: Fewer than three corners, or a corner that is not two finite numbers.
    """
    corners = _corners(vertices)
    # relative to the first corner, which keeps large map coordinates exact
    doubled = math.fsum(_cross(corners[0], a, b) for a, b in _sides(corners))
    return {"area": abs(doubled) / 2, "perimeter": math.fsum(math.dist(a, b) for a, b in _sides(corners))}


@starter_tool("Geometry")
def cylinder_measurements(radius: float, height: float) -> dict[str, float]:
    """Compute the volume and surface area of a cylinder from its radius and height.

    For cans, pipes, round tanks, wells, candles and drums: how much fits in and how much material covers it.

    Args:
        radius: Radius of the round base, greater than 0.
        height: Height or length of the cylinder, greater than 0, in the same unit.

    Returns:
        ``volume`` in cubic units, ``side_area`` (the curved side only) and ``surface_area`` (with both ends) in square
        units.

    Raises:
        ValueError: Radius or height is not a number greater than 0.
    """
    r, h = _length(radius, "radius"), _length(height, "height")
    side = 2 * math.pi * r * h
    return {"volume": math.pi * r * r * h, "side_area": side, "surface_area": side + 2 * math.pi * r * r}


@starter_tool("Geometry")
def sphere_measurements(radius: float) -> dict[str, float]:
    """Compute the volume and surface area of a sphere (ball) from its radius.

    For balls, globes, bubbles, marbles, oranges and planets.

    Args:
        radius: Distance from the centre to the surface, greater than 0, in any length unit; half the diameter.

    Returns:
        ``volume`` in cubic units and ``surface_area`` in square units.

    Raises:
        ValueError: The radius is not a number greater than 0.
    """
    r = _length(radius, "radius")
    return {"volume": 4 / 3 * math.pi * r**3, "surface_area": 4 * math.pi * r * r}


@starter_tool("Geometry")
def box_measurements(length: float, width: float, height: float) -> dict[str, float]:
    """Compute the volume, surface area and inner diagonal of a rectangular box.

    For parcels, rooms, aquariums, crates, bricks and swimming pools with straight walls: capacity, wrapping or paint
    needed, and the longest stick that fits inside.

    Args:
        length: First edge, greater than 0.
        width: Second edge, greater than 0, in the same unit.
        height: Third edge, greater than 0, in the same unit.

    Returns:
        ``volume`` in cubic units, ``surface_area`` of all six faces in square units, and ``diagonal`` from corner to
        opposite corner.

    Raises:
        ValueError: An edge is not a number greater than 0.
    """
    a, b, c = _length(length, "length"), _length(width, "width"), _length(height, "height")
    return {"volume": a * b * c, "surface_area": 2 * (a * b + a * c + b * c), "diagonal": math.hypot(a, b, c)}


@starter_tool("Geometry")
def great_circle_distance(
    start_latitude: float, start_longitude: float, end_latitude: float, end_longitude: float
) -> dict[str, float]:
    """Measure the shortest way over the Earth's surface between two places given by latitude and longitude.

    This is the as-the-crow-flies or flight distance between GPS positions (haversine formula on a sphere), with the
    compass direction in which to set out.

    Args:
        start_latitude: Latitude of the first place in decimal degrees, -90 to 90, north positive.
        start_longitude: Longitude of the first place in decimal degrees, -180 to 180, east positive.
        end_latitude: Latitude of the second place in decimal degrees.
        end_longitude: Longitude of the second place in decimal degrees.

    Returns:
        ``kilometres`` and ``initial_bearing_degrees`` (0 north, 90 east).

    Raises:
        ValueError: A latitude or longitude is out of range.
    """
    limits = {
        "start_latitude": (start_latitude, 90),
        "start_longitude": (start_longitude, 180),
        "end_latitude": (end_latitude, 90),
        "end_longitude": (end_longitude, 180),
    }
    for name, (value, limit) in limits.items():
        if abs(_finite(value, name)) > limit:
            raise ValueError(f"{name}: expected degrees from -{limit} to {limit}, got {value!r}")
    lat1, lon1, lat2, lon2 = (math.radians(value) for value, _ in limits.values())
    half = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    distance = 2 * _EARTH_RADIUS_KM * math.atan2(math.sqrt(half), math.sqrt(max(0.0, 1 - half)))
    east = math.sin(lon2 - lon1) * math.cos(lat2)
    north = math.cos(lat1) * math.sin(lat2) - math.sin(lat1) * math.cos(lat2) * math.cos(lon2 - lon1)
    return {"kilometres": distance, "initial_bearing_degrees": math.degrees(math.atan2(east, north)) % 360}


@starter_tool("Geometry")
def point_in_polygon(point: list[float], vertices: list[list[float]]) -> Literal["inside", "outside", "boundary"]:
    """Test whether a point lies inside a polygon, outside it, or exactly on its boundary.

    For zones on a map or drawing: is this click, address or sensor within the fenced region? The outline may bend
    inwards.

    Args:
        point: The point to test as [x, y].
        vertices: Corners of the polygon as [x, y], in order around the outline, at least three.

    Returns:
        ``inside``, ``outside`` or ``boundary``.

    Raises:
        ValueError: Fewer than three corners, or a point that is not two finite numbers.
    """
    p = _point(point, "point")
    inside = False
    for a, b in _sides(_corners(vertices)):
        between = min(a[0], b[0]) <= p[0] <= max(a[0], b[0]) and min(a[1], b[1]) <= p[1] <= max(a[1], b[1])
        if between and (p in (a, b) or _collinear(p, a, b)):
            return "boundary"
        # a ray to the right crosses this side
        if (a[1] > p[1]) != (b[1] > p[1]) and (_cross(a, b, p) > 0) == (b[1] > a[1]):
            inside = not inside
    return "inside" if inside else "outside"


@starter_tool("Geometry")
def line_intersection(first_line: list[list[float]], second_line: list[list[float]]) -> dict[str, Any]:
    """Find the point where two straight lines cross, each given by two points on it.

    The lines go on for ever beyond the given points. Tells whether they are parallel or the very same line instead.

    Args:
        first_line: Two different points [[x1, y1], [x2, y2]] on the first line.
        second_line: Two different points on the second line.

    Returns:
        ``relation``, one of ``crossing``, ``parallel`` and ``identical``, and ``point``, the crossing as [x, y] or
        null.

    Raises:
        ValueError: A line is not two different points with two coordinates.
    """
    ends: list[_Point] = []
    for name, line in (("first_line", first_line), ("second_line", second_line)):
        if not isinstance(line, (list, tuple)) or len(line) != 2:
            raise ValueError(f"{name}: expected two points [[x1, y1], [x2, y2]], got {line!r}")
        pair = [_point(end, f"{name}[{index}]") for index, end in enumerate(line)]
        if pair[0] == pair[1]:
            raise ValueError(f"{name}: expected two different points, got {line!r}")
        ends += pair
    a, b, c, d = ends
    (ux, uy), (vx, vy) = (b[0] - a[0], b[1] - a[1]), (d[0] - c[0], d[1] - c[1])
    turn = ux * vy - uy * vx
    if abs(turn) <= _FLAT * math.hypot(ux, uy) * math.hypot(vx, vy):
        # the farther end of the second line decides, should the nearer one be a's neighbour
        far = max((c, d), key=lambda end: math.dist(a, end))
        return {"relation": "identical" if _collinear(a, b, far) else "parallel", "point": None}
    along = ((c[0] - a[0]) * vy - (c[1] - a[1]) * vx) / turn
    return {"relation": "crossing", "point": [a[0] + along * ux, a[1] + along * uy]}
