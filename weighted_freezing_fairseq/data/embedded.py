"""`wff corpus`: a small parallel corpus of real language, made on the spot, so that nothing has to be downloaded.

Idea: a thought (a date, a price, a list of countries ...) is drawn once, without a language, and said twice, by CLDR
(Babel) and num2words; the same seed gives the same bytes everywhere. Left out on purpose: free prose, which would need
translations of ours, and ordinals in words, where num2words errs (Arabic from 21 on, Spanish from 40 on).
"""

import datetime
import hashlib
import importlib.metadata
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from ..errors import UserError
from ..files import write_atomically

try:
    from babel import Locale, dates, lists, numbers, units
    from num2words import num2words
except ImportError as error:  # an optional extra: `--help` must work without it, and `generate` says what to type
    _MISSING: ImportError | None = error
else:
    _MISSING = None


LANGUAGES = ("ar", "de", "es", "fa", "he", "it", "nl", "pl")
PAIRS = tuple(f"{language}-en" for language in LANGUAGES)
SIZES: Mapping[str, int] = {"train": 4000, "valid": 400, "test": 400}
MANIFEST = "corpus.json"
PACKAGES = ("babel", "num2words")

Corpus = dict[str, list[tuple[str, str]]]
Value = tuple[Any, ...]
Clause = tuple[str, str, tuple[Value, ...]]


# Values without a language: one function draws a kind's value, one says it in a language -----------------------------


def _named_everywhere(table: str, codes: Iterable[str]) -> list[str]:
    """The codes to which CLDR gives a name in all nine languages, in a fixed order."""
    named = (set(getattr(Locale(language), table)) for language in (*LANGUAGES, "en"))
    return sorted(set(codes).intersection(*named))


@cache
def _territories() -> list[str]:
    """Countries and dependent territories: two letters, without CLDR's groupings and placeholders."""
    codes = {code for code in Locale("en").territories if len(code) == 2 and code.isalpha()}
    return _named_everywhere("territories", codes - {"EU", "EZ", "QO", "UN", "XA", "XB", "ZZ"})


@cache
def _languages() -> list[str]:
    """Languages with a two-letter code: the larger and the historic ones."""
    return _named_everywhere("languages", (code for code in Locale("en").languages if len(code) == 2))


@cache
def _currencies() -> list[str]:
    """What was legal tender somewhere on a fixed day: the answer must not change with the calendar."""
    day = datetime.date(2024, 1, 1)
    used = (numbers.get_territory_currencies(code, day, day) for code in _territories())
    return _named_everywhere("currencies", (code for codes in used for code in codes))


@cache
def _cities() -> list[str]:
    """Time zones of Asia and Europe whose city has a name in every language of another script."""
    zones = (set(_city_names(language)) for language in ("ar", "fa", "he"))
    return sorted(zone for zone in set.intersection(*zones) if zone.startswith(("Asia/", "Europe/")))


@cache
def _city_names(language: str) -> dict[str, str]:
    """The city of each time zone that CLDR names in this language."""
    return {zone: names["city"] for zone, names in Locale(language).time_zones.items() if "city" in names}


def _draw_date(rng: Random) -> Value:
    day = datetime.date(1950, 1, 1) + datetime.timedelta(days=rng.randrange(31_000))
    return rng.choice(("full", "full", "long", "long", "MMMMd", "yMMMM")), day


def _say_date(value: Value, language: str) -> str:
    style, day = value
    if style in ("full", "long"):
        return dates.format_date(day, style, locale=language)
    return dates.format_skeleton(style, day, locale=language)


def _draw_time(rng: Random) -> Value:
    return (datetime.time(rng.randrange(24), rng.choice((0, 15, 30, 45, rng.randrange(60)))),)


def _say_time(value: Value, language: str) -> str:
    return dates.format_time(value[0], "short", locale=language)


# Counts stay below the next larger unit, to which Babel would round.
_SECONDS = {
    "minute": (60, 45),
    "hour": (3600, 20),
    "day": (86_400, 5),
    "month": (2_592_000, 9),
    "year": (31_536_000, 30),
}


def _draw_relative(rng: Random) -> Value:
    unit = rng.choice(tuple(_SECONDS))
    seconds, largest = _SECONDS[unit]
    return unit, rng.choice((-1, 1)) * seconds * rng.randint(1, largest)


def _say_relative(value: Value, language: str) -> str:
    unit, seconds = value
    return dates.format_timedelta(seconds, granularity=unit, add_direction=True, locale=language)


