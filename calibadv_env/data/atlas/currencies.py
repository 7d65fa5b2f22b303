"""English names of the currencies in use, by the codes that the World Factbook prints.

The table is tables/currencies.csv. The Factbook prints some retired ISO 4217 codes; they stand
there beside the current ones with the name that both share. States whose currency is changing are
left out on purpose.
"""

from __future__ import annotations

from functools import cache

from calibadv_env.data.atlas.sources import names_in, read_table

#: States for which the Factbook prints no usable code.
CODES_BY_STATE = {
    "EC": "USD",
    "FM": "USD",
    "GA": "XAF",
    "MH": "USD",
    "PW": "USD",
    "SV": "USD",
    "SZ": "SZL",
    "TH": "THB",
    "TL": "USD",
    "US": "USD",
}

#: Left out: the euro came after the Factbook's edition (BG), a currency was replaced (VE, ZW), or
#: two are in use side by side (BT, CU, LS, NA, PA, TV).
STATES_WITHOUT_CURRENCY = frozenset({"BG", "BT", "CU", "LS", "NA", "PA", "TV", "VE", "ZW"})


@cache
def currency_names() -> dict[str, tuple[str, ...]]:
    """For each code the name of its currency, then the further names."""
    return {
        code: (row["name"], *names_in(row["aliases"]))
        for row in read_table("currencies")
        for code in row["codes"].split()
    }
