"""Documents to answer from: cut by their structure, kept in one SQLite file, found by words and by meaning."""
