"""Results as one self-contained page: reads files only, imports without torch. Start with html.py."""