def _draw_number(rng: Random) -> Value:
    return (rng.randrange(10 ** rng.randint(1, 4)),)


def _say_number(value: Value, language: str) -> str:
    return num2words(value[0], lang=language)


def _draw_percent(rng: Random) -> Value:
    return (Decimal(rng.randrange(1000)).scaleb(rng.choice((-2, -3))),)


def _say_percent(value: Value, language: str) -> str:
    return numbers.format_percent(value[0], locale=language, decimal_quantization=False, numbering_system="default")


_SYMBOLS = ("EUR", "GBP", "ILS", "JPY", "PLN", "USD")


def _draw_money(rng: Random) -> Value:
    amount = (
        Decimal(rng.randrange(1, 10 ** rng.randint(1, 4)))
        + Decimal(rng.choice((0, 0, 50, 95, rng.randrange(100)))) / 100
    )
    style = rng.choice(("standard", "name"))
    return style, amount, rng.choice(_SYMBOLS if style == "standard" else _currencies())


def _say_money(value: Value, language: str) -> str:
    style, amount, code = value
    return numbers.format_currency(amount, code, locale=language, format_type=style, numbering_system="default")


# Units whose long form Babel can say for every count in all nine languages; it lacks the Persian kilometre, for one.
_UNITS = (
    *("area-square-centimeter", "area-square-kilometer", "area-square-meter"),
    *("digital-gigabyte", "digital-megabyte", "duration-microsecond", "duration-quarter"),
    *("energy-kilocalorie", "energy-kilojoule", "frequency-kilohertz", "graphics-megapixel"),
    *("length-astronomical-unit", "length-meter", "mass-microgram", "mass-milligram", "mass-tonne"),
    *("power-kilowatt", "pressure-kilopascal"),
    *("speed-kilometer-per-hour", "speed-meter-per-second", "speed-mile-per-hour"),
    *("temperature-celsius", "temperature-fahrenheit", "temperature-kelvin"),
    *("volume-cubic-centimeter", "volume-cubic-foot", "volume-cubic-kilometer", "volume-cubic-meter"),
    *("volume-cubic-yard", "volume-tablespoon", "volume-teaspoon"),
)


def _draw_measure(rng: Random) -> Value:
    return rng.randint(1, rng.choice((12, 100, 2000))), rng.choice(_UNITS)


def _say_measure(value: Value, language: str) -> str:
    return units.format_unit(*value, length="long", locale=language, numbering_system="default")


def _say_city(value: Value, language: str) -> str:
    # Where a language writes the city as the time zone does, CLDR leaves it out.
    return _city_names(language).get(value[0]) or value[0].rpartition("/")[2].replace("_", " ")


@dataclass(frozen=True)
class Kind:
    """One kind of expression: how to draw a value, how to say it, and the word that may stand before it."""

    draw: Callable[[Random], Value]
    say: Callable[[Value, str], str]
    label: Mapping[str, str]


def _label(english: str, others: str) -> dict[str, str]:
    """A label in English and in the eight languages, these in alphabetical order of their codes."""
    return {"en": english, **dict(zip(LANGUAGES, others.split("|"), strict=True))}


KINDS: Mapping[str, Kind] = {
    "date": Kind(_draw_date, _say_date, _label("Date", "التاريخ|Datum|Fecha|تاریخ|תאריך|Data|Datum|Data")),
    "time": Kind(_draw_time, _say_time, _label("Time", "الوقت|Uhrzeit|Hora|ساعت|שעה|Ora|Tijd|Godzina")),
    "relative": Kind(
        _draw_relative,
        _say_relative,
        _label("Reminder", "تذكير|Erinnerung|Recordatorio|یادآوری|תזכורת|Promemoria|Herinnering|Przypomnienie"),
    ),
    "number": Kind(_draw_number, _say_number, _label("Number", "العدد|Zahl|Número|عدد|מספר|Numero|Getal|Liczba")),
    "percent": Kind(
        _draw_percent, _say_percent, _label("Share", "النسبة|Anteil|Proporción|سهم|שיעור|Quota|Aandeel|Udział")
    ),
    "money": Kind(_draw_money, _say_money, _label("Price", "السعر|Preis|Precio|قیمت|מחיר|Prezzo|Prijs|Cena")),
    "measure": Kind(
        _draw_measure, _say_measure, _label("Quantity", "الكمية|Menge|Cantidad|مقدار|כמות|Quantità|Hoeveelheid|Ilość")
    ),
    "territory": Kind(
        lambda rng: (rng.choice(_territories()),),
        lambda value, language: Locale(language).territories[value[0]],
        _label("Region", "المنطقة|Region|Región|منطقه|אזור|Regione|Regio|Region"),
    ),
    "language": Kind(
        lambda rng: (rng.choice(_languages()),),
        lambda value, language: Locale(language).languages[value[0]],
        _label("Language", "اللغة|Sprache|Idioma|زبان|שפה|Lingua|Taal|Język"),
    ),
    "currency": Kind(
        lambda rng: (rng.choice(_currencies()),),
        lambda value, language: Locale(language).currencies[value[0]],
        _label("Currency", "العملة|Währung|Moneda|واحد پول|מטבע|Valuta|Munteenheid|Waluta"),
    ),
    "city": Kind(
        lambda rng: (rng.choice(_cities()),),
        _say_city,
        _label("City", "المدينة|Stadt|Ciudad|شهر|עיר|Città|Stad|Miasto"),
    ),
}

