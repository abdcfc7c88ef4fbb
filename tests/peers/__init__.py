"""Files of other tools: what they carry, what they write and we read, what we write and they read."""
