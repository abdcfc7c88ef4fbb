"""How good a method is: cases with a known truth, scores, statistics, tables and figures."""
