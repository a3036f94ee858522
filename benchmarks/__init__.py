"""Commands that measure what the README claims; each prints a table and keeps its rows."""
