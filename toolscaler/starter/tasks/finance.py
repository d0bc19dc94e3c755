"""One-call task families about money."""

from __future__ import annotations

from toolscaler.starter.tasks.draw import Draw
from toolscaler.starter.tasks.family import Values, call


def _asset(d: Draw) -> Values:
    life = d.num(3, 6)
    rest = d.num(1, 9) * 100
    return {"cost": rest + life * d.num(2, 15) * 100, "salvage_value": rest, "useful_life": life}


def _margin(d: Draw) -> Values:
    cost = d.num(5, 80)
    return {"cost": cost, "selling_price": cost + d.num(3, 60)}


FAMILIES = (
    call(
        "compound_interest",
        lambda d: {"principal": d.num(5, 90) * 100, "annual_rate": d.decimal(1, 7), "years": d.num(2, 20)},
        (
            "What do {principal} dollars grow to in {years} years at {annual_rate} percent interest?",
            "I put {principal} into savings at {annual_rate} percent a year. What is the balance after {years} years?",
            "compound interest: {principal}, {annual_rate} percent, {years} years",
        ),
        ("An investment of {principal} earns {annual_rate} percent yearly. How much is it worth after {years} years?",),
        "the balance with interest", "compute how the money grows", "The balance is {ref}.",
        ref="final_balance",
    ),
    call(
        "loan_payment",
        lambda d: {"loan_amount": d.num(5, 400) * 1000, "annual_rate": d.decimal(2, 9), "years": d.num(3, 30)},
        (
            "What is the monthly payment for a loan of {loan_amount} at {annual_rate} percent over {years} years?",
            "We borrow {loan_amount} for {years} years at {annual_rate} percent. What do we pay a month?",
            "mortgage {loan_amount}, {annual_rate} percent, {years} years, monthly rate",
        ),
        ("The bank lends me {loan_amount} at {annual_rate} percent. What instalment is due each month for {years} "
            "years?",),
        "the monthly payment", "compute the loan", "The monthly payment is {ref}.",
        ref="monthly_payment",
    ),
    call(
        "net_present_value",
        lambda d: {"discount_rate": d.num(2, 15),
            "cash_flows": [-100 * d.num(8, 30), *(100 * n for n in d.ints(3, 3, 15))]},
        (
            "What is the net present value of {cash_flows} at {discount_rate} percent?",
            "A project pays {cash_flows} year by year. What is it worth today at {discount_rate} percent?",
            "npv of {cash_flows}, rate {discount_rate}",
        ),
        ("Discount the yearly flows {cash_flows} with {discount_rate} percent and add them up.",),
        "a present value", "discount the cash flows", "The net present value is {ref}.",
    ),
    call(
        "internal_rate_of_return",
        lambda d: {"cash_flows": [-100 * d.num(5, 20), *(100 * n for n in d.ints(3, 5, 15))]},
        (
            "What is the internal rate of return of {cash_flows}?",
            "An investment has the flows {cash_flows}. Which yearly yield is that?",
            "irr of {cash_flows}",
        ),
        ("At which rate do the payments {cash_flows} break even?",),
        "the rate of return", "compute it from the cash flows", "The rate is {ref} percent.",
    ),
    call(
        "discount_price",
        lambda d: {"price": d.decimal(20, 400, 2), "percent_off": d.num(1, 14) * 5},
        (
            "What does a {price} dollar coat cost with {percent_off} percent off?",
            "The price {price} is reduced by {percent_off} percent. What do I pay?",
            "{percent_off} percent discount on {price}",
        ),
        ("My coupon takes {percent_off} percent from {price}. What is the sale price?",),
        "the reduced price", "take the discount off", "The price is {ref}.",
        ref="final_price",
    ),
    call(
        "tip_and_split",
        lambda d: {"bill": d.decimal(20, 300, 2), "tip_percent": d.pick((10, 12, 15, 18, 20)), "people": d.num(2, 8)},
        (
            "The bill is {bill}. With a tip of {tip_percent} percent, what does each of {people} people pay?",
            "Split {bill} plus {tip_percent} percent tip among {people} people.",
            "bill {bill}, tip {tip_percent} percent, {people} guests, share of each",
        ),
        ("We are {people} at the table, owe {bill} and tip {tip_percent} percent. How much per person?",),
        "each person's share", "add the tip and split the bill", "Each person pays {ref}.",
        ref="per_person",
    ),
    call(
        "sales_tax",
        lambda d: {"amount": d.decimal(10, 900, 2), "tax_percent": d.pick((5, 7, 8, 10, 19, 20, 21))},
        (
            "What is {amount} plus {tax_percent} percent sales tax?",
            "A net price of {amount} gets {tax_percent} percent VAT. What is the gross price?",
            "add {tax_percent} percent tax to {amount}",
        ),
        ("How much do I pay for {amount} once {tax_percent} percent tax is added?",),
        "the price with tax", "add the tax", "With tax it is {ref}.",
        ref="gross",
    ),
    call(
        "profit_margin",
        _margin,
        (
            "What is the profit margin in percent if the cost is {cost} and the price {selling_price}?",
            "I buy for {cost} and sell for {selling_price}. What margin in percent do I make?",
            "margin percent, cost {cost}, selling price {selling_price}",
        ),
        ("A shop pays {cost} and charges {selling_price}. How large is its margin in percent?",),
        "a profit margin", "compare cost and price", "The margin is {ref} percent.",
        ref="margin_percent",
    ),
    call(
        "depreciation_schedule",
        _asset,
        (
            "A machine costs {cost} and is worth {salvage_value} after {useful_life} years. What does it lose each "
            "year?",
            "Depreciate {cost} over {useful_life} years down to {salvage_value}. How much a year?",
            "straight line depreciation, cost {cost}, salvage {salvage_value}, life {useful_life} years",
        ),
        ("Our van was {cost}, lasts {useful_life} years and then brings {salvage_value}. What is written off per "
            "year?",),
        "the yearly loss in value", "list the depreciation", "It loses {ref} a year.",
        ref=lambda result: result[0]["depreciation"],
    ),
    call(
        "inflation_adjustment",
        lambda d: {"amount": d.num(2, 90) * 10, "annual_inflation": d.decimal(1, 6), "years": d.num(3, 25)},
        (
            "What will {amount} dollars of goods cost in {years} years at {annual_inflation} percent inflation?",
            "Prices rise {annual_inflation} percent a year. What does something for {amount} cost after {years} years?",
            "future cost of {amount}, inflation {annual_inflation} percent, {years} years",
        ),
        ("The trip costs {amount} today. With {annual_inflation} percent inflation, what is its price in {years} "
            "years?",),
        "a price after inflation", "let the price rise", "It will cost {ref}.",
    ),
    call(
        "split_by_shares",
        lambda d: {"amount": d.num(20, 900), "shares": d.different(3, 1, 9)},
        (
            "Divide {amount} dollars in the ratio {shares}.",
            "Three partners with the shares {shares} get {amount}. What does each receive?",
            "split {amount} by shares {shares}",
        ),
        ("The rent is {amount} and the rooms count {shares}. What are the parts?",),
        "the parts of an amount", "split it by the shares", "The parts are: {ref}",
    ),
)  # fmt: skip
