"""Published benchmarks: where their items come from and how models are asked; eval/ has their scoring rules."""
