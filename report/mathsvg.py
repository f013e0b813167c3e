"""TeX formulas as inline SVG, drawn at export so that a page needs no script, font or network."""

import re
from functools import cache
from html import escape
from xml.etree import ElementTree

import ziamath
from ziamath.tex import tex2mml

ziamath.config.svg2 = True  # each glyph is a <symbol>, drawn once and placed by <use>
ziamath.config.precision = 2
SIZE = 20  # drawing units per em; widths are given to the page in em

# TeX that ziamath does not read, and what it does read.
REWRITES = [
    (r"\\(mathbb|mathcal|mathbf|mathrm|mathsf|boldsymbol)\s+(\w)", r"\\\1{\2}"),
    (r"\\operatorname\*\{arg\s*\\,\s*(max|min)\}", r"\\arg\\\1"),
    (r"\\operatorname\*", r"\\operatorname"),
    (r"\\([bB]igg?[lrm]?)\\[lr]vert", r"\\\1|"),
    (r"\\([bB]igg?[lrm]?)\\[lr]Vert", r"\\\1‖"),
]


@cache
def draw(tex: str, display: bool) -> tuple[str, dict[str, str]]:
    """Draw one formula; return its SVG and the glyph symbols (id -> SVG) that it places.

    Raises ValueError when a command is unknown or a glyph is missing from the font.
    """
    source = tex.strip()
    for pattern, replacement in REWRITES:
        source = re.sub(pattern, replacement, source)
    try:
        mathml = tex2mml(source, inline=not display)
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if unknown := re.search(r">\s*(\\[A-Za-z]+)", mathml):
        raise ValueError(f"unknown command {unknown[1]}")
    # A hat over one letter keeps the letter's width; only \widehat over more letters stretches.
    mathml = re.sub(
        r"(<mover[^>]*>(?:<mrow>)?<mi[^>]*>[^<]{1,9}</mi>(?:</mrow>)?)<mo>&#x00302;",
        r'\1<mo stretchy="false">&#710;',
        mathml,
    )
    mathml = mathml.replace("<math ", '<math mathcolor="currentColor" ', 1)
    try:
        formula = ziamath.Math(mathml, size=SIZE, margin=0)
        svg = formula.svgxml()
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error

    symbols = {}
    for symbol in svg.findall("symbol"):
        svg.remove(symbol)
        symbols[symbol.attrib["id"]] = ElementTree.tostring(symbol, encoding="unicode")
    if any(name.endswith("_0") for name in symbols):
        raise ValueError("a character is not in the math font")
    width, height = float(svg.attrib["width"]), float(svg.attrib["height"])
    below = formula.node.bbox.ymin  # depth under the baseline, negative
    inner = "".join(ElementTree.tostring(child, encoding="unicode") for child in svg)
    inner = inner.replace(' fill="currentColor"', "")  # inherited from the stylesheet
    place = "" if display else f";vertical-align:{below / SIZE:.3f}em"
    markup = (
        f'<svg class="tex" role="img" aria-label="{escape(tex.strip())}" '
        f'viewBox="{svg.attrib["viewBox"]}" '
        f'style="width:{width / SIZE:.3f}em;height:{height / SIZE:.3f}em{place}">{inner}</svg>'
    )
    return markup, symbols


class Formulas:
    """The formulas of one page: ``place`` hands out tokens, ``fill`` puts the drawings in."""

    def __init__(self):
        self.drawn: list[str] = []
        self.symbols: dict[str, str] = {}

    def place(self, tex: str, display: bool) -> str:
        markup, symbols = draw(tex, display)
        self.symbols.update(symbols)
        self.drawn.append(f'<div class="display">{markup}</div>' if display else markup)
        return f"⟦math {len(self.drawn) - 1}⟧"

    def fill(self, html: str) -> str:
        """Replace tokens by drawings; closing punctuation stays on the line of its formula."""
        html = re.sub(r"<p>\s*((?:⟦math \d+⟧\s*)+)</p>", self._paragraph, html)
        html = re.sub(r"\(?⟦math \d+⟧[.,;:!?)’]+", r'<span class="nobr">\g<0></span>', html)
        html = re.sub(r"⟦math (\d+)⟧", lambda token: self.drawn[int(token[1])], html)
        return html

    def _paragraph(self, match: re.Match) -> str:
        """A paragraph of display formulas alone is no paragraph (a div may not stand in a p)."""
        tokens = re.findall(r"\d+", match[1])
        alone = all(self.drawn[int(n)].startswith("<div") for n in tokens)
        return match[1] if alone else match[0]

    def sprite(self) -> str:
        """The glyphs of the page, once each."""
        if not self.symbols:
            return ""
        return f'<svg class="glyphs" aria-hidden="true">{"".join(self.symbols.values())}</svg>'
