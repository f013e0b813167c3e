"""Numbers of a run in text: ``136.47<!--best-2d/test_loss-->`` names its place in the results.

``<!--04_evaluation:best-2d/share-->`` names a number of another chapter. Jupyter and code hosts
show the number alone; the report writes the new number in its place and takes comments away.
"""

import math
import re

MARK = re.compile(
    r"(?P<number>(?<![\w.,])[−+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|–)"
    r"<!--(?:(?P<chapter>\w+):)?(?P<path>[^\s:>][^:>\n]*?)-->"
)


def written(value: float, like: str) -> str:
    """The value with the decimals, thousands separators and signs of the number it replaces."""
    decimals = len(like.partition(".")[2])
    grouped = "," in like or float(re.sub("[^0-9.]", "", like) or 0) < 1000
    text = f"{value:{'+' * like.startswith('+')}{',' * grouped}.{decimals}f}"
    if not re.search("[1-9]", text):
        text = text.lstrip("-")  # no minus zero
    return text if like.startswith("-") else text.replace("-", "−")


def fill(text: str, chapter: str, results: dict, unknown: list | None = None) -> str:
    """The text with the numbers of ``results``; marks that name nothing go to ``unknown``.

    Without that list, as on pages of another data set, a number nobody knows is shown as –.
    """

    def replace(match):
        number, mark = match[0].split("<!--", 1)
        value = results.get(match["chapter"] or chapter)
        for key in match["path"].split("/"):
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, (int, float)) and math.isfinite(value):
            number = written(value, number)
        elif unknown is None:
            number = "–"
        else:
            unknown.append(match)
        return f"{number}<!--{mark}"

    return MARK.sub(replace, text)


def strip(text: str) -> str:
    """The text as pages show it."""
    return MARK.sub(lambda match: match["number"], text)
