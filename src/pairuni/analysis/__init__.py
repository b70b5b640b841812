"""Looking at data and runs: pages and tables that are read by people. `gallery` shows pairs and what was left out."""
