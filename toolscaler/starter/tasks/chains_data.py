"""Task families of two calls about lists, money, tables and files."""

from __future__ import annotations

import json

from toolscaler.starter.tasks.chains_two import csv_text, two_calls, values_of
from toolscaler.starter.tasks.draw import Draw
from toolscaler.starter.tasks.family import Step, Values
from toolscaler.starter.tasks.files import text_path
from toolscaler.starter.tasks.graphs import hub_edges
from toolscaler.starter.tasks.tables import city_sales, item_prices

_LISTS = (
    two_calls(
        "unique_then_chunks",
        lambda d: {"items": [*(n := d.names(4)), n[1], n[0]], "size": 2},
        Step("remove_duplicates", values_of("items"), "each name once", "drop the repeated items"),
        Step("chunk_list", lambda v, r: {"items": r[0], "size": v["size"]}, "the groups", "cut the list into chunks"),
        ("Remove the doubles from {items} and make groups of {size}.",
            "Each of {items} once, please, in batches of {size}."),
        "Some of {items} signed up twice. Clean that and form teams of {size}.",
        "The groups are: {ref}",
    ),
    two_calls(
        "top_then_mean",
        lambda d: {"values": d.different(6, 10, 99), "count": d.pick((2, 4)), "which": d.pick(("largest", "smallest"))},
        Step("top_values", values_of("values", "count", "which"), "the extreme numbers", "pick them from the list"),
        Step("arithmetic_mean", lambda v, r: {"values": r[0]}, "their average", "compute the mean"),
        ("What is the average of the {count} {which} numbers of {values}?",
            "Pick the {count} {which} of {values} and take their mean."),
        "Only the {count} {which} of {values} count. What do they make on average?",
        "The average is {ref}.",
    ),
    two_calls(
        "flatten_then_top",
        lambda d: {"items": [(n := d.different(5, 1, 99))[:2], [n[2], [n[3], n[4]]]]},
        Step("flatten_list", values_of("items"), "one flat list", "open the inner lists"),
        Step("median_value", lambda v, r: {"values": r[0]}, "the median", "find the middle value"),
        ("Flatten {items} and give me the median.", "What is the median of all numbers in {items}?"),
        "Open the brackets of {items}. Which number is in the middle by size?",
        "The median is {ref}.", echo=True,
    ),
    two_calls(
        "gcd_then_prime",
        lambda d: {"numbers": [(f := d.num(5, 30)) * 2, f * 5, f * d.pick((3, 7))]},
        Step("greatest_common_divisor", values_of("numbers"), "the greatest common divisor", "compute it"),
        Step("is_prime_number", lambda v, r: {"number": r[0]}, "a prime test", "test the divisor"),
        ("Is the greatest common divisor of {numbers} a prime?",
            "Compute the gcd of {numbers} and tell me whether it is prime."),
        "The largest number that divides {numbers}: is it a prime number?",
        ("Yes, it is prime.", "No, it is not prime."),
    ),
    two_calls(
        "fibonacci_then_factors",
        lambda d: {"position": d.num(9, 45)},
        Step("fibonacci_number", values_of("position"), "the Fibonacci number", "look up that position"),
        Step("prime_factors", lambda v, r: {"number": r[0]}, "its prime factors", "break it into primes"),
        ("What is the largest prime factor of Fibonacci number {position}?",
            "Factor the Fibonacci number at position {position}. Which prime is the greatest?"),
        "Take Fibonacci term {position} and name the biggest prime in it.",
        "The largest prime factor is {ref}.", ref=lambda r: r[1][-1]["prime"],
    ),
    two_calls(
        "choose_then_base",
        lambda d: {"n": d.num(6, 30), "k": d.num(2, 4), "to_base": d.pick((2, 8, 16))},
        Step("binomial_coefficient", values_of("n", "k"), "the number of ways", "count the combinations"),
        Step("convert_number_base", lambda v, r: {"digits": str(r[0]), "from_base": 10, "to_base": v["to_base"]},
            "the other base", "convert the number"),
        ("In how many ways can I choose {k} out of {n}, written in base {to_base}?",
            "Compute {n} choose {k} and write it in base {to_base}."),
        "How many groups of {k} are there among {n}? Answer in base {to_base}.",
        "It is {ref}.",
    ),
    two_calls(
        "mean_then_fahrenheit",
        lambda d: {"values": d.ints(4, -5, 35)},
        Step("arithmetic_mean", values_of("values"), "the average", "compute the mean"),
        Step("convert_temperature", lambda v, r: {"value": r[0], "from_unit": "celsius", "to_unit": "fahrenheit"},
            "Fahrenheit", "convert the average"),
        ("What is the average of {values} Celsius in Fahrenheit?",
            "The week had {values} degrees Celsius. Give me the mean in Fahrenheit."),
        "Our thermometer showed {values} Celsius. How warm was it on average in Fahrenheit?",
        "It is {ref} Fahrenheit.", longest=7,
    ),
    two_calls(
        "hub_then_neighbours",
        hub_edges,
        Step("node_degrees", values_of("edges"), "the best connected node", "count the links"),
        Step("direct_neighbours", lambda v, r: {"edges": v["edges"], "node": r[0][0]["node"]}, "its neighbours",
            "list its direct links"),
        ("Who has the most links in {edges}, and who are the neighbours? List the neighbours.",
            "List the friends of the person with the most friends in {edges}"),
        "Find the hub of {edges} and name everybody linked to it.",
        "The neighbours are: {ref}",
    ),
)  # fmt: skip

