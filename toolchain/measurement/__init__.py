"""Numbers from raw samples (stats) and the results kept in records.jsonl (record)."""
