"""Markdown pages become HTML: formulas as MathML, figures in the page's own type and colours.

All that a page shows stands in its .md file and the images beside it, so pages of chapters that
were not run again are made anew with the rest, and know their neighbours.
"""

import json
import re
import shutil
from contextlib import suppress
from itertools import groupby
from pathlib import Path

import jinja2
from bs4 import BeautifulSoup
from math_core import LatexError, LatexToMathML
from mistune import Markdown, escape, import_plugin
from nbconvert.filters.markdown_mistune import IPythonRenderer, MathInlineParser
from PIL import Image

from report.execute import ReportError, digest, place, write
from report.export import HERE, slug

NAVIGATION = re.compile(r"<!-- nav -->.*?<!-- /nav -->\n*", re.S)
UNITS = "nats?|k?bits?|[kMG]B|bytes?|seconds?|s|minutes?|epochs?|steps?|images?|pixels?|codes?"
UNITS += "|times|dimensions?|numbers?|parameters|seeds?|runs?|units?|points?|[%±×]"
# Spaces that never break:
HELD = re.compile(rf"(?<=\d) (?=(?:{UNITS})(?!\w)|·)|(?<=[±×≈]) (?=[\d−])|(?<=\d ·) ")
MARKS = ("✓ ", "✗ ", "– ", "○ ")
TEX = LatexToMathML(fancy_error=False)


