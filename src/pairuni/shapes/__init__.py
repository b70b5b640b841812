"""The Shapes world: coloured shapes on a grid, drawn, described, asked about and read back, all from a seed."""
