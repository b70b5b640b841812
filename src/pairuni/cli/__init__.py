"""The command line: one function per command, its options from the configs, and what it prints."""
