"""Finance tools: amounts, rates and years go in, amounts rounded to cents come out."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal
from itertools import accumulate, pairwise
from typing import Any, Literal

from toolscaler.starter.registry import starter_tool

_CENT = Decimal("0.01")
_MOST_YEARS = 1000


def _finite(value: Any, name: str) -> float:
    """Give ``value`` as a float, or refuse it by name."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value!r}")
    if abs(value) > 1e15:
        raise ValueError(f"{name}: expected a number of at most 1e15, got {value!r}")
    return float(value)


def _at_least(value: Any, name: str, bound: float) -> float:
    """Give a finite number that is not below ``bound``."""
    number = _finite(value, name)
    if number < bound:
        raise ValueError(f"{name}: expected a number of at least {bound:g}, got {value!r}")
    return number


def _positive(value: Any, name: str) -> float:
    """Give a finite number greater than 0."""
    number = _finite(value, name)
    if number <= 0:
        raise ValueError(f"{name}: expected a number greater than 0, got {value!r}")
    return number


def _years(value: Any) -> float:
    """Give a span of years."""
    number = _at_least(value, "years", 0)
    if number > _MOST_YEARS:
        raise ValueError(f"years: expected at most {_MOST_YEARS}, got {value!r}")
    return number


def _whole(value: Any, name: str, most: int) -> int:
    """Give a whole number from 1 to ``most``."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ValueError(f"{name}: expected a whole number from 1 to {most}, got {value!r}")
    return value


def _growth(rate: float, periods: float) -> float:
    """Give (1 + rate) ** periods."""
    try:
        return (1 + rate) ** periods
    except OverflowError as error:
        raise ValueError(f"the amount outgrows every number: {rate:.2%} over {periods:g} periods") from error


def _decimal(value: float) -> Decimal:
    """Give the decimal that a person would write for ``value``: 0.1 is one tenth."""
    return Decimal(repr(value))


def _money(amount: float | Decimal) -> float:
    """Round to cents, half a cent upwards in size."""
    exact = amount if isinstance(amount, Decimal) else _decimal(round(amount, 9))
    if not exact.is_finite() or abs(exact) > Decimal("1e24"):
        raise ValueError("the resulting amount is too large")
    return float(exact.quantize(_CENT, rounding=ROUND_HALF_UP))


@starter_tool("Finance")
def compound_interest(
    principal: float, annual_rate: float, years: float, compounds_per_year: int = 12, monthly_deposit: float = 0
) -> dict[str, float]:
    """Compute how savings or an investment grow with compound interest.

    Interest is paid on earlier interest too. A fixed deposit at the end of every month can be added, as in a savings
    plan. Answers what money put aside today will be worth later.

    Args:
        principal: Amount at the start, at least 0, in any currency.
        annual_rate: Nominal yearly interest rate in percent; 5 means 5 %.
        years: How long the money stays, at most 1000.
        compounds_per_year: How often interest is credited a year: 1 yearly, 4 quarterly, 12 monthly, 365 daily.
        monthly_deposit: Amount added at the end of each month, at least 0; only whole months count.

    Returns:
        ``final_balance``, ``total_deposited`` (start and deposits) and ``interest_earned``, in the currency.

    Raises:
        ValueError: A negative amount or span, a rate below 0, or a result that is too large.
    """
    start, rate = _at_least(principal, "principal", 0), _at_least(annual_rate, "annual_rate", 0) / 100
    span, often = _years(years), _whole(compounds_per_year, "compounds_per_year", 366)
    deposit = _at_least(monthly_deposit, "monthly_deposit", 0)
    months = math.floor(span * 12 + 1e-9)
    grown = start * _growth(rate / often, often * span)
    if deposit:
        monthly = _growth(rate / often, often / 12) - 1
        factor = months if monthly == 0 else (_growth(monthly, months) - 1) / monthly
        grown += deposit * factor * _growth(monthly, max(0.0, span * 12 - months))
    paid = start + deposit * months
    balance = _money(grown)
    return {
        "final_balance": balance,
        "total_deposited": _money(paid),
        "interest_earned": _money(_decimal(balance) - _decimal(_money(paid))),
    }


@starter_tool("Finance")
def loan_payment(loan_amount: float, annual_rate: float, years: float) -> dict[str, float]:
    """Compute the monthly payment of a loan or mortgage that is paid back in equal instalments (annuity).

    Also gives what the borrowing costs altogether. For home loans, car financing, student debt and personal credit.

    Args:
        loan_amount: Amount borrowed, greater than 0, in any currency.
        annual_rate: Nominal yearly interest rate in percent, at least 0; 4.5 means 4.5 %.
        years: Term of the loan in years; its months are rounded to a whole number, at least one.

    Returns:
        ``monthly_payment``, ``total_paid`` and ``total_interest``, in the currency, before the last
        payment is rounded.

    Raises:
        ValueError: An amount or term that is not greater than 0, or a negative rate.
    """
    amount, rate = _positive(loan_amount, "loan_amount"), _at_least(annual_rate, "annual_rate", 0) / 1200
    months = round(_years(years) * 12)
    if months < 1:
        raise ValueError(f"years: expected a term of at least one month, got {years!r}")
    # expm1 and log1p keep tiny rates exact
    payment = amount / months if rate == 0 else amount * rate / -math.expm1(-months * math.log1p(rate))
    total = payment * months
    return {
        "monthly_payment": _money(payment),
        "total_paid": _money(total),
        "total_interest": _money(max(0.0, total - amount)),
    }


def _flows(cash_flows: Any) -> list[float]:
    """Give cash flows as floats."""
    if not isinstance(cash_flows, (list, tuple)) or not cash_flows:
        raise ValueError(f"cash_flows: expected a list of amounts, got {cash_flows!r}")
    return [_finite(flow, f"cash_flows[{index}]") for index, flow in enumerate(cash_flows)]


@starter_tool("Finance")
def net_present_value(discount_rate: float, cash_flows: list[float]) -> float:
    """Compute the net present value (NPV) of a series of yearly cash flows.

    Discounts future payments to today and adds them up. Above zero, a project or investment earns more than the
    required rate of return and is worth doing.

    Args:
        discount_rate: Required yearly return in percent, above -100; 8 means 8 %.
        cash_flows: Amounts at the end of year 0 (now, usually the negative outlay), 1, 2 and so on.

    Returns:
        The net present value, in the currency, rounded to cents.

    Raises:
        ValueError: An empty list, something that is not a finite number, or a rate of -100 % or less.
    """
    rate = _finite(discount_rate, "discount_rate") / 100
    if rate <= -1:
        raise ValueError(f"discount_rate: expected a percentage above -100, got {discount_rate!r}")
    return _money(math.fsum(flow * _growth(rate, -year) for year, flow in enumerate(_flows(cash_flows))))


def _sign_changes(numbers: list[float]) -> int:
    """Count how often the sign changes along a list, zeros left out."""
    signs = [number > 0 for number in numbers if number != 0]
    return sum(a != b for a, b in pairwise(signs))


@starter_tool("Finance")
def internal_rate_of_return(cash_flows: list[float]) -> float:
    """Compute the internal rate of return (IRR): the yearly yield at which an investment just breaks even.

    It is the discount rate that brings the net present value of outlay and later receipts to zero. Use it to compare
    projects whose payments differ from year to year.

    Args:
        cash_flows: Amounts at the end of year 0 (now, usually the negative outlay), 1, 2 and so on.

    Returns:
        The rate in percent a year, rounded to six decimals; 10 means 10 %.

    Raises:
        ValueError: No outlay or no receipt, or flows that turn between outlay and receipt so often that the rate would
            not be unique.
    """
    flows = _flows(cash_flows)
    while flows and flows[0] == 0:  # waiting changes no yield
        flows.pop(0)
    changes = _sign_changes(flows)
    if changes == 0:
        raise ValueError("cash_flows: expected at least one outlay (negative) and one receipt (positive)")

    def value(factor: float) -> float:
        total = 0.0
        for flow in reversed(flows):
            total = total * factor + flow
        return total

    # by v = 1 / (1 + rate): one change of sign means one positive root; failing that, one change of sign of the
    # accumulated flows means one root below 1
    low, high = 0.0, 1.0
    if changes == 1:
        while (value(high) > 0) == (flows[0] > 0):
            high *= 2
    elif _sign_changes(list(accumulate(flows))) != 1 or value(1.0) == 0 or (value(1.0) > 0) == (flows[0] > 0):
        raise ValueError("cash_flows: outlays and receipts alternate, so the rate is not unique; use a present value")
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (value(middle) > 0) == (flows[0] > 0) else (low, middle)
    return round((1 / high - 1) * 100, 6) + 0.0


@starter_tool("Finance")
def discount_price(price: float, percent_off: float, extra_percent_off: float = 0) -> dict[str, float]:
    """Compute the sale price after a percentage discount and how much is saved.

    For coupons, clearance offers, promo codes and staff reductions; a second percentage can be taken off the price that
    is already reduced.

    Args:
        price: Regular price, at least 0, in any currency.
        percent_off: Reduction in percent of the price, from 0 to 100.
        extra_percent_off: Further reduction in percent of the reduced price, from 0 to 100.

    Returns:
        ``final_price`` and ``saved``, in the currency.

    Raises:
        ValueError: A negative price, or a reduction outside 0 to 100.
    """
    amount = _decimal(_at_least(price, "price", 0))
    final = amount
    for name, value in (("percent_off", percent_off), ("extra_percent_off", extra_percent_off)):
        if _at_least(value, name, 0) > 100:
            raise ValueError(f"{name}: expected a percentage from 0 to 100, got {value!r}")
        final *= 1 - _decimal(float(value)) / 100
    paid = _money(final)
    return {"final_price": paid, "saved": _money(amount - _decimal(paid))}


@starter_tool("Finance")
def tip_and_split(bill: float, tip_percent: float, people: int = 1) -> dict[str, float]:
    """Work out the tip (gratuity) on a restaurant bill and what each person at the table pays.

    Adds the tip to the bill and divides the sum equally among the guests.

    Args:
        bill: Amount on the bill before the tip, at least 0, in any currency.
        tip_percent: Tip in percent of the bill, at least 0; 15 means 15 %.
        people: How many people share, at least 1.

    Returns:
        ``tip``, ``total`` (bill with tip) and ``per_person`` (rounded up to the next cent so that the sum is covered).

    Raises:
        ValueError: A negative bill or tip, or fewer than one person.
    """
    amount, percent = _decimal(_at_least(bill, "bill", 0)), _decimal(_at_least(tip_percent, "tip_percent", 0))
    guests = _whole(people, "people", 1_000_000)
    tip = _decimal(_money(amount * percent / 100))
    total = _decimal(_money(amount + tip))
    cents = -(-int(total / _CENT) // guests)
    return {"tip": float(tip), "total": float(total), "per_person": float(cents * _CENT)}


@starter_tool("Finance")
def sales_tax(amount: float, tax_percent: float, amount_is: Literal["net", "gross"] = "net") -> dict[str, float]:
    """Add sales tax or VAT (value added tax, GST) to a net amount, or take it out of a gross amount.

    From a net price it gives the price with tax; from a gross price it gives the price without tax. The tax itself is
    shown in both cases, as on an invoice.

    Args:
        amount: The price, at least 0, in any currency.
        tax_percent: Tax rate in percent of the net price, at least 0; 19 means 19 %.
        amount_is: ``net`` if the amount is before tax, ``gross`` if it already contains the tax.

    Returns:
        ``net``, ``tax`` and ``gross``, in the currency; net and tax add up to gross.

    Raises:
        ValueError: A negative amount or rate, or an unknown kind of amount.
    """
    if amount_is not in ("net", "gross"):
        raise ValueError(f"amount_is: expected 'net' or 'gross', got {amount_is!r}")
    given = _decimal(_money(_at_least(amount, "amount", 0)))
    rate = _decimal(_at_least(tax_percent, "tax_percent", 0)) / 100
    other = _decimal(_money(given * (1 + rate) if amount_is == "net" else given / (1 + rate)))
    net, gross = (given, other) if amount_is == "net" else (other, given)
    return {"net": float(net), "tax": float(gross - net), "gross": float(gross)}


@starter_tool("Finance")
def profit_margin(cost: float, selling_price: float) -> dict[str, float | None]:
    """Compute the profit on a sale, its margin and its markup.

    The margin is the profit as a share of the selling price, the markup the profit as a share of the cost. Shows what a
    shop or seller really earns on a product; a loss is negative.

    Args:
        cost: What the item costs to buy or make, at least 0, in any currency.
        selling_price: What the customer pays, greater than 0, in the same currency.

    Returns:
        ``profit`` in the currency, ``margin_percent`` and ``markup_percent`` (null if the cost is 0).

    Raises:
        ValueError: A negative cost, or a selling price that is not greater than 0.
    """
    spent, price = _decimal(_at_least(cost, "cost", 0)), _decimal(_positive(selling_price, "selling_price"))
    profit = price - spent
    return {
        "profit": _money(profit),
        "margin_percent": float(round(profit / price * 100, 4)),
        "markup_percent": float(round(profit / spent * 100, 4)) if spent else None,
    }


@starter_tool("Finance")
def depreciation_schedule(
    cost: float,
    salvage_value: float,
    useful_life: int,
    method: Literal["straight_line", "declining_balance"] = "straight_line",
) -> list[dict[str, float]]:
    """List year by year how much value an asset loses and what it is still worth in the books.

    Straight line writes off the same amount every year; double declining balance writes off more in the first years.
    For machines, vehicles, computers and other equipment in accounting.

    Args:
        cost: Purchase price, greater than 0, in any currency.
        salvage_value: Residual value at the end of its life, from 0 to the cost.
        useful_life: Years of use, a whole number from 1 to 200.
        method: ``straight_line`` for equal amounts, ``declining_balance`` for twice the straight-line rate on the
            remaining value, with the rest down to the salvage value in the last year.

    Returns:
        One record a year with ``year``, ``depreciation`` and ``book_value`` at its end; the last is the salvage value.

    Raises:
        ValueError: A cost that is not greater than 0, a salvage value outside 0 to the cost, or an unknown method.
    """
    if method not in ("straight_line", "declining_balance"):
        raise ValueError(f"method: expected 'straight_line' or 'declining_balance', got {method!r}")
    price, life = _decimal(_money(_positive(cost, "cost"))), _whole(useful_life, "useful_life", 200)
    rest = _decimal(_money(_at_least(salvage_value, "salvage_value", 0)))
    if rest > price:
        raise ValueError(f"salvage_value: expected at most the cost {cost!r}, got {salvage_value!r}")
    book, schedule = price, []
    for year in range(1, life + 1):
        if year == life:
            after = rest
        elif method == "straight_line":
            after = price - (price - rest) * year / life
        else:
            after = max(rest, book - book * 2 / life)
        after = _decimal(_money(after))
        schedule.append({"year": year, "depreciation": float(book - after), "book_value": float(after)})
        book = after
    return schedule


@starter_tool("Finance")
def inflation_adjustment(
    amount: float,
    annual_inflation: float,
    years: float,
    result: Literal["future_cost", "purchasing_power"] = "future_cost",
) -> float:
    """Adjust an amount of money for inflation over a number of years.

    Answers what something that costs this much today will cost later (``future_cost``), or how little the same cash
    will buy then, measured in today's money (``purchasing_power``).

    Args:
        amount: Amount in today's money, at least 0, in any currency.
        annual_inflation: Average rise of prices in percent a year, above -100; 3 means 3 %.
        years: Number of years, at most 1000.
        result: ``future_cost`` to let the price rise, ``purchasing_power`` to let the cash lose value.

    Returns:
        The adjusted amount, in the currency, rounded to cents.

    Raises:
        ValueError: A negative amount or span, a rate of -100 % or less, or an unknown kind of result.
    """
    if result not in ("future_cost", "purchasing_power"):
        raise ValueError(f"result: expected 'future_cost' or 'purchasing_power', got {result!r}")
    rate = _finite(annual_inflation, "annual_inflation") / 100
    if rate <= -1:
        raise ValueError(f"annual_inflation: expected a percentage above -100, got {annual_inflation!r}")
    span = _years(years)
    return _money(_at_least(amount, "amount", 0) * _growth(rate, span if result == "future_cost" else -span))


@starter_tool("Finance")
def split_by_shares(amount: float, shares: list[float]) -> list[float]:
    """Divide an amount of money in given proportions, to the cent, without losing or inventing a cent.

    For partners who own different parts, rent by room size, or costs split 50/30/20. Left-over cents go to the parts
    that rounding hurt most, so the parts always add up to the amount.

    Args:
        amount: Amount to divide, at least 0, in any currency; it is rounded to cents first.
        shares: Proportion of each part, none negative and not all zero; percentages, ratios or sizes all work.

    Returns:
        The parts in the order of the shares, in the currency.

    Raises:
        ValueError: A negative amount, no shares, a negative share, or shares that add up to zero.
    """
    cents = int(_decimal(_money(_at_least(amount, "amount", 0))) / _CENT)
    if not isinstance(shares, (list, tuple)) or not shares:
        raise ValueError(f"shares: expected a list of numbers, got {shares!r}")
    parts = [_decimal(_at_least(share, f"shares[{index}]", 0)) for index, share in enumerate(shares)]
    whole = sum(parts)
    if whole == 0:
        raise ValueError("shares: they add up to zero")
    exact = [cents * part / whole for part in parts]
    given = [int(part) for part in exact]
    by_loss = sorted(range(len(parts)), key=lambda index: given[index] - exact[index])
    for index in by_loss[: cents - sum(given)]:
        given[index] += 1
    return [float(part * _CENT) for part in given]
