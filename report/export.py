"""Executed notebooks become pages: one .html and one .md each, images beside, and an index.

nbconvert's exporters walk over the cells with the templates in ``templates/``; before that the
outputs are cleaned, after that headings, links, tables and formulas get their final form.
"""

import base64
import io
import json
import os
import re
import shutil
from pathlib import Path

import jinja2
import nbformat
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter, MarkdownExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from PIL import Image
from traitlets.config import Config

from report.execute import ANSI, ReportError, clock, source_hash
from report.mathsvg import Formulas

HERE = Path(__file__).parent
LONG = 12  # code with more lines than this is folded behind its first line
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE / "templates"),
    autoescape=jinja2.select_autoescape(["html.j2"]),
    trim_blocks=True,
    lstrip_blocks=True,
)
FENCE = r"(?P<code>^[ ]*(?P<tick>```+|~~~+).*?^[ ]*(?P=tick)[ ]*$|(?P<span>`+)[^`].*?(?P=span))"
MATH = re.compile(  # code first: a dollar in code is no formula
    FENCE + r"|(?P<indent>^[ ]*)?(?<!\\)\$\$(?P<block>.+?)(?<!\\)\$\$[ ]*"
    r"|(?<![\\$])\$(?P<inline>[^$]+?)(?<![\\$])\$",
    re.S | re.M,
)


# ---------------------------------------------------------------- one notebook


def clean(notebook, name: str, root: Path) -> dict[str, bytes]:
    """Make outputs fit for print, in place; return the images by path under docs/.

    Drops progress bars, stderr, widgets, ANSI codes, addresses and machine paths.
    """
    images = {}
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type != "code":
            continue
        lines = cell.source.strip().splitlines() or [""]
        tags = cell.metadata.get("tags", [])
        kind = next((tag for tag in ("setup", "prose") if tag in tags), "long")
        fold = {"kind": kind, "first": lines[0], "lines": len(lines)}
        cell.metadata["fold"] = fold if kind != "long" or len(lines) > LONG else None
        outputs = []
        for output in cell.outputs:
            if output.output_type == "error":
                raise ReportError(f"{name}, cell {number}: an output is an error ({output.ename})")
            if output.output_type == "stream":
                if output.name == "stdout":
                    if outputs and outputs[-1].output_type == "stream":
                        outputs[-1].text += output.text
                    else:
                        outputs.append(output)
                continue
            data = output.data
            if "application/vnd.jupyter.widget-view+json" in data:
                continue
            if "explorer" in output.metadata:
                place_explorer(output, name, images)
            elif "image/png" in data:
                place_figure(output, name, number, images)
            elif "text/plain" in data and set(data) == {"text/plain"}:
                data["text/plain"] = tidy(data["text/plain"], root)
            output.output_type = "display_data"
            output.pop("execution_count", None)
            outputs.append(output)
        for output in outputs:
            if output.output_type == "stream":
                output.text = tidy(output.text, root)
        cell.outputs = [o for o in outputs if o.output_type != "stream" or o.text]
    return images


def tidy(text: str, root: Path) -> str:
    """Printed text without colours, overwritten lines, addresses and paths of this machine."""
    text = ANSI.sub("", text)
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
    text = "\n".join(lines).strip("\n")
    text = text.replace(str(root) + os.sep, "").replace(str(root), ".")
    text = text.replace(str(Path.home()) + os.sep, "~/")
    return re.sub(r" at 0x[0-9a-f]{6,}", "", text)


def place_figure(output, name: str, number: int, images: dict):
    """Move a PNG out of the notebook; note its place, size, alt text and caption."""
    about = output.metadata.get("image/png", {})
    file = output.metadata.get("filename", f"cell-{number}-{len(images) + 1}.png")
    src = f"img/{name}/{file}"
    if src in images:
        raise ReportError(f"{name}, cell {number}: a second figure is called {file}")
    if not about.get("alt"):
        raise ReportError(f"{name}, cell {number}: figure {file} has no alt text")
    png = base64.b64decode(output.data["image/png"])
    image = Image.open(io.BytesIO(png))
    scale = 96 / image.info.get("dpi", (96, 96))[0]  # CSS pixels: 96 an inch
    images[src] = smaller(image, png)
    output.metadata["figure"] = {
        "src": src,
        "alt": one_line(about["alt"]),
        "caption": one_line(about.get("caption") or ""),
        "width": round(image.width * scale),
        "height": round(image.height * scale),
    }


