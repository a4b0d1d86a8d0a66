"""The parts of a sweep: its plan, one run, where runs go, and what was found."""
