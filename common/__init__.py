"""What every folder may use: one error class, whole-file writes, safe loading, flags."""
