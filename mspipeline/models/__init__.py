"""Networks, one builder a file, and the catalogue of them. May import: NumPy; `config`, `errors`, `hdf5`, `network`."""
