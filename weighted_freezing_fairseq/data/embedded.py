"""`wff corpus`: generates a small parallel corpus of real language, so that nothing has to be downloaded.

Values without a language (a date, a price, a list of countries ...) are drawn at random and formatted in two languages
by CLDR (Babel) and num2words. The same seed gives the same bytes on every machine. Ordinals in words are left out:
num2words has errors there (Arabic from 21 on, Spanish from 40 on).
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
from .fetch import sha256
from .recipe import MANY

try:
    from babel import Locale, dates, lists, numbers, units
    from num2words import num2words
except ImportError as error:  # optional packages: `--help` works without them, `generate` says what to install
    _IMPORT_ERROR: ImportError | None = error
else:
    _IMPORT_ERROR = None


LANGUAGES = ("ar", "de", "es", "fa", "he", "it", "nl", "pl")
PAIRS = tuple(f"{language}-en" for language in LANGUAGES)
MANY_TO_ONE = f"{MANY}-en"  # all pairs, one after another
SIZES: Mapping[str, int] = {"train": 4000, "valid": 400, "test": 400}


@dataclass(frozen=True)
class CorpusSize:
    """What a study trains a toy model on.

    Args:
        train: number of sentence pairs.
        pieces: number of subwords that are learnt on them.
        max_update: updates after which the quickstart ends a training (None: those of its YAML).
        expect: what to expect of a training, in a sentence.
    """

    train: int
    pieces: int
    max_update: int | None
    expect: str


FULL = CorpusSize(
    SIZES["train"], 2000, None, "the model has not converged at the end, so that a method that slows training is behind"
)
# Chosen by one criterion, that standard training overfits: see docs/getting-started.md.
SMALL = CorpusSize(
    200, 400, 400, "standard training overfits, so that scores are low and there is most to win by generalising"
)
CORPORA: Mapping[str, CorpusSize] = {"small": SMALL, "full": FULL}
MANIFEST = "corpus.json"
PACKAGES = ("babel", "num2words")

Corpus = dict[str, list[tuple[str, str]]]
Value = tuple[Any, ...]
Clause = tuple[str, str, tuple[Value, ...]]


# For each kind one function draws a value without a language, and one formats it in a language ------------------------


def _named_everywhere(table: str, codes: Iterable[str]) -> list[str]:
    """The codes that CLDR names in all nine languages, sorted."""
    named = (set(getattr(Locale(language), table)) for language in (*LANGUAGES, "en"))
    return sorted(set(codes).intersection(*named))


@cache
def _territories() -> list[str]:
    """Countries and dependent territories: codes of two letters except CLDR's groupings and placeholders."""
    codes = {code for code in Locale("en").territories if len(code) == 2 and code.isalpha()}
    return _named_everywhere("territories", codes - {"EU", "EZ", "QO", "UN", "XA", "XB", "ZZ"})


@cache
def _languages() -> list[str]:
    """Languages with a code of two letters."""
    return _named_everywhere("languages", (code for code in Locale("en").languages if len(code) == 2))


@cache
def _currencies() -> list[str]:
    """Currencies that were legal tender on a fixed day, so that the result does not depend on today's date."""
    day = datetime.date(2024, 1, 1)
    used = (numbers.get_territory_currencies(code, day, day) for code in _territories())
    return _named_everywhere("currencies", (code for codes in used for code in codes))


@cache
def _cities() -> list[str]:
    """Time zones of Asia and Europe with a name of their city in Arabic, Persian and Hebrew."""
    zones = (set(_city_names(language)) for language in ("ar", "fa", "he"))
    return sorted(zone for zone in set.intersection(*zones) if zone.startswith(("Asia/", "Europe/")))


@cache
def _city_names(language: str) -> dict[str, str]:
    """The city of each time zone, if CLDR names it in this language."""
    return {zone: names["city"] for zone, names in Locale(language).time_zones.items() if "city" in names}


def _draw_date(rng: Random) -> Value:
    day = datetime.date(1950, 1, 1) + datetime.timedelta(days=rng.randrange(31_000))
    return rng.choice(("full", "full", "long", "long", "MMMMd", "yMMMM")), day


