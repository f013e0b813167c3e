"""How a page of this folder is put together from its parts, and shown in a notebook."""

import html
import json
import re
from pathlib import Path

from IPython.display import display

SRC = Path(__file__).parent / "src"
IMPORT = re.compile(r'^import [^;]*? from "\./[\w.-]+";\n', re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:async )?function|const|class)", re.MULTILINE)


def join_modules(paths):
    """ES modules as one script: their imports of one another go, and so does each ``export``.

    A page that is opened from a file may not load modules from beside it. Names at the top level
    must differ between the files.
    """
    scripts = (Path(path).read_text(encoding="utf-8") for path in paths)
    return "\n".join(EXPORT.sub("", IMPORT.sub("", script)) for script in scripts)


def assemble(template, modules, data, **words):
    """The page: ``template`` with style.css, the modules, and the data as JSON put in.

    Each of ``words`` takes the place of its name in the template: thing="digit" of __THING__.
    """
    parts = {
        "/*STYLE*/": (SRC / "style.css").read_text(encoding="utf-8"),
        "/*SCRIPT*/": join_modules(modules),
        "__DATA__": json.dumps(data).replace("</", "<\\/"),  # nothing in it ends the element
        **{f"__{name.upper()}__": word for name, word in words.items()},
    }
    page = Path(template).read_text(encoding="utf-8")
    return re.sub("|".join(map(re.escape, parts)), lambda match: parts[match[0]], page)


def frame(content, page, alt, still, height):
    """Display a page in a frame; the report finds in the metadata what it writes to docs/.

    content: the page; page: its file name there; still: a picture of it, for markdown; height: of
    the frame in pixels until the page tells its own.
    """
    title = re.search("<title>(.*?)</title>", content)[1]
    output = (
        f'<iframe title="{title}" class="explorer" srcdoc="{html.escape(content)}"'
        f' style="width: 100%; height: {height}px; border: 0"></iframe>'
    )
    about = {"page": page, "alt": alt, "still": str(still)}
    display({"text/html": output, "text/plain": alt}, raw=True, metadata=about)


def unframe(output):
    """The page inside the HTML that ``frame`` displayed."""
    return html.unescape(re.search('srcdoc="([^"]*)"', output)[1])
