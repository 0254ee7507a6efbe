"""What is measured about the suite and with it: `suites/*.toml` are sweeps to run, `micro/` times single parts.

Top floor: may import all that lies below.
"""
