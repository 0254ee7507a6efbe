"""From scans to what a network sees: intensities, resampling, and the recipe that names every number of it.

May import: NumPy, SciPy, pydantic; `config`, `errors`, `files`, `metrics`, `grid`, `volume`.
"""
