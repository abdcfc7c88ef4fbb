"""What the product is built and judged with: simulation, data sets, training, evaluation and the demo."""
