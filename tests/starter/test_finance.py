"""Finance tools against textbook figures, month-by-month ledgers and exact fractions."""

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolscaler.starter.registry import load_starter_documents
from toolscaler.starter.tools.finance import (
    compound_interest,
    depreciation_schedule,
    discount_price,
    inflation_adjustment,
    internal_rate_of_return,
    loan_payment,
    net_present_value,
    profit_margin,
    sales_tax,
    split_by_shares,
    tip_and_split,
)

cents = st.integers(0, 10**7).map(lambda c: c / 100)


def test_the_category_has_eleven_documented_tools():
    documents = [d for d in load_starter_documents() if d.category == "Finance"]
    assert len(documents) == 11
    for document in documents:
        assert all(schema.get("description") for schema in document.parameters["properties"].values())
        assert document.returns["description"]
        assert document.description.count(".") >= 2


def test_compound_interest():
    yearly = compound_interest(1000, 5, 10, compounds_per_year=1)
    assert yearly == {"final_balance": 1628.89, "total_deposited": 1000, "interest_earned": 628.89}
    assert compound_interest(1500, 4.3, 6, compounds_per_year=4)["final_balance"] == 1938.84
    assert compound_interest(0, 0, 2, monthly_deposit=50)["final_balance"] == 1200
    assert compound_interest(100, 7, 0)["final_balance"] == 100


@given(st.integers(0, 5000), st.integers(0, 20), st.integers(0, 15), st.integers(0, 300))
def test_compound_interest_like_a_ledger(principal, rate, years, deposit):
    balance = Fraction(principal)
    for _ in range(12 * years):
        balance = balance * (1 + Fraction(rate, 1200)) + deposit
    result = compound_interest(principal, rate, years, monthly_deposit=deposit)
    assert result["final_balance"] == pytest.approx(float(balance), abs=0.011)
    assert result["total_deposited"] == principal + 12 * years * deposit


def test_loan_payment():
    assert loan_payment(200_000, 6, 30)["monthly_payment"] == 1199.10
    assert loan_payment(12_000, 0, 1) == {"monthly_payment": 1000, "total_paid": 12_000, "total_interest": 0}
    assert loan_payment(20_000, 5, 5)["monthly_payment"] == 377.42
    assert loan_payment(1000, 1e-9, 1)["monthly_payment"] == 83.33


@given(st.integers(1000, 500_000), st.integers(1, 20), st.integers(1, 30))
def test_loan_payment_pays_the_loan_off(amount, rate, years):
    payment = loan_payment(amount, rate, years)["monthly_payment"]
    growth = (1 + rate / 1200) ** (12 * years)
    owed = amount * growth - payment * (growth - 1) / (rate / 1200)
    assert abs(owed) <= 0.0051 * (growth - 1) / (rate / 1200) + 1e-4


def test_net_present_value():
    assert net_present_value(10, [-1000, 500, 500, 500]) == 243.43
    assert net_present_value(0, [-100, 60, 60]) == 20
    assert net_present_value(10, [-100, 110]) == 0
    assert net_present_value(8, [0, 108]) == 100


def test_internal_rate_of_return():
    assert internal_rate_of_return([-100, 110]) == 10
    assert internal_rate_of_return([-100, 60, 60]) == pytest.approx(13.066239, abs=1e-5)
    assert internal_rate_of_return([-100, 50]) == -50
    assert internal_rate_of_return([0, 0, -100, 110]) == 10
    assert internal_rate_of_return([1000, -1000]) == 0
    # a late repair changes the sign again, yet the accumulated flows turn only once
    rate = internal_rate_of_return([-1000, 800, -50, 600])
    assert net_present_value(rate, [-1000, 800, -50, 600]) == 0


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=8), st.integers(1, 1000))
def test_internal_rate_brings_the_value_to_zero(receipts, last):
    flows = [-1000.0, *receipts, last]
    factor = 1 / (1 + internal_rate_of_return(flows) / 100)
    terms = [flow * factor**year for year, flow in enumerate(flows)]
    assert abs(sum(terms)) <= 1e-4 * sum(map(abs, terms))


def test_discount_price():
    assert discount_price(80, 25) == {"final_price": 60, "saved": 20}
    assert discount_price(19.99, 15) == {"final_price": 16.99, "saved": 3}
    assert discount_price(100, 20, 10) == {"final_price": 72, "saved": 28}
    assert discount_price(5, 100)["final_price"] == 0


def test_tip_and_split():
    assert tip_and_split(100, 15, 4) == {"tip": 15, "total": 115, "per_person": 28.75}
    assert tip_and_split(50, 20) == {"tip": 10, "total": 60, "per_person": 60}
    assert tip_and_split(10, 0, 3)["per_person"] == 3.34


def test_sales_tax():
    assert sales_tax(100, 19) == {"net": 100, "tax": 19, "gross": 119}
    assert sales_tax(119, 19, "gross") == {"net": 100, "tax": 19, "gross": 119}
    assert sales_tax(9.99, 8.25) == {"net": 9.99, "tax": 0.82, "gross": 10.81}


