"""Transform files of other tools: reading and writing only, no maths beyond their coordinate conventions."""