_MONEY = (
    two_calls(
        "discount_then_tax",
        lambda d: {"price": d.decimal(20, 400, 2), "percent_off": d.num(1, 12) * 5,
            "tax_percent": d.pick((5, 7, 8, 10, 19))},
        Step("discount_price", values_of("price", "percent_off"), "the reduced price", "take the discount off"),
        Step("sales_tax", lambda v, r: {"amount": r[0]["final_price"], "tax_percent": v["tax_percent"]},
            "the price with tax", "add the tax"),
        ("A price of {price} is reduced by {percent_off} percent, then {tax_percent} percent tax is added. What do I "
            "pay?", "What is {price} with {percent_off} percent off plus {tax_percent} percent tax?"),
        "I get {percent_off} percent discount on {price} but must add {tax_percent} percent tax. What is the total?",
        "It is {ref}.", ref=lambda r: r[1]["gross"],
    ),
    two_calls(
        "savings_then_inflation",
        lambda d: {"principal": d.num(5, 90) * 100, "annual_rate": d.decimal(2, 7), "years": d.num(2, 15),
            "annual_inflation": d.num(1, 4)},
        Step("compound_interest", values_of("principal", "annual_rate", "years"), "the balance", "compute the growth"),
        Step("inflation_adjustment", lambda v,
            r: {"amount": r[0]["final_balance"], "annual_inflation": v["annual_inflation"], "years": v["years"],
            "result": "purchasing_power"}, "today's money", "adjust it for inflation"),
        ("I save {principal} at {annual_rate} percent for {years} years. What is that worth in today's money at "
            "{annual_inflation} percent inflation?",
            "{principal} grow at {annual_rate} percent for {years} years. What can the balance buy with "
            "{annual_inflation} percent inflation?"),
        "How much purchasing power has {principal} after {years} years at {annual_rate} percent interest and "
        "{annual_inflation} percent inflation?",
        "It is {ref}.",
    ),
    two_calls(
        "loan_then_shares",
        lambda d: {"loan_amount": d.num(5, 300) * 1000, "annual_rate": d.decimal(2, 8), "years": d.num(3, 25),
            "shares": d.different(2, 1, 5)},
        Step("loan_payment", values_of("loan_amount", "annual_rate", "years"), "the monthly payment",
            "compute the loan"),
        Step("split_by_shares", lambda v, r: {"amount": r[0]["monthly_payment"], "shares": v["shares"]}, "the parts",
            "split it by the shares"),
        ("Two people share the monthly payment of a loan of {loan_amount} at {annual_rate} percent over {years} years "
            "as {shares}. What are the parts?",
            "Loan {loan_amount}, {annual_rate} percent, {years} years: split the monthly payment by {shares}."),
        "We repay {loan_amount} at {annual_rate} percent in {years} years and divide each instalment {shares}. Who "
        "pays what?",
        "The parts are: {ref}",
    ),
    two_calls(
        "spoons_then_ounces",
        lambda d: {"amount": d.num(2, 20), "measure": d.pick(("cup", "tablespoon")),
            "ingredient": d.pick(("flour", "sugar", "butter", "honey", "rice", "oats")),
            "to_unit": d.pick(("kg", "mg"))},
        Step("cooking_measure_to_grams", values_of("amount", "measure", "ingredient"), "the grams",
            "weigh the ingredient"),
        Step("convert_weight", lambda v, r: {"value": r[0], "from_unit": "g", "to_unit": v["to_unit"]},
            "the other unit", "convert the grams"),
        ("How many {to_unit} are {amount} {measure}s of {ingredient}?",
            "What do {amount} {measure}s {ingredient} weigh in {to_unit}?"),
        "The recipe takes {amount} {measure}s of {ingredient}. Give me the weight in {to_unit}.",
        "It weighs {ref} {to_unit}.",
    ),
)  # fmt: skip


