"""Networks, one builder a file, and the catalogue of them. May import: NumPy; `network`, `errors`, `config`."""