@given(cents, st.integers(0, 30))
def test_sales_tax_there_and_back(net, rate):
    gross = sales_tax(net, rate)["gross"]
    assert sales_tax(gross, rate, "gross")["net"] == pytest.approx(net, abs=0.0051)


def test_profit_margin():
    assert profit_margin(60, 100) == {"profit": 40, "margin_percent": 40, "markup_percent": pytest.approx(66.6667)}
    assert profit_margin(50, 40)["margin_percent"] == -25
    assert profit_margin(0, 9.5) == {"profit": 9.5, "margin_percent": 100, "markup_percent": None}


def test_depreciation_schedule():
    straight = depreciation_schedule(10_000, 1000, 3)
    assert [row["depreciation"] for row in straight] == [3000, 3000, 3000]
    assert straight[-1] == {"year": 3, "depreciation": 3000, "book_value": 1000}
    fast = depreciation_schedule(10_000, 1000, 5, "declining_balance")
    assert [row["depreciation"] for row in fast] == [4000, 2400, 1440, 864, 296]
    assert depreciation_schedule(100, 100, 2)[1]["book_value"] == 100


@given(
    st.integers(1, 10**6),
    st.integers(0, 100),
    st.integers(1, 30),
    st.sampled_from(["straight_line", "declining_balance"]),
)
def test_depreciation_loses_no_cent(cost, salvage_percent, life, method):
    salvage = round(cost * salvage_percent / 100, 2)
    schedule = depreciation_schedule(cost, salvage, life, method)
    assert len(schedule) == life
    assert sum(Fraction(str(row["depreciation"])) for row in schedule) == cost - Fraction(str(salvage))
    assert all(row["depreciation"] >= 0 for row in schedule)


def test_inflation_adjustment():
    assert inflation_adjustment(100, 2, 1) == 102
    assert inflation_adjustment(1000, 3, 10, "future_cost") == 1343.92
    assert inflation_adjustment(1000, 3, 10, "purchasing_power") == 744.09
    assert inflation_adjustment(50, 100, 2, "purchasing_power") == 12.5


def test_split_by_shares():
    assert split_by_shares(100, [50, 30, 20]) == [50, 30, 20]
    assert split_by_shares(100, [1, 1, 1]) == [33.34, 33.33, 33.33]
    assert split_by_shares(0.01, [1, 2]) == [0, 0.01]
    assert split_by_shares(10, [0, 1]) == [0, 10]


@given(cents, st.lists(st.integers(0, 50), min_size=1, max_size=6))
def test_split_by_shares_adds_up(amount, shares):
    if not any(shares):
        shares = [*shares, 1]
    parts = split_by_shares(amount, shares)
    assert sum(Fraction(str(part)) for part in parts) == Fraction(str(amount))
    for part, share in zip(parts, shares, strict=True):
        assert abs(Fraction(str(part)) - Fraction(str(amount)) * share / sum(shares)) < Fraction(1, 100)


@pytest.mark.parametrize(
    "call",
    [
        lambda: compound_interest(-1, 5, 1),
        lambda: compound_interest(1, 5, 1, compounds_per_year=0),
        lambda: compound_interest(1, 5, 2000),
        lambda: compound_interest(1, 1e6, 1000),
        lambda: loan_payment(0, 5, 1),
        lambda: loan_payment(100, -1, 1),
        lambda: loan_payment(100, 5, 0),
        lambda: net_present_value(-100, [1]),
        lambda: net_present_value(5, []),
        lambda: net_present_value(5, ["x"]),
        lambda: internal_rate_of_return([100, 200]),
        lambda: internal_rate_of_return([]),
        lambda: internal_rate_of_return([0, 0]),
        lambda: internal_rate_of_return([-100, 230, -132]),
        lambda: discount_price(10, 101),
        lambda: discount_price(-10, 10),
        lambda: discount_price(10, "10"),
        lambda: tip_and_split(10, 10, 0),
        lambda: tip_and_split(-10, 10),
        lambda: tip_and_split(10, -1),
        lambda: sales_tax(10, 19, "both"),
        lambda: sales_tax(10, -19),
        lambda: profit_margin(1, 0),
        lambda: profit_margin(-1, 1),
        lambda: depreciation_schedule(100, 200, 3),
        lambda: depreciation_schedule(100, 0, 0),
        lambda: depreciation_schedule(100, 0, 3, "fast"),
        lambda: inflation_adjustment(100, -100, 3),
        lambda: inflation_adjustment(100, 3, -1),
        lambda: inflation_adjustment(100, 3, 1, "past"),
        lambda: split_by_shares(10, []),
        lambda: split_by_shares(10, [0, 0]),
        lambda: split_by_shares(10, [1, -1]),
        lambda: split_by_shares(float("nan"), [1]),
    ],
)
def test_bad_values_are_refused(call):
    with pytest.raises(ValueError, match=r"expected|outgrows|not unique|add up|too large"):
        call()


def test_results_are_plain_json():
    results = [loan_payment(1, 1, 1), depreciation_schedule(9, 1, 2), split_by_shares(1, [1, 2]), profit_margin(0, 1)]
    assert json.loads(json.dumps(results)) == results
