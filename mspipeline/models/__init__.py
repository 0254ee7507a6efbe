"""Networks, one builder a file, and the catalogue of them. May import: h5py, NumPy; `config`, `errors`, `network`."""
