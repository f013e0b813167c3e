"""For MkDocs: formulas of these pages as MathML (pip install math-core)."""

import re

from math_core import LatexToMathML

BLOCK = re.compile(r"^( *)```math\n(.*?)^ *```$", re.S | re.M)
INLINE = re.compile(r"\$`([^`]+)`\$")
TEX = LatexToMathML()


def on_page_markdown(markdown, **_):
    def block(match):
        return match[1] + TEX.convert_with_local_state(match[2], displaystyle=True)

    def inline(match):
        return TEX.convert_with_local_state(match[1], displaystyle=False)

    return INLINE.sub(inline, BLOCK.sub(block, markdown))