def _format_date(value: Value, language: str) -> str:
    style, day = value
    if style in ("full", "long"):
        return dates.format_date(day, style, locale=language)
    return dates.format_skeleton(style, day, locale=language)


# Seconds, and the largest count: below the next larger unit, to which Babel would round.
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


_SYMBOLS = ("EUR", "GBP", "ILS", "JPY", "PLN", "USD")


def _draw_money(rng: Random) -> Value:
    amount = (
        Decimal(rng.randrange(1, 10 ** rng.randint(1, 4)))
        + Decimal(rng.choice((0, 0, 50, 95, rng.randrange(100)))) / 100
    )
    style = rng.choice(("standard", "name"))
    return style, amount, rng.choice(_SYMBOLS if style == "standard" else _currencies())


# Units whose long form Babel has for every count in all nine languages; it lacks the Persian kilometre, for example.
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


def _format_city(value: Value, language: str) -> str:
    # CLDR leaves out a city that is written as in the name of the time zone.
    return _city_names(language).get(value[0]) or value[0].rpartition("/")[2].replace("_", " ")


@dataclass(frozen=True)
class Kind:
    """A kind of expression: how to draw a value and to format it, and a label that may precede it."""

    draw: Callable[[Random], Value]
    format: Callable[[Value, str], str]
    label: Mapping[str, str]


def _label(english: str, others: str) -> dict[str, str]:
    """A label by language; `others` are in the order of LANGUAGES."""
    return {"en": english, **dict(zip(LANGUAGES, others.split("|"), strict=True))}


KINDS: Mapping[str, Kind] = {
    "date": Kind(_draw_date, _format_date, _label("Date", "التاريخ|Datum|Fecha|تاریخ|תאריך|Data|Datum|Data")),
    "time": Kind(
        lambda rng: (datetime.time(rng.randrange(24), rng.choice((0, 15, 30, 45, rng.randrange(60)))),),
        lambda value, language: dates.format_time(value[0], "short", locale=language),
        _label("Time", "الوقت|Uhrzeit|Hora|ساعت|שעה|Ora|Tijd|Godzina"),
    ),
    "relative": Kind(
        _draw_relative,
        lambda value, language: dates.format_timedelta(
            value[1], granularity=value[0], add_direction=True, locale=language
        ),
        _label("Reminder", "تذكير|Erinnerung|Recordatorio|یادآوری|תזכורת|Promemoria|Herinnering|Przypomnienie"),
    ),
    "number": Kind(
        lambda rng: (rng.randrange(10 ** rng.randint(1, 4)),),
        lambda value, language: num2words(value[0], lang=language),
        _label("Number", "العدد|Zahl|Número|عدد|מספר|Numero|Getal|Liczba"),
    ),
    "percent": Kind(
        lambda rng: (Decimal(rng.randrange(1000)).scaleb(rng.choice((-2, -3))),),
        lambda value, language: numbers.format_percent(
            value[0], locale=language, decimal_quantization=False, numbering_system="default"
        ),
        _label("Share", "النسبة|Anteil|Proporción|سهم|שיעור|Quota|Aandeel|Udział"),
    ),
    "money": Kind(
        _draw_money,
        lambda value, language: numbers.format_currency(
            value[1], value[2], locale=language, format_type=value[0], numbering_system="default"
        ),
        _label("Price", "السعر|Preis|Precio|قیمت|מחיר|Prezzo|Prijs|Cena"),
    ),
    "measure": Kind(
        lambda rng: (rng.randint(1, rng.choice((12, 100, 2000))), rng.choice(_UNITS)),
        lambda value, language: units.format_unit(*value, length="long", locale=language, numbering_system="default"),
        _label("Quantity", "الكمية|Menge|Cantidad|مقدار|כמות|Quantità|Hoeveelheid|Ilość"),
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
        _format_city,
        _label("City", "المدينة|Stadt|Ciudad|شهر|עיר|Città|Stad|Miasto"),
    ),
}

