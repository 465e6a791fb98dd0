"""The names of a run's files and folders."""

PAGE = "report.html"
