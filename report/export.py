"""Executed notebooks become markdown pages with their images beside them, as code hosts show them.

nbconvert does the walking; here outputs are made fit for print, and links and formulas get the
form that code hosts read.
"""

import base64
import io
import os
import re
import shutil
from pathlib import Path

from nbconvert import MarkdownExporter
from nbconvert.filters import strip_ansi
from PIL import Image
from traitlets.config import Config

from explorer.page import unframe
from report.address import as_links
from report.execute import ReportError

HERE = Path(__file__).parent
LONG = 18  # lines; longer code is folded where its first line says what it does
HEAVY = 400_000  # bytes of SVG; a cloud of thousands of strokes is shown as PNG
MATH = re.compile(  # code first: a dollar in code is no formula
    r"(?P<code>^[ ]*(?P<tick>```+|~~~+).*?^[ ]*(?P=tick)[ ]*$|(?P<span>`+)[^`].*?(?P=span))"
    r"|(?P<indent>^[ ]*)?(?<!\\)\$\$(?P<block>.+?)(?<!\\)\$\$[ ]*"
    r"|(?<![\\$])\$(?P<inline>[^$]+?)(?<![\\$])\$",
    re.S | re.M,
)
IN_SVG = re.compile(r'(?<=data:image/png;base64,)[^"]+')  # clouds of dots are pictures
FORMS = ["image/svg+xml", "image/png", "text/markdown", "text/plain"]  # the first of them is shown
CONFIG = Config()
CONFIG.NbConvertBase.display_data_priority = FORMS
CONFIG.TagRemovePreprocessor.enabled = True
CONFIG.TagRemovePreprocessor.remove_cell_tags = {"results"}
CONFIG.CoalesceStreamsPreprocessor.enabled = True
CONFIG.ExtractOutputPreprocessor.extract_output_types = set(FORMS[:2])


def to_markdown(notebook, name: str, folder: Path, root: Path) -> str:
    """The body of one page; its images, and the pages that it frames, are written to ``folder``."""
    prepare(notebook, name, folder)
    exporter = MarkdownExporter(template_file=str(HERE / "templates/page.md.j2"), config=CONFIG)
    exporter.register_filter("tidy", lambda text: tidy(text, root))
    try:
        body, found = exporter.from_notebook_node(
            notebook, {"output_files_dir": f"img/{name}", "unique_key": name}
        )
    except ValueError as error:  # two figures of one name
        raise ReportError(f"{name}: {error}") from None
    shutil.rmtree(folder / "img" / name, ignore_errors=True)
    for file, content in found["outputs"].items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
    body = re.sub(r"\n{3,}", "\n\n", body).strip()
    for word in ("Figure", "Table"):
        parts = body.split(f"**{word}.**")
        body = parts[0] + "".join(f"**{word} {n}.**{part}" for n, part in enumerate(parts[1:], 1))
    return body


def prepare(notebook, name: str, folder: Path):
    """Name the folds, drop what is no result, choose one form of each figure."""
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type != "code":
            cell.source = host(cell.source)
            continue
        cell.metadata["fold"] = fold(cell)
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            if output.output_type == "stream":
                continue
            data, about = output.data, output.metadata
            if page := about.get("page"):
                page = about["page"] = os.path.basename(page)
                (folder / page).write_text(unframe(data["text/html"]), encoding="utf-8")
                still = Path(about["still"]).read_bytes()
                data["image/png"] = base64.b64encode(still).decode()
                about["filename"] = Path(page).stem
            if "text/markdown" in data:
                data["text/markdown"] = host(data["text/markdown"])
            svg = IN_SVG.sub(lambda png: lighter(png[0]), about.pop("svg", ""))  # of figures.show
            if 0 < len(svg) < HEAVY:
                del data["image/png"]
                data["image/svg+xml"] = svg
            elif "image/png" in data:
                data["image/png"] = lighter(data["image/png"])
            if {"image/svg+xml", "image/png"} & set(data):
                about["alt"] = re.sub(r"[\[\]]", "", " ".join(about.get("alt", "").split()))
                if not about["alt"]:
                    figure = about.get("filename", "a figure")
                    raise ReportError(f"{name}, cell {number}: {figure} has no alt text")


def fold(cell) -> str | None:
    """What a folded cell is called: by its tag, or by the comment in its first line."""
    tags, lines = cell.metadata.get("tags", []), cell.source.strip().splitlines() or [""]
    comment = None
    if lines[0].startswith("#"):
        comment = lines[0].lstrip("# ").removeprefix("@title ")  # with it Colab names its folds
    for tag in ("setup", "imports", "plot", "check"):
        if tag in tags:
            return comment or tag.capitalize()
    return comment if len(lines) > LONG and "module" not in tags else None


def lighter(png: str) -> str:
    """A picture, in base64, with its 256 best colours, which no eye tells from the whole."""
    image = Image.open(io.BytesIO(base64.b64decode(png)))
    few = image.convert("RGBA").quantize(256, Image.Quantize.FASTOCTREE)
    file = io.BytesIO()
    few.save(file, "PNG", optimize=True, dpi=image.info.get("dpi", (96, 96)))
    return min(png, base64.b64encode(file.getvalue()).decode(), key=len)


def tidy(text: str, root: Path) -> str:
    """Printed text, fenced, without colours, addresses and paths of this machine."""
    text = "\n".join(line.rstrip() for line in strip_ansi(text).split("\n")).strip("\n")
    text = text.replace(str(root) + os.sep, "").replace(str(root), ".")
    text = re.sub(r" at 0x[0-9a-f]{6,}", "", text.replace(str(Path.home()) + os.sep, "~/"))
    return f"\n\n```text\n{text}\n```\n\n"


def slug(heading: str) -> str:
    """The anchor of a heading, as code hosts make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def host(source: str) -> str:
    """Markdown of a notebook as code hosts render it: their math marks, links between pages."""

    def formula(match):
        if match["code"]:
            return match[0]
        if match["inline"]:
            return f"$`{match['inline'].strip()}`$"
        indent = match["indent"] or ""
        lines = match["block"].strip().splitlines()
        block = "\n".join(indent + line.strip() for line in ["```math", *lines, "```"])
        return ("" if match["indent"] is not None else "\n\n") + block + "\n"

    text = as_links(MATH.sub(formula, source))
    text = text.replace("<details>", '<details markdown="1">').replace("](../docs/", "](")
    return re.sub(
        r"\]\((?:\./)?([\w-]+)\.ipynb(?:#([^)]*))?\)",
        lambda m: f"]({m[1]}.md" + (f"#{slug(m[2])}" if m[2] else "") + ")",
        text,
    )
