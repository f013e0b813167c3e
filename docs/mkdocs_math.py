"""For MkDocs: formulas of these pages as MathML (pip install math-core)."""

import re

from math_core import LatexToMathML

FORMULA = re.compile(r"^( *)```math\n(.*?)^ *```$|\$`([^`]+)`\$", re.S | re.M)
TEX = LatexToMathML()


def on_page_markdown(markdown, **_):
    def drawn(match):
        indent, block, inline = match.groups(default="")
        return indent + TEX.convert_with_local_state(block or inline, displaystyle=bool(block))

    return FORMULA.sub(drawn, markdown)
