"""Sphinx: how the manual is built. ``sphinx-build -n -W docs docs/_build``."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any

from sphinx.util.nodes import make_refnode

sys.path.insert(0, str(Path(__file__).parent.parent))

import carrot

project = "Carrot"
author = copyright = carrot.__author__
release = version = carrot.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
default_role = "py:obj"
nitpicky = True
# Each backend has a Message; a signature that says just that is about its own.
suppress_warnings = ["ref.python"]
highlight_language = "none"
pygments_style = "friendly"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

# Objects of the standard library and of type checking; the manual is built
# without the network, so that there is no inventory of theirs.
_BUILTINS = "|".join(name for name in dir(builtins) if not name.startswith("_"))
_MODULES = "abc|collections|contextlib|datetime|socket|ssl|threading|types|typing"
nitpick_ignore_regex = [
    ("py:.*", rf"({_BUILTINS}|None|optional)(\..*)?"),
    ("py:.*", rf"({_MODULES})(\..*)?"),
    # Sphinx of Python 3.10 does not find the door of this room.
    ("py:class", r"carrot\.pool\.ConnectionPool"),
    # Type variables, and rooms that are not for users.
    ("py:.*", r"(.*\.)?(_Self|T|F)"),
    ("py:.*", r"carrot\.(broker|recovery|backends\.[a-z]+)\.[a-z_]+\..*"),
]

html_theme = "furo"
html_title = f"Carrot {release}"
html_static_path = ["_static"]
html_css_files = ["carrot.css"]
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#b4500b", "color-brand-content": "#b4500b"},
    "dark_css_variables": {"color-brand-primary": "#ff9d4d", "color-brand-content": "#ff9d4d"},
}


def find_home(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Resolve a name that stands without its module, or with a room's instead of its door's."""
    wanted = node.get("reftarget", "").rpartition(".")[2]
    objects = env.get_domain("py").objects
    homes = [name for name in objects if name.rpartition(".")[2] == wanted]
    # A docstring that backends inherit is about the seam.
    seam = f"carrot.backends.base.BaseBackend.{wanted}"
    homes = [seam] if seam in homes else homes
    if len(homes) != 1:
        return None
    entry = objects[homes[0]]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode)


def setup(app: Any) -> None:
    app.connect("missing-reference", find_home)
