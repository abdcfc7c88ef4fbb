"""Made images whose truth is known: anatomies, contrasts, tumours, artefacts and deformations."""
