"""The sovereign states of the atlas: the 193 members of the United Nations and three more.

The table is ours. It joins the two data packages, which name states by different codes, and fixes
the names that passages use. Kosovo, Taiwan and Vatican City are the three that are no members.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

#: ISO 3166 code | Factbook code | name | "the" where the name takes it | further names.
_TABLE = """
AF|af|Afghanistan||
AL|al|Albania||
DZ|ag|Algeria||
AD|an|Andorra||
AO|ao|Angola||
AG|ac|Antigua and Barbuda||
AR|ar|Argentina||
AM|am|Armenia||
AU|as|Australia||
AT|au|Austria||
AZ|aj|Azerbaijan||
BS|bf|Bahamas|the|
BH|ba|Bahrain||
BD|bg|Bangladesh||
BB|bb|Barbados||
BY|bo|Belarus||
BE|be|Belgium||
BZ|bh|Belize||
BJ|bn|Benin||
BT|bt|Bhutan||
BO|bl|Bolivia||
BA|bk|Bosnia and Herzegovina||Bosnia
BW|bc|Botswana||
BR|br|Brazil||
BN|bx|Brunei||Brunei Darussalam
BG|bu|Bulgaria||
BF|uv|Burkina Faso||
BI|by|Burundi||
CV|cv|Cape Verde||Cabo Verde
KH|cb|Cambodia||
CM|cm|Cameroon||
CA|ca|Canada||
CF|ct|Central African Republic|the|CAR
TD|cd|Chad||
CL|ci|Chile||
CN|ch|China||People's Republic of China;PRC
CO|co|Colombia||
KM|cn|Comoros|the|
CR|cs|Costa Rica||
HR|hr|Croatia||
CU|cu|Cuba||
CY|cy|Cyprus||
CZ|ez|Czech Republic|the|Czechia
CD|cg|Democratic Republic of the Congo|the|DRC;DR Congo;Congo (Kinshasa)
DK|da|Denmark||
DJ|dj|Djibouti||
DM|do|Dominica||
DO|dr|Dominican Republic|the|
TL|tt|East Timor||Timor-Leste
EC|ec|Ecuador||
EG|eg|Egypt||
SV|es|El Salvador||
GQ|ek|Equatorial Guinea||
ER|er|Eritrea||
EE|en|Estonia||
SZ|wz|Eswatini||Swaziland
ET|et|Ethiopia||
FJ|fj|Fiji||
FI|fi|Finland||
FR|fr|France||
GA|gb|Gabon||
GM|ga|Gambia|the|
GE|gg|Georgia||
DE|gm|Germany||
GH|gh|Ghana||
GR|gr|Greece||
GD|gj|Grenada||
GT|gt|Guatemala||
GN|gv|Guinea||
GW|pu|Guinea-Bissau||
GY|gy|Guyana||
HT|ha|Haiti||
HN|ho|Honduras||
HU|hu|Hungary||
IS|ic|Iceland||
IN|in|India||
ID|id|Indonesia||
IR|ir|Iran||
IQ|iz|Iraq||
IE|ei|Ireland||Republic of Ireland
IL|is|Israel||
IT|it|Italy||
CI|iv|Ivory Coast|the|Côte d'Ivoire;Cote d'Ivoire
JM|jm|Jamaica||
JP|ja|Japan||
JO|jo|Jordan||
KZ|kz|Kazakhstan||
KE|ke|Kenya||
KI|kr|Kiribati||
XK|kv|Kosovo||
KW|ku|Kuwait||
KG|kg|Kyrgyzstan||
LA|la|Laos||
LV|lg|Latvia||
LB|le|Lebanon||
LS|lt|Lesotho||
LR|li|Liberia||
LY|ly|Libya||
LI|ls|Liechtenstein||
LT|lh|Lithuania||
LU|lu|Luxembourg||
MG|ma|Madagascar||
MW|mi|Malawi||
MY|my|Malaysia||
MV|mv|Maldives|the|
ML|ml|Mali||
MT|mt|Malta||
MH|rm|Marshall Islands|the|
MR|mr|Mauritania||
MU|mp|Mauritius||
MX|mx|Mexico||
FM|fm|Micronesia||Federated States of Micronesia
MD|md|Moldova||
MC|mn|Monaco||
MN|mg|Mongolia||
ME|mj|Montenegro||
MA|mo|Morocco||
MZ|mz|Mozambique||
MM|bm|Myanmar||Burma
NA|wa|Namibia||
NR|nr|Nauru||
NP|np|Nepal||
NL|nl|Netherlands|the|Holland
NZ|nz|New Zealand||
NI|nu|Nicaragua||
NE|ng|Niger||
NG|ni|Nigeria||
KP|kn|North Korea||DPRK
MK|mk|North Macedonia||Macedonia
NO|no|Norway||
OM|mu|Oman||
PK|pk|Pakistan||
PW|ps|Palau||
PA|pm|Panama||
PG|pp|Papua New Guinea||
PY|pa|Paraguay||
PE|pe|Peru||
PH|rp|Philippines|the|
PL|pl|Poland||
PT|po|Portugal||
QA|qa|Qatar||
CG|cf|Republic of the Congo|the|Congo (Brazzaville);Congo
RO|ro|Romania||
RU|rs|Russia||Russian Federation
RW|rw|Rwanda||
KN|sc|Saint Kitts and Nevis||
LC|st|Saint Lucia||
VC|vc|Saint Vincent and the Grenadines||
WS|ws|Samoa||
SM|sm|San Marino||
ST|tp|Sao Tome and Principe||São Tomé and Príncipe
SA|sa|Saudi Arabia||
SN|sg|Senegal||
RS|ri|Serbia||
SC|se|Seychelles|the|
SL|sl|Sierra Leone||
SG|sn|Singapore||
SK|lo|Slovakia||
SI|si|Slovenia||
SB|bp|Solomon Islands|the|
SO|so|Somalia||
ZA|sf|South Africa||
KR|ks|South Korea||Republic of Korea
SS|od|South Sudan||
ES|sp|Spain||
LK|ce|Sri Lanka||
SD|su|Sudan||
SR|ns|Suriname||
SE|sw|Sweden||
CH|sz|Switzerland||
SY|sy|Syria||
TW|tw|Taiwan||
TJ|ti|Tajikistan||
TZ|tz|Tanzania||
TH|th|Thailand||
TG|to|Togo||
TO|tn|Tonga||
TT|td|Trinidad and Tobago||
TN|ts|Tunisia||
TR|tu|Turkey||Türkiye;Turkiye
TM|tx|Turkmenistan||
TV|tv|Tuvalu||
UG|ug|Uganda||
UA|up|Ukraine||
AE|ae|United Arab Emirates|the|UAE
GB|uk|United Kingdom|the|UK;Great Britain;Britain
US|us|United States|the|US;USA;United States of America;America
UY|uy|Uruguay||
UZ|uz|Uzbekistan||
VU|nh|Vanuatu||
VA|vt|Vatican City||Holy See;Holy See (Vatican City)
VE|ve|Venezuela||
VN|vm|Vietnam||
YE|ym|Yemen||
ZM|za|Zambia||
ZW|zi|Zimbabwe||
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A sovereign state.

    Attributes:
        code: ISO 3166 alpha-2 code (XK for Kosovo).
        factbook_code: Name of its file in the World Factbook.
        name: As it stands in passages, without an article.
        phrase: The name as it stands inside a sentence, "the" included where it is usual.
        aliases: Further names that count as answers.
    """

    code: str
    factbook_code: str
    name: str
    phrase: str
    aliases: tuple[str, ...]


def _parse(line: str) -> State:
    code, factbook_code, name, article, aliases = line.split("|")
    return State(
        code=code,
        factbook_code=factbook_code,
        name=name,
        phrase=f"{article} {name}".strip(),
        aliases=tuple(alias for alias in aliases.split(";") if alias),
    )


@cache
def sovereign_states() -> tuple[State, ...]:
    """All states, sorted by ISO code."""
    states = [_parse(line) for line in _TABLE.strip().splitlines()]
    return tuple(sorted(states, key=lambda state: state.code))


@cache
def states_by_code() -> dict[str, State]:
    """The states by ISO code."""
    return {state.code: state for state in sovereign_states()}


@cache
def states_by_name() -> dict[str, State]:
    """The states by every name they go by, in lower case and without a leading "the"."""
    return {
        name.lower(): state for state in sovereign_states() for name in (state.name, *state.aliases)
    }


def find_state(name: str) -> State | None:
    """Looks a state up by any of its names, with or without "the"; None if it is none."""
    return states_by_name().get(name.lower().removeprefix("the ").strip())