# Sentences: one or two clauses -------------------------------------------------------------------------------------

# How many values of one kind a clause of this shape holds.
_SHAPES = {"plain": (1, 1), "label": (1, 1), "and": (2, 3), "or": (2, 2)}
_SEMICOLON = {"ar": "؛", "fa": "؛"}
_PERSIAN_DIGITS = str.maketrans("0123456789", "۰۱۲۳۴۵۶۷۸۹")
# CLDR leaves to the program what depends on the next sound or script; ICU corrects its lists in the same places.
_SPANISH_E = re.compile(r" y (?=h?i(?!e))", re.IGNORECASE)
_SPANISH_U = re.compile(r" o (?=h?o|8|11\b)", re.IGNORECASE)
_HEBREW_HYPHEN = re.compile(r" ו(?=[^א-ת ])")


def _draw_clause(rng: Random, kinds: Sequence[str]) -> Clause:
    """One kind, one shape, and as many different values as the shape wants."""
    kind, shape = rng.choice(kinds), rng.choice(tuple(_SHAPES))
    values: list[Value] = []
    count = rng.randint(*_SHAPES[shape])
    while len(values) < count:
        value = KINDS[kind].draw(rng)
        if value not in values:
            values.append(value)
    return kind, shape, tuple(values)


def _say_clause(clause: Clause, language: str) -> str:
    """Its values as CLDR says them, alone, behind the kind's label, or joined by CLDR's list patterns."""
    kind, shape, values = clause
    said = [KINDS[kind].say(value, language) for value in values]
    if shape == "label":
        return f"{KINDS[kind].label[language]}: {said[0]}"
    return lists.format_list(said, style="or" if shape == "or" else "standard", locale=language)


def clean(text: str) -> str:
    """One line of plain text, in Unicode's NFC.

    Every white space (CLDR writes U+00A0 and U+202F) becomes one space, and invisible format characters go (bidi marks,
    which CLDR puts round numbers for display, and soft hyphens); U+200C stays, since Persian spells with it.
    """
    seen = (char for char in text if unicodedata.category(char) != "Cf" or char == "\u200c")
    return unicodedata.normalize("NFC", " ".join("".join(seen).split()))


def _spelled(text: str, language: str) -> str:
    """What CLDR or Babel leave undone: Spanish y and o before their own sound, Hebrew's hyphen, Persian digits."""
    if language == "es":
        return _SPANISH_U.sub(" u ", _SPANISH_E.sub(" e ", text))
    if language == "he":
        return _HEBREW_HYPHEN.sub(" ו-", text)
    return text.translate(_PERSIAN_DIGITS) if language == "fa" else text


def _say(clauses: Sequence[Clause], language: str) -> str:
    """The whole sentence in one language."""
    said = f"{_SEMICOLON.get(language, ';')} ".join(_say_clause(clause, language) for clause in clauses)
    return _spelled(clean(said), language)


# The corpus ----------------------------------------------------------------------------------------------------------


