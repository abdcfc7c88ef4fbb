"""Images to learn from and to judge by: found however their folders are laid out, split by person, conformed once."""
