"""From scans to what a network sees: brains, intensities, resampling, lesions counted on the way.

May import: NumPy, SciPy; `config`, `errors`, `files`, `metrics`, `grid`, `labels`, `volume`.
"""
