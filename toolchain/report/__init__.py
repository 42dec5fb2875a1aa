"""What came out: comparison tables, the HTML report, the diagnosis."""