def _sensor(d: Draw) -> Values:
    return {
        "json_text": json.dumps({"sensor": d.word(), "data": {"celsius": d.decimal(-10, 40)}}),
        "path": "data.celsius",
    }


def _sales_limit(d: Draw) -> Values:
    records = city_sales(d)
    return {"records": records, "limit": min(record["sales"] for record in records)}


_DATA = (
    two_calls(
        "filter_then_total",
        _sales_limit,
        Step("filter_records", lambda v,
            r: {"records": v["records"], "column": "sales", "operator": ">", "value": v["limit"]},
            "the rows that count", "filter by sales"),
        Step("aggregate_records", lambda v, r: {"records": r[0], "group_by": [], "column": "sales", "operation": "sum"},
            "their total", "add up the sales"),
        ("What is the sum of the sales above {limit} in {records}?",
            "Keep the rows of {records} with sales > {limit} and add them up."),
        "Leave out all with sales of {limit} or less in {records}. What is the total?",
        "The total is {ref}.", ref=lambda r: r[1][0]["sum_sales"], echo=True,
    ),
    two_calls(
        "sort_then_column",
        lambda d: {"records": item_prices(d), "by": ["price"]},
        Step("sort_records", values_of("records", "by", descending=False), "the rows in order", "sort by price"),
        Step("select_columns", lambda v, r: {"records": r[0], "columns": ["item"]}, "the names alone",
            "keep the column item"),
        ("List the items of {records} from the lowest price to the highest.",
            "Sort {records} by {by} and give me only the items."),
        "Which is the order of the items in {records} if the cheapest comes first?",
        "The order is: {ref}", ref=lambda r: [record["item"] for record in r[1]], echo=True,
    ),
    two_calls(
        "csv_then_mean",
        lambda d: {"text": csv_text(d), "operation": d.pick(("mean", "sum", "median"))},
        Step("parse_csv", values_of("text"), "the rows", "read the CSV"),
        Step("aggregate_records", lambda v,
            r: {"records": r[0], "group_by": [], "column": "age", "operation": v["operation"]}, "one value of the ages",
            "summarise the column age"),
        ("What is the {operation} of the ages in this CSV?\n{text}",
            "Take the {operation} of age from this csv:\n{text}"),
        "I exported this sheet and need the {operation} of all ages.\n{text}",
        "It is {ref}.", ref=lambda r: next(iter(r[1][0].values())), longest=7, echo=True,
    ),
    two_calls(
        "csv_then_markdown",
        lambda d: {"text": csv_text(d, 2)},
        Step("parse_csv", values_of("text"), "the rows", "read the CSV"),
        Step("records_to_markdown", lambda v, r: {"records": r[0]}, "a Markdown table", "lay the rows out"),
        ("Make a Markdown table of this CSV.\n{text}", "Turn the csv into a table for my README:\n{text}"),
        "Show this spreadsheet export in Markdown, please.\n{text}",
        "{ref}",
    ),
    two_calls(
        "json_then_fahrenheit",
        _sensor,
        Step("json_path_lookup", values_of("json_text", "path"), "the reading", "look up the path"),
        Step("convert_temperature", lambda v, r: {"value": r[0], "from_unit": "celsius", "to_unit": "fahrenheit"},
            "Fahrenheit", "convert the reading"),
        ("What is {path} of {json_text} in Fahrenheit?", "Take {path} from {json_text} and convert it to Fahrenheit."),
        "The device sent {json_text}. How much is {path} in Fahrenheit?",
        "It is {ref} Fahrenheit.", longest=7,
    ),
    two_calls(
        "find_then_read",
        lambda d: {"_folder": d.pick(("archive", "old", "inbox")), "name": f"{d.word()}.txt",
            "_text": f"{d.name()} owes {d.num(2, 90)} euros"},
        Step("find_files_by_name", lambda v, r: {"pattern": v["name"]}, "the place of the file", "search by its name"),
        Step("read_text_file", lambda v, r: {"path": r[0][0]}, "its text", "read the file"),
        ("Somewhere there is a file {name}. What does it say?", "Find {name} in my folders and read it to me."),
        "I do not know where {name} lies, but I want its content.",
        "The file says: {ref}", files=lambda v: {f"{v['_folder']}/{v['name']}": v["_text"]},
    ),
    two_calls(
        "search_then_read",
        lambda d: {"text": d.word(), "_path": text_path(d), "_a": d.name(), "_n": d.num(2, 90)},
        Step("search_in_files", values_of("text"), "the file with the word", "search the files"),
        Step("read_text_file", lambda v, r: {"path": r[0][0]["path"]}, "its whole text", "read the file"),
        ("Read the file that mentions {text}.", "One of my files has the word {text}. Show me the whole file."),
        "Look for {text} in my files and tell me all that is written there.",
        "The file says: {ref}", files=lambda v: {v["_path"]: f"{v['_a']} sold the {v['text']}\nfor {v['_n']} euros"},
    ),
    two_calls(
        "read_then_count",
        lambda d: {"path": text_path(d),
            "_text": f"{d.sentence()} of {d.name()}{d.pick(('', ' ' + d.word(), ' or ' + d.phrase()))}"},
        Step("read_text_file", values_of("path"), "the text", "read the file"),
        Step("count_words", lambda v, r: {"text": r[0]}, "its length", "count the words"),
        ("How many words are in the file {path}?", "Count the words of {path}."),
        "Is {path} long? Give me the number of words in it.",
        "It has {ref} words.", ref=lambda r: r[1]["words"], files=lambda v: {v["path"]: v["_text"]},
    ),
    two_calls(
        "read_then_hash",
        lambda d: {"path": text_path(d), "_text": d.sentence()},
        Step("read_text_file", values_of("path"), "the text", "read the file"),
        Step("hash_text", lambda v, r: {"text": r[0], "algorithm": "crc32"}, "its checksum", "compute the crc32"),
        ("What is the crc32 checksum of the text in {path}?", "Hash the content of {path} with crc32."),
        "I need the crc32 fingerprint of what {path} holds.",
        "The checksum is {ref}", files=lambda v: {v["path"]: v["_text"]},
    ),
    two_calls(
        "folder_then_move",
        lambda d: {"folder": f"{d.pick(('done', 'sent', 'paid'))}/{d.num(2020, 2030)}",
            "_place": d.pick(("inbox", "desk")), "name": f"{d.word()}.txt"},
        Step("create_folder", lambda v, r: {"path": v["folder"]}, "the new folder", "make the folder"),
        Step("move_file", lambda v,
            r: {"source": f"{v['_place']}/{v['name']}", "destination": f"{r[0]['path']}/{v['name']}"}, "the file in it",
            "move the file"),
        ("Make the folder {folder} and move {_place}/{name} into it. Where is the file then?",
            "Create {folder}, then put {_place}/{name} there and tell me the new path."),
        "Set up {folder} and bring {_place}/{name} there. What is its path now?",
        "It is at {ref}", ref=lambda r: r[1]["destination"], files=lambda v: {f"{v['_place']}/{v['name']}": "text"},
    ),
)  # fmt: skip

FAMILIES = (*_LISTS, *_MONEY, *_DATA)
