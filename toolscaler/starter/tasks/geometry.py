"""One-call task families about shapes and places."""

from __future__ import annotations

from toolscaler.starter.tasks.draw import Draw
from toolscaler.starter.tasks.family import Values, call


def _triangle(d: Draw) -> Values:
    one, two = d.num(4, 20), d.num(4, 20)
    return {"side_a": one, "side_b": two, "side_c": d.num(abs(one - two) + 1, one + two - 1)}


def _rectangle(d: Draw) -> Values:
    left, low, wide, high = d.num(0, 5), d.num(0, 5), d.num(3, 20), d.num(3, 20)
    shape = [[left, low], [left + wide, low], [left + wide, low + high], [left, low + high]]
    return {"vertices": shape if d.num(0, 2) else shape[:3]}


def _zone(d: Draw) -> Values:
    wide, high = d.num(6, 12), d.num(6, 12)
    point = [d.num(1, 16), d.num(1, 16)]
    return {"point": point, "vertices": [[0, 0], [wide, 0], [wide, high], [0, high]]}


def _lines(d: Draw) -> Values:
    x, y, step = d.num(1, 9), d.num(1, 9), d.num(1, 4)
    return {
        "first_line": [[x - step, y - step], [x + 2 * step, y + 2 * step]],
        "second_line": [[x - step, y + step], [x + 3 * step, y - 3 * step]],
    }


FAMILIES = (
    call(
        "circle_measurements",
        lambda d: {"radius": d.pick((d.num(2, 60), d.decimal(1, 30)))},
        (
            "What is the area of a circle with radius {radius}?",
            "A round table has a radius of {radius}. What is its area?",
            "circle area, radius {radius}",
        ),
        ("How large is the surface of a round pond of radius {radius}?",),
        "the area of a circle", "measure the circle", "The area is {ref}.",
        ref="area",
    ),
    call(
        "triangle_from_sides",
        _triangle,
        (
            "What is the area of a triangle with the sides {side_a}, {side_b} and {side_c}?",
            "A triangle has sides of {side_a}, {side_b} and {side_c}. How large is it?",
            "triangle area, sides {side_a}, {side_b}, {side_c}",
        ),
        ("Three fences of {side_a}, {side_b} and {side_c} meter enclose a field. What area is inside?",),
        "the area of a triangle", "solve the triangle", "The area is {ref}.",
        ref="area",
    ),
    call(
        "right_triangle_side",
        lambda d: {"leg": d.num(3, 40), "other_leg": d.num(3, 40)},
        (
            "How long is the hypotenuse if the legs are {leg} and {other_leg}?",
            "A right triangle has the legs {leg} and {other_leg}. What is its longest side?",
            "hypotenuse, legs {leg} and {other_leg}",
        ),
        ("A ladder stands {leg} from the wall and reaches {other_leg} high. How long is it?",),
        "the longest side", "use the two legs", "The length is {ref}.",
        ref="length",
    ),
    call(
        "point_distance",
        lambda d: {"start": d.ints(2, 0, 20), "end": d.ints(2, 0, 20), "metric": d.pick(("straight", "manhattan"))},
        (
            "What is the {metric} distance from point {start} to point {end}?",
            "How far is it from {start} to {end} by the {metric} distance?",
            "{metric} distance between {start} and {end}",
        ),
        ("Two pins are at {start} and {end}. Measure the {metric} distance.",),
        "the distance of two points", "measure between the points", "The distance is {ref}.",
        show={"start": str, "end": str},
    ),
    call(
        "polygon_area",
        _rectangle,
        (
            "What is the area of the polygon with the corners {vertices}?",
            "My plot has the corners {vertices}. How large is it?",
            "polygon area {vertices}",
        ),
        ("The outline runs through {vertices}. Which area does it enclose?",),
        "the area of a polygon", "use its corners", "The area is {ref}.",
        ref="area",
    ),
    call(
        "cylinder_measurements",
        lambda d: {"radius": d.num(2, 25), "height": d.num(3, 60)},
        (
            "What is the volume of a cylinder with radius {radius} and height {height}?",
            "A can has radius {radius} and height {height}. How much fits in?",
            "cylinder volume, radius {radius}, height {height}",
        ),
        ("A round tank is {height} high and has a radius of {radius}. What volume does it hold?",),
        "the volume of a cylinder", "measure the cylinder", "The volume is {ref}.",
        ref="volume",
    ),
    call(
        "sphere_measurements",
        lambda d: {"radius": d.pick((d.num(2, 50), d.decimal(1, 30)))},
        (
            "What is the volume of a sphere with radius {radius}?",
            "A ball has a radius of {radius}. What is its volume?",
            "sphere volume, radius {radius}",
        ),
        ("How much space does a globe of radius {radius} take up?",),
        "the volume of a sphere", "measure the sphere", "The volume is {ref}.",
        ref="volume",
    ),
    call(
        "box_measurements",
        lambda d: {"length": d.num(3, 60), "width": d.num(3, 40), "height": d.num(3, 30)},
        (
            "What is the volume of a box of {length} by {width} by {height}?",
            "A parcel is {length} long, {width} wide and {height} high. What is its volume?",
            "box volume {length} x {width} x {height}",
        ),
        ("An aquarium measures {length} by {width} by {height}. How much water fits in?",),
        "the volume of a box", "measure the box", "The volume is {ref}.",
        ref="volume",
    ),
    call(
        "great_circle_distance",
        lambda d: {
            "start_latitude": d.decimal(-60, 60), "start_longitude": d.decimal(-170, 170),
            "end_latitude": d.decimal(-60, 60), "end_longitude": d.decimal(-170, 170),
        },
        (
            "How many kilometres is it from latitude {start_latitude}, longitude {start_longitude} to latitude "
            "{end_latitude}, longitude {end_longitude}?",
            "We fly from {start_latitude} {start_longitude} to {end_latitude} {end_longitude} (latitude, longitude). "
            "How far is that in kilometres?",
            "flight distance latitude {start_latitude} longitude {start_longitude} to latitude {end_latitude} "
            "longitude {end_longitude}",
        ),
        ("As the crow flies, how far apart are {start_latitude} {start_longitude} and {end_latitude} {end_longitude} "
            "on the globe?",),
        "the distance over the Earth", "measure between the positions", "It is {ref} kilometres.",
        ref="kilometres",
    ),
    call(
        "point_in_polygon",
        _zone,
        (
            "Is the point {point} inside or outside the polygon {vertices}?",
            "Does the point {point} lie within the zone {vertices}?",
            "where is point {point} relative to polygon {vertices}",
        ),
        ("The fence runs along {vertices}. Is the dog at {point} inside?",),
        "the place of a point", "test it against the polygon", "The point is: {ref}",
        show={"point": str}, echo=True,
    ),
    call(
        "line_intersection",
        _lines,
        (
            "Where do the lines {first_line} and {second_line} cross?",
            "One line runs through {first_line}, the other through {second_line}. Where do they meet?",
            "intersection of the lines {first_line} and {second_line}",
        ),
        ("Two roads follow {first_line} and {second_line}. At which point is the crossing?",),
        "the crossing of two lines", "intersect the lines", "They cross at {ref}",
        ref="point",
    ),
)  # fmt: skip