def smaller(image: Image.Image, png: bytes) -> bytes:
    """The same picture with at most 256 colours where that saves a third (grey digits: exact)."""
    buffer = io.BytesIO()
    flat = image.convert("RGB")
    few = flat.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(buffer, "PNG", optimize=True, dpi=image.info.get("dpi", (96, 96)))
    return buffer.getvalue() if len(buffer.getvalue()) < 0.67 * len(png) else png


def place_explorer(output, name: str, images: dict):
    """The explorer: framed in HTML; in markdown a still picture and a link."""
    page = Path(output.metadata["explorer"])
    images["explorer.html"] = page.read_bytes()
    alt = one_line(output.metadata.get("alt") or "The latent space explorer")
    frame = {"alt": alt, "still": None}
    if still := output.metadata.get("still"):
        frame["still"] = f"img/{name}/explorer.png"
        images[frame["still"]] = Path(still).read_bytes()
    output.metadata["frame"] = frame
    output.data = {"text/html": "", "text/markdown": ""}


def one_line(text: str) -> str:
    return " ".join(text.split())


def slug(heading: str) -> str:
    """The anchor of a heading, as code hosts make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


# ---------------------------------------------------------------- HTML


class Renderer(IPythonRenderer):
    """Markdown to HTML with formulas drawn."""

    def __init__(self, formulas: Formulas, where: str, **kw):
        super().__init__(**kw)
        self.formulas, self.where = formulas, where

    def place(self, tex, display):
        try:
            return self.formulas.place(tex, display)
        except ValueError as error:
            message = f"{self.where}: cannot draw the formula {one_line(tex)} ({error})"
            raise ReportError(message) from None

    def block_math(self, body):
        return self.place(body, True)

    def inline_math(self, body):
        return self.place(body, False)

    def latex_environment(self, name, body):
        return self.place(rf"\begin{{{name}}}{body}\end{{{name}}}", True)


class PageExporter(HTMLExporter):
    """nbconvert's HTML exporter with our cells template and our markdown."""

    def __init__(self, name: str, **kw):
        self.name, self.formulas = name, Formulas()
        super().__init__(
            template_name="cells", extra_template_basedirs=[str(HERE / "templates")], **kw
        )

    @jinja2.pass_context
    def markdown2html(self, context, source):
        cell = context.get("cell", {})
        number = context["nb"].cells.index(cell) + 1 if cell else 0
        where = f"{self.name}, cell {number} ({cell.get('id', '-')})"
        renderer = Renderer(self.formulas, where, escape=False, exclude_anchor_links=True)
        return MarkdownWithMath(renderer=renderer).render(source)


def config(*priority: str) -> Config:
    return Config({"NbConvertBase": {"display_data_priority": list(priority)}})


def to_html(notebook, name: str, site: dict, source: str) -> str:
    """A whole page."""
    exporter = PageExporter(
        name, config=config("image/png", "text/html", "text/markdown", "text/plain")
    )
    body, _ = exporter.from_notebook_node(notebook)
    soup = BeautifulSoup(body, "html.parser")
    title = soup.h1.extract() if soup.h1 else None
    contents = anchors(soup)
    links(soup, set(site["names"]))
    for table in soup.find_all("table"):
        table.wrap(soup.new_tag("div", attrs={"class": "scroll"}))
        for head in table.find_all("th"):
            if head.get_text(strip=True):
                head["scope"] = "col"
            else:
                head.name = "td"
    for image in soup.select("p > img:only-child"):
        frame(soup, image, site["folder"])
    lead = soup.find("p")
    description = re.sub(r"⟦math \d+⟧", "…", lead.get_text(" ", strip=True)) if lead else ""
    image = soup.find("img")
    fill = exporter.formulas.fill
    page = TEMPLATES.get_template("page.html.j2").render(
        **site,
        name=name,
        heading=title.decode_contents() if title else name,
        plain=re.sub(r"⟦math \d+⟧", "", title.get_text()) if title else name,
        description=shorten(one_line(description), 160),
        image=image["src"] if image else None,
        contents=contents,
        body=str(soup),
        source=source,
    )
    return fill(page).replace("<!--glyphs-->", exporter.formulas.sprite())


def shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rsplit(" ", 1)[0] + "…"


def anchors(soup) -> list[dict]:
    """Give each heading an id and a link to itself; return the contents list of the page."""
    contents, seen = [], set()
    for heading in soup.find_all(["h2", "h3", "h4"]):
        base = slug(re.sub(r"⟦math \d+⟧", "", heading.get_text())) or "section"
        anchor, n = base, 1
        while anchor in seen:
            anchor, n = f"{base}-{n}", n + 1
        seen.add(anchor)
        heading["id"] = anchor
        if heading.name != "h4":
            text = heading.decode_contents()
            contents.append({"id": anchor, "text": text, "level": int(heading.name[1])})
        link = soup.new_tag("a", href=f"#{anchor}", attrs={"class": "anchor"})
        link["aria-label"] = "Link to this section"
        link.string = "#"
        heading.append(link)
    return contents


def links(soup, names: set):
    """Links between notebooks become links between pages; links that leave docs/ become text."""
    for link in soup.find_all("a", href=True):
        target, _, fragment = link["href"].partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        if target.endswith(".ipynb") and Path(target).stem in names:
            target = Path(target).stem + ".html"
        elif target.startswith("../") or target.endswith(".ipynb"):
            link.unwrap()
            continue
        link["href"] = target + (f"#{slug(fragment)}" if fragment else "")


def frame(soup, image, folder: Path):
    """An image of markdown text, alone in its paragraph, becomes a figure of known size."""
    path = folder / image["src"]
    if path.exists():
        size = Image.open(path)
        scale = 96 / size.info.get("dpi", (96, 96))[0]
        image["width"], image["height"] = round(size.width * scale), round(size.height * scale)
    image["loading"] = "lazy"
    figure = soup.new_tag("figure")
    image.parent.replace_with(figure)
    figure.append(image)
    if image.get("title"):
        caption = soup.new_tag("figcaption")
        caption.string = image.attrs.pop("title")
        figure.append(caption)


# ---------------------------------------------------------------- markdown


class MarkdownPageExporter(MarkdownExporter):
    def __init__(self, **kw):
        super().__init__(
            template_name="cells_md",
            extra_template_basedirs=[str(HERE / "templates")],
            config=config("image/png", "text/markdown", "text/plain"),
            **kw,
        )

    def default_filters(self):
        yield from super().default_filters()
        yield "host", host_markdown


def host_markdown(source: str) -> str:
    """Markdown of a notebook as code hosts render it: their math marks, links between pages."""

    def formula(match):
        if match["code"]:
            return match[0]
        if match["inline"]:
            return f"$`{match['inline'].strip()}`$"
        indent = match["indent"] or ""
        lines = match["block"].strip().splitlines()
        block = "\n".join(indent + line.strip() for line in ["```math", *lines, "```"])
        before = "" if match["indent"] is not None else "\n\n"
        return f"{before}{block}\n"

    text = MATH.sub(formula, source)
    return re.sub(
        r"\]\((?:\./)?([\w-]+)\.ipynb(?:#([^)]*))?\)",
        lambda m: f"]({m[1]}.md" + (f"#{slug(m[2])}" if m[2] else "") + ")",
        text,
    )


def to_markdown(notebook, name: str, site: dict, source: str) -> str:
    body, _ = MarkdownPageExporter().from_notebook_node(notebook)
    body = re.sub(r"\n{3,}", "\n\n", body).strip()

    def without_missing(link):  # a chapter that has no page yet is named, not linked
        return link[0] if link[2] in site["names"] else link[1]

    body = re.sub(r"\[([^\]]*)\]\((\d\d_\w+)\.md[^)]*\)", without_missing, body)
    template = TEMPLATES.get_template("page.md.j2")
    return template.render(**site, name=name, body=body, source=source)


