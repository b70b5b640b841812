"""Writes pairs in the forms that other programs read: `datasets` and the Hub, verl-omni, UniRL."""
