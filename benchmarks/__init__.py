"""What trajrec costs, measured beside its peers in one run. Prints figures and ratios; asserts nothing."""
