"""The report tool: runs notebooks/ and writes docs/ (``python -m report``).

- ``execute.py`` runs a notebook cell by cell and keeps the result under outputs/;
- ``mathsvg.py`` draws TeX formulas as SVG;
- ``export.py`` turns executed notebooks into HTML and markdown pages;
- ``__main__.py`` is the command line.
"""
