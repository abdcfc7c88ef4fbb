"""Files that no honest program wrote, made by the thousand and given to everything here that reads files."""
