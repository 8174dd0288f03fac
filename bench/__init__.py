"""Measures the service beside its peers: see bench/README.md."""
