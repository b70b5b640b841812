"""Published benchmarks: where their items come from and how they are asked; their rules are eval/'s pure scorers."""
