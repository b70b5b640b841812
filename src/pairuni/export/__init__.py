"""Pairs in the forms that other programs read. `hf_dataset` writes a folder for `datasets` and the Hub."""
