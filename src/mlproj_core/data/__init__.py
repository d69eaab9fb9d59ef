"""Data from elsewhere for parameters of type path: fetched by the run, before its project starts."""
