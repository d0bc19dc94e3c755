"""One-call task families about statistics."""

from __future__ import annotations

from toolscaler.starter.tasks.draw import Draw
from toolscaler.starter.tasks.family import Values, call


def _pairs(d: Draw) -> Values:
    return {"x_values": sorted(d.different(4, 1, 20)), "y_values": d.different(4, 5, 60)}


def _line(d: Draw) -> Values:
    slope, start = d.num(2, 9), d.num(1, 30)
    x_values = sorted(d.different(3, 1, 9))
    return {"x_values": x_values, "y_values": [start + slope * x for x in x_values], "predict_at": d.num(11, 40)}


def _votes(d: Draw) -> Values:
    one, two, three = d.words(3)
    return {"items": d.shuffled([one, one, one, two, two, three])}


def _outlier(d: Draw) -> Values:
    usual = d.different(6, 20, 30)
    return {"values": d.shuffled([*usual, d.num(80, 99)])}


FAMILIES = (
    call(
        "arithmetic_mean",
        lambda d: {"values": d.ints(d.pick((4, 5)), 5, 95)},
        ("What is the average of {values}?", "My scores are {values}. What is the mean?", "mean of {values}"),
        ("Day by day we counted {values}. How much is that on average?",),
        "an average", "compute the mean", "The average is {ref}.",
        longest=6,
    ),
    call(
        "median_value",
        lambda d: {"values": d.different(d.pick((5, 6)), 5, 95)},
        ("What is the median of {values}?", "Which value lies in the middle of {values}?", "median of {values}"),
        ("Half of {values} should lie below it, half above. What is that median?",),
        "the median", "find the middle value", "The median is {ref}.",
        echo=True,
    ),
    call(
        "most_common_value",
        _votes,
        ("Which item is most frequent in {items}?", "The votes are {items}. Who wins?", "mode of {items}"),
        ("What occurs most often here: {items}?",),
        "the most common value", "count the items", "The most common one is {ref}.",
        ref=lambda result: result["values"][0], echo=True,
    ),
    call(
        "standard_deviation",
        lambda d: {"values": d.ints(4, 5, 60), "kind": d.pick(("sample", "population"))},
        (
            "What is the {kind} standard deviation of {values}?",
            "How widely do the numbers {values} spread? Give the {kind} standard deviation.",
            "{kind} standard deviation: {values}",
        ),
        ("My measurements are {values}. I need their {kind} standard deviation.",),
        "the standard deviation", "measure the spread", "The standard deviation is {ref}.",
        ref="standard_deviation",
    ),
    call(
        "percentile_value",
        lambda d: {"values": d.different(5, 5, 95), "percent": d.pick((10, 20, 25, 40, 60, 75, 80, 90, 95))},
        (
            "What is percentile {percent} of {values}?",
            "Below which value lie {percent} percent of {values}?",
            "{percent}th percentile of {values}",
        ),
        ("The response times are {values}. Where is the cut-off for {percent} percent of them?",),
        "a percentile", "find the value at that percent", "The value is {ref}.",
        longest=6, echo=True,
    ),
    call(
        "correlation_coefficient",
        lambda d: _pairs(d) | {"method": d.pick(("pearson", "spearman"))},
        (
            "What is the {method} correlation of {x_values} with {y_values}?",
            "How strongly do {x_values} and {y_values} move together? Use {method}.",
            "{method} correlation between {x_values} and {y_values}",
        ),
        ("I measured {x_values} and then {y_values}. How are they correlated by {method}?",),
        "a correlation", "compare the paired numbers", "The correlation is {ref}.",
    ),
    call(
        "linear_trend",
        _line,
        (
            "Fit a line through x {x_values} and y {y_values}. What is y at {predict_at}?",
            "In months {x_values} we sold {y_values}. What does the trend forecast for month {predict_at}?",
            "linear regression x {x_values}, y {y_values}, predict at {predict_at}",
        ),
        ("With sizes {x_values} the prices are {y_values}. Which price fits size {predict_at} on a straight line?",),
        "a forecast", "fit a straight line", "The prediction is {ref}.",
        ref="prediction", longest=7,
    ),
    call(
        "weighted_average",
        lambda d: {"values": d.different(3, 40, 100), "weights": d.ints(3, 1, 5)},
        (
            "What is the average of {values} with the weights {weights}?",
            "My grades {values} count {weights} credits. What is the weighted mean?",
            "weighted mean of {values}, weights {weights}",
        ),
        ("The parts {values} have the importance {weights}. What is the weighted result?",),
        "a weighted average", "weigh the numbers", "The weighted average is {ref}.",
        longest=7,
    ),
    call(
        "find_outliers",
        _outlier,
        (
            "Which number is an outlier in {values}?",
            "One of {values} looks wrong. Which one?",
            "outliers in {values}",
        ),
        ("Is there a suspicious value among {values}, and which is it?",),
        "the unusual numbers", "look for outliers", "The outlier is {ref}.",
        ref=lambda result: result["outliers"][0] if len(result["outliers"]) == 1 else "none or several", echo=True,
    ),
    call(
        "histogram_counts",
        lambda d: {"values": d.different(7, 10, 70), "bins": d.num(2, 4)},
        (
            "Sort {values} into {bins} equal ranges. How many fall into each?",
            "How many of {values} are in each of {bins} bins?",
            "histogram of {values} with {bins} bins",
        ),
        ("The ages are {values}. Count them in {bins} classes of equal width.",),
        "the counts of the ranges", "sort the numbers into bins", "The counts are: {ref}",
        ref=lambda result: [record["count"] for record in result],
    ),
    call(
        "binomial_probability",
        lambda d: {
            "trials": (trials := d.num(3, 8)), "successes": d.num(1, trials - 1),
            "chance": d.pick((0.1, 0.2, 0.25, 0.4, 0.5, 0.6)),
            "mode": d.pick(("exactly", "at_least", "at_most")),
        },
        (
            "How likely are {mode} {successes} hits in {trials} tries with a chance of {chance} each?",
            "I try {trials} times and win with probability {chance}. What is the chance of {mode} {successes} wins?",
            "probability of {mode} {successes} successes, {trials} trials, chance {chance}",
        ),
        ("A part is bad with probability {chance}. How likely are {mode} {successes} bad ones among {trials}?",),
        "a probability", "compute it for the attempts", "The probability is {ref}.",
        show={"mode": lambda mode: mode.replace("_", " ")},
    ),
)  # fmt: skip
