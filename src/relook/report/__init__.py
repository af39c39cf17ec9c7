"""Pictures of corrections, and the HTML pages of evaluations and comparisons."""
