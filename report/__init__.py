"""The report tool: runs notebooks/ and writes docs/ (``python -m report``). One chain:

notebook → ``execute.py`` (nbclient) → ``export.py`` (markdown, nbconvert) → ``pages.py`` (HTML).

``marks.py`` writes the numbers of the run into the text, ``address.py`` the address of this copy,
``pdf.py`` puts all pages into one file; ``__main__.py`` is the command line.
"""
