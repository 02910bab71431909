"""`synth view`: the rows of a run as a table in the browser, to search, to read and to mark."""
