"""What users pass beside x: checked, and aligned with it."""
