"""What a package may do wrong when its module is imported."""

raise RuntimeError("licence not found")
