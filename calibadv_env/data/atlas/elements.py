"""The 118 chemical elements, written from general knowledge.

A year or a country is left empty where the element has been known since antiquity or where
sources disagree, so that every entry can be asked about.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

#: Symbols in order of atomic number: name, symbol, year of discovery, ISO code of the country.
_TABLE = """
Hydrogen H 1766 GB
Helium He - -
Lithium Li 1817 SE
Beryllium Be 1798 FR
Boron B 1808 -
Carbon C - -
Nitrogen N 1772 GB
Oxygen O - -
Fluorine F 1886 FR
Neon Ne 1898 GB
Sodium Na 1807 GB
Magnesium Mg - GB
Aluminium Al 1825 DK
Silicon Si 1824 SE
Phosphorus P 1669 DE
Sulfur S - -
Chlorine Cl 1774 SE
Argon Ar 1894 GB
Potassium K 1807 GB
Calcium Ca 1808 GB
Scandium Sc 1879 SE
Titanium Ti 1791 GB
Vanadium V - -
Chromium Cr 1797 FR
Manganese Mn 1774 SE
Iron Fe - -
Cobalt Co - SE
Nickel Ni 1751 SE
Copper Cu - -
Zinc Zn - -
Gallium Ga 1875 FR
Germanium Ge 1886 DE
Arsenic As - -
Selenium Se 1817 SE
Bromine Br 1826 -
Krypton Kr 1898 GB
Rubidium Rb 1861 DE
Strontium Sr - GB
Yttrium Y 1794 FI
Zirconium Zr 1789 DE
Niobium Nb 1801 GB
Molybdenum Mo - SE
Technetium Tc 1937 IT
Ruthenium Ru 1844 RU
Rhodium Rh - GB
Palladium Pd - GB
Silver Ag - -
Cadmium Cd 1817 DE
Indium In 1863 DE
Tin Sn - -
Antimony Sb - -
Tellurium Te - RO
Iodine I 1811 FR
Xenon Xe 1898 GB
Caesium Cs 1860 DE
Barium Ba 1808 GB
Lanthanum La 1839 SE
Cerium Ce 1803 -
Praseodymium Pr 1885 AT
Neodymium Nd 1885 AT
Promethium Pm 1945 US
Samarium Sm 1879 FR
Europium Eu 1901 FR
Gadolinium Gd 1880 CH
Terbium Tb 1843 SE
Dysprosium Dy 1886 FR
Holmium Ho 1878 -
Erbium Er 1843 SE
Thulium Tm 1879 SE
Ytterbium Yb 1878 CH
Lutetium Lu 1907 -
Hafnium Hf 1923 DK
Tantalum Ta 1802 SE
Tungsten W 1783 ES
Rhenium Re 1925 DE
Osmium Os 1803 GB
Iridium Ir 1803 GB
Platinum Pt - -
Gold Au - -
Mercury Hg - -
Thallium Tl 1861 GB
Lead Pb - -
Bismuth Bi - -
Polonium Po 1898 FR
Astatine At 1940 US
Radon Rn - -
Francium Fr 1939 FR
Radium Ra 1898 FR
Actinium Ac 1899 FR
Thorium Th - SE
Protactinium Pa - -
Uranium U 1789 DE
Neptunium Np 1940 US
Plutonium Pu - US
Americium Am 1944 US
Curium Cm 1944 US
Berkelium Bk 1949 US
Californium Cf 1950 US
Einsteinium Es 1952 US
Fermium Fm - US
Mendelevium Md 1955 US
Nobelium No - -
Lawrencium Lr - -
Rutherfordium Rf - -
Dubnium Db - -
Seaborgium Sg 1974 US
Bohrium Bh 1981 DE
Hassium Hs 1984 DE
Meitnerium Mt 1982 DE
Darmstadtium Ds 1994 DE
Roentgenium Rg 1994 DE
Copernicium Cn 1996 DE
Nihonium Nh 2004 JP
Flerovium Fl - RU
Moscovium Mc - RU
Livermorium Lv 2000 RU
Tennessine Ts 2010 RU
Oganesson Og - RU
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """A chemical element.

    Attributes:
        name: English name.
        symbol: Chemical symbol.
        atomic_number: Its place in the periodic table.
        year: Year of discovery, "" if unknown or disputed.
        country_code: ISO code of the country of discovery, "" if unknown or disputed.
    """

    name: str
    symbol: str
    atomic_number: int
    year: str
    country_code: str


@cache
def chemical_elements() -> tuple[Element, ...]:
    """All elements by atomic number."""
    elements = []
    for number, line in enumerate(_TABLE.strip().splitlines(), start=1):
        name, symbol, year, country = line.split()
        elements.append(
            Element(
                name=name,
                symbol=symbol,
                atomic_number=number,
                year=year.strip("-"),
                country_code=country.strip("-"),
            )
        )
    return tuple(elements)
