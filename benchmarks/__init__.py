"""Speed measurements, and the plain loops that tests and timings compare with."""
