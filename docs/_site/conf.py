"""Sphinx settings of the documentation site: `make docs` builds it into build/site.

The pages are docs/*.md as they read on GitHub; pages.py adapts them while they are read.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "pairuni"
language = "en"
extensions = ["myst_parser", "pages"]
exclude_patterns = ["_site"]

# Address of the repository, such as https://github.com/OWNER/pairuni: links to its files then lead there. Without one
# they are shown as paths. On the command line: sphinx-build -D pairuni_repository=ADDRESS ...
pairuni_repository = ""

# Anchors of headings are GitHub's, so that a link works in both places.
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline", "deflist"]

html_theme = "furo"
html_title = "pairuni"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False
html_use_index = False
# Texts show options and file names, in which quotes and dashes mean what they are.
smartquotes = False
