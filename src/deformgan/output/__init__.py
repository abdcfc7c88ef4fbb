"""What a registration leaves behind: the result, its record, pictures and the report."""
