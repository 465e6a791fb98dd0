"""Everything a person sees on a terminal: bars, tables, status lines, rows, the summary of a run."""