# Sentences: one or two clauses -------------------------------------------------------------------------------------

# The smallest and largest number of values in a clause of each shape.
_SHAPES = {"plain": (1, 1), "label": (1, 1), "and": (2, 3), "or": (2, 2)}
_SEMICOLON = {"ar": "؛", "fa": "؛"}
_PERSIAN_DIGITS = str.maketrans("0123456789", "۰۱۲۳۴۵۶۷۸۹")
# CLDR leaves to the program what depends on the next sound or script; ICU does the same corrections to its lists.
_SPANISH_E = re.compile(r" y (?=h?i(?!e))", re.IGNORECASE)
_SPANISH_U = re.compile(r" o (?=h?o|8|11\b)", re.IGNORECASE)
_HEBREW_HYPHEN = re.compile(r" ו(?=[^א-ת ])")


def _draw_clause(rng: Random, kinds: Sequence[str]) -> Clause:
    """Draws a kind, a shape, and different values for it."""
    kind, shape = rng.choice(kinds), rng.choice(tuple(_SHAPES))
    values: list[Value] = []
    count = rng.randint(*_SHAPES[shape])
    while len(values) < count:
        value = KINDS[kind].draw(rng)
        if value not in values:
            values.append(value)
    return kind, shape, tuple(values)


def _format_clause(clause: Clause, language: str) -> str:
    """Formats the values, with the kind's label before them or joined by CLDR's list patterns."""
    kind, shape, values = clause
    texts = [KINDS[kind].format(value, language) for value in values]
    if shape == "label":
        return f"{KINDS[kind].label[language]}: {texts[0]}"
    return lists.format_list(texts, style="or" if shape == "or" else "standard", locale=language)


def clean(text: str) -> str:
    """Returns one line of plain text in Unicode's NFC.

    White space (CLDR uses U+00A0 and U+202F) becomes single spaces. Invisible format characters are removed (bidi
    marks, which CLDR puts around numbers, and soft hyphens), except U+200C, which is part of Persian spelling.
    """
    visible = (char for char in text if unicodedata.category(char) != "Cf" or char == "\u200c")
    return unicodedata.normalize("NFC", " ".join("".join(visible).split()))


def _correct_spelling(text: str, language: str) -> str:
    """Corrects what CLDR and Babel do not: Spanish y and o before their own sound, Hebrew's hyphen, Persian digits."""
    if language == "es":
        return _SPANISH_U.sub(" u ", _SPANISH_E.sub(" e ", text))
    if language == "he":
        return _HEBREW_HYPHEN.sub(" ו-", text)
    return text.translate(_PERSIAN_DIGITS) if language == "fa" else text


def _format_sentence(clauses: Sequence[Clause], language: str) -> str:
    """Formats a sentence in one language."""
    text = f"{_SEMICOLON.get(language, ';')} ".join(_format_clause(clause, language) for clause in clauses)
    return _correct_spelling(clean(text), language)


# The corpus ----------------------------------------------------------------------------------------------------------


def generate(pair: str, seed: int = 1, sizes: Mapping[str, int] = SIZES, kinds: Sequence[str] | None = None) -> Corpus:
    """Generates sentence pairs (source, target) for `train`, `valid` and `test`.

    No source and no target occurs twice in the corpus, so that nothing leaks between the splits and no source has two
    translations. The test set depends on the seed, the kinds and its own size only, and is the same for all pairs
    except for sentences that coincide in one of the languages.

    Args:
        pair: one of PAIRS, or MANY_TO_ONE.
        sizes: of each split of one pair.
        kinds: keys of KINDS (default: all).
    """
    kinds = _check_arguments(pair, sizes, kinds)
    if pair == MANY_TO_ONE:
        return _many_to_one([generate(one, seed, sizes, kinds) for one in PAIRS])
    languages = pair.split("-")
    corpus: Corpus = {"train": [], "valid": [], "test": []}
    seen: tuple[set[str], set[str]] = set(), set()
    for split in ("test", "valid", "train"):
        rng = Random(f"{seed} {split}")
        while len(corpus[split]) < sizes[split]:
            clauses = [_draw_clause(rng, kinds) for _ in range(rng.randint(1, 2))]
            source, target = (_format_sentence(clauses, language) for language in languages)
            if source not in seen[0] and target not in seen[1]:
                seen[0].add(source)
                seen[1].add(target)
                corpus[split].append((source, target))
    _assert_clean(corpus)
    return corpus


