"""Several disjoint subsets solved together."""
