"""Every bad input tried, and what the command says to it: the page docs/reference/bad-input.md and its test."""