def _many_to_one(corpora: Sequence[Corpus]) -> Corpus:
    """The corpora one after another, without training pairs whose target another one has in a held-out split."""
    held_out = {target for corpus in corpora for split in ("valid", "test") for _, target in corpus[split]}
    joined = {split: [pair for corpus in corpora for pair in corpus[split]] for split in SIZES}
    return {**joined, "train": [pair for pair in joined["train"] if pair[1] not in held_out]}


def _assert_clean(corpus: Corpus) -> None:
    """Checks that no sentence occurs twice on either side, and that each is one plain line."""
    for side in (0, 1):
        sentences = [pair[side] for split in corpus.values() for pair in split]
        assert len(set(sentences)) == len(sentences), "a sentence occurs twice"
        assert all(sentence and sentence == clean(sentence) for sentence in sentences), (
            "a sentence is not one plain line"
        )


def _check_arguments(pair: str, sizes: Mapping[str, int], kinds: Sequence[str] | None) -> list[str]:
    """Returns the kinds to draw from, in the order of KINDS; raises a UserError for invalid arguments."""
    if _IMPORT_ERROR:
        raise UserError(f"the corpus needs Babel and num2words ({_IMPORT_ERROR}); type: pip install babel num2words")
    if pair not in (*PAIRS, MANY_TO_ONE):
        known = " ".join((*PAIRS, MANY_TO_ONE))
        raise UserError(f"there is no corpus for {pair!r}; type --pair and one of: {known}")
    for split, size in sizes.items():
        if size < 1:
            raise UserError(
                f"{split} cannot have {size} sentence pairs; type, for instance: --{split}-lines {SIZES[split]}"
            )
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
    """Writes `train.XX`, `train.en` ... `test.en` and `corpus.json` to `out`, unless it has this corpus already.

    Returns:
        The manifest, and whether it was written.

    Raises:
        UserError: `out` has other files of these names, or cannot be written.
    """
    settings = {
        "pair": pair,
        "seed": seed,
        "sizes": {split: sizes[split] for split in SIZES},
        "kinds": _check_arguments(pair, sizes, kinds),
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
    }
    out = Path(out)
    if existing := _complete_manifest(out, settings):
        return existing, False
    contents = {}
    for split, sentences in generate(pair, seed, sizes, kinds).items():
        for side, language in enumerate(pair.split("-")):
            contents[f"{split}.{language}"] = "".join(f"{sentence[side]}\n" for sentence in sentences).encode()
    manifest = {**settings, "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}}
    # The manifest is written last, so that the files are complete if it exists.
    contents[MANIFEST] = (json.dumps(manifest, indent=2) + "\n").encode()
    try:
        for name, data in contents.items():
            if (out / name).exists() and (out / name).read_bytes() != data:
                raise UserError(f"{out / name} exists and is not of this corpus; type another folder: --out DIR")
        for name, data in contents.items():
            write_atomically(out / name, data)
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}); type another folder: --out DIR") from error
    return manifest, True


def _complete_manifest(out: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest if all files of the corpus are there; raises a UserError if the folder has another corpus."""
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        changes = [
            f"{key} {manifest[key]} instead of {value}" for key, value in settings.items() if manifest[key] != value
        ]
        hashes = manifest["sha256"].items()
    except OSError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{out / MANIFEST} is not a manifest of wff corpus; type another folder: --out DIR") from error
    if changes:
        raise UserError(f"{out} holds a corpus with {'; '.join(changes)}; type another folder: --out DIR")
    is_complete = all((out / name).is_file() and sha256(out / name) == value for name, value in hashes)
    return manifest if is_complete else None
