"""`pairuni analyse ablations`: runs that differ in one thing, to see which parts of the method matter (paper 5)."""