def finish(folder: Path, results: dict):
    """Make navigation, HTML of the pages that have changed, search index; copy the static files."""
    paths = sorted(folder.glob("*.md"), key=lambda path: (place(path.stem), path.stem))
    texts = {path.stem: NAVIGATION.sub("", path.read_text(encoding="utf-8")) for path in paths}
    titles = {name: re.search(r"^# (.+)$|\Z", text, re.M)[1] for name, text in texts.items()}
    pages = [(n, "Overview" if n == "index" else t or n) for n, t in titles.items()]
    works = re.findall(r'<a id="([\w-]+)"></a>(.+)', texts.get("references", ""))
    works = {key: re.sub(r"\[([^\]]+)\]\([^)]*\)|[*`]", r"\1", entry) for key, entry in works}
    machine = results.get("environment", {})
    seconds = sum(s for n, s in machine.get("seconds", {}).items() if "01" <= n[:2] <= "05")
    source = (HERE / "templates" / "page.html.j2").read_text(encoding="utf-8")
    template = jinja2.Template(source, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    known = {"pages": pages, "machine": machine, "minutes": f"{seconds / 60:.0f}"}
    same = works, known, source, Path(__file__).read_text(encoding="utf-8")
    index, found = folder / "search-data.js", []
    earlier = read_entries(index)
    for number, (name, text) in enumerate(texts.items()):
        text = without_missing(text, texts)
        links = [t if n == name else f"[{t}]({n}.md)" for n, t in pages]
        head, body = text.split("\n", 1)
        navigation = f"<!-- nav -->{' · '.join(links)}<!-- /nav -->"
        write(folder / f"{name}.md", f"{head}\n\n{navigation}\n\n{body.lstrip()}")
        html, pictures = folder / f"{name}.html", sorted(folder.glob(f"img/{name}/*"))
        made = digest(text, same, [picture.read_bytes().hex() for picture in pictures])
        if name in earlier and html.exists() and made in html.read_text(encoding="utf-8"):
            found.append(earlier[name])  # nothing that it shows has changed
            continue
        page = Page(folder, name, text, works)
        write(html, template.render(known, page=page, number=number, made=made))
        found.append([name, page.plain, page.sections])
    found = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    write(index, f"searchData({found});\n")
    shutil.copytree(HERE / "static", folder, dirs_exist_ok=True)
    (folder / ".nojekyll").touch()


def read_entries(index: Path) -> dict[str, list]:
    """What the search index holds of each page; {} where there is none, or it is damaged."""
    with suppress(OSError, ValueError):
        entries = json.loads(index.read_text(encoding="utf-8")[len("searchData(") : -3])
        return {entry[0]: entry for entry in entries}
    return {}


def without_missing(text: str, known) -> str:
    """Markdown in which links to chapters that have no page yet are text."""
    for name in set(re.findall(r"\]\(([\w-]+)\.md[#)]", text)) - set(known):
        text = re.sub(rf"\[([^\]]*)\]\({name}\.md[^)]*\)", r"\1", text)
    return text


class Renderer(IPythonRenderer):
    """nbconvert's, which colours code; here formulas are drawn, and prints told from code."""

    def __init__(self, name: str):
        super().__init__(escape=False, exclude_anchor_links=True)
        self.name = name

    def inline_math(self, tex):
        return self.math(tex.strip("`"))  # $`…`$, as code hosts write it

    def math(self, tex, display=False):
        try:
            drawn = TEX.convert_with_local_state(tex.strip(), displaystyle=display)
        except LatexError as error:
            cause = " ".join(str(error).split())[:80]
            message = f"{self.name}: cannot draw {' '.join(tex.split())} ({cause})"
            raise ReportError(message) from None
        return f'<div class="display">{drawn}</div>\n' if display else drawn

    def block_code(self, code, info=None):
        lines = code.strip("\n").split("\n")
        if info == "math":
            return self.math(code, display=True)
        if info == "text":
            return "".join(printed(*part) for part in groupby(lines, lambda x: x[:2] in MARKS))
        return super().block_code(code, info or "text")


def printed(are_checks: bool, lines) -> str:
    if are_checks:
        items = (f'<li data-mark="{x[0]}">{escape(x[2:])}</li>' for x in lines)
        return f'<ul class="checks">{"".join(items)}</ul>\n'
    return f'<pre class="output">{escape(chr(10).join(lines))}</pre>\n'


class Page:
    """One page of HTML, made from its markdown."""

    def __init__(self, folder: Path, name: str, text: str, works: dict[str, str]):
        self.folder, self.name, self.works, self.svgs = folder, name, works, []
        self.source = re.search(r"sha256 (\w+)|$", text)[1] or ""
        text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
        parser, plugins = MathInlineParser(), [import_plugin("table")]
        markdown = Markdown(Renderer(name), inline=parser, plugins=plugins)
        held = r"\(?<math>(?:(?!</math>).)*</math>[.,;:!?)’]+"  # a formula and its full stop
        html = re.sub(held, r'<span class="nobr">\g<0></span>', markdown(text))
        html = re.sub(rf"(</math>|\d</\w+>) (?=(?:{UNITS})(?!\w))", "\\1\u00a0", html)
        self.soup = soup = BeautifulSoup(html, "html.parser")
        title = soup.h1.extract() if soup.h1 else self.tag("h1")
        self.heading, self.plain = title.decode_contents(), title.get_text()
        self.description = " ".join((soup.p or title).get_text()[:160].split())
        self.contents, self.sections = [], []
        self.headings()
        self.links()
        for image in soup.select("p > img:only-child, p > a:only-child > img:only-child"):
            self.figure(image)
        self.captions()
        self.boxes()
        for text in soup.find_all(string=re.compile(r"\d")):
            if not text.find_parent(["pre", "code", "math"]):
                held = HELD.sub("\u00a0", text)  # nor does the hyphen of 16-D and 784-512-2
                text.replace_with(re.sub(r"(?<=\d-)(?=\d|D\b)", "\u2060", held))
        self.body = re.sub(r"⟦svg (\d+)⟧", lambda token: self.svgs[int(token[1])], str(soup))

    def tag(self, name: str, css: str | None = None, **attributes):
        return self.soup.new_tag(name, attrs=attributes | ({"class": css} if css else {}))

    def headings(self):
        """Give each heading an id and a link to itself; collect contents and what search reads."""
        section = ["", "", ""]  # anchor, heading, text
        for tag in self.soup.find_all(["h2", "h3", "p", "li", "th", "td"]):
            text = " ".join(tag.get_text().split())
            if tag.name in ("h2", "h3"):
                anchor, seen = slug(text) or "section", {s[0] for s in self.sections}
                while anchor in seen:
                    anchor += "-1"
                tag["id"] = anchor
                self.contents.append((anchor, tag.decode_contents(), tag.name))
                mark = self.tag("a", "anchor", href=f"#{anchor}")
                mark["aria-label"], mark.string = "Link to this section", "#"
                tag.append(mark)
                section = [anchor, text, ""]
            elif not tag.find(["p", "li"]):
                section[2] = f"{section[2]} {text}".strip()
            if section not in self.sections:
                self.sections.append(section)

    def links(self):
        """Between pages; those that leave the folder become text; works show what they are."""
        for tag in self.soup.find_all("a", href=True):
            target, mark, fragment = tag["href"].partition("#")
            if target.startswith("../"):
                tag.unwrap()
            elif re.fullmatch(r"[\w-]+\.md", target):
                tag["href"] = f"{target[:-3]}.html{mark}{fragment}"
                if target == "references.md" and fragment in self.works:
                    tag["data-work"] = self.works[fragment]

    def figure(self, image):
        """An image alone in its paragraph; several in a row stand side by side."""
        link, path = image.find_parent("a"), self.folder / image["src"]
        paragraph = (link or image).parent
        figure = paragraph.find_previous_sibling()
        if link or figure is None or figure.name != "figure" or "frame" in figure.get("class", []):
            figure = self.tag("figure", "frame" if link else None)
            paragraph.insert_before(figure)
        width = 0
        if path.suffix == ".svg" and path.exists():
            svg, width = inline_svg(path, f"{self.name}-{path.stem}", image["alt"])
            self.svgs.append(svg)
            figure.append(f"⟦svg {len(self.svgs) - 1}⟧")
        else:
            figure.append((link or image).extract())
            image["loading"] = "lazy"
            if path.exists():
                with Image.open(path) as opened:  # at 96 pixels an inch
                    scale = 96 / opened.info.get("dpi", (96, 96))[0]
                    width, height = (round(side * scale) for side in opened.size)
                image["width"], image["height"] = width, height
        paragraph.decompose()
        if not link and (width > 700 or len(figure.contents) > 1):
            figure["class"] = "wide"

    def boxes(self):
        """Tables may scroll, asides stand in the margin, folded code is told from other folds."""
        for table in self.soup.find_all("table"):
            table.wrap(self.tag("div", "scroll"))
            for head in table.find_all("th"):  # beside the empty corner, none would be inferred
                if head.get_text(strip=True):
                    head["scope"] = "col"
                else:
                    head.name = "td"
        for quote in self.soup.find_all("blockquote"):
            if quote.get_text(strip=True).startswith("Aside."):
                quote.strong.decompose()
                quote.name, before = "aside", quote.find_previous_sibling(["p", "ul", "ol"])
                if before:
                    before.wrap(self.tag("div", "noted")).insert(0, quote.extract())
        for box in self.soup.find_all("details"):
            del box["markdown"]
            inner = box.find_all(True, recursive=False)[1:]
            code = len(inner) == 1 and "highlight" in inner[0].get("class", [])
            box["class"] = "fold code" if code else "fold"

    def captions(self):
        """A paragraph that begins with **Figure n.** belongs to the figure or table before it."""
        for strong in self.soup.select("p > strong:first-child"):
            word, paragraph = strong.get_text().split(" ")[0], strong.parent
            before = paragraph.find_previous_sibling()
            if strong.previous_sibling or before is None:
                continue
            if word == "Figure" and before.name == "figure":
                paragraph.name = "figcaption"
                before.append(paragraph.extract())
            elif word == "Table" and before.name == "table":
                paragraph.name = "figcaption"
                before.wrap(self.tag("figure", "table")).insert(0, paragraph.extract())


def inline_svg(path: Path, key: str, alt: str) -> tuple[str, int]:
    """A plot of matplotlib as part of the page, in its ink, paper and face; and its width."""
    svg = path.read_text(encoding="utf-8")
    box = re.search(r'viewBox="([\d. ]+)"', svg)[1]
    width = round(float(box.split()[2]) * 4 / 3)  # points are 4/3 pixels
    body = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{key}-", body)
    body = re.sub(r"'[^\";]*(?:, *[\w-]+)*, *sans-serif|'[^\";]*DejaVu[^\";]*", "var(--sans)", body)
    body = re.sub("#222222|#000000", "currentColor", body).replace("#ffffff", "var(--paper)")
    body = re.sub("(<(?:text|tspan|g) [^>]*fill: )#767676", r"\g<1>currentColor", body)  # pictures'
    top = f'<svg class="plot" role="img" aria-label="{escape(alt)}" viewBox="{box}"'
    return f'{top} style="--width:{width}px"><g id="{key}">{body}</g></svg>', width
