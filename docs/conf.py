"""Settings of the documentation site: `sphinx-build -W -q docs docs/_build`."""

from trajrec.version import __version__

project = "trajrec"
release = __version__
extensions = ["myst_parser"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"trajrec {release}"
html_show_copyright = (
    False  # the licence is in the repository; a theme that prints an empty line says nothing
)

# A heading can be linked to as GitHub links to it, down to the methods of the Python API.
myst_heading_anchors = 4
