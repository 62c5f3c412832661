"""What a data set's name of an expression means: Happy, happiness and joy are one."""

from __future__ import annotations

#: By the name that is printed; FER+ uses these.
SPELLINGS = {
    "neutral": ("neutrality",),
    "happiness": ("happy", "joy"),
    "surprise": ("surprised",),
    "sadness": ("sad",),
    "anger": ("angry",),
    "disgust": ("disgusted",),
    "fear": ("fearful", "afraid"),
    "contempt": ("contemptuous",),
}
#: Every name, in lower case -> the one that is printed.
WORDS = {word: name for name, words in SPELLINGS.items() for word in (name, *words)}


def meaning(name: str) -> str:
    """The expression that a class name stands for; a name of none, in lower case, for itself."""
    plain = name.strip().lower()
    return WORDS.get(plain, plain)
