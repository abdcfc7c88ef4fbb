"""From an image as it was acquired to the working grid: foreground, masks, lesions, bias field, normalisation."""
