"""English names of the currencies in use, by the codes that the World Factbook prints.

The Factbook prints some retired ISO 4217 codes; they stand here beside the current ones with the
name that both share. States whose currency is changing are left out on purpose.
"""

from __future__ import annotations

from functools import cache

#: Codes (current first, then retired ones) | name | further names.
_TABLE = """
AED|United Arab Emirates dirham|Emirati dirham;UAE dirham
AFN AFA|Afghan afghani|afghani
ALL|Albanian lek|lek
AMD|Armenian dram|dram
AOA|Angolan kwanza|kwanza
ARS|Argentine peso|
AUD|Australian dollar|
AZN|Azerbaijani manat|
BAM|convertible mark|Bosnia and Herzegovina convertible mark
BBD|Barbadian dollar|Barbados dollar
BDT|Bangladeshi taka|taka
BHD|Bahraini dinar|
BIF|Burundian franc|Burundi franc
BMD|Bermudian dollar|
BND|Brunei dollar|Bruneian dollar
BOB|boliviano|Bolivian boliviano
BRL|Brazilian real|real
BSD|Bahamian dollar|
BTN|Bhutanese ngultrum|ngultrum
BWP|Botswana pula|pula
BYN BYR BYB|Belarusian ruble|Belarusian rouble
BZD|Belize dollar|Belizean dollar
CAD|Canadian dollar|
CDF|Congolese franc|
CHF|Swiss franc|
CLP|Chilean peso|
CNY RMB|renminbi|Chinese yuan;yuan;Renminbi yuan
COP|Colombian peso|
CRC|Costa Rican colón|Costa Rican colon
CUP|Cuban peso|
CVE|Cape Verdean escudo|Cabo Verdean escudo
CZK|Czech koruna|koruna
DJF|Djiboutian franc|Djibouti franc
DKK|Danish krone|
DOP|Dominican peso|
DZD|Algerian dinar|
EGP|Egyptian pound|
ERN|Eritrean nakfa|nakfa
ETB|Ethiopian birr|birr
EUR|euro|
FJD|Fijian dollar|Fiji dollar
GBP|pound sterling|British pound;sterling
GEL|Georgian lari|lari
GHS GHC|Ghanaian cedi|cedi;Ghana cedi
GMD|Gambian dalasi|dalasi
GNF|Guinean franc|
GTQ|Guatemalan quetzal|quetzal
GYD|Guyanese dollar|Guyana dollar
HNL|Honduran lempira|lempira
HTG|Haitian gourde|gourde
HUF|Hungarian forint|forint
IDR|Indonesian rupiah|rupiah
ILS|Israeli new shekel|new Israeli shekel;Israeli shekel
INR|Indian rupee|
IQD|Iraqi dinar|
IRR|Iranian rial|
ISK|Icelandic króna|Icelandic krona
JMD|Jamaican dollar|
JOD|Jordanian dinar|
JPY|Japanese yen|yen
KES|Kenyan shilling|
KGS|Kyrgyzstani som|
KHR|Cambodian riel|riel
KMF|Comorian franc|Comoran franc
KPW|North Korean won|
KRW|South Korean won|
KWD KD|Kuwaiti dinar|
KZT|Kazakhstani tenge|tenge
LAK|Lao kip|kip
LBP|Lebanese pound|
LKR|Sri Lankan rupee|
LRD|Liberian dollar|
LSL|Lesotho loti|loti
LYD|Libyan dinar|
MAD|Moroccan dirham|
MDL|Moldovan leu|
MGA|Malagasy ariary|ariary
MKD|Macedonian denar|denar
MMK|Burmese kyat|kyat;Myanmar kyat
MNT|Mongolian tögrög|tögrög;tugrik;Mongolian tugrik
MRU MRO|Mauritanian ouguiya|ouguiya
MUR|Mauritian rupee|
MVR|Maldivian rufiyaa|rufiyaa
MWK|Malawian kwacha|
MXN|Mexican peso|
MYR|Malaysian ringgit|ringgit
MZN MZM|Mozambican metical|metical
NAD|Namibian dollar|Namibia dollar
NGN|Nigerian naira|naira
NIO|Nicaraguan córdoba|Nicaraguan cordoba
NOK|Norwegian krone|
NPR|Nepalese rupee|
NZD|New Zealand dollar|
OMR|Omani rial|
PEN|Peruvian sol|Peruvian nuevo sol;sol
PGK|Papua New Guinean kina|kina
PHP|Philippine peso|
PKR|Pakistani rupee|
PLN|Polish złoty|Polish zloty;zloty
PYG|Paraguayan guaraní|Paraguayan guarani
QAR|Qatari riyal|Qatari rial
RON|Romanian leu|
RSD|Serbian dinar|
RUB|Russian ruble|Russian rouble
RWF|Rwandan franc|
SAR|Saudi riyal|
SBD|Solomon Islands dollar|
SCR|Seychellois rupee|Seychelles rupee
SDG|Sudanese pound|
SEK|Swedish krona|
SGD|Singapore dollar|
SLE SLL|Sierra Leonean leone|leone
SOS|Somali shilling|
SRD|Surinamese dollar|
SSP|South Sudanese pound|
STN STD|São Tomé and Príncipe dobra|dobra;Sao Tome and Principe dobra
SZL|Swazi lilangeni|lilangeni
THB|Thai baht|baht
TJS|Tajikistani somoni|somoni
TMT TMM|Turkmenistani manat|Turkmenistan manat
TND|Tunisian dinar|
TOP|Tongan paʻanga|paʻanga;pa'anga;Tongan pa'anga
TRY|Turkish lira|
TTD|Trinidad and Tobago dollar|
TWD|New Taiwan dollar|
TZS|Tanzanian shilling|
UAH|Ukrainian hryvnia|hryvnia
UGX|Ugandan shilling|
USD|United States dollar|US dollar
UYU|Uruguayan peso|
UZS|Uzbekistani sum|Uzbekistani soum
VND|Vietnamese dong|dong
VUV|Vanuatu vatu|vatu
WST SAT|Samoan tala|tala
XAF|Central African CFA franc|CFA franc
XCD|Eastern Caribbean dollar|East Caribbean dollar
XOF|West African CFA franc|CFA franc
YER|Yemeni rial|
ZAR|South African rand|rand
ZMW ZMK|Zambian kwacha|
"""

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
    names = {}
    for line in _TABLE.strip().splitlines():
        codes, name, aliases = line.split("|")
        for code in codes.split():
            names[code] = (name, *(alias for alias in aliases.split(";") if alias))
    return names