# ---------------------------------------------------------------- the site


def heading_of(notebook: Path) -> dict:
    """The title of a notebook and the first sentence under it."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    text = "".join(cells[0]["source"]) if cells else ""
    title = re.search(r"^# (.+)$", text, re.M)
    first = re.search(r"^# [^\n]+\n+([^#\n].*?[.?!])(?:\s|$)", text, re.M | re.S)
    return {
        "title": re.sub(r"[`$*]", "", title[1]).strip() if title else notebook.stem,
        "first": one_line(first[1]) if first else "",
    }


def plan(folder: Path, notebooks: list[Path], chosen: set[str], dataset: str) -> dict:
    """What every page knows of the site; drops from ``folder``, the old report, what has no page.

    ``notebooks`` are all of the course, in order; those in ``chosen`` get a new page, the pages of
    the others stay.
    """
    old = {path.stem for path in folder.glob("*.html")}
    names = [path.stem for path in notebooks if path.stem in chosen or path.stem in old]
    keep = {f"{name}.{kind}" for name in [*names, "index"] for kind in ("html", "md")}
    for path in [*folder.glob("*.html"), *folder.glob("*.md"), *folder.glob("img/*")]:
        if path.name not in keep | {"explorer.html"} and path.name not in names:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    pages = [{"name": p.stem} | heading_of(p) for p in notebooks if p.stem in names]
    return {"pages": pages, "names": names, "folder": folder, "dataset": dataset}


def export_page(site: dict, name: str, notebook, root: Path):
    """Write the two pages and the images of one executed notebook."""
    folder = site["folder"]
    images = clean(notebook, name, root)
    shutil.rmtree(folder / "img" / name, ignore_errors=True)
    for src, data in images.items():
        (folder / src).parent.mkdir(parents=True, exist_ok=True)
        (folder / src).write_bytes(data)
    write_page(folder, notebook, name, site, notebook.metadata["report"]["source"])


def finish(site: dict, executed: dict):
    """Results and index, once the pages of the ``executed`` notebooks are written."""
    folder, names = site["folder"], site["names"]
    results = read_results(folder)
    for name in names:
        if name not in executed:
            for kind in ("html", "md"):
                renew_navigation(folder / f"{name}.{kind}", kind, site, name)
            continue
        about = executed[name].metadata["report"]
        results[name] = about["results"]
        seconds = results.get("environment", {}).get("seconds", {}) | {name: about["seconds"]}
        results["environment"] = about["environment"] | {"seconds": dict(sorted(seconds.items()))}
    results = {key: results[key] for key in [*names, "environment"] if key in results}
    write(folder / "results.json", json.dumps(results, indent=2) + "\n")

    environment = results.get("environment", {})
    core = [name for name in names if "01" <= name[:2] <= "05"]
    text = TEMPLATES.get_template("index.md.j2").render(
        **site,
        models=tested_models(results),
        table=results_table(results),
        ahead=results.get("04_evaluation", {}).get("ahead", {}),
        figures=index_figures(folder, core),
        floor=results.get("01_data", {}).get("bce_floor", {}).get("test"),
        passes=results.get("01_data", {}).get("seconds_per_pass"),
        explorer=(folder / "explorer.html").exists(),
        environment=environment,
        core_minutes=clock(sum(environment.get("seconds", {}).get(n, 0) for n in core)) + " min",
    )
    index = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    write_page(folder, index, "index", site, "")
    for path in (HERE / "static").iterdir():
        shutil.copy(path, folder / path.name)
    (folder / ".nojekyll").touch()


def write_page(folder: Path, notebook, name: str, site: dict, source: str):
    write(folder / f"{name}.html", to_html(notebook, name, site, source))
    write(folder / f"{name}.md", to_markdown(notebook, name, site, source))


def write(path: Path, text: str):
    path.write_text(text, encoding="utf-8", newline="\n")


def renew_navigation(path: Path, kind: str, site: dict, name: str):
    """Put today's list of pages into a page that is kept."""
    text = path.read_text(encoding="utf-8")
    module = TEMPLATES.get_template(f"navigation.{kind}.j2").module
    for part in ("list", "turn"):
        fresh = str(getattr(module, f"{part}_pages")(site["pages"], name))
        pattern = rf"(<!-- {part} -->).*?(<!-- /{part} -->)"
        text = re.sub(pattern, lambda m, new=fresh: m[1] + new + m[2], text, flags=re.S)
    write(path, text)


