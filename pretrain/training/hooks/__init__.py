"""Everything that happens between steps."""