def generate(pair: str, seed: int = 1, sizes: Mapping[str, int] = SIZES, kinds: Sequence[str] | None = None) -> Corpus:
    """Sentence pairs (source, target) for `train`, `valid` and `test`; `kinds` restricts what they speak of.

    No source and no target occurs twice in the whole corpus, so nothing leaks between the splits and no source has two
    translations. The test set depends on seed, kinds and its own size alone: another `train` leaves it as it is, and
    the eight pairs are asked the same, except where two sentences fall together in one language.
    """
    kinds = _checked(pair, sizes, kinds)
    languages = pair.split("-")
    corpus: Corpus = {"train": [], "valid": [], "test": []}
    seen: tuple[set[str], set[str]] = set(), set()
    for split in ("test", "valid", "train"):
        rng = Random(f"{seed} {split}")
        while len(corpus[split]) < sizes[split]:
            clauses = [_draw_clause(rng, kinds) for _ in range(rng.randint(1, 2))]
            source, target = (_say(clauses, language) for language in languages)
            if source not in seen[0] and target not in seen[1]:
                seen[0].add(source)
                seen[1].add(target)
                corpus[split].append((source, target))
    _assert_clean(corpus)
    return corpus


def _assert_clean(corpus: Corpus) -> None:
    """Nothing occurs twice on either side, within a split or across them, and each sentence is one plain line."""
    for side in (0, 1):
        sentences = [pair[side] for split in corpus.values() for pair in split]
        assert len(set(sentences)) == len(sentences), "a sentence occurs twice"
        assert all(sentence and sentence == clean(sentence) for sentence in sentences), (
            "a sentence is not one plain line"
        )


def _checked(pair: str, sizes: Mapping[str, int], kinds: Sequence[str] | None) -> list[str]:
    """The kinds to draw from, in the table's order; or what to type instead."""
    if _MISSING:
        raise UserError(f"the corpus needs Babel and num2words ({_MISSING}); type: pip install babel num2words")
    if pair not in PAIRS:
        raise UserError(f"there is no corpus for {pair!r}; type --pair and one of: {' '.join(PAIRS)}")
    for split, size in sizes.items():
        if size < 1:
            raise UserError(f"{split} cannot have {size} sentence pairs; type, for instance: --{split} {SIZES[split]}")
    chosen = list(KINDS if kinds is None else kinds)
    unknown = [kind for kind in chosen if kind not in KINDS]
    if unknown or not chosen:
        named = ", ".join(map(repr, unknown)) or "nothing"
        raise UserError(f"no kind of expression is called {named}; type --kinds and some of: {','.join(KINDS)}")
    return [kind for kind in KINDS if kind in chosen]


def write(
    pair: str,
    out: str | Path,
    seed: int = 1,
    sizes: Mapping[str, int] = SIZES,
    kinds: Sequence[str] | None = None,
) -> tuple[dict[str, Any], bool]:
    """Write `train.XX`, `train.en` ... `test.en` and `corpus.json` to `out`; return the manifest and "was it written".

    A folder that holds this corpus already is left untouched; one with anything else under these names is refused.
    """
    settings = {
        "pair": pair,
        "seed": seed,
        "sizes": {split: sizes[split] for split in SIZES},
        "kinds": _checked(pair, sizes, kinds),
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
    }
    out = Path(out)
    if _holds(out, settings):
        return json.loads((out / MANIFEST).read_text(encoding="utf-8")), False
    contents = {}
    for split, sentences in generate(pair, seed, sizes, kinds).items():
        for side, language in enumerate(pair.split("-")):
            contents[f"{split}.{language}"] = "".join(f"{sentence[side]}\n" for sentence in sentences).encode()
    manifest = {**settings, "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}}
    # Last, so that a manifest vouches for whole files even where an earlier call was interrupted.
    contents[MANIFEST] = (json.dumps(manifest, indent=2) + "\n").encode()
    try:
        _write_all(out, contents)
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}); type another folder: --out DIR") from error
    return manifest, True


def _holds(out: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the folder holds the whole corpus of these settings; an error where it holds one of others."""
    try:
        found = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        differing = [f"{key} {found[key]} instead of {value}" for key, value in settings.items() if found[key] != value]
        sums = found["sha256"].items()
    except OSError:
        return False
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{out / MANIFEST} is not a manifest of wff corpus; type another folder: --out DIR") from error
    if differing:
        raise UserError(f"{out} holds a corpus with {'; '.join(differing)}; type another folder: --out DIR")
    return all((out / name).is_file() and _sha256(out / name) == value for name, value in sums)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_all(out: Path, contents: Mapping[str, bytes]) -> None:
    """Write each file whole or not at all, and none over a file that says something else."""
    for name, data in contents.items():
        if (out / name).exists() and (out / name).read_bytes() != data:
            raise UserError(f"{out / name} exists and is not of this corpus; type another folder: --out DIR")
    for name, data in contents.items():
        write_atomically(out / name, data)