def read_results(folder: Path) -> dict:
    path = folder / "results.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def tested_models(results: dict) -> dict[str, dict]:
    """What training and evaluation found about each model that has a test loss."""
    models = {}
    for chapter in ("03_training", "04_evaluation"):
        for name, numbers in results.get(chapter, {}).items():
            if isinstance(numbers, dict):
                models[name] = models.get(name, {}) | numbers
    return {name: numbers for name, numbers in models.items() if "test_loss" in numbers}


def results_table(results: dict) -> str:
    """The models that were tested, best last, as a markdown table; every number from results."""
    tested = tested_models(results)
    columns = [
        ("latent size", "latent_dim", "{:d}"),
        ("test loss", "test_loss", "{:.2f}"),
        ("reconstruction", "test_recon", "{:.2f}"),
        ("KL", "test_kl", "{:.2f}"),
        ("per pixel", "test_loss_per_pixel", "{:.4f}"),
        ("parameters", "parameters", "{:,d}"),
        ("training time (s)", "seconds", "{:.0f}"),
    ]
    columns = [c for c in columns if any(c[1] in row for row in tested.values())]
    lines = ["| model | " + " | ".join(c[0] for c in columns) + " |"]
    lines.append("|:--|" + "--:|" * len(columns))
    for name, row in sorted(tested.items(), key=lambda item: -item[1]["test_loss"]):
        cells = [form.format(row[key]) if key in row else "" for _, key, form in columns]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) if tested else ""


def index_figures(folder: Path, names: list[str]) -> list[dict]:
    """Three figures for the first screen: samples, the code cloud, reconstructions."""
    found = {}
    for name in names:
        text = (folder / f"{name}.md").read_text(encoding="utf-8")
        for alt, src in re.findall(r"!\[([^\]]*)\]\((img/[^)\s]+)\)", text):
            found[src] = {"src": src, "alt": alt, "page": name}
    wanted = [
        ("Drawn by the decoder", ("mosaic", "manifold", "prior-samples", "samples")),
        ("Codes, coloured by class", ("codes-2d", "latent-2d", "codes", "latent")),
        ("Images and reconstructions", ("reconstruction", "recon")),
    ]
    chosen = []
    for label, words in wanted:
        for word in words:
            hits = [f for src, f in found.items() if word in Path(src).name and f not in chosen]
            if hits:
                chosen.append(hits[-1] | {"label": label})
                break
    return chosen


def update_readme(readme: Path, results: dict):
    """Write the results table between the marks in README.md."""
    table = results_table(results)
    if not readme.exists() or not table:
        return
    text = readme.read_text(encoding="utf-8")
    pattern = r"(<!-- results:start -->\n).*?(<!-- results:end -->)"
    new = re.sub(pattern, lambda m: f"{m[1]}{table}\n{m[2]}", text, flags=re.S)
    if new != text:
        write(readme, new)


def stale_pages(folder: Path, notebooks: list[Path]) -> list[str]:
    """Pages whose notebook has changed since they were made, or that are missing or bare."""
    stale = []
    for path in notebooks:
        for kind in ("html", "md"):
            page = folder / f"{path.stem}.{kind}"
            if not page.exists():
                stale.append(f"{page.name}: missing")
            elif source_hash(path) not in page.read_text(encoding="utf-8"):
                stale.append(f"{page.name}: {path.name} has changed since")
    return stale
