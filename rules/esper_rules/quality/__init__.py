"""ESP6, initialisation, dead code, tests and documentation."""
