"""HTML pages, written without torch: the report of runs, the gallery of a pairs file, the page of `pairuni smoke`."""
