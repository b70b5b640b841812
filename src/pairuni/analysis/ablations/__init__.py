"""`pairuni analyse ablations`: which parts of the method matter: runs that differ in one thing (paper 5)."""
