"""The site: every page of docs/, the reference made from the docstrings, the notebook, and the changelog."""

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "site")]

from engine import __version__  # noqa: E402 - the checkout has to be on the path first

project = "eagerloop"
author = "the eagerloop authors"
project_copyright = author
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "reference", "links"]
root_doc = "index"
exclude_patterns = ["site"]
default_role = "code"  # docstrings mark code with single backticks

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
nb_execution_mode = "force"  # what the site shows is what this version prints
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_execution_show_tb = True
nb_merge_streams = True
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # no page loads anything from elsewhere

html_theme = "furo"
html_title = f"eagerloop {__version__}"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#2f6f5e", "color-brand-content": "#2a6fae"},
    "dark_css_variables": {"color-brand-primary": "#7cc4ae", "color-brand-content": "#7db7ec"},
    "navigation_with_keys": True,
}
html_static_path = ["site/static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "monokai"

add_module_names = False
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
# Names that say more than what they stand for; docs/reference/index.rst explains them.
autodoc_type_aliases = {
    name: name
    for name in (
        *("Application", "Array", "Axes", "Axis", "Lengths", "Norm", "Number", "Operand", "Order", "Place", "Priority"),
        "Size",
    )
}
