"""Better-known spellings of names that the World Factbook writes in its own way.

They count as answers beside the Factbook's; passages keep the Factbook's.
"""

from __future__ import annotations

from functools import cache

#: Relation | the Factbook's name | further names.
_TABLE = """
capital|Astana|Nur-Sultan
capital|Chisinau|Chișinău
capital|Kyiv|Kiev
capital|Lome|Lomé
capital|Luxembourg|Luxembourg City
capital|Port-Vila|Port Vila
capital|Reykjavik|Reykjavík
capital|Saint George's|St. George's
capital|Saint John's|St. John's
capital|Sanaa|Sana'a
capital|Sao Tome|São Tomé
capital|Ulaanbaatar|Ulan Bator
capital|Yaounde|Yaoundé
highest point|Cerro Aconcagua|Aconcagua;Mount Aconcagua
highest point|Cerro Chirripo|Chirripó;Cerro Chirripó
highest point|Dufourspitze|Monte Rosa
highest point|Fan Si Pan|Fansipan
highest point|Galdhopiggen|Galdhøpiggen
highest point|Gora El'brus|Mount Elbrus;Elbrus
highest point|Grossglockner|Großglockner
highest point|Gunung Kinabalu|Mount Kinabalu;Kinabalu
highest point|Halla-san|Hallasan
highest point|Hora Hoverla|Hoverla
highest point|Hvannadalshnukur|Hvannadalshnúkur
highest point|Jebel Toubkal|Toubkal
highest point|Kanchenjunga|Kangchenjunga
highest point|Kekes|Kékes
highest point|Kilimanjaro|Mount Kilimanjaro
highest point|Kuh-e Damavand|Damavand;Mount Damavand
highest point|Mount McKinley|Denali
highest point|Nevado Huascaran|Huascarán;Huascaran;Nevado Huascarán
highest point|Nevado Sajama|Sajama
highest point|Paektu-san|Mount Paektu;Paektusan
highest point|Pico Bolivar|Pico Bolívar
highest point|Pico de Teide|Teide;Mount Teide;Pico del Teide
highest point|Puncak Jaya|Carstensz Pyramid
highest point|Ras Dejen|Ras Dashen
highest point|Snezka|Sněžka
highest point|Volcan Baru|Volcán Barú
highest point|Volcan Pico de Orizaba|Pico de Orizaba
highest point|Volcan Tajumulco|Tajumulco;Volcán Tajumulco
highest point|Yu Shan|Yushan;Jade Mountain
lowest point|Lac Assal|Lake Assal
lowest point|Lago Enriquillo|Lake Enriquillo
lowest point|Rio Paraguay|Paraguay River
lowest point|Turpan Pendi|Turpan Depression
national anthem|Himno Nacional Espanol|Marcha Real;Himno Nacional Español
national anthem|Lied der Deutschen|Deutschlandlied
national anthem|Yiyongjun Jinxingqu|March of the Volunteers
"""


@cache
def _spellings() -> dict[tuple[str, str], tuple[str, ...]]:
    rows = (line.split("|") for line in _TABLE.strip().splitlines())
    return {(relation, name): tuple(others.split(";")) for relation, name, others in rows}


def spellings_of(relation: str, name: str) -> tuple[str, ...]:
    """Further spellings of a name, () if there are none."""
    return _spellings().get((relation, name), ())
